/*
 * vnni.c - see kernels.h.  Compiled with AVX-512 and VNNI on; runs only where the CPU has them.
 *
 * An unsigned byte of a weight w + 128 times a signed one of the row x: their sum is Σwx + 128Σx,
 * so a sum begins at −128Σx, which is worked out once a row.  In this order the weights are
 * registers and the row is read by broadcasts: 8 instructions for 512 products of one row.
 */
#include "engine/blenderbot/kernels.h"

#ifdef __AVX512VNNI__

#include <immintrin.h>
#include <string.h>

#define ROWS_AT_ONCE 12 /* sums that stay in registers beside a block of weights */
#define GROUP        4  /* columns that one instruction adds up */
#define GROUPS       (VNNI_BLOCK / GROUP)
#define AHEAD        (size_t)4096 /* bytes: the CPU's own prefetching stops at the end of a page */

/* A loop without a loop: what it fills must become registers. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif
// NOLINTNEXTLINE(bugprone-macro-parentheses)
#define FOR_UNROLLED(i, count) UNROLL for (size_t i = 0; i < (count); i++)

static void quantise(uint8_t *out, const float *in, size_t columns)
{
    size_t blocks = columns / VNNI_BLOCK;
    float *scales = (float *)(void *)(out + columns);
    int32_t *starts = (int32_t *)(void *)(scales + blocks);
    for (size_t i = 0; i < blocks; i++) {
        __m512 a = _mm512_loadu_ps(in + i * VNNI_BLOCK);
        __m512 b = _mm512_loadu_ps(in + i * VNNI_BLOCK + 16);
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        __m512 factor = _mm512_set1_ps(most > 0 ? 127.0f / most : 0);
        __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor));
        __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
        __m128i *bytes = (__m128i *)(void *)(out + i * VNNI_BLOCK);
        _mm_storeu_si128(bytes, _mm512_cvtsepi32_epi8(low));
        _mm_storeu_si128(bytes + 1, _mm512_cvtsepi32_epi8(high));
        scales[i] = most / 127.0f;
        starts[i] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    }
}

/* One panel by `count` rows from `row` on; count is a constant where this is used. */
static inline __attribute__((always_inline)) void
multiply_rows(const struct vnni_product *product, size_t panel, size_t row, const size_t count)
{
    size_t columns = product->columns, blocks = columns / VNNI_BLOCK;
    size_t row_size = vnni_row_size(columns), at = panel * VNNI_ROWS;
    const uint8_t *weights = product->panels + panel * vnni_panel_size(columns);
    const uint8_t *halves = weights + columns * VNNI_ROWS;
    const uint8_t *rows = product->rows + row * row_size;
    size_t lanes = product->height - at < VNNI_ROWS ? product->height - at : VNNI_ROWS;
    __mmask16 mask = (__mmask16)((1u << lanes) - 1);
    __m512 sums[ROWS_AT_ONCE];
    FOR_UNROLLED (r, count)
        sums[r] = _mm512_maskz_loadu_ps(mask, product->bias + at);
    for (size_t i = 0; i < blocks; i++) {
        __m512i w[GROUPS];
        FOR_UNROLLED (g, GROUPS) {
            const uint8_t *from = weights + (i * GROUPS + g) * 64;
            w[g] = _mm512_loadu_si512(from);
            _mm_prefetch(from + AHEAD, _MM_HINT_T0);
        }
        const __m256i *half = (const __m256i *)(const void *)(halves + i * VNNI_SCALE);
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(half));
        FOR_UNROLLED (r, count) {
            const uint8_t *x = rows + r * row_size;
            const float *scales = (const float *)(const void *)(x + columns);
            const int32_t *starts = (const int32_t *)(const void *)(scales + blocks);
            const int32_t *groups = (const int32_t *)(const void *)(x + i * VNNI_BLOCK);
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

static void multiply_panel(const struct vnni_product *product, size_t panel, size_t row,
                           size_t count)
{
    // clang-format off
#define CASE(n) case n: multiply_rows(product, panel, row, n); break
    switch (count) {
        CASE(1); CASE(2); CASE(3); CASE(4); CASE(5); CASE(6);
        CASE(7); CASE(8); CASE(9); CASE(10); CASE(11); CASE(12);
    }
    // clang-format on
#undef CASE
}

static void multiply(const struct vnni_product *product, size_t first, size_t last)
{
    for (size_t panel = first; panel < last; panel++) {
        for (size_t row = 0; row < product->row_count; row += ROWS_AT_ONCE) {
            size_t rest = product->row_count - row;
            multiply_panel(product, panel, row, rest < ROWS_AT_ONCE ? rest : ROWS_AT_ONCE);
        }
    }
}

const struct vnni_kernels vnni_kernels_512 = {quantise, multiply};

#endif
