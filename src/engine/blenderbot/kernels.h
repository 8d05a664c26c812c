/*
 * kernels.h - the inner loops on CPUs.  Private to src/engine/blenderbot/.
 *
 * kernels.c is compiled once for every CPU and once more for those with AVX2; panels.c needs
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

/* A matrix times some rows of numbers, with AVX-512.  16 rows of weights make a panel, so that one
 * vector holds a column of it:
 *   f32   each column's 16 numbers, one column behind the other;
 *   q8_0  for each 32 columns 512 bytes, four columns of each of the 16 rows side by side, as
 *         unsigned numbers 128 too high; then for each 32 columns the 16 rows' scales as f16.
 * Rows beyond the matrix are zeros.  Both take as much memory as the plain form. */
#define PANEL_ROWS  16
#define PANEL_BLOCK 32 /* columns under one scale, as in q8_0 */
#define PANEL_SCALE ((size_t)PANEL_ROWS * sizeof(uint16_t))

static inline size_t panel_f32_size(size_t columns)
{
    return columns * PANEL_ROWS * sizeof(float);
}

static inline size_t panel_q8_size(size_t columns)
{
    return columns / PANEL_BLOCK * (PANEL_ROWS * PANEL_BLOCK + PANEL_SCALE);
}

/* A row of numbers to be multiplied by q8_0: for each 32 of them 32 signed bytes; then the scales;
 * then what takes back the 128. */
static inline size_t panel_q8_row_size(size_t columns)
{
    size_t size = columns + columns / PANEL_BLOCK * (sizeof(float) + sizeof(int32_t));
    return (size + 63) / 64 * 64;
}

struct panel_product {
    float *out; /* [rows] of `height` numbers */
    const void *panels;
    const void *rows;  /* f32: `columns` numbers each; q8_0: panel_q8_row_size() bytes each */
    const float *bias; /* height numbers */
    size_t columns, height, row_count;
};

struct panel_kernels {
    /* Each step-th panel from `first` on. */
    void (*multiply_f32)(const struct panel_product *product, size_t first, size_t step);
    void (*multiply_q8)(const struct panel_product *product, size_t first, size_t step);
    void (*quantise)(uint8_t *out, const float *in, size_t columns);
};

/* NULL where the CPU has no AVX-512 with VNNI. */
const struct panel_kernels *panel_kernels_get(void);
extern const struct panel_kernels panel_kernels_512; /* there on x86-64 only */

#endif
