/* What a load came to: intervals, quantiles, duplicates, JSON keys, drawings that fit. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/wrap.h"
#include "verbs/report.h"

static void assert_near(double got, double wanted)
{
    if (!(fabs(got - wanted) < 1e-9))
        fail_msg("%.12g is not %.12g", got, wanted);
}

static void a_union_counts_overlaps_once(void **state)
{
    struct span apart[] = {{5, 6}, {0, 1}};
    struct span over[] = {{1, 4}, {0, 2}, {3, 5}};
    struct span inside[] = {{0, 10}, {2, 3}, {4, 5}};
    struct span touching[] = {{0, 1}, {1, 2}};
    struct span same[] = {{1, 2}, {1, 2}, {1, 1}};
    assert_near(spans_union(apart, 2), 2);
    assert_near(spans_union(over, 3), 5);
    assert_near(spans_union(inside, 3), 10);
    assert_near(spans_union(touching, 2), 2);
    assert_near(spans_union(same, 3), 1);
    assert_near(spans_union(NULL, 0), 0);
    assert_near(spans_sum(over, 3), 7);
}

/* Against counting by hand in small steps. */
static void a_union_agrees_with_counting(void **state)
{
    unsigned seed = 4;
    for (int round = 0; round < 200; round++) {
        struct span spans[12];
        bool busy[100] = {false};
        size_t count = (unsigned)rand_r(&seed) % 12;
        for (size_t i = 0; i < count; i++) {
            int start = rand_r(&seed) % 80, len = rand_r(&seed) % 20;
            spans[i] = (struct span){start, start + len};
            for (int t = start; t < start + len; t++)
                busy[t] = true;
        }
        int total = 0;
        for (int t = 0; t < 100; t++)
            total += busy[t];
        assert_near(spans_union(spans, count), total);
    }
}

static void density_keeps_the_sum(void **state)
{
    struct span spans[] = {{0, 10}, {5, 10}, {9, 9.5}};
    double cells[7], sum = 0;
    spans_density(spans, 3, 10, cells, 7);
    for (size_t i = 0; i < 7; i++)
        sum += cells[i] * 10 / 7;
    assert_near(sum, 15.5);
    assert_near(cells[0], 1);
    spans_density(spans, 3, 0, cells, 7); /* nothing ran: no division by it */
    assert_near(cells[3], 0);
}

static void percentiles_are_by_nearest_rank(void **state)
{
    double values[] = {5, 1, 4, 2, 3};
    assert_near(values_percentile(values, 5, 0.5), 3);
    assert_near(values_percentile(values, 5, 0.99), 5);
    assert_near(values_percentile(values, 5, 0), 1);
    assert_near(values_percentile(values, 5, 1), 5);
    assert_near(values_percentile(values, 1, 0.5), 1);
    assert_near(values_percentile(values, 0, 0.5), 0);
}

static struct outcome outcome_of(const char *id, const char *node, const char *worker,
                                 uint64_t tokens, double start, double end)
{
    struct outcome outcome = {.answered = true,
                              .tokens = tokens,
                              .ttft_s = start + 0.1,
                              .latency_s = end,
                              .span = {start, end}};
    snprintf(outcome.response_id, sizeof outcome.response_id, "%s", id);
    snprintf(outcome.node, sizeof outcome.node, "%s", node);
    snprintf(outcome.worker, sizeof outcome.worker, "%s", worker);
    snprintf(outcome.device, sizeof outcome.device, "cpu:0");
    return outcome;
}

static struct report *report_of_five(void)
{
    struct outcome outcomes[6] = {
        outcome_of("a", "node2", "infer-0", 10, 0, 2),
        outcome_of("b", "node1", "infer-0", 20, 1, 3),
        outcome_of("c", "node1", "infer-0", 30, 2, 4),
        outcome_of("d", "node1", "infer-1", 40, 0, 5),
        outcome_of("c", "node1", "infer-1", 50, 6, 8), /* the same reply again */
    };
    outcomes[3].wrong = true;
    struct report *report = NULL;
    assert_int_equal(report_new(&report, outcomes, 6, 10), ERR_OK); /* the sixth never came */
    return report;
}

static void outcomes_are_summed_by_worker(void **state)
{
    struct report *report = report_of_five();
    assert_int_equal(report->sent, 6);
    assert_int_equal(report->answered, 5);
    assert_int_equal(report->failed, 1);
    assert_int_equal(report->duplicates, 2);
    assert_int_equal(report->tokens, 150);
    assert_int_equal(report->worker_count, 3); /* the same name on two nodes is two workers */
    const struct report_worker *worker = &report->workers[0];
    assert_string_equal(worker->node, "node1");
    assert_string_equal(worker->id, "infer-0");
    assert_int_equal(worker->prompts, 2);
    assert_int_equal(worker->tokens, 50);
    assert_near(worker->busy_s, 3);
    assert_near(worker->slot_s, 4);
    assert_near(worker->first_start, 1);
    assert_near(worker->last_end, 4);
    assert_near(report->workers[1].busy_s, 7);
    assert_near(report->latency.max, 8000);
    report_free(report);
    report_free(NULL);
}

static void json_has_the_keys_that_scripts_rely_on(void **state)
{
    static const char *const keys[] = {"sent",       "answered",   "failed",
                                       "duplicates", "seconds",    "tokens_per_second",
                                       "ttft_ms",    "latency_ms", "workers"};
    static const char *const worker_keys[] = {"id",
                                              "node",
                                              "device",
                                              "prompts",
                                              "tokens",
                                              "busy_seconds",
                                              "slot_seconds",
                                              "first_start",
                                              "last_end",
                                              "slots",
                                              "utilization_ratio",
                                              "gpu_utilization_ratio"};
    struct report *report = report_of_five();
    struct buf out;
    buf_init(&out, 65536);
    assert_int_equal(report_json(report, &out), ERR_OK);
    json_t *root = json_loads(buf_text(&out), 0, NULL);
    assert_non_null(root);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        assert_non_null(json_object_get(root, keys[i]));
    assert_int_equal(json_object_size(root), sizeof keys / sizeof keys[0]);
    json_t *worker = json_array_get(json_object_get(root, "workers"), 0);
    for (size_t i = 0; i < sizeof worker_keys / sizeof worker_keys[0]; i++)
        assert_non_null(json_object_get(worker, worker_keys[i]));
    assert_int_equal(json_object_size(worker), sizeof worker_keys / sizeof worker_keys[0]);
    assert_near(json_real_value(json_object_get(root, "tokens_per_second")), 15);
    /* What nobody told is null, never 0. */
    assert_true(json_is_null(json_object_get(worker, "utilization_ratio")));
    assert_true(json_is_null(json_object_get(worker, "gpu_utilization_ratio")));
    assert_non_null(json_object_get(json_object_get(root, "ttft_ms"), "p99"));
    json_decref(root);
    buf_done(&out);
    report_free(report);
}

static void assert_lines_fit(const char *text, size_t width)
{
    char *copy = strdup(text);
    for (char *line = strtok(copy, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (wrap_columns(line) > width)
            fail_msg("wider than %zu: %s", width, line);
    }
    free(copy);
}

/* Narrower than the table is: the workers can still be told apart. */
static void a_narrow_report_names_its_workers(void **state)
{
    struct report *report = report_of_five();
    struct term_style style = {.width = 40, .utf8 = true};
    struct buf out;
    buf_init(&out, 65536);
    snprintf(report->workers[0].id, sizeof report->workers[0].id, "infer-node1-0");
    assert_int_equal(report_draw(report, &style, &out), ERR_OK);
    const char *table = strstr(buf_text(&out), "worker"), *end = strstr(table, "Spread");
    assert_non_null(strstr(table, "infer-node1-0"));
    for (const char *line = table; line < end; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 40);
    table = strstr(end, "Utilisation");
    assert_non_null(strstr(table, "infer-node1-0"));
    buf_done(&out);
    report_free(report);
}

static void drawings_fit_and_hold_no_escapes_without_colour(void **state)
{
    struct report *report = report_of_five();
    static const int widths[] = {80, 100, 200, WRAP_WIDTH_MOST};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        for (int utf8 = 0; utf8 < 2; utf8++) {
            struct term_style style = {.width = widths[i], .utf8 = utf8 == 1};
            struct buf out;
            buf_init(&out, 65536);
            assert_int_equal(report_draw(report, &style, &out), ERR_OK);
            assert_lines_fit(buf_text(&out), (size_t)widths[i]);
            assert_null(strchr(buf_text(&out), '\033'));
            for (const char *at = buf_text(&out); utf8 == 0 && *at != '\0'; at++)
                assert_true((unsigned char)*at < 0x80);
            buf_done(&out);
        }
    }
    report_free(report);
}

/* 4 slot-seconds of 2 slots in 8 s; a GPU that was told of for 4 s of them. */
static void utilisation_is_of_all_slots_and_all_the_time(void **state)
{
    struct report *report = report_of_five();
    struct track track = {0};
    struct term_style style = {.width = 80, .utf8 = true};
    struct buf out;
    buf_init(&out, 65536);
    assert_near(report_end(report), 8);
    assert_true(isnan(report_utilization(report, &report->workers[0])));
    report->workers[0].slots = 2;
    assert_near(report_utilization(report, &report->workers[0]), 0.25);
    for (int i = 0; i < 4; i++)
        assert_int_equal(track_add(&track, i, i < 2 ? 1 : 0.5), ERR_OK);
    double cells[8];
    track_cells(&track, 8, cells, 8);
    assert_near(cells[0], 1);
    assert_near(cells[2], 0.5);
    assert_near(cells[5], 0.5); /* the last sample holds for a while */
    assert_true(isnan(cells[6]) && isnan(cells[7]));
    assert_near(track_mean(&track, 4), 0.75);
    report->workers[0].gpu = &track;
    assert_int_equal(report_draw(report, &style, &out), ERR_OK);
    assert_non_null(strstr(buf_text(&out), "│  25%\n"));
    assert_non_null(strstr(buf_text(&out), "its GPU"));
    assert_non_null(strstr(buf_text(&out), "··│  68%\n"));
    buf_done(&out);
    report_free(report);
    track_done(&track);
}

static void labels_name_the_node_once(void **state)
{
    char label[REPORT_LABEL_SIZE];
    report_label(label, "node1", "infer-0");
    assert_string_equal(label, "node1/infer-0");
    report_label(label, "node1", "infer-node1-0");
    assert_string_equal(label, "infer-node1-0");
    report_label(label, "", "infer-0");
    assert_string_equal(label, "infer-0");
}

static void a_report_of_nothing_is_drawn(void **state)
{
    struct outcome none = {0};
    struct report *report = NULL;
    struct term_style style = {.width = 80};
    struct buf out;
    buf_init(&out, 4096);
    assert_int_equal(report_new(&report, &none, 1, 0), ERR_OK);
    assert_int_equal(report_draw(report, &style, &out), ERR_OK);
    assert_non_null(strstr(buf_text(&out), "1 failed"));
    buf_clear(&out);
    assert_int_equal(report_json(report, &out), ERR_OK);
    buf_done(&out);
    report_free(report);
}

static void bars_and_cells_have_their_width(void **state)
{
    struct term_style style = {.width = 80, .utf8 = true};
    struct buf out;
    buf_init(&out, 4096);
    static const double parts[][3] = {{0, 0, 10}, {5, 2, 10}, {10, 5, 10}, {0, 0, 0}, {1e9, 1, 3}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        buf_clear(&out);
        assert_int_equal(draw_bar(&out, &style, parts[i][0], parts[i][1], parts[i][2], 17), ERR_OK);
        assert_int_equal(wrap_columns(buf_text(&out)), 17);
    }
    static const char *const texts[] = {"",
                                        "abc",
                                        "日本日本日本",
                                        "\033[31mred",
                                        "\xc2\x9b",
                                        "\xff\xfe",
                                        "long enough to be cut somewhere"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        buf_clear(&out);
        assert_int_equal(draw_text(&out, texts[i], 11), ERR_OK);
        assert_int_equal(wrap_columns(buf_text(&out)), 11);
        assert_null(strchr(buf_text(&out), '\033'));
    }
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_union_counts_overlaps_once),
        cmocka_unit_test(a_union_agrees_with_counting),
        cmocka_unit_test(density_keeps_the_sum),
        cmocka_unit_test(percentiles_are_by_nearest_rank),
        cmocka_unit_test(outcomes_are_summed_by_worker),
        cmocka_unit_test(json_has_the_keys_that_scripts_rely_on),
        cmocka_unit_test(a_narrow_report_names_its_workers),
        cmocka_unit_test(drawings_fit_and_hold_no_escapes_without_colour),
        cmocka_unit_test(utilisation_is_of_all_slots_and_all_the_time),
        cmocka_unit_test(labels_name_the_node_once),
        cmocka_unit_test(a_report_of_nothing_is_drawn),
        cmocka_unit_test(bars_and_cells_have_their_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
