/* The two ways to attend give the same scores: through the table of cells, as CPUs do, and by
 * gathering the cells, as other backends do; with beams whose pasts cross. */
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

#define NEAR   1e-4f
#define SLOTS  2
#define BEAMS  3
#define LENGTH 12

static ggml_backend_t backend;
static struct bb_model model;

static int open_model(void **state)
{
    char gguf[] = "/tmp/wyvern-bbgraph-XXXXXX";
    struct convert_report report;
    int fd = mkstemp(gguf);
    assert_true(fd >= 0);
    close(fd);
    engine_log_init();
    backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    assert_non_null(backend);
    assert_int_equal(
        convert_checkpoint(TEST_DATA "/blenderbot/tiny", gguf, "f32", NULL, NULL, &report), ERR_OK);
    if (bb_model_open(&model, gguf, backend) != ERR_OK)
        fail_msg("%s", err_text());
    unlink(gguf);
    return 0;
}

static int close_model(void **state)
{
    bb_model_close(&model);
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

static void test_gathered_as_through_the_table(void **state)
{
    size_t count = LENGTH * SLOTS * BEAMS * model.vocab_size;
    float *direct = calloc(count, sizeof *direct), *gathered = calloc(count, sizeof *gathered);
    float most = 0, largest = 0;
    run(false, direct);
    run(true, gathered);
    for (size_t i = 0; i < count; i++) {
        assert_true(isfinite(direct[i]) && isfinite(gathered[i]));
        most = fmaxf(most, fabsf(direct[i] - gathered[i]));
        largest = fmaxf(largest, fabsf(direct[i]));
    }
    assert_true(largest > 1);
    assert_true(most < NEAR);
    free(direct);
    free(gathered);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gathered_as_through_the_table)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
