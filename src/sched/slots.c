#include "sched/slots.h"

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t slots_common(const int32_t *a, size_t a_count, const int32_t *b, size_t b_count)
{
    size_t most = min_size(a_count, b_count);
    size_t i = 0;
    while (i < most && a[i] == b[i])
        i++;
    return i;
}

size_t slots_choose(const struct slot_view *slots, size_t count, const int32_t *prompt,
                    size_t prompt_count)
{
    size_t best = count, best_common = 0, oldest = count;
    for (size_t i = 0; i < count; i++) {
        const struct slot_view *slot = &slots[i];
        if (slot->busy)
            continue;
        if (oldest == count || slot->order < slots[oldest].order)
            oldest = i;
        size_t common = slots_common(slot->tokens, slot->cached, prompt, prompt_count);
        if (common > best_common) {
            best = i;
            best_common = common;
        }
    }
    return best_common >= SLOTS_WORTH_COPYING ? best : oldest;
}

struct slots_source slots_find_source(const struct slot_view *slots, size_t count, size_t self,
                                      size_t have)
{
    struct slots_source source = {.slot = count, .common = have};
    const struct slot_view *mine = &slots[self];
    for (size_t i = 0; i < count; i++) {
        const struct slot_view *other = &slots[i];
        if (i == self)
            continue;
        bool may_wait = other->busy && other->growing && other->order < mine->order;
        size_t length = may_wait ? other->planned : other->cached;
        size_t common = slots_common(other->tokens, length, mine->tokens, mine->planned);
        bool wait = common > other->cached;
        /* One that has it now beats one that will have as much. */
        bool better = common > source.common || (common == source.common && source.wait && !wait);
        if (better && common >= have + SLOTS_WORTH_COPYING) {
            source.slot = i;
            source.common = common;
            source.wait = wait;
        }
    }
    return source;
}
