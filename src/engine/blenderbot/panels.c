/*
 * panels.c - see kernels.h.  Compiled with AVX-512 and VNNI on; runs only where the CPU has them.
 *
 * The weights are vectors and the rows are read by broadcasts, so weights that came from memory
 * serve up to 12 rows at once.
 *
 * q8_0: an unsigned byte of a weight w + 128 times a signed one of the row x: their sum is Σwx +
 * 128Σx, so a sum begins at −128Σx, which is worked out once a row.  8 instructions make 512
 * products of one row.
 */
#include "engine/blenderbot/kernels.h"

#ifdef __AVX512VNNI__

#include <immintrin.h>
#include <string.h>

#define ROWS_AT_ONCE 12 /* sums that stay in registers beside a block of weights */
#define GROUP        4  /* columns that one instruction adds up */
#define SUM_COLUMNS  128
#define GROUPS       (PANEL_BLOCK / GROUP)
#define AHEAD        (size_t)4096 /* bytes: the CPU's own prefetching stops at the end of a page */

/* A loop without a loop: what it fills must become registers.  Not under the sanitizers, whose
 * checks in each copy take a compiler many minutes. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNROLL _Pragma("clang loop unroll(disable)")
#endif
#endif
#ifdef UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif
// NOLINTNEXTLINE(bugprone-macro-parentheses)
#define FOR_UNROLLED(i, count) UNROLL for (size_t i = 0; i < (count); i++)

static void quantise(uint8_t *out, const float *in, size_t columns)
{
    size_t blocks = columns / PANEL_BLOCK;
    float *scales = (float *)(void *)(out + columns);
    int32_t *starts = (int32_t *)(void *)(scales + blocks);
    for (size_t i = 0; i < blocks; i++) {
        __m512 a = _mm512_loadu_ps(in + i * PANEL_BLOCK);
        __m512 b = _mm512_loadu_ps(in + i * PANEL_BLOCK + 16);
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        __m512 factor = _mm512_set1_ps(most > 0 ? 127.0f / most : 0);
        __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor));
        __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
        __m128i *bytes = (__m128i *)(void *)(out + i * PANEL_BLOCK);
        _mm_storeu_si128(bytes, _mm512_cvtsepi32_epi8(low));
        _mm_storeu_si128(bytes + 1, _mm512_cvtsepi32_epi8(high));
        scales[i] = most / 127.0f;
        /* unsigned: what is no number becomes the lowest one, and the sum wraps */
        starts[i] =
            (int32_t)(0u - 128u * (uint32_t)_mm512_reduce_add_epi32(_mm512_add_epi32(low, high)));
    }
}

/* The rows of a panel that are in the matrix. */
static __mmask16 mask_for(const struct panel_product *product, size_t panel)
{
    size_t rest = product->height - panel * PANEL_ROWS;
    return rest < PANEL_ROWS ? (__mmask16)((1u << rest) - 1) : (__mmask16)0xFFFF;
}

/* One panel by `count` rows from `row` on; count is a constant where this is used. */
static inline __attribute__((always_inline)) void
multiply_q8_rows(const struct panel_product *product, size_t panel, size_t row, const size_t count)
{
    size_t columns = product->columns, blocks = columns / PANEL_BLOCK;
    size_t row_size = panel_q8_row_size(columns), at = panel * PANEL_ROWS;
    const uint8_t *weights = (const uint8_t *)product->panels + panel * panel_q8_size(columns);
    const uint8_t *halves = weights + columns * PANEL_ROWS;
    const uint8_t *rows = (const uint8_t *)product->rows + row * row_size;
    __mmask16 mask = mask_for(product, panel);
    __m512 sums[ROWS_AT_ONCE];
    FOR_UNROLLED (r, count)
        sums[r] = _mm512_maskz_loadu_ps(mask, product->bias + at);
    for (size_t i = 0; i < blocks; i++) {
        __m512i w[GROUPS];
        FOR_UNROLLED (g, GROUPS) {
            const uint8_t *from = weights + (i * GROUPS + g) * 64;
            w[g] = _mm512_loadu_si512(from);
            if (count > 1) /* one row goes as fast as memory, and the CPU's own fetching does */
                _mm_prefetch(from + AHEAD, _MM_HINT_T0);
        }
        const __m256i *half = (const __m256i *)(const void *)(halves + i * PANEL_SCALE);
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(half));
        FOR_UNROLLED (r, count) {
            const uint8_t *x = rows + r * row_size;
            const float *scales = (const float *)(const void *)(x + columns);
            const int32_t *starts = (const int32_t *)(const void *)(scales + blocks);
            const int32_t *groups = (const int32_t *)(const void *)(x + i * PANEL_BLOCK);
            __m512i sum = _mm512_set1_epi32(starts[i]);
            FOR_UNROLLED (g, GROUPS)
                sum = _mm512_dpbusd_epi32(sum, w[g], _mm512_set1_epi32(groups[g]));
            __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(scales[i]));
            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, sums[r]);
        }
    }
    FOR_UNROLLED (r, count)
        _mm512_mask_storeu_ps(product->out + (row + r) * product->height + at, mask, sums[r]);
}

/* The same in f32.  Sums of sums: one long one would round worse than what we are compared to. */
static inline __attribute__((always_inline)) void
multiply_f32_rows(const struct panel_product *product, size_t panel, size_t row, const size_t count)
{
    size_t columns = product->columns, at = panel * PANEL_ROWS;
    const float *weights = (const float *)product->panels + panel * columns * PANEL_ROWS;
    const float *rows = (const float *)product->rows + row * columns;
    __mmask16 mask = mask_for(product, panel);
    __m512 totals[ROWS_AT_ONCE];
    FOR_UNROLLED (r, count)
        totals[r] = _mm512_maskz_loadu_ps(mask, product->bias + at);
    for (size_t from = 0; from < columns; from += SUM_COLUMNS) {
        size_t to = from + SUM_COLUMNS < columns ? from + SUM_COLUMNS : columns;
        __m512 sums[ROWS_AT_ONCE];
        FOR_UNROLLED (r, count)
            sums[r] = _mm512_setzero_ps();
        for (size_t k = from; k < to; k++) {
            __m512 w = _mm512_loadu_ps(weights + k * PANEL_ROWS);
            if (count > 1)
                _mm_prefetch((const char *)(weights + k * PANEL_ROWS) + AHEAD, _MM_HINT_T0);
            FOR_UNROLLED (r, count)
                sums[r] = _mm512_fmadd_ps(w, _mm512_set1_ps(rows[r * columns + k]), sums[r]);
        }
        FOR_UNROLLED (r, count)
            totals[r] = _mm512_add_ps(totals[r], sums[r]);
    }
    FOR_UNROLLED (r, count)
        _mm512_mask_storeu_ps(product->out + (row + r) * product->height + at, mask, totals[r]);
}

// clang-format off
#define CASE(multiply, n) case n: multiply(product, panel, row, n); break
#define CASES(multiply)                                                                            \
    CASE(multiply, 1); CASE(multiply, 2); CASE(multiply, 3); CASE(multiply, 4);                    \
    CASE(multiply, 5); CASE(multiply, 6); CASE(multiply, 7); CASE(multiply, 8);                    \
    CASE(multiply, 9); CASE(multiply, 10); CASE(multiply, 11); CASE(multiply, 12)
// clang-format on

static void multiply_f32(const struct panel_product *product, size_t first, size_t step)
{
    size_t panels = (product->height + PANEL_ROWS - 1) / PANEL_ROWS;
    for (size_t panel = first; panel < panels; panel += step) {
        for (size_t row = 0; row < product->row_count; row += ROWS_AT_ONCE) {
            size_t rest = product->row_count - row;
            switch (rest < ROWS_AT_ONCE ? rest : ROWS_AT_ONCE) {
                CASES(multiply_f32_rows);
            }
        }
    }
}

static void multiply_q8(const struct panel_product *product, size_t first, size_t step)
{
    size_t panels = (product->height + PANEL_ROWS - 1) / PANEL_ROWS;
    for (size_t panel = first; panel < panels; panel += step) {
        for (size_t row = 0; row < product->row_count; row += ROWS_AT_ONCE) {
            size_t rest = product->row_count - row;
            switch (rest < ROWS_AT_ONCE ? rest : ROWS_AT_ONCE) {
                CASES(multiply_q8_rows);
            }
        }
    }
}

const struct panel_kernels panel_kernels_512 = {multiply_f32, multiply_q8, quantise};

#endif
