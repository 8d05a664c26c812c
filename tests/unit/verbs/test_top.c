/* What wyvern top reads, keeps and draws: hostile metrics, counters that begin anew, quantiles, and
 * frames that fit any terminal. */
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
#include "verbs/fields.h"
#include "verbs/scrape.h"
#include "verbs/topdraw.h"
#include "verbs/topterm.h"

static void assert_near(double got, double wanted)
{
    if (!(fabs(got - wanted) < 1e-6))
        fail_msg("%.12g is not %.12g", got, wanted);
}

/* ---- reading ---- */

struct seen {
    size_t count;
    struct scrape_sample last;
    double sum;
};

static void see(void *arg, const struct scrape_sample *sample)
{
    struct seen *seen = arg;
    seen->count++;
    seen->last = *sample;
    seen->sum += sample->value;
}

static void samples_are_read_and_broken_lines_are_skipped(void **state)
{
    static const char text[] = "# HELP a text\n"
                               "# TYPE a gauge\n"
                               "a 1\n"
                               "a{} 2\n"
                               "b{x=\"1\",y=\"two \\\"q\\\" \\\\ \\n\",} 4 1700000000\r\n"
                               "c{x=\"}\"} 8\n"
                               "  \n"
                               "novalue\n"
                               "novalue \n"
                               "{x=\"1\"} 1000\n"
                               "d{x=1} 1000\n"
                               "d{x=\"1\" 1000\n"
                               "d{x=\"1} 1000\n"
                               "d{x=\"\\q\"} 1000\n"
                               "d{x=\"\xff\"} 1000\n"
                               "d 1000x\n"
                               "e{le=\"+Inf\"} 16";
    struct seen seen = {0};
    scrape_read(text, sizeof text - 1, see, &seen);
    assert_int_equal(seen.count, 5);
    assert_near(seen.sum, 31);
    assert_string_equal(scrape_label(&seen.last, "le"), "+Inf");
    assert_string_equal(scrape_label(&seen.last, "x"), "");
    seen.count = 0;
    scrape_read("b{y=\"two \\\"q\\\" \\\\ \\n\"} NaN\n", 24, see, &seen);
    assert_int_equal(seen.count, 1);
    assert_string_equal(scrape_label(&seen.last, "y"), "two \"q\" \\ \n");
    assert_true(isnan(seen.last.value));
}

static void samples_beyond_the_bounds_are_skipped(void **state)
{
    struct buf text;
    struct seen seen = {0};
    buf_init(&text, 65536);
    for (int i = 0; i < SCRAPE_NAME_MAX; i++)
        assert_int_equal(buf_append_text(&text, "n"), ERR_OK);
    assert_int_equal(buf_append_text(&text, " 1\na{x=\""), ERR_OK);
    for (int i = 0; i < SCRAPE_VALUE_MAX; i++)
        assert_int_equal(buf_append_text(&text, "v"), ERR_OK);
    assert_int_equal(buf_append_text(&text, "\"} 1\na{"), ERR_OK);
    for (int i = 0; i <= SCRAPE_LABELS_MAX; i++)
        assert_int_equal(buf_printf(&text, "l%d=\"\",", i), ERR_OK);
    assert_int_equal(buf_append_text(&text, "} 1\nb 1\n"), ERR_OK);
    scrape_read(buf_text(&text), text.len, see, &seen);
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.last.name, "b");
    buf_done(&text);
}

/* ---- series ---- */

static void a_rate_survives_a_counter_that_begins_anew(void **state)
{
    struct top_rate rate = {0};
    assert_true(isnan(top_rate_now(&rate)));
    top_rate_add(&rate, 0, 1000);
    assert_true(isnan(top_rate_now(&rate))); /* one reading tells nothing */
    top_rate_add(&rate, 1, 1010);
    assert_near(top_rate_now(&rate), 10);
    top_rate_add(&rate, 2, 20); /* began anew, and made 20 since */
    assert_near(top_rate_now(&rate), 15);
    top_rate_restart(&rate);
    top_rate_add(&rate, 3, 30); /* another process, which made 30 */
    assert_near(top_rate_now(&rate), 20);
    top_rate_add(&rate, 100, 30); /* nobody told for long: nothing is known of it */
    assert_true(isnan(top_rate_now(&rate)));
    top_rate_add(&rate, 101, NAN);
    assert_int_equal(rate.count, 0);
}

/* Told each second at .5, 100 each time; asked each 0.2 s, or at a beat of its own. */
static void a_rate_of_what_is_told_each_second_does_not_jump(void **state)
{
    for (int beat = 1; beat <= 5; beat++) {
        struct top_rate rate = {0};
        for (int i = 0; i <= 16 * beat; i++) {
            double now = i * 0.2;
            top_rate_tell(&rate, now, 1000 + 100 * floor(now + 0.5));
        }
        assert_near(top_rate_now(&rate), 100);
    }
    struct top_rate still = {0};
    for (int i = 0; i <= 16; i++)
        top_rate_tell(&still, i * 0.2, 1000);
    assert_near(top_rate_now(&still), 0);
}

static void trails_forget_the_oldest(void **state)
{
    struct top_trail trail = {0};
    assert_true(isnan(top_trail_mean(&trail, 10)));
    for (int i = 0; i < TOP_TRAIL + 5; i++)
        top_trail_add(&trail, i);
    assert_near(top_trail_get(&trail, 0), TOP_TRAIL + 4);
    assert_near(top_trail_get(&trail, TOP_TRAIL - 1), 5);
    assert_true(isnan(top_trail_get(&trail, TOP_TRAIL)));
    top_trail_add(&trail, NAN);
    assert_true(isnan(top_trail_mean(&trail, 3))); /* it is silent now */
    assert_near(top_trail_max(&trail, 3), TOP_TRAIL + 4);
    top_trail_add(&trail, 1);
    assert_near(top_trail_mean(&trail, 3), (TOP_TRAIL + 5) / 2.0);
}

static struct top_buckets buckets_of(double a, double b, double all)
{
    struct top_buckets buckets = {0};
    top_buckets_add(&buckets, "+Inf", all);
    top_buckets_add(&buckets, "0.1", a);
    top_buckets_add(&buckets, "1", b);
    return buckets;
}

static void quantiles_are_prometheus_own(void **state)
{
    struct top_buckets buckets = buckets_of(10, 20, 20), none = {0};
    assert_near(top_buckets_quantile(&buckets, 0.5), 0.1);
    assert_near(top_buckets_quantile(&buckets, 0.25), 0.05);
    assert_near(top_buckets_quantile(&buckets, 0.75), 0.55);
    top_buckets_add(&buckets, "+Inf", 100); /* of another model */
    assert_true(isinf(top_buckets_quantile(&buckets, 0.99)));
    assert_true(isnan(top_buckets_quantile(&none, 0.5)));
    buckets = buckets_of(0, 0, 0);
    assert_true(isnan(top_buckets_quantile(&buckets, 0.5)));
    top_buckets_add(&buckets, "many", 1);
    assert_true(isnan(top_buckets_quantile(&buckets, 0.5)));
}

static void windows_hold_what_came_in(void **state)
{
    struct top_buckets a = buckets_of(5, 5, 5), b = buckets_of(6, 8, 8), since, none = {0};
    struct top_window *window = calloc(1, sizeof *window);
    assert_non_null(window);
    top_buckets_since(&since, &none, &a); /* the first look: all of it was before */
    top_window_add(window, &since);
    top_window_sum(window, &since);
    assert_near(top_buckets_total(&since), 0);
    top_buckets_since(&since, &a, &b);
    assert_near(top_buckets_total(&since), 3);
    top_window_add(window, &since);
    top_buckets_since(&since, &b, &a); /* began anew */
    assert_near(top_buckets_total(&since), 5);
    top_window_add(window, &since);
    for (int i = 1; i < TOP_LATENCY_S; i++)
        top_window_tick(window);
    top_window_sum(window, &since);
    assert_near(top_buckets_total(&since), 8);
    top_window_tick(window);
    top_window_sum(window, &since);
    assert_true(isnan(top_buckets_quantile(&since, 0.5)));
    free(window);
}

/* ---- the model ---- */

static const char hostile[] = "\033]0;owned\007\r\n\xe2\x80\xae\xc2\x9b"
                              "31m";

/* A status of so many nodes with so many workers each. */
static json_t *status_of(int nodes, int workers, const char *prefix, long long tokens)
{
    json_t *list = json_array();
    for (int n = 0; n < nodes; n++) {
        json_t *each = json_array();
        char name[80];
        for (int w = 0; w < workers; w++) {
            snprintf(name, sizeof name, "%sinfer-%d-%d", prefix, n, w);
            json_array_append_new(each,
                                  json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I}",
                                            "id", name, "state", w % 2 ? "loading" : "ready",
                                            "device", hostile, "model", hostile, "pid", 7, "slots",
                                            4, "active", 3, "prompts", (json_int_t)12, "tokens",
                                            (json_int_t)tokens, "failed", (json_int_t)0));
        }
        snprintf(name, sizeof name, "%snode%d", prefix, n);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", name, "address",
                                              hostile, "metrics_url", "http://127.0.0.1:1/metrics",
                                              "workers", each));
    }
    return json_pack("{s:o, s:[{s:s, s:s}], s:[], s:{s:i, s:i, s:i}, s:{s:b}, s:s}", "nodes", list,
                     "gateways", "id", "gateway-0", "url", "http://127.0.0.1:2", "response_workers",
                     "queue", "waiting", 9, "in_flight", 3, "limit", 1024, "broker", "connected", 1,
                     "model", hostile);
}

static void status_give(struct top *top, double now, json_t *status)
{
    assert_int_equal(top_take_status(top, now, status), ERR_OK);
    json_decref(status);
}

static const char node_metrics[] =
    "system_load_average 1.25\n"
    "gpu_utilization{hostname=\"h\",gpu_index=\"0\",uuid=\"GPU-a\"} 40\n"
    "gpu_memory_used{hostname=\"h\",gpu_index=\"0\",uuid=\"GPU-a\"} 1024\n"
    "gpu_memory_total{hostname=\"h\",gpu_index=\"0\",uuid=\"GPU-a\"} 4096\n"
    "wyvern_gpu_up{hostname=\"h\",gpu_index=\"0\",uuid=\"GPU-a\"} 1\n"
    "wyvern_gpu_utilization_ratio{gpu_index=\"1\",uuid=\"GPU-b\"} 7e9\n"
    "wyvern_gpu_power_watts{gpu_index=\"1\",uuid=\"GPU-b\"} 250\n"
    "wyvern_node_cpu_seconds_total{mode=\"user\"} 100\n"
    "wyvern_node_cpu_seconds_total{mode=\"idle\"} 300\n"
    "wyvern_worker_waiting{worker=\"infer-0-0\"} 2\n";
static const char node_metrics_later[] = "wyvern_node_cpu_seconds_total{mode=\"user\"} 101\n"
                                         "wyvern_node_cpu_seconds_total{mode=\"idle\"} 303\n";

static void metrics_become_figures_and_old_ones_are_forgotten(void **state)
{
    struct top *top = NULL;
    assert_int_equal(top_new(&top, "http://x"), ERR_OK);
    status_give(top, 1, status_of(2, 1, "", 100));
    struct top_node *node = top_node_find(top, "node0");
    assert_non_null(node);
    top_take_node(node, 1, node_metrics, sizeof node_metrics - 1);
    top_tick(top, 1);
    assert_near(node->load1, 1.25);
    assert_int_equal(node->gpu_count, 2);
    assert_near(node->gpus[0].utilization, 0.4);
    assert_near(node->gpus[0].memory_used, 1073741824.0);
    assert_true(isnan(node->gpus[0].power));
    assert_true(isnan(node->gpus[1].utilization)); /* absurd: not shown as right */
    assert_near(node->gpus[1].power, 250);
    assert_near(node->workers[0].waiting, 2);
    assert_true(isnan(top_node_find(top, "node1")->workers[0].waiting));
    assert_true(isnan(top_node_cpu(node)));
    status_give(top, 1.5, status_of(2, 1, "", 110));
    status_give(top, 2.5, status_of(2, 1, "", 160));
    top_take_node(node, 2, node_metrics_later, sizeof node_metrics_later - 1);
    assert_near(top_node_cpu(node), 0.25);
    assert_int_equal(node->gpu_count, 0); /* they went away */
    assert_true(isnan(node->load1));
    struct top_sums sums;
    top_sum(top, &sums);
    assert_near(sums.tokens_per_s, 100); /* 50 each */
    top_tick(top, 2 + TOP_STALE_S + 1);
    assert_true(isnan(top_node_cpu(node)));
    top_sum(top, &sums);
    assert_true(isnan(sums.tokens_per_s));
    assert_true(isnan(top->waiting));
    status_give(top, 9, status_of(1, 1, "", 150));
    assert_null(top_node_find(top, "node1"));
    json_t *other = json_pack("{s:s}", "hello", "there");
    assert_int_equal(top_take_status(top, 10, other), ERR_INVALID);
    json_decref(other);
    assert_int_equal(top->node_count, 1);
    top_free(top);
    top_free(NULL);
}

static void latency_comes_from_the_gateways(void **state)
{
    static const char first[] = "wyvern_prompts_accepted_total 5\n"
                                "wyvern_time_to_first_token_seconds_bucket{le=\"0.1\"} 5\n"
                                "wyvern_time_to_first_token_seconds_bucket{le=\"+Inf\"} 5\n";
    static const char second[] =
        "wyvern_prompts_accepted_total 9\n"
        "wyvern_replies_total{status=\"completed\"} 4\n"
        "wyvern_time_to_first_token_seconds_bucket{le=\"0.1\"} 5\n"
        "wyvern_time_to_first_token_seconds_bucket{le=\"+Inf\"} 9\n"
        "wyvern_e2e_request_latency_seconds_bucket{model=\"a\",le=\"1\"} 3\n"
        "wyvern_e2e_request_latency_seconds_bucket{model=\"a\",le=\"+Inf\"} 3\n"
        "wyvern_e2e_request_latency_seconds_bucket{model=\"b\",le=\"1\"} 1\n"
        "wyvern_e2e_request_latency_seconds_bucket{model=\"b\",le=\"+Inf\"} 1\n";
    struct top *top = NULL;
    struct top_buckets buckets;
    assert_int_equal(top_new(&top, "http://x"), ERR_OK);
    status_give(top, 1, status_of(1, 1, "", 100));
    struct top_gateway *gateway = top_gateway_find(top, "http://127.0.0.1:2");
    assert_non_null(gateway);
    top_take_gateway(top, gateway, 1, first, sizeof first - 1);
    top_take_gateway(top, gateway, 2, second, sizeof second - 1);
    top_latency_of(top, TOP_TTFT, false, &buckets);
    assert_near(top_buckets_total(&buckets), 4);
    assert_true(isinf(top_buckets_quantile(&buckets, 0.5)));
    top_latency_of(top, TOP_TTFT, true, &buckets);
    assert_near(top_buckets_total(&buckets), 9);
    top_latency_of(top, TOP_E2E, false, &buckets); /* a family that began after our first look */
    assert_near(top_buckets_total(&buckets), 4);
    assert_near(top_rate_now(&gateway->reply_rate), 4);
    top_free(top);
}

static void more_than_the_bounds_is_counted_as_missed(void **state)
{
    struct top *top = NULL;
    assert_int_equal(top_new(&top, "http://x"), ERR_OK);
    status_give(top, 1, status_of(TOP_NODES_MAX + 3, 2, "", 1));
    assert_int_equal(top->node_count, TOP_NODES_MAX);
    assert_int_equal(top->missed_nodes, 3);
    assert_int_equal(top->missed_workers, 6);
    status_give(top, 2, status_of(1, TOP_WORKERS_MAX + 1, "", 1));
    assert_int_equal(top->missed_workers, 1);
    top_free(top);
}

/* ---- drawing ---- */

static void fields_leave_out_the_least_important(void **state)
{
    struct term_style style = {.width = 80, .utf8 = true};
    struct fields line;
    int columns[FIELDS_MAX];
    fields_init(&line, &style);
    fields_text(&line, 10, 0, "name");
    fields_text(&line, 10, 3, "least");
    fields_text(&line, 10, 1, "more");
    fields_trail(&line, 2, NULL, 1);
    fields_fit(&line, 80, columns);
    assert_int_equal(columns[0], 10);
    assert_int_equal(columns[1], 10);
    assert_int_equal(columns[2], 10);
    assert_int_equal(columns[3], 80 - 36);
    fields_fit(&line, 40, columns); /* 10 + 2 + 10 + 2 + the trail */
    assert_int_equal(columns[1], 0);
    assert_int_equal(columns[3], 16);
    fields_fit(&line, 23, columns);
    assert_int_equal(columns[2], 10 <= 23 - 12 ? 10 : 0);
    assert_int_equal(columns[3], 0);
    fields_fit(&line, 5, columns);
    assert_int_equal(columns[0], 5);
    assert_int_equal(columns[2], 0);
}

static void figures_are_short_and_unknown_ones_are_dashes(void **state)
{
    struct term_style style = {.utf8 = true}, ascii = {0};
    char text[FIGURE_SIZE];
    static const double values[] = {0, 0.5, 99.96, 12345, 123456, 1e9, 1e300, -5};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        figure_number(text, &style, values[i]);
        assert_true(strlen(text) <= 7);
        figure_bytes(text, &style, values[i]);
        assert_true(strlen(text) <= FIGURE_SIZE - 1);
    }
    figure_bytes(text, &style, 1536);
    assert_string_equal(text, "1.5 KiB");
    figure_seconds(text, &style, 0.0123);
    assert_string_equal(text, "12 ms");
    figure_percent(text, &style, NAN);
    assert_string_equal(text, "–");
    figure_percent(text, &ascii, NAN);
    assert_string_equal(text, "-");
    figure_seconds(text, &ascii, INFINITY);
    assert_string_equal(text, "inf");
}

/* No line is too wide, none too many, and nothing but our own escapes reaches the terminal. */
static void frame_check(const char *frame, int width, int height, bool colour)
{
    char *copy = strdup(frame), *plain = copy;
    int lines = 0;
    assert_non_null(copy);
    for (const char *at = frame; *at != '\0'; at++) {
        if (*at == '\033') {
            assert_true(colour && at[1] == '[');
            while (*at != 'm')
                assert_true(*at++ != '\0');
            continue;
        }
        assert_true((unsigned char)*at >= 0x20 || *at == '\n');
        lines += *at == '\n';
        *plain++ = *at;
    }
    *plain = '\0';
    assert_true(lines <= height);
    assert_null(strstr(copy, "\xe2\x80\xae"));
    assert_null(strstr(copy, "\xc2\x9b"));
    for (char *line = strtok(copy, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if ((int)wrap_columns(line) > width)
            fail_msg("wider than %d: %s", width, line);
    }
    free(copy);
}

static void frames_fit_every_terminal(void **state)
{
    static const int widths[] = {20, 40, 41, 79, 80, 100, 200, 400};
    static const int heights[] = {1, 2, 5, 12, 24, 60};
    static const char *const prefixes[] = {"", hostile, "名前名前名前名前名前"};
    for (size_t p = 0; p < 3; p++) {
        struct top *top = NULL;
        struct buf out;
        buf_init(&out, (size_t)4 << 20);
        assert_int_equal(top_new(&top, hostile), ERR_OK);
        status_give(top, 1, status_of(3, 2, prefixes[p], 100));
        top_take_node(top->nodes[0], 1, node_metrics, sizeof node_metrics - 1);
        top_take_failure(top, hostile);
        snprintf(top->nodes[1]->metrics_why, sizeof top->nodes[1]->metrics_why, "%s", hostile);
        top_tick(top, 1);
        for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
            for (size_t k = 0; k < sizeof heights / sizeof heights[0]; k++) {
                struct top_screen screen = {.style = {.width = widths[i], .utf8 = true},
                                            .height = heights[k]};
                screen.style.colour = (i + k) % 2 == 0;
                buf_clear(&out);
                assert_int_equal(top_draw_screen(top, &screen, 2, "12:34:56", &out), ERR_OK);
                frame_check(buf_text(&out), widths[i], heights[k], screen.style.colour);
            }
        }
        buf_clear(&out);
        assert_int_equal(top_write_json(top, 2, 1e9, &out), ERR_OK);
        json_t *root = json_loads(buf_text(&out), 0, NULL);
        assert_non_null(root);
        json_decref(root);
        buf_done(&out);
        top_free(top);
    }
}

/* A service that does not answer: what it said last is neither drawn nor told to programs. */
static void what_is_old_is_not_told(void **state)
{
    struct top *top = NULL;
    struct buf out;
    struct top_screen screen = {.style = {.width = 120, .utf8 = true}, .height = 24};
    buf_init(&out, (size_t)4 << 20);
    assert_int_equal(top_new(&top, "http://x"), ERR_OK);
    status_give(top, 1, status_of(1, 2, "", 100));
    for (int old = 0; old < 2; old++) {
        double now = old ? 2 + TOP_STALE_S : 1;
        buf_clear(&out);
        assert_int_equal(top_write_json(top, now, 1e9, &out), ERR_OK);
        json_t *root = json_loads(buf_text(&out), 0, NULL);
        json_t *worker = json_array_get(
            json_object_get(json_array_get(json_object_get(root, "nodes"), 0), "workers"), 0);
        assert_true(json_is_null(json_object_get(root, "workers_ready")) == (old == 1));
        assert_true(json_is_null(json_object_get(worker, "state")) == (old == 1));
        assert_true(json_is_null(json_object_get(worker, "active")) == (old == 1));
        json_decref(root);
        buf_clear(&out);
        assert_int_equal(top_draw_screen(top, &screen, now, "12:34:56", &out), ERR_OK);
        assert_true((strstr(buf_text(&out), " 6 of 8 slots busy") == NULL) == (old == 1));
        assert_true((strstr(buf_text(&out), "– of 8 slots busy") != NULL) == (old == 1));
    }
    buf_done(&out);
    top_free(top);
}

/* 100 workers and more on 40 nodes in 24 lines: all can be reached, the foot says where we are. */
static void a_long_list_scrolls(void **state)
{
    struct top *top = NULL;
    struct buf out;
    bool seen[40][3] = {{false}};
    buf_init(&out, (size_t)4 << 20);
    assert_int_equal(top_new(&top, "http://x"), ERR_OK);
    status_give(top, 1, status_of(40, 3, "", 100));
    struct top_screen screen = {.style = {.width = 80, .utf8 = true}, .height = 24};
    size_t last = SIZE_MAX;
    while (screen.scroll != last) {
        last = screen.scroll;
        buf_clear(&out);
        assert_int_equal(top_draw_screen(top, &screen, 1, "12:34:56", &out), ERR_OK);
        assert_true(screen.page >= 8);
        frame_check(buf_text(&out), 80, 24, false);
        assert_non_null(strstr(buf_text(&out), " of 160"));
        for (int n = 0; n < 40; n++) {
            for (int w = 0; w < 3; w++) {
                char name[32];
                snprintf(name, sizeof name, "infer-%d-%d ", n, w);
                seen[n][w] = seen[n][w] || strstr(buf_text(&out), name) != NULL;
            }
        }
        screen.scroll += screen.page;
        if (screen.scroll > 160 - screen.page)
            screen.scroll = 160 - screen.page;
    }
    for (int i = 0; i < 120; i++)
        assert_true(seen[i / 3][i % 3]);
    screen.scroll = SIZE_MAX / 2;
    buf_clear(&out);
    assert_int_equal(top_draw_screen(top, &screen, 1, "12:34:56", &out), ERR_OK);
    assert_int_equal(screen.scroll, 160 - screen.page);
    buf_done(&out);
    top_free(top);
}

static void keys_are_told_apart(void **state)
{
    static const struct {
        const char *bytes;
        enum top_key key;
        size_t used;
    } rows[] = {
        {"q", TOP_KEY_LEAVE, 1},
        {"\033[A", TOP_KEY_UP, 3},
        {"\033[B\033[B", TOP_KEY_DOWN, 3},
        {"\033[5~", TOP_KEY_PAGE_UP, 4},
        {"\033OF", TOP_KEY_END, 3},
        {"\033[1;5Cq", TOP_KEY_NONE, 6},
        {"x", TOP_KEY_NONE, 1},
        {"\033", TOP_KEY_NONE, 0},
        {"\033[", TOP_KEY_NONE, 0},
        {"\033[6", TOP_KEY_NONE, 0},
        {"\033q", TOP_KEY_NONE, 1},
        {"", TOP_KEY_NONE, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t used = 99;
        assert_int_equal(top_key_read(rows[i].bytes, strlen(rows[i].bytes), &used), rows[i].key);
        assert_int_equal(used, rows[i].used);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_are_read_and_broken_lines_are_skipped),
        cmocka_unit_test(samples_beyond_the_bounds_are_skipped),
        cmocka_unit_test(a_rate_survives_a_counter_that_begins_anew),
        cmocka_unit_test(a_rate_of_what_is_told_each_second_does_not_jump),
        cmocka_unit_test(trails_forget_the_oldest),
        cmocka_unit_test(quantiles_are_prometheus_own),
        cmocka_unit_test(windows_hold_what_came_in),
        cmocka_unit_test(metrics_become_figures_and_old_ones_are_forgotten),
        cmocka_unit_test(latency_comes_from_the_gateways),
        cmocka_unit_test(more_than_the_bounds_is_counted_as_missed),
        cmocka_unit_test(fields_leave_out_the_least_important),
        cmocka_unit_test(figures_are_short_and_unknown_ones_are_dashes),
        cmocka_unit_test(frames_fit_every_terminal),
        cmocka_unit_test(what_is_old_is_not_told),
        cmocka_unit_test(a_long_list_scrolls),
        cmocka_unit_test(keys_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
