#include "engine/sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_TOP 256 /* candidates looked at when top_k is off; four times as many if too few */
#define BLOCK     16  /* scores compared at once */

void sampler_done(struct sampler *sampler)
{
    free(sampler->top);
    *sampler = (struct sampler){0};
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xBF58476D1CE4E5B9);
    x ^= x >> 27;
    x *= UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

double sample_uniform(uint64_t seed, uint64_t position)
{
    /* splitmix64 started at a point of its own for each seed, advanced by position. */
    uint64_t x = mix(mix(seed + UINT64_C(0x9E3779B97F4A7C15)) +
                     (position + 1) * UINT64_C(0x9E3779B97F4A7C15));
    return (double)(x >> 11) * 0x1p-53;
}

static bool is_worse(struct sample_candidate a, struct sample_candidate b)
{
    return a.score < b.score || (a.score == b.score && a.id > b.id);
}

/* Restores the heap (worst candidate on top) below `at`. */
static void sift_down(struct sample_candidate *heap, size_t count, size_t at)
{
    struct sample_candidate moved = heap[at];
    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && is_worse(heap[child + 1], heap[child]))
            child++;
        if (!is_worse(heap[child], moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void sift_up(struct sample_candidate *heap, size_t at)
{
    struct sample_candidate moved = heap[at];
    for (; at > 0 && is_worse(moved, heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = moved;
}

/* Four numbers at once, on any machine: gcc and clang make vector code of these. */
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t lanes_mask __attribute__((vector_size(16)));

static lanes load_lanes(const float *from)
{
    lanes value;
    memcpy(&value, from, sizeof value);
    return value;
}

static bool any_above(const float *scores, float threshold)
{
    const lanes limit = {threshold, threshold, threshold, threshold};
    lanes_mask mask = load_lanes(scores) > limit;
    for (int i = 4; i < BLOCK; i += 4)
        mask |= load_lanes(scores + i) > limit;
    uint64_t halves[2];
    memcpy(halves, &mask, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

/* The `most` best candidates, best first; returns how many there are.  One pass that looks
 * closer only at blocks holding something better than the worst kept: most blocks do not. */
static size_t select_top(struct sample_candidate *top, size_t most, const float *scores,
                         size_t vocab_size)
{
    size_t count = 0;
    float threshold = -INFINITY;
    for (size_t block = 0; block < vocab_size; block += BLOCK) {
        size_t end = block + BLOCK;
        if (end > vocab_size)
            end = vocab_size;
        else if (!any_above(scores + block, threshold))
            continue;
        for (size_t i = block; i < end; i++) {
            if (!(scores[i] > threshold)) /* also what is no number */
                continue;
            struct sample_candidate candidate = {scores[i], (int32_t)i};
            if (count < most) {
                top[count] = candidate;
                sift_up(top, count++);
            } else {
                top[0] = candidate;
                sift_down(top, count, 0);
            }
            if (count == most)
                threshold = top[0].score;
        }
    }
    for (size_t left = count; left > 1; left--) { /* heap sort: the worst goes last */
        struct sample_candidate worst = top[0];
        top[0] = top[left - 1];
        top[left - 1] = worst;
        sift_down(top, left - 1, 0);
    }
    return count;
}

static enum err reserve(struct sampler *sampler, size_t count)
{
    if (sampler->cap >= count)
        return ERR_OK;
    struct sample_candidate *top = realloc(sampler->top, count * sizeof *top);
    if (top == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    sampler->top = top;
    sampler->cap = count;
    return ERR_OK;
}

/* Weight of a score beside the best one. */
static double weigh(float score, float best, float temperature)
{
    return (double)expf((score - best) / temperature);
}

/* e^x for x ≤ 0, to five digits: the fraction of x · log2(e) by a polynomial (Taylor, whose
 * first neglected term is 2e-6 within half a step), the whole part into the exponent's bits. */
static lanes exp_lanes(lanes x)
{
    const lanes zero = {0}, lowest = zero - 87.0f;
    lanes_mask tiny = x < lowest;
    x = (lanes)(((lanes_mask)x & ~tiny) | ((lanes_mask)lowest & tiny));
    lanes power = x * 1.44269504f;
    lanes_mask whole = __builtin_convertvector(power - 0.5f, lanes_mask); /* nearest, for x ≤ 0 */
    lanes part = (power - __builtin_convertvector(whole, lanes)) * 0.69314718f;
    lanes sum = zero + 1.0f / 720;
    sum = sum * part + 1.0f / 120;
    sum = sum * part + 1.0f / 24;
    sum = sum * part + 1.0f / 6;
    sum = sum * part + 0.5f;
    sum = sum * part + 1.0f;
    sum = sum * part + 1.0f;
    return sum * (lanes)((whole + 127) << 23);
}

/* The sum of all tokens' weights; what is no number counts nothing. */
static double weigh_all(const float *scores, size_t vocab_size, float best, float temperature)
{
    double sum = 0;
    size_t i = 0;
    for (; i + BLOCK <= vocab_size; i += BLOCK) {
        lanes block = {0};
        for (size_t k = i; k < i + BLOCK; k += 4) {
            lanes x = (load_lanes(scores + k) - best) / temperature;
            lanes_mask number = x == x;
            block += (lanes)((lanes_mask)exp_lanes(x) & number);
        }
        sum += (double)block[0] + (double)block[1] + (double)block[2] + (double)block[3];
    }
    for (; i < vocab_size; i++) {
        if (scores[i] > -INFINITY)
            sum += weigh(scores[i], best, temperature);
    }
    return sum;
}

/* Draws among the first `count` candidates, those that make up top_p of `sum` (all weights). */
static int32_t draw(const struct sample_candidate *top, size_t count, double sum,
                    const struct sample_params *params, double uniform)
{
    double kept = 0;
    size_t n = 0;
    do
        kept += weigh(top[n++].score, top[0].score, params->temperature);
    while (n < count && kept < (double)params->top_p * sum);
    double at = uniform * kept;
    size_t i = 0;
    for (; i + 1 < n; i++) {
        at -= weigh(top[i].score, top[0].score, params->temperature);
        if (at < 0)
            break;
    }
    return top[i].id;
}

/* Without top-k: as many candidates as top_p needs. */
static enum err pick_wide(struct sampler *sampler, const float *scores, size_t vocab_size,
                          const struct sample_params *params, double uniform, int32_t *token)
{
    double sum = 0;
    for (size_t most = params->top_p < 1 ? FIRST_TOP : vocab_size;; most *= 4) {
        if (most > vocab_size)
            most = vocab_size;
        enum err err = reserve(sampler, most);
        if (err != ERR_OK)
            return err;
        size_t count = select_top(sampler->top, most, scores, vocab_size);
        const struct sample_candidate *top = sampler->top;
        if (count == 0 || !isfinite(top[0].score))
            return err_set(ERR_INTERNAL, "the model's scores are no numbers");
        if (sum <= 0)
            sum = weigh_all(scores, vocab_size, top[0].score, params->temperature);
        double kept = 0;
        for (size_t i = 0; i < count && kept < (double)params->top_p * sum; i++)
            kept += weigh(top[i].score, top[0].score, params->temperature);
        if (kept >= (double)params->top_p * sum || most == vocab_size) {
            *token = draw(top, count, sum, params, uniform);
            return ERR_OK;
        }
    }
}

enum err sampler_pick(struct sampler *sampler, const float *scores, size_t vocab_size,
                      const struct sample_params *params, uint64_t position, int32_t *token)
{
    double uniform = sample_uniform(params->seed, position);
    bool greedy = params->temperature <= 0;
    if (!greedy && params->top_k == 0)
        return pick_wide(sampler, scores, vocab_size, params, uniform, token);
    size_t most = greedy ? 1 : (size_t)params->top_k;
    if (most > vocab_size)
        most = vocab_size;
    enum err err = reserve(sampler, most);
    if (err != ERR_OK)
        return err;
    size_t count = select_top(sampler->top, most, scores, vocab_size);
    const struct sample_candidate *top = sampler->top;
    if (count == 0 || !isfinite(top[0].score))
        return err_set(ERR_INTERNAL, "the model's scores are no numbers");
    if (greedy) {
        *token = top[0].id;
        return ERR_OK;
    }
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += weigh(top[i].score, top[0].score, params->temperature);
    *token = draw(top, count, sum, params, uniform);
    return ERR_OK;
}

enum err sampler_best(struct sampler *sampler, const float *scores, size_t vocab_size, size_t most,
                      size_t *count)
{
    if (most > vocab_size)
        most = vocab_size;
    enum err err = reserve(sampler, most);
    if (err == ERR_OK)
        *count = select_top(sampler->top, most, scores, vocab_size);
    return err;
}

double sample_log_sum(const float *scores, size_t vocab_size, float best)
{
    return (double)best + log(weigh_all(scores, vocab_size, best, 1));
}
