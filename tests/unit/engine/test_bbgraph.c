/* The ways to compute give the same scores, with beams whose pasts cross: through the table of
 * cells and with weights in the fastest form, as here; by gathering the cells and with weights as
 * they are, as on other devices. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "convert/convert.h"
#include "engine/blenderbot/graph.h"
#include "engine/engine.h"

#define NEAR   2e-5f
#define SLOTS  2
#define BEAMS  3
#define LENGTH 12

static ggml_backend_t backend;
static struct bb_model model;

static void open_model(const char *type, enum bb_form form)
{
    char gguf[] = "/tmp/wyvern-bbgraph-XXXXXX";
    struct convert_report report;
    int fd = mkstemp(gguf);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(
        convert_checkpoint(TEST_DATA "/blenderbot/tiny", gguf, type, NULL, NULL, &report), ERR_OK);
    if (bb_model_open(&model, gguf, backend, form) != ERR_OK)
        fail_msg("%s", err_text());
    unlink(gguf);
}

static int open_backend(void **state)
{
    engine_log_init();
    backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    assert_non_null(backend);
    return 0;
}

static int close_backend(void **state)
{
    ggml_backend_free(backend);
    return 0;
}

/* Runs LENGTH steps of rows that swap their pasts; all scores into out. */
static void run(bool gather, float *out)
{
    static const int32_t prompts[SLOTS][5] = {{321, 741, 284, 351, 2}, {780, 15, 2, 0, 0}};
    static const size_t counts[SLOTS] = {5, 3};
    struct bb_runner_config config = {SLOTS, BEAMS, gather};
    struct bb_runner *runner;
    assert_int_equal(bb_runner_open(&runner, &model, backend, &config), ERR_OK);
    bb_runner_set_threads(runner, 2, NULL);
    for (size_t slot = 0; slot < SLOTS; slot++)
        assert_int_equal(bb_runner_encode(runner, slot, prompts[slot], counts[slot], NULL), ERR_OK);
    int32_t cells[SLOTS * BEAMS][LENGTH] = {0}, before[SLOTS * BEAMS][LENGTH];
    for (size_t step = 0; step < LENGTH; step++) {
        struct bb_row rows[SLOTS * BEAMS];
        memcpy(before, cells, sizeof cells);
        for (size_t i = 0; i < SLOTS * BEAMS; i++) {
            size_t slot = i / BEAMS, beam = i % BEAMS, parent = (beam * 2 + step) % BEAMS;
            memcpy(cells[i], before[slot * BEAMS + parent], sizeof cells[i]);
            cells[i][step] = bb_runner_cell(runner, slot, beam, step);
            rows[i] =
                (struct bb_row){(int32_t)(10 + step * 7 + i), step, slot, cells[i][step], cells[i]};
        }
        assert_int_equal(bb_runner_decode(runner, rows, SLOTS * BEAMS,
                                          out + step * SLOTS * BEAMS * model.vocab_size),
                         ERR_OK);
    }
    bb_runner_close(runner);
}

static float *scores_of(const char *type, enum bb_form form, bool gather, size_t *count)
{
    open_model(type, form);
    *count = LENGTH * SLOTS * BEAMS * model.vocab_size;
    float *scores = calloc(*count, sizeof *scores);
    run(gather, scores);
    bb_model_close(&model);
    return scores;
}

/* Against the plain way: the largest difference is below `near`, in parts of the largest score. */
static void compare(const char *type, enum bb_form form, bool gather, float near)
{
    size_t count;
    float *plain = scores_of(type, BB_FORM_PLAIN, false, &count);
    float *other = scores_of(type, form, gather, &count), most = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        assert_true(isfinite(plain[i]) && isfinite(other[i]));
        most = fmaxf(most, fabsf(plain[i] - other[i]));
        largest = fmaxf(largest, fabsf(plain[i]));
    }
    assert_true(largest > 1);
    if (!(most < near * largest))
        fail_msg("%s, form %d: %g of %g", type, form, (double)most, (double)largest);
    free(plain);
    free(other);
}

static void test_gathered_as_through_the_table(void **state)
{
    compare("f32", BB_FORM_PLAIN, true, NEAR);
    compare("f32", BB_FORM_FASTEST, true, NEAR);
}

/* Quantised rows are rounded at slightly other places. */
static void test_fastest_form_as_the_plain(void **state)
{
    compare("f32", BB_FORM_FASTEST, false, NEAR);
    compare("f16", BB_FORM_FASTEST, false, NEAR);
    compare("q8_0", BB_FORM_FASTEST, false, 0.01f);
    compare("q4_0", BB_FORM_FASTEST, false, 0.01f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gathered_as_through_the_table),
                                       cmocka_unit_test(test_fastest_form_as_the_plain)};
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
