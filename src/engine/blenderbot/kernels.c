/*
 * kernels.c - see kernels.h.  Compiled for several levels of instructions: KERNELS is the name of
 * this one's table, and the width of a vector follows from the compiler's flags.
 */
#include "engine/blenderbot/kernels.h"

#include <math.h>
#include <string.h>

#ifndef KERNELS
#define KERNELS bb_kernels_any
#endif
#ifdef __AVX2__
#define LANES 8
#else
#define LANES 4
#endif
#define WIDE 4 /* vectors that are summed side by side */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t lanes_int __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline lanes load(const float *from)
{
    lanes value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float *to, lanes value)
{
    memcpy(to, &value, sizeof value);
}

static inline lanes fill(float value)
{
    return value - (lanes){0};
}

static inline lanes choose(lanes_int mask, lanes yes, lanes no)
{
    return (lanes)(((lanes_int)yes & mask) | ((lanes_int)no & ~mask));
}

static inline lanes most(lanes a, lanes b)
{
    return choose(a > b, a, b);
}

/* e^x for x from −87 to 88, relative error below 2e-7: x = n ln 2 + r, then Cephes' polynomial. */
static inline lanes exponential(lanes x)
{
    const float magic = 12582912.0f; /* 1.5 × 2^23: adding it leaves the nearest integer */
    x = most(x, fill(-87.0f));
    lanes shifted = x * 1.44269504f + magic, n = shifted - magic;
    lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes p = fill(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (lanes)((lanes_int)p + ((lanes_int)shifted << 23));
}

/* erf in two parts, each within an ulp or two: a polynomial near 0; 1 − e^p(|x|) beyond. */
static inline lanes error_function(lanes x)
{
    lanes size = (lanes)((lanes_int)x & 0x7FFFFFFF), square = x * x;
    lanes t = choose(size < 4.0f, size, fill(4.0f)); /* erf(4) is 1 in single precision */
    lanes far = t * -1.72853470e-5f + 3.83197126e-4f;
    far = far * (t * t) + (t * -3.88396438e-3f + 2.42546219e-2f);
    far = far * t - 1.06777877e-1f;
    far = far * t - 6.34846687e-1f;
    far = far * t - 1.28717512e-1f;
    far = far * t - t;
    far = 1.0f - exponential(far);
    far = (lanes)((lanes_int)far | ((lanes_int)x & (int32_t)0x80000000));
    lanes near = square * -5.96761703e-4f + 4.99119423e-3f;
    near = near * square - 2.67681349e-2f;
    near = near * square + 1.12819925e-1f;
    near = near * square - 3.76125336e-1f;
    near = near * square + 1.28379166e-1f;
    near = near * x + x;
    return choose(size > 0.927734375f, far, near);
}

static inline lanes gelu(lanes x)
{
    return x * 0.5f * (1.0f + error_function(x * 0.70710678f));
}

static void gelu_erf(float *out, const float *in, size_t count)
{
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(out + i, gelu(load(in + i)));
    if (i < count) {
        float rest[LANES] = {0};
        memcpy(rest, in + i, (count - i) * sizeof *in);
        store(rest, gelu(load(rest)));
        memcpy(out + i, rest, (count - i) * sizeof *out);
    }
}

static inline float sum_of(lanes value)
{
    float sum = 0;
    for (size_t i = 0; i < LANES; i++)
        sum += value[i];
    return sum;
}

static float dot(const float *a, const float *b, size_t size)
{
    lanes sum = {0};
    size_t i = 0;
    for (; i + LANES <= size; i += LANES)
        sum += load(a + i) * load(b + i);
    float total = sum_of(sum);
    for (; i < size; i++)
        total += a[i] * b[i];
    return total;
}

/* Scores, at least one, to weights that add up to one. */
static void soften(float *scores, size_t count)
{
    float best = scores[0], sum = 0;
    for (size_t i = 1; i < count; i++)
        best = scores[i] > best ? scores[i] : best;
    size_t i = 0;
    lanes sums = {0};
    for (; i + LANES <= count; i += LANES) {
        lanes value = exponential(load(scores + i) - best);
        store(scores + i, value);
        sums += value;
    }
    sum = sum_of(sums);
    for (; i < count; i++)
        sum += scores[i] = expf(scores[i] - best);
    for (i = 0; i < count; i++)
        scores[i] /= sum;
}

/* out = Σ weights × values: in registers, some columns at a time. */
static void weigh(float *out, const struct head_view *view, const float *weights)
{
    size_t at = 0;
    for (; at + WIDE * LANES <= view->size; at += WIDE * LANES) {
        lanes sums[WIDE] = {{0}};
        for (size_t i = 0; i < view->count; i++) {
            const float *value = view->values + (size_t)view->cells[i] * view->stride + at;
            for (size_t k = 0; k < WIDE; k++)
                sums[k] += load(value + k * LANES) * weights[i];
        }
        for (size_t k = 0; k < WIDE; k++)
            store(out + at + k * LANES, sums[k]);
    }
    for (; at + LANES <= view->size; at += LANES) {
        lanes sum = {0};
        for (size_t i = 0; i < view->count; i++)
            sum += load(view->values + (size_t)view->cells[i] * view->stride + at) * weights[i];
        store(out + at, sum);
    }
    for (; at < view->size; at++) {
        out[at] = 0;
        for (size_t i = 0; i < view->count; i++)
            out[at] += view->values[(size_t)view->cells[i] * view->stride + at] * weights[i];
    }
}

static void attend(float *out, const struct head_view *view, float *weights)
{
    float scale = 1.0f / sqrtf((float)view->size);
    for (size_t i = 0; i < view->count; i++)
        weights[i] = scale * dot(view->query, view->keys + (size_t)view->cells[i] * view->stride,
                                 view->size);
    soften(weights, view->count);
    weigh(out, view, weights);
}

const struct bb_kernels KERNELS = {attend, gelu_erf};
