#include "engine/blenderbot/cpu_ops.h"

#include <assert.h>
#include <string.h>

#include "engine/blenderbot/kernels.h"

#define MOST_CELLS 16384 /* positions a model may have */

const struct bb_kernels *bb_kernels_best(void)
{
#ifdef BB_KERNELS_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &bb_kernels_avx2;
#endif
    return &bb_kernels_any;
}

const struct vnni_kernels *vnni_kernels_get(void)
{
#ifdef BB_KERNELS_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return &vnni_kernels_512;
#endif
    return NULL;
}

/* Thread `ith` of `nth` does the things from *first up to *last. */
static void share(size_t count, int ith, int nth, size_t *first, size_t *last)
{
    *first = count * (size_t)ith / (size_t)nth;
    *last = count * (size_t)(ith + 1) / (size_t)nth;
}

/* ---- attention ---- */

/* A thread does some heads for all rows: it stores their part of the new keys and values itself, so
 * nobody waits for anybody. */
static void attend(struct ggml_tensor *dst, int ith, int nth, void *userdata)
{
    const struct attend_job *job = userdata;
    const struct ggml_tensor *query = dst->src[0];
    float *keys = dst->src[1]->data, *values = dst->src[2]->data;
    size_t width = (size_t)dst->ne[0], rows = (size_t)dst->ne[1], size = width / job->heads;
    size_t row_size = (size_t)query->ne[0], first, last;
    const struct bb_kernels *kernels = bb_kernels_best();
    const float *in = query->data;
    float *out = dst->data, weights[MOST_CELLS];
    share(job->heads, ith, nth, &first, &last);
    size_t at = first * size, bytes = (last - first) * size * sizeof(float);
    for (size_t row = 0; job->own != NULL && row < rows; row++) {
        size_t cell = (size_t)job->own[row] * width;
        memcpy(keys + cell + at, in + row * row_size + width + at, bytes);
        memcpy(values + cell + at, in + row * row_size + 2 * width + at, bytes);
    }
    for (size_t row = 0; row < rows; row++) {
        struct head_view view = {
            .cells = job->cells[row], .count = job->counts[row], .size = size, .stride = width};
        for (size_t head = first; head < last; head++) {
            view.query = in + row * row_size + head * size;
            view.keys = keys + head * size;
            view.values = values + head * size;
            kernels->attend(out + row * width + head * size, &view, weights);
        }
    }
}

struct ggml_tensor *attend_op(struct ggml_context *context, struct ggml_tensor *query,
                              struct ggml_tensor *keys, struct ggml_tensor *values,
                              struct attend_job *job)
{
    struct ggml_tensor *args[] = {query, keys, values};
    return ggml_custom_4d(context, GGML_TYPE_F32, keys->ne[0], query->ne[1], 1, 1, args, 3, attend,
                          GGML_N_TASKS_MAX, job);
}

/* ---- activation ---- */

static void gelu_erf(struct ggml_tensor *dst, const struct ggml_tensor *x, int ith, int nth,
                     void *userdata)
{
    (void)userdata;
    size_t first, last;
    share((size_t)ggml_nelements(x), ith, nth, &first, &last);
    bb_kernels_best()->gelu_erf((float *)dst->data + first, (const float *)x->data + first,
                                last - first);
}

struct ggml_tensor *gelu_erf_op(struct ggml_context *context, struct ggml_tensor *x)
{
    return ggml_map_custom1_inplace(context, x, gelu_erf, GGML_N_TASKS_MAX, NULL);
}

/* ---- packed matrices ---- */

struct q8_block { /* of ggml's q8_0 */
    uint16_t scale;
    int8_t values[VNNI_BLOCK];
};

static size_t panels_for(size_t rows)
{
    return (rows + VNNI_ROWS - 1) / VNNI_ROWS;
}

bool packed_can(size_t columns)
{
    return vnni_kernels_get() != NULL && columns % VNNI_BLOCK == 0;
}

size_t packed_size(size_t columns, size_t rows)
{
    return panels_for(rows) * vnni_panel_size(columns);
}

struct ggml_tensor *packed_new(struct ggml_context *context, size_t columns, size_t rows)
{
    return ggml_new_tensor_2d(context, GGML_TYPE_I8, (int64_t)vnni_panel_size(columns),
                              (int64_t)panels_for(rows));
}

static void fill_row(uint8_t *panel, size_t lane, const struct q8_block *blocks, size_t count)
{
    uint8_t *scales = panel + count * VNNI_BLOCK * VNNI_ROWS;
    for (size_t i = 0; i < count; i++) {
        uint8_t *to = panel + i * VNNI_BLOCK * VNNI_ROWS + lane * 4;
        for (size_t k = 0; k < VNNI_BLOCK; k++)
            to[k / 4 * VNNI_ROWS * 4 + k % 4] = (uint8_t)(blocks[i].values[k] + 128);
        memcpy(scales + i * VNNI_SCALE + lane * sizeof(uint16_t), &blocks[i].scale,
               sizeof(uint16_t));
    }
}

void packed_fill(void *out, const void *q8_0, size_t columns, size_t rows)
{
    size_t count = columns / VNNI_BLOCK;
    const struct q8_block *blocks = q8_0;
    memset(out, 0, packed_size(columns, rows)); /* what is beyond the last row has scale 0 */
    for (size_t row = 0; row < rows; row++)
        fill_row((uint8_t *)out + row / VNNI_ROWS * vnni_panel_size(columns), row % VNNI_ROWS,
                 blocks + row * count, count);
}

static void quantise(struct ggml_tensor *dst, int ith, int nth, void *userdata)
{
    (void)userdata;
    const struct ggml_tensor *x = dst->src[0];
    size_t columns = (size_t)x->ne[0], first, last;
    const struct vnni_kernels *kernels = vnni_kernels_get();
    assert(kernels != NULL); /* or nothing would be packed */
    share((size_t)x->ne[1], ith, nth, &first, &last);
    for (size_t row = first; row < last; row++)
        kernels->quantise((uint8_t *)dst->data + row * (size_t)dst->nb[1],
                          (const float *)x->data + row * columns, columns);
}

static void multiply(struct ggml_tensor *dst, int ith, int nth, void *userdata)
{
    (void)userdata;
    const struct ggml_tensor *weight = dst->src[0], *rows = dst->src[1], *bias = dst->src[2];
    struct vnni_product product = {
        .out = dst->data,
        .panels = weight->data,
        .rows = rows->data,
        .bias = bias->data,
        .columns = (size_t)rows->src[0]->ne[0],
        .height = (size_t)dst->ne[0],
        .row_count = (size_t)dst->ne[1],
    };
    size_t first, last;
    const struct vnni_kernels *kernels = vnni_kernels_get();
    assert(kernels != NULL);
    share((size_t)weight->ne[1], ith, nth, &first, &last);
    kernels->multiply(&product, first, last);
}

struct ggml_tensor *packed_op(struct ggml_context *context, struct ggml_tensor *weight,
                              struct ggml_tensor *bias, struct ggml_tensor *x)
{
    struct ggml_tensor *rows =
        ggml_custom_4d(context, GGML_TYPE_I8, (int64_t)vnni_row_size((size_t)x->ne[0]), x->ne[1], 1,
                       1, &x, 1, quantise, GGML_N_TASKS_MAX, NULL);
    struct ggml_tensor *args[] = {weight, rows, bias};
    return ggml_custom_4d(context, GGML_TYPE_F32, bias->ne[0], x->ne[1], 1, 1, args, 3, multiply,
                          GGML_N_TASKS_MAX, NULL);
}
