#include "engine/blenderbot/cpu_ops.h"

#include <assert.h>
#include <string.h>

#include "engine/blenderbot/kernels.h"

const struct bb_kernels *bb_kernels_best(void)
{
#ifdef BB_KERNELS_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &bb_kernels_avx2;
#endif
    return &bb_kernels_any;
}

const struct panel_kernels *panel_kernels_get(void)
{
#ifdef BB_KERNELS_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return &panel_kernels_512;
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
    float *out = dst->data, weights[ATTEND_CELLS_MAX];
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
    int8_t values[PANEL_BLOCK];
};

static size_t panels_for(size_t rows)
{
    return (rows + PANEL_ROWS - 1) / PANEL_ROWS;
}

bool packed_can(enum ggml_type type, size_t columns)
{
    bool suits = type == GGML_TYPE_F32 || (type == GGML_TYPE_Q8_0 && columns % PANEL_BLOCK == 0);
    return suits && panel_kernels_get() != NULL;
}

struct ggml_tensor *packed_new(struct ggml_context *context, enum ggml_type type, size_t columns,
                               size_t rows)
{
    int64_t panels = (int64_t)panels_for(rows);
    if (type == GGML_TYPE_F32)
        return ggml_new_tensor_2d(context, type, (int64_t)columns * PANEL_ROWS, panels);
    return ggml_new_tensor_2d(context, GGML_TYPE_I8, (int64_t)panel_q8_size(columns), panels);
}

static void fill_q8_row(uint8_t *panel, size_t lane, const struct q8_block *blocks, size_t count)
{
    uint8_t *scales = panel + count * PANEL_BLOCK * PANEL_ROWS;
    for (size_t i = 0; i < count; i++) {
        uint8_t *to = panel + i * PANEL_BLOCK * PANEL_ROWS + lane * 4;
        for (size_t k = 0; k < PANEL_BLOCK; k++)
            to[k / 4 * PANEL_ROWS * 4 + k % 4] = (uint8_t)(blocks[i].values[k] + 128);
        memcpy(scales + i * PANEL_SCALE + lane * sizeof(uint16_t), &blocks[i].scale,
               sizeof(uint16_t));
    }
}

static void fill_f32_row(float *panel, size_t lane, const float *row, size_t columns)
{
    for (size_t k = 0; k < columns; k++)
        panel[k * PANEL_ROWS + lane] = row[k];
}

void packed_fill(void *out, const void *plain, enum ggml_type type, size_t columns, size_t rows)
{
    size_t blocks = columns / PANEL_BLOCK;
    bool q8 = type == GGML_TYPE_Q8_0;
    size_t size = q8 ? panel_q8_size(columns) : panel_f32_size(columns);
    memset(out, 0, panels_for(rows) * size); /* what is beyond the last row has scale 0, or is 0 */
    for (size_t row = 0; row < rows; row++) {
        char *panel = (char *)out + row / PANEL_ROWS * size;
        if (q8)
            fill_q8_row((uint8_t *)panel, row % PANEL_ROWS,
                        (const struct q8_block *)plain + row * blocks, blocks);
        else
            fill_f32_row((float *)(void *)panel, row % PANEL_ROWS,
                         (const float *)plain + row * columns, columns);
    }
}

static void quantise(struct ggml_tensor *dst, int ith, int nth, void *userdata)
{
    (void)userdata;
    const struct panel_kernels *kernels = panel_kernels_get();
    assert(kernels != NULL); /* or nothing would be packed */
    const struct ggml_tensor *x = dst->src[0];
    size_t columns = (size_t)x->ne[0], first, last;
    share((size_t)x->ne[1], ith, nth, &first, &last);
    for (size_t row = first; row < last; row++)
        kernels->quantise((uint8_t *)dst->data + row * (size_t)dst->nb[1],
                          (const float *)x->data + row * columns, columns);
}

static void multiply(struct ggml_tensor *dst, int ith, int nth, void *userdata)
{
    (void)userdata;
    const struct panel_kernels *kernels = panel_kernels_get();
    assert(kernels != NULL);
    const struct ggml_tensor *weight = dst->src[0], *rows = dst->src[1], *bias = dst->src[2];
    bool q8 = weight->type == GGML_TYPE_I8;
    struct panel_product product = {
        .out = dst->data,
        .panels = weight->data,
        .rows = rows->data,
        .bias = bias->data,
        .columns = (size_t)(q8 ? rows->src[0] : rows)->ne[0],
        .height = (size_t)dst->ne[0],
        .row_count = (size_t)dst->ne[1],
    };
    /* Threads side by side: two streams far apart in memory may hit the same banks all along. */
    (q8 ? kernels->multiply_q8 : kernels->multiply_f32)(&product, (size_t)ith, (size_t)nth);
}

struct ggml_tensor *packed_op(struct ggml_context *context, struct ggml_tensor *weight,
                              struct ggml_tensor *bias, struct ggml_tensor *x)
{
    struct ggml_tensor *args[] = {weight, x, bias};
    if (weight->type == GGML_TYPE_I8)
        args[1] =
            ggml_custom_4d(context, GGML_TYPE_I8, (int64_t)panel_q8_row_size((size_t)x->ne[0]),
                           x->ne[1], 1, 1, &x, 1, quantise, GGML_N_TASKS_MAX, NULL);
    return ggml_custom_4d(context, GGML_TYPE_F32, bias->ne[0], x->ne[1], 1, 1, args, 3, multiply,
                          GGML_N_TASKS_MAX, NULL);
}
