#include "engine/blenderbot/topk.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define SHORT_RUN 16 /* what std::sort leaves to insertion */

static bool goes_before(struct topk_item a, struct topk_item b)
{
    return a.score > b.score;
}

static void swap(struct topk_item *a, struct topk_item *b)
{
    struct topk_item kept = *a;
    *a = *b;
    *b = kept;
}

/* ---- heaps: the worst on top ---- */

/* Lets a value sink from a hole to the bottom, then rise to its place. */
static void adjust_heap(struct topk_item *heap, size_t hole, size_t count, struct topk_item value)
{
    size_t top = hole, child = hole;
    while (child + 1 < (count + 1) / 2) {
        child = 2 * (child + 1);
        if (goes_before(heap[child], heap[child - 1]))
            child--;
        heap[hole] = heap[child];
        hole = child;
    }
    if (count % 2 == 0 && count >= 2 && child == (count - 2) / 2) {
        child = 2 * child + 1;
        heap[hole] = heap[child];
        hole = child;
    }
    while (hole > top && goes_before(heap[(hole - 1) / 2], value)) {
        heap[hole] = heap[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    heap[hole] = value;
}

static void make_heap(struct topk_item *heap, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        adjust_heap(heap, i, count, heap[i]);
}

static void sort_heap(struct topk_item *heap, size_t count)
{
    while (count > 1) {
        struct topk_item last = heap[--count];
        heap[count] = heap[0];
        adjust_heap(heap, 0, count, last);
    }
}

/* The best `most` of `total`, as a heap. */
static void select_by_heap(struct topk_item *items, size_t most, size_t total)
{
    make_heap(items, most);
    for (size_t i = most; i < total; i++) {
        if (!goes_before(items[i], items[0]))
            continue;
        struct topk_item better = items[i];
        items[i] = items[0];
        adjust_heap(items, 0, most, better);
    }
}

/* ---- partitions ---- */

static void insertion_sort(struct topk_item *items, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct topk_item moved = items[i];
        size_t at = i;
        for (; at > 0 && goes_before(moved, items[at - 1]); at--)
            items[at] = items[at - 1];
        items[at] = moved;
    }
}

static struct topk_item *find_median(struct topk_item *a, struct topk_item *b, struct topk_item *c)
{
    if (goes_before(*a, *b))
        return goes_before(*b, *c) ? b : goes_before(*a, *c) ? c : a;
    return goes_before(*a, *c) ? a : goes_before(*b, *c) ? c : b;
}

/* Splits around the median of three; returns where the second part begins. */
static size_t partition(struct topk_item *items, size_t count)
{
    swap(items, find_median(items + 1, items + count / 2, items + count - 1));
    size_t low = 1, high = count;
    for (;;) {
        while (goes_before(items[low], items[0]))
            low++;
        high--;
        while (goes_before(items[0], items[high]))
            high--;
        if (low >= high)
            return low;
        swap(&items[low++], &items[high]);
    }
}

static unsigned depth_limit(size_t count)
{
    unsigned depth = 0;
    for (; count > 1; count /= 2)
        depth += 2;
    return depth;
}

/* std::nth_element */
static void select_nth(struct topk_item *items, size_t nth, size_t count)
{
    unsigned depth = depth_limit(count);
    while (count > 3) {
        if (depth-- == 0) {
            select_by_heap(items, nth + 1, count);
            swap(items, items + nth);
            return;
        }
        size_t cut = partition(items, count);
        if (cut <= nth) {
            items += cut;
            nth -= cut;
            count -= cut;
        } else {
            count = cut;
        }
    }
    insertion_sort(items, count);
}

/* The rough part of std::sort.  What is split off behind waits in a list: at most one for each
 * level. */
static void sort_roughly(struct topk_item *items, size_t count)
{
    struct {
        struct topk_item *items;
        size_t count;
        unsigned depth;
    } waiting[2 * 64 + 2] = {{items, count, depth_limit(count)}};
    size_t left = 1;
    while (left > 0) {
        left--;
        items = waiting[left].items;
        count = waiting[left].count;
        unsigned depth = waiting[left].depth;
        while (count > SHORT_RUN) {
            if (depth-- == 0) {
                make_heap(items, count);
                sort_heap(items, count);
                break;
            }
            size_t cut = partition(items, count);
            waiting[left].items = items + cut;
            waiting[left].count = count - cut;
            waiting[left++].depth = depth;
            count = cut;
        }
    }
}

/* ---- PyTorch's choice between them ---- */

static bool is_streamed(size_t total, size_t most)
{
    return most * 64 <= total;
}

size_t topk_room(size_t total, size_t most)
{
    return is_streamed(total, most) ? most : total;
}

void topk_begin(struct topk *topk, struct topk_item *room, size_t total, size_t most)
{
    assert(most >= 1 && most <= total);
    *topk = (struct topk){.items = room, .total = total, .most = most};
}

void topk_offer(struct topk *topk, float score)
{
    struct topk_item item = {score, (uint32_t)topk->count};
    size_t room = topk_room(topk->total, topk->most), at = topk->count++;
    if (at < room)
        topk->items[at] = item;
    else if (goes_before(item, topk->items[0]))
        adjust_heap(topk->items, 0, room, item);
    if (at + 1 == room && is_streamed(topk->total, topk->most))
        make_heap(topk->items, room);
}

float topk_threshold(const struct topk *topk)
{
    bool full = is_streamed(topk->total, topk->most) && topk->count >= topk->most;
    return full ? topk->items[0].score : NAN;
}

void topk_skip(struct topk *topk, size_t count)
{
    topk->count += count;
}

void topk_end(struct topk *topk)
{
    assert(topk->count == topk->total);
    if (is_streamed(topk->total, topk->most)) {
        sort_heap(topk->items, topk->most);
        return;
    }
    select_nth(topk->items, topk->most - 1, topk->total);
    sort_roughly(topk->items, topk->most - 1);
    insertion_sort(topk->items, topk->most - 1);
}
