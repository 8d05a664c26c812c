/* The inner loops give what their definitions say, at every level that this CPU has and at sizes
 * that fill no vector. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/blenderbot/cpu_ops.h"
#include "engine/blenderbot/kernels.h"

#define CELLS 37

static uint32_t seed = 1;

/* −1 … 1 */
static float random_number(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(int32_t)seed / 2147483648.0f;
}

static size_t list_levels(const struct bb_kernels *out[2])
{
    out[0] = &bb_kernels_any;
    out[1] = bb_kernels_best();
    return out[0] == out[1] ? 1 : 2;
}

static void test_gelu_is_within_its_bound(void **state)
{
    const struct bb_kernels *levels[2];
    size_t count = list_levels(levels);
    for (size_t level = 0; level < count; level++) {
        for (double x = -40; x < 40; x += 1.0 / 1024) {
            float in[3] = {(float)x, (float)(x / 1000), (float)-x}, out[3];
            levels[level]->gelu_erf(out, in, 3);
            for (size_t i = 0; i < 3; i++) {
                double v = (double)in[i], want = 0.5 * v * (1 + erf(v / sqrt(2.0)));
                if (!(fabs((double)out[i] - want) <= 2e-7 * fmax(1, fabs(v))))
                    fail_msg("gelu(%.9g) = %.9g, not %.9g", v, (double)out[i], want);
            }
        }
    }
}

static void attend_plainly(double *out, const struct head_view *view)
{
    double weights[CELLS], sum = 0;
    for (size_t i = 0; i < view->count; i++) {
        double dot = 0;
        for (size_t k = 0; k < view->size; k++)
            dot += (double)view->query[k] *
                   (double)view->keys[(size_t)view->cells[i] * view->stride + k];
        sum += weights[i] = exp(dot / sqrt((double)view->size));
    }
    for (size_t k = 0; k < view->size; k++) {
        out[k] = 0;
        for (size_t i = 0; i < view->count; i++)
            out[k] +=
                weights[i] / sum * (double)view->values[(size_t)view->cells[i] * view->stride + k];
    }
}

static void test_attention_of_any_size(void **state)
{
    static const size_t sizes[] = {1, 3, 8, 13, 32, 40, 47, 64, 80};
    static const size_t counts[] = {1, 2, 7, 8, 9, CELLS};
    const struct bb_kernels *levels[2];
    size_t level_count = list_levels(levels), stride = 200;
    float *keys = malloc(CELLS * stride * sizeof *keys), query[80], out[80], weights[CELLS];
    float *values = malloc(CELLS * stride * sizeof *values);
    int32_t cells[CELLS];
    double want[80];
    for (size_t i = 0; i < CELLS * stride; i++) {
        keys[i] = 8 * random_number();
        values[i] = random_number();
    }
    for (size_t i = 0; i < 80; i++)
        query[i] = 8 * random_number();
    for (size_t i = 0; i < CELLS; i++)
        cells[i] = (int32_t)(i * 5 % CELLS);
    for (size_t n = 0; n < level_count * 9 * 6; n++) {
        struct head_view view = {query,         keys + 7,         values + 7, cells,
                                 counts[n % 6], sizes[n / 6 % 9], stride};
        levels[n / 54]->attend(out, &view, weights);
        attend_plainly(want, &view);
        for (size_t k = 0; k < view.size; k++)
            assert_true(fabs((double)out[k] - want[k]) < 2e-5);
    }
    free(keys);
    free(values);
}

struct q8_block {
    uint16_t scale;
    int8_t values[PANEL_BLOCK];
};

/* Scales that f16 has exactly: 2^-7 and 2^-6. */
static const uint16_t halves[] = {0x2000, 0x2400};
static const double factors[] = {1.0 / 128, 1.0 / 64};

struct product_case {
    size_t columns, height, rows;
    float *plain; /* [height][columns] */
    struct q8_block *blocks;
    float *x, *bias, *out;
};

/* Whole numbers with 127 in each block, which q8_0 keeps exactly. */
static void make_case(struct product_case *c, size_t columns, size_t height, size_t rows)
{
    size_t blocks = columns / PANEL_BLOCK;
    *c = (struct product_case){columns,
                               height,
                               rows,
                               calloc(height * columns, sizeof(float)),
                               calloc(height * blocks + 1, sizeof(struct q8_block)),
                               calloc(rows * columns, sizeof(float)),
                               calloc(height, sizeof(float)),
                               calloc(rows * height, sizeof(float))};
    for (size_t i = 0; i < height * columns; i++) {
        int8_t value = (int8_t)(i == 0 ? -128 : 127 * random_number());
        size_t block = i / columns * blocks + i % columns / PANEL_BLOCK;
        c->plain[i] = (float)(value * factors[block % 2]);
        c->blocks[block].scale = halves[block % 2];
        c->blocks[block].values[i % columns % PANEL_BLOCK] = value;
    }
    for (size_t i = 0; i < height; i++)
        c->bias[i] = random_number();
    for (size_t i = 0; i < rows * columns; i++)
        c->x[i] = i % PANEL_BLOCK == 0 ? 127 : (float)(int)(127 * random_number());
}

static void check_and_free_case(struct product_case *c)
{
    for (size_t r = 0; r < c->rows; r++) {
        for (size_t i = 0; i < c->height; i++) {
            double want = (double)c->bias[i], got = (double)c->out[r * c->height + i];
            for (size_t k = 0; k < c->columns; k++)
                want += (double)c->plain[i * c->columns + k] * (double)c->x[r * c->columns + k];
            if (!(fabs(got - want) < 0.01))
                fail_msg("%zu columns, row %zu, %zu: %g, not %g", c->columns, r, i, got, want);
        }
    }
    free(c->plain);
    free(c->blocks);
    free(c->x);
    free(c->bias);
    free(c->out);
}

static void check_product(enum ggml_type type, size_t columns, size_t height, size_t rows)
{
    struct product_case c;
    bool q8 = type == GGML_TYPE_Q8_0;
    size_t row_size = panel_q8_row_size(columns), panels = (height + PANEL_ROWS - 1) / PANEL_ROWS;
    make_case(&c, columns, height, rows);
    void *packed = malloc(panels * (q8 ? panel_q8_size(columns) : panel_f32_size(columns)));
    uint8_t *bytes = calloc(rows, row_size);
    packed_fill(packed, q8 ? (void *)c.blocks : c.plain, type, columns, height);
    for (size_t i = 0; q8 && i < rows; i++)
        panel_kernels_get()->quantise(bytes + i * row_size, c.x + i * columns, columns);
    struct panel_product product = {c.out,  packed, q8 ? (void *)bytes : c.x, c.bias, columns,
                                    height, rows};
    void (*multiply)(const struct panel_product *, size_t, size_t) =
        q8 ? panel_kernels_get()->multiply_q8 : panel_kernels_get()->multiply_f32;
    multiply(&product, 1, 3);
    multiply(&product, 0, 3);
    multiply(&product, 2, 3);
    check_and_free_case(&c);
    free(packed);
    free(bytes);
}

static void test_packed_product(void **state)
{
    if (panel_kernels_get() == NULL)
        skip(); /* this CPU has no AVX-512 with VNNI */
    static const enum ggml_type types[] = {GGML_TYPE_Q8_0, GGML_TYPE_F32};
    for (size_t t = 0; t < 2; t++) {
        for (size_t rows = 1; rows <= 27; rows++)
            check_product(types[t], 96, 40, rows);
        check_product(types[t], 32, 1, 1);
        check_product(types[t], 64, 16, 3);
        check_product(types[t], 160, 31, 12);
    }
    check_product(GGML_TYPE_F32, 1, 1, 1);
    check_product(GGML_TYPE_F32, 7, 17, 2);
    check_product(GGML_TYPE_F32, 300, 33, 13);
    assert_false(packed_can(GGML_TYPE_Q8_0, 40)); /* no whole blocks */
    assert_false(packed_can(GGML_TYPE_Q4_0, 64));
}

static void test_quantising_rounds_to_the_nearest(void **state)
{
    if (panel_kernels_get() == NULL)
        skip();
    float in[64] = {0};
    uint8_t out[128];
    for (size_t i = 0; i < 32; i++)
        in[i] = random_number() * 3;
    panel_kernels_get()->quantise(out, in, 64);
    const float *scales = (const float *)(const void *)(out + 64);
    const int32_t *starts = (const int32_t *)(const void *)(scales + 2);
    int32_t sum = 0;
    for (size_t i = 0; i < 32; i++) {
        assert_true(fabsf((float)(int8_t)out[i] * scales[0] - in[i]) <= scales[0] * 0.5001f);
        sum += (int8_t)out[i];
    }
    assert_int_equal(starts[0], -128 * sum);
    for (size_t i = 32; i < 64; i++) /* nothing but zeros: no division by nothing */
        assert_int_equal(out[i], 0);
    assert_true(scales[1] == 0.0f && starts[1] == 0);
    in[3] = INFINITY; /* a broken model's: no overflow, and no number comes of it */
    in[4] = 1;
    panel_kernels_get()->quantise(out, in, 64);
    if (isfinite(scales[0]))
        fail_msg("a scale of %g", (double)scales[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gelu_is_within_its_bound),
        cmocka_unit_test(test_attention_of_any_size),
        cmocka_unit_test(test_packed_product),
        cmocka_unit_test(test_quantising_rounds_to_the_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
