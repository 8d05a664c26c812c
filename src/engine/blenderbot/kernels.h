/*
 * kernels.h - the inner loops on CPUs.  Private to src/engine/blenderbot/.
 *
 * kernels.c is compiled once for every CPU and once more for those with AVX2; vnni.c needs
 * AVX-512 with VNNI.  What the CPU at hand has is asked at run time.  All of it may run in several
 * threads.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_KERNELS_H
#define WYVERN_ENGINE_BLENDERBOT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* What one row of a step sees through one head. */
struct head_view {
    const float *query;         /* size numbers */
    const float *keys, *values; /* this head's part of cell 0; cells are stride numbers apart */
    const int32_t *cells;       /* those that are looked at */
    size_t count, size, stride;
};

struct bb_kernels {
    /* Softmax of query · keys / √size over the cells, times the values.  weights: scratch of
     * view->count numbers. */
    void (*attend)(float *out, const struct head_view *view, float *weights);
    /* ½x(1 + erf(x/√2)), absolute error below 2e-7·max(1, |x|).  out may be in. */
    void (*gelu_erf)(float *out, const float *in, size_t count);
};

extern const struct bb_kernels bb_kernels_any;
#ifdef BB_KERNELS_X86
extern const struct bb_kernels bb_kernels_avx2;
#endif

const struct bb_kernels *bb_kernels_best(void);

/* A q8_0 matrix times rows of numbers, by VNNI.  16 rows of weights make a panel: for each 32
 * columns 512 bytes, four columns of each of the 16 rows side by side, as unsigned numbers 128 too
 * high; then for each 32 columns the 16 rows' scales as f16.  It takes as much memory as q8_0. */
#define VNNI_ROWS  16
#define VNNI_BLOCK 32 /* columns under one scale, as in q8_0 */
#define VNNI_SCALE ((size_t)VNNI_ROWS * sizeof(uint16_t))

static inline size_t vnni_panel_size(size_t columns)
{
    return columns / VNNI_BLOCK * (VNNI_ROWS * VNNI_BLOCK + VNNI_SCALE);
}

/* Of one row of numbers: per 32 of them 32 signed bytes, a scale and what takes back the 128. */
static inline size_t vnni_row_size(size_t columns)
{
    size_t size = columns + columns / VNNI_BLOCK * (sizeof(float) + sizeof(int32_t));
    return (size + 63) / 64 * 64;
}

struct vnni_product {
    float *out; /* [rows] of `height` numbers */
    const uint8_t *panels;
    const uint8_t *rows; /* vnni_row_size(columns) bytes each, 4-byte aligned */
    const float *bias;   /* height numbers */
    size_t columns, height, row_count;
};

struct vnni_kernels {
    void (*quantise)(uint8_t *out, const float *in, size_t columns);
    /* The panels from `first` up to `last`. */
    void (*multiply)(const struct vnni_product *product, size_t first, size_t last);
};

/* NULL where the CPU has no VNNI. */
const struct vnni_kernels *vnni_kernels_get(void);
extern const struct vnni_kernels vnni_kernels_512; /* there on x86-64 only */

#endif
