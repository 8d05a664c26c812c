/* family.c, text.c: what is declared and set comes out exactly, in both formats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "metrics/gzip.h"
#include "metrics/text.h"

static const double bounds[] = {0.00001, 0.005, 1, 7680, 1234567, 1e9};

enum { REQUESTS, LOAD, MEMORY, LATENCY };
static const struct metric rows[] = {
    {.name = "wyvern_requests_total",
     .type = METRIC_COUNTER,
     .help = "Requests with a \\ and a \n and a \"",
     .labels = {"path", "code"}},
    {.name = "system_load_average", .type = METRIC_GAUGE, .help = "Load"},
    {.name = "gpu_memory_total", .type = METRIC_GAUGE, .help = "MiB", .labels = {"uuid"}},
    {.name = "request_latency_seconds",
     .type = METRIC_HISTOGRAM,
     .help = "Latency",
     .buckets = bounds,
     .bucket_count = 6},
};
#define ROWS (sizeof rows / sizeof *rows)

static struct metrics *filled(void)
{
    struct metrics *metrics = NULL;

    assert_int_equal(metrics_new(&metrics, rows, ROWS), ERR_OK);
    assert_int_equal(metrics_add(metrics, REQUESTS, (const char *const[]){"/b", "200"}, 1), ERR_OK);
    assert_int_equal(metrics_add(metrics, REQUESTS, (const char *const[]){"/a\"\\\n", "200"}, 2),
                     ERR_OK);
    assert_int_equal(metrics_add(metrics, REQUESTS, (const char *const[]){"/b", "200"}, 0.5),
                     ERR_OK);
    assert_int_equal(metrics_set(metrics, LOAD, NULL, 0.1), ERR_OK);
    assert_int_equal(metrics_observe(metrics, LATENCY, NULL, 0.005), ERR_OK); /* le: at most */
    assert_int_equal(metrics_observe(metrics, LATENCY, NULL, 0.5), ERR_OK);
    assert_int_equal(metrics_observe(metrics, LATENCY, NULL, 2e9), ERR_OK);
    return metrics;
}

#define SAMPLES_REQUESTS                                                                           \
    "wyvern_requests_total{path=\"/a\\\"\\\\\\n\",code=\"200\"} 2\n"                               \
    "wyvern_requests_total{path=\"/b\",code=\"200\"} 1.5\n"
#define REST                                                                                       \
    "# HELP system_load_average Load\n"                                                            \
    "# TYPE system_load_average gauge\n"                                                           \
    "system_load_average 0.1\n"                                                                    \
    "# HELP gpu_memory_total MiB\n"                                                                \
    "# TYPE gpu_memory_total gauge\n"                                                              \
    "# HELP request_latency_seconds Latency\n"                                                     \
    "# TYPE request_latency_seconds histogram\n"                                                   \
    "request_latency_seconds_bucket{le=\"1e-05\"} 0\n"                                             \
    "request_latency_seconds_bucket{le=\"0.005\"} 1\n"                                             \
    "request_latency_seconds_bucket{le=\"1.0\"} 2\n"                                               \
    "request_latency_seconds_bucket{le=\"7680.0\"} 2\n"                                            \
    "request_latency_seconds_bucket{le=\"1.234567e+06\"} 2\n"                                      \
    "request_latency_seconds_bucket{le=\"1e+09\"} 2\n"                                             \
    "request_latency_seconds_bucket{le=\"+Inf\"} 3\n"                                              \
    "request_latency_seconds_count 3\n"                                                            \
    "request_latency_seconds_sum 2000000000.505\n"

static void test_text_004(void **state)
{
    struct metrics *metrics = filled();
    struct buf buf;

    buf_init(&buf, 1 << 16);
    assert_int_equal(metrics_write(metrics, METRICS_TEXT_004, &buf), ERR_OK);
    assert_string_equal(buf.data,
                        "# HELP wyvern_requests_total Requests with a \\\\ and a \\n and a \"\n"
                        "# TYPE wyvern_requests_total counter\n" SAMPLES_REQUESTS REST);
    buf_done(&buf);
    metrics_free(metrics);
}

static void test_openmetrics(void **state)
{
    struct metrics *metrics = filled();
    struct buf buf;

    buf_init(&buf, 1 << 16);
    assert_int_equal(metrics_write(metrics, METRICS_OPENMETRICS_100, &buf), ERR_OK);
    assert_string_equal(buf.data,
                        "# HELP wyvern_requests Requests with a \\\\ and a \\n and a \\\"\n"
                        "# TYPE wyvern_requests counter\n" SAMPLES_REQUESTS REST "# EOF\n");
    buf_done(&buf);
    buf_init(&buf, 200);
    assert_int_equal(buf_append_text(&buf, "x"), ERR_OK);
    assert_int_equal(metrics_write(metrics, METRICS_OPENMETRICS_100, &buf), ERR_LIMIT);
    assert_string_equal(buf.data, "x");
    buf_done(&buf);
    metrics_free(metrics);
}

static void test_set_clear_and_odd_numbers(void **state)
{
    static const uint64_t counts[] = {1, 0, 2, 0, 0, 0, UINT64_C(1) << 60};
    struct metrics *metrics = NULL;
    struct buf buf;

    buf_init(&buf, 1 << 16);
    assert_int_equal(metrics_new(&metrics, rows, ROWS), ERR_OK);
    assert_int_equal(metrics_set_histogram(metrics, LATENCY, NULL, counts, NAN), ERR_OK);
    assert_int_equal(metrics_set(metrics, MEMORY, (const char *const[]){"GPU-1"}, 81559), ERR_OK);
    assert_int_equal(metrics_set(metrics, MEMORY, (const char *const[]){"GPU-0"}, -INFINITY),
                     ERR_OK);
    assert_int_equal(metrics_set(metrics, LOAD, NULL, 1e300), ERR_OK);
    assert_int_equal(metrics_write(metrics, METRICS_TEXT_004, &buf), ERR_OK);
    assert_non_null(strstr(buf.data, "{le=\"1e-05\"} 1\n"));
    assert_non_null(strstr(buf.data, "{le=\"1e+09\"} 3\n"));
    assert_non_null(strstr(buf.data, "_count 1152921504606846979\n"));
    assert_non_null(strstr(buf.data, "_sum NaN\n"));
    assert_non_null(strstr(buf.data, "gpu_memory_total{uuid=\"GPU-0\"} -Inf\n"
                                     "gpu_memory_total{uuid=\"GPU-1\"} 81559\n"));
    assert_non_null(strstr(buf.data, "system_load_average 1e+300\n"));
    metrics_clear(metrics, MEMORY);
    buf_clear(&buf);
    assert_int_equal(metrics_write(metrics, METRICS_TEXT_004, &buf), ERR_OK);
    assert_null(strstr(buf.data, "GPU-"));
    assert_int_equal(metrics_set(metrics, MEMORY, (const char *const[]){"GPU-2"}, 1), ERR_OK);
    buf_done(&buf);
    metrics_free(metrics);
    metrics_free(NULL);
}

static void test_many_series(void **state)
{
    struct metrics *metrics = NULL;
    char name[32];
    struct buf buf;

    assert_int_equal(metrics_new(&metrics, rows, ROWS), ERR_OK);
    for (int i = 0; i < METRICS_MAX_SERIES; i++) {
        snprintf(name, sizeof name, "%d", i * 7919 % METRICS_MAX_SERIES);
        assert_int_equal(metrics_set(metrics, MEMORY, (const char *const[]){name}, i), ERR_OK);
    }
    assert_int_equal(metrics_set(metrics, MEMORY, (const char *const[]){"one more"}, 1), ERR_LIMIT);
    assert_int_equal(metrics_set(metrics, MEMORY, (const char *const[]){"17"}, 1), ERR_OK);
    buf_init(&buf, 1 << 20);
    assert_int_equal(metrics_write(metrics, METRICS_TEXT_004, &buf), ERR_OK);
    size_t lines = 0;
    for (const char *at = buf.data; (at = strstr(at, "gpu_memory_total{")) != NULL; at++)
        lines++;
    assert_int_equal(lines, METRICS_MAX_SERIES);
    buf_done(&buf);
    metrics_free(metrics);
}

static void test_wrong_rows_and_uses(void **state)
{
    static const double falling[] = {2, 1};
    static const struct metric wrong[] = {
        {.name = "a:b", .type = METRIC_GAUGE, .help = ""},
        {.name = "1a", .type = METRIC_GAUGE, .help = ""},
        {.name = "", .type = METRIC_GAUGE, .help = ""},
        {.name = "requests", .type = METRIC_COUNTER, .help = ""},
        {.name = "a", .type = METRIC_GAUGE, .help = "", .labels = {"le"}},
        {.name = "a", .type = METRIC_GAUGE, .help = "", .labels = {"a-b"}},
        {.name = "a", .type = METRIC_HISTOGRAM, .help = ""},
        {.name = "a", .type = METRIC_HISTOGRAM, .help = "", .buckets = falling, .bucket_count = 2},
    };
    static const struct metric twice[] = {{.name = "a", .type = METRIC_GAUGE, .help = ""},
                                          {.name = "a", .type = METRIC_GAUGE, .help = ""}};
    struct metrics *metrics = NULL;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(metrics_new(&metrics, &wrong[i], 1), ERR_INTERNAL);
    assert_int_equal(metrics_new(&metrics, twice, 2), ERR_INTERNAL);
    assert_null(metrics);
    assert_int_equal(metrics_new(&metrics, rows, ROWS), ERR_OK);
    assert_int_equal(metrics_observe(metrics, LOAD, NULL, 1), ERR_INTERNAL);
    assert_int_equal(metrics_set(metrics, LATENCY, NULL, 1), ERR_INTERNAL);
    assert_int_equal(metrics_set(metrics, ROWS, NULL, 1), ERR_INTERNAL);
    metrics_free(metrics);
}

static void test_accept(void **state)
{
    static const struct {
        const char *accept;
        enum metrics_format format;
    } cases[] = {
        {NULL, METRICS_TEXT_004},
        {"", METRICS_TEXT_004},
        {"*/*", METRICS_TEXT_004},
        {"text/html", METRICS_TEXT_004},
        {"application/openmetrics-text", METRICS_OPENMETRICS_100},
        {"application/openmetrics-text; version=1.0.0", METRICS_OPENMETRICS_100},
        {"application/openmetrics-text; version=\"1.0.0\"", METRICS_OPENMETRICS_100},
        {"Application/OpenMetrics-Text;Version=1.0.0", METRICS_OPENMETRICS_100},
        {"application/openmetrics-text; version=0.0.1", METRICS_TEXT_004},
        {"application/openmetrics-text; version=0.0.1,*/*;q=0.1", METRICS_TEXT_004},
        {"application/openmetrics-text;q=0", METRICS_TEXT_004},
        {"application/openmetrics-text;q=0,*/*", METRICS_TEXT_004},
        {"application/openmetrics-text;q=0.5,text/plain;q=0.6", METRICS_TEXT_004},
        {"application/openmetrics-text;q=0.6,text/plain;q=0.5", METRICS_OPENMETRICS_100},
        {"text/plain;q=0.5,application/openmetrics-text;q=0.5", METRICS_OPENMETRICS_100},
        {"text/plain;q=0.4 , application/openmetrics-text ; q=0.5", METRICS_OPENMETRICS_100},
        {"application/openmetrics-text;q=2,text/plain;q=0.1", METRICS_TEXT_004},
        {"application/openmetrics-text;q=x", METRICS_TEXT_004},
        {"application/*,text/*;q=0.5", METRICS_OPENMETRICS_100},
        {"application/*;q=0.5,text/*;q=0.5", METRICS_TEXT_004},
        {"text/plain;x=\",application/openmetrics-text\"", METRICS_TEXT_004},
        /* Prometheus 2.42, and 3 */
        {"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
         "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
         METRICS_OPENMETRICS_100},
        {"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
         "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
         "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
         METRICS_OPENMETRICS_100},
        {"text/plain;version=0.0.4;q=0.5,*/*;q=0.1", METRICS_TEXT_004},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (metrics_format_negotiate(cases[i].accept) != cases[i].format)
            fail_msg("%s", cases[i].accept);
    assert_string_equal(metrics_content_type(METRICS_TEXT_004),
                        "text/plain; version=0.0.4; charset=utf-8");
    assert_string_equal(metrics_content_type(METRICS_OPENMETRICS_100),
                        "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

static void test_gzip_by_accept_encoding(void **state)
{
    static const char *const yes[] = {"gzip",
                                      "GZIP",
                                      "x-gzip",
                                      "deflate, gzip",
                                      "gzip;q=0.5",
                                      "gzip ; q=1.0, identity",
                                      "*",
                                      "identity, *;q=0.1",
                                      "*;q=0, gzip;q=1"};
    static const char *const no[] = {NULL,        "",        "identity",       "gzip;q=0",
                                     "*;q=0",     "gzipped", "*;q=1,gzip;q=0", "gzip;q=many",
                                     "deflate,br"};

    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(metrics_gzip_welcome(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(metrics_gzip_welcome(no[i]));
}

/* What zlib's own reader makes of it is the text. */
static void test_gzip(void **state)
{
    static const size_t sizes[] = {1, 100, 16 << 10, 300000};
    unsigned random = 7;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buf text;
        unsigned char *plain = malloc(sizes[i]), *again = malloc(sizes[i] + 1);
        z_stream stream = {0};
        for (size_t k = 0; k < sizes[i]; k++) {
            random = random * 1103515245 + 12345;
            plain[k] = (unsigned char)(random >> 16);
        }
        buf_init(&text, 1 << 20);
        assert_int_equal(buf_append(&text, plain, sizes[i]), ERR_OK);
        assert_int_equal(metrics_gzip(&text), ERR_OK);
        assert_int_equal(inflateInit2(&stream, 15 + 16), Z_OK);
        stream.next_in = (unsigned char *)text.data;
        stream.avail_in = (unsigned)text.len;
        stream.next_out = again;
        stream.avail_out = (unsigned)sizes[i] + 1;
        assert_int_equal(inflate(&stream, Z_FINISH), Z_STREAM_END);
        assert_int_equal(stream.total_out, sizes[i]);
        assert_memory_equal(again, plain, sizes[i]);
        inflateEnd(&stream);
        buf_done(&text);
        free(plain);
        free(again);
    }
}

/* Noise does not shrink: over the limit it is refused, and the text is as it was. */
static void test_gzip_keeps_the_limit(void **state)
{
    struct buf text;
    unsigned random = 7;

    buf_init(&text, 1000);
    for (int i = 0; i < 1000; i++) {
        random = random * 1103515245 + 12345;
        char byte = (char)(random >> 16);
        assert_int_equal(buf_append(&text, &byte, 1), ERR_OK);
    }
    char first = text.data[0];
    assert_int_equal(metrics_gzip(&text), ERR_LIMIT);
    assert_int_equal(text.len, 1000);
    assert_int_equal(text.data[0], first);
    buf_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_004),
        cmocka_unit_test(test_openmetrics),
        cmocka_unit_test(test_set_clear_and_odd_numbers),
        cmocka_unit_test(test_many_series),
        cmocka_unit_test(test_wrong_rows_and_uses),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_gzip_by_accept_encoding),
        cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_gzip_keeps_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
