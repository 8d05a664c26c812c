#include "engine/blenderbot/attend.h"

#include <math.h>
#include <string.h>

#define MOST_CELLS 16384 /* positions a model may have */
#define LANES      4

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static inline lanes load_lanes(const float *from)
{
    lanes value;
    memcpy(&value, from, sizeof value);
    return value;
}

static float dot(const float *a, const float *b, size_t size)
{
    lanes sum = {0};
    size_t i = 0;
    for (; i + LANES <= size; i += LANES)
        sum += load_lanes(a + i) * load_lanes(b + i);
    float total = 0;
    for (size_t k = 0; k < LANES; k++)
        total += sum[k];
    for (; i < size; i++)
        total += a[i] * b[i];
    return total;
}

static void add_scaled(float *to, const float *from, float factor, size_t size)
{
    size_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        lanes sum = load_lanes(to + i) + load_lanes(from + i) * factor;
        memcpy(to + i, &sum, sizeof sum);
    }
    for (; i < size; i++)
        to[i] += from[i] * factor;
}

/* Scores to weights that add up to one. */
static void soften(float *scores, size_t count)
{
    float best = scores[0], sum = 0;
    for (size_t i = 1; i < count; i++)
        best = scores[i] > best ? scores[i] : best;
    for (size_t i = 0; i < count; i++) {
        scores[i] = expf(scores[i] - best);
        sum += scores[i];
    }
    for (size_t i = 0; i < count; i++)
        scores[i] /= sum;
}

/* A thread does the heads from `first` up to `last` for all rows: it stores their part of the new
 * keys and values itself, so nobody waits for anybody. */
static void attend_heads(const struct attend_job *job, struct ggml_tensor *dst, size_t first,
                         size_t last)
{
    const struct ggml_tensor *query = dst->src[0];
    float *keys = dst->src[1]->data, *values = dst->src[2]->data;
    size_t width = (size_t)dst->ne[0], rows = (size_t)dst->ne[1], size = width / job->heads;
    size_t row_size = (size_t)query->ne[0], at = first * size;
    const float *in = query->data;
    float *out = dst->data, scale = 1.0f / sqrtf((float)size), scores[MOST_CELLS];
    for (size_t row = 0; job->own != NULL && row < rows; row++) {
        size_t cell = (size_t)job->own[row] * width, bytes = (last - first) * size * sizeof(float);
        memcpy(keys + cell + at, in + row * row_size + width + at, bytes);
        memcpy(values + cell + at, in + row * row_size + 2 * width + at, bytes);
    }
    for (size_t row = 0; row < rows; row++) {
        const int32_t *cells = job->cells[row];
        for (size_t head = first; head < last; head++) {
            const float *own = in + row * row_size + head * size;
            float *sum = out + row * width + head * size;
            for (size_t i = 0; i < job->counts[row]; i++)
                scores[i] = scale * dot(own, keys + (size_t)cells[i] * width + head * size, size);
            soften(scores, job->counts[row]);
            memset(sum, 0, size * sizeof *sum);
            for (size_t i = 0; i < job->counts[row]; i++)
                add_scaled(sum, values + (size_t)cells[i] * width + head * size, scores[i], size);
        }
    }
}

static void attend(struct ggml_tensor *dst, int ith, int nth, void *userdata)
{
    const struct attend_job *job = userdata;
    size_t first = job->heads * (size_t)ith / (size_t)nth;
    size_t last = job->heads * (size_t)(ith + 1) / (size_t)nth;
    if (first < last)
        attend_heads(job, dst, first, last);
}

struct ggml_tensor *attend_op(struct ggml_context *context, struct ggml_tensor *query,
                              struct ggml_tensor *keys, struct ggml_tensor *values,
                              struct attend_job *job)
{
    struct ggml_tensor *args[] = {query, keys, values};
    return ggml_custom_4d(context, GGML_TYPE_F32, keys->ne[0], query->ne[1], 1, 1, args, 3, attend,
                          GGML_N_TASKS_MAX, job);
}
