/* The client against the server: whole and streamed replies, failures, many at once. */
#include "rig.h"

#include "http/client.h"

static void make_url(char *out, size_t cap, const struct rig *rig, const char *path)
{
    snprintf(out, cap, "http://127.0.0.1:%u%s", rig->port, path);
}

static void test_post(void **state)
{
    struct rig rig;
    char url[64];
    struct http_result result;
    static const char *const headers[] = {"X-Extra: seen", NULL};
    rig_start(&rig, NULL);
    make_url(url, sizeof url, &rig, "/echo?x");
    struct http_call call = {.method = "POST", .url = url, .body = "{}", .headers = headers};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 200);
    assert_string_equal(buf_text(&result.body), "POST|/echo|x|seen|2|{}");
    assert_string_equal(result.request_id, "r1");
    http_result_done(&result);

    make_url(url, sizeof url, &rig, "/x");
    call = (struct http_call){.method = "DELETE", .url = url};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_string_equal(buf_text(&result.body), "DELETE|/x||-|0|");
    http_result_done(&result);

    call = (struct http_call){.method = "HEAD", .url = url};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 200);
    assert_int_equal(result.body.len, 0);
    http_result_done(&result);
    rig_stop(&rig);
}

/* A body so large that libcurl would ask with Expect: 100-continue, and above the server's limit.
 */
static void test_large_bodies(void **state)
{
    struct rig rig;
    char url[64];
    struct http_result result;
    const struct http_limits limits = {.body_bytes = (size_t)2 << 20};
    rig_start(&rig, &limits);
    make_url(url, sizeof url, &rig, "/echo");
    char *body = malloc(((size_t)4 << 20) + 1);
    memset(body, 'a', (size_t)4 << 20);
    body[(size_t)4 << 20] = '\0';
    struct http_call call = {.method = "POST", .url = url, .body = body};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 413);
    http_result_done(&result);
    body[1500000] = '\0';
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 200);
    assert_int_equal(result.body.len, strlen("POST|/echo||-|1500000|") + 1500000);
    http_result_done(&result);
    free(body);
    rig_stop(&rig);
}

struct stream {
    struct sse_reader reader;
    char text[256];
    size_t bytes;
    bool stop;
};

static bool on_event(void *arg, const char *event, const char *data, size_t len)
{
    struct stream *stream = arg;
    size_t used = strlen(stream->text);
    snprintf(stream->text + used, sizeof stream->text - used, "%s=%.*s;", event, (int)len, data);
    return true;
}

static bool on_data(void *arg, const char *data, size_t len)
{
    struct stream *stream = arg;
    stream->bytes += len;
    return !stream->stop && sse_reader_feed(&stream->reader, data, len, on_event, stream) == ERR_OK;
}

static void test_events(void **state)
{
    struct rig rig;
    char url[64];
    struct http_result result;
    struct stream stream = {0};
    sse_reader_init(&stream.reader, 4096);
    rig_start(&rig, NULL);
    make_url(url, sizeof url, &rig, "/events");
    struct http_call call = {.method = "GET", .url = url, .on_data = on_data, .arg = &stream};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 200);
    assert_int_equal(result.body.len, 0);
    assert_string_equal(stream.text, "message={\"a\":1};done=[DONE];");
    http_result_done(&result);
    /* An error's body goes to the result and not to on_data. */
    stream.bytes = 0;
    make_url(url, sizeof url, &rig, "/busy");
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 429);
    assert_true(result.retry_after_s > 1.9 && result.retry_after_s < 2.1);
    assert_string_equal(buf_text(&result.body), "busy");
    assert_int_equal(stream.bytes, 0);
    http_result_done(&result);
    /* The caller stops: the server sees its reader leave. */
    stream.stop = true;
    make_url(url, sizeof url, &rig, "/begin");
    http_result_init(&result);
    int left = atomic_load(&rig.left);
    assert_int_equal(http_call_run(&call, &result), ERR_CANCELLED);
    wait_for(&rig.left, left + 1);
    http_result_done(&result);
    sse_reader_done(&stream.reader);
    rig_stop(&rig);
}

static void test_failures(void **state)
{
    struct rig rig;
    char url[64];
    struct http_result result;
    rig_start(&rig, NULL);
    make_url(url, sizeof url, &rig, "/hold");
    struct http_call call = {.method = "GET", .url = url, .total_ms = 50};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_TIMEOUT);
    assert_int_equal(result.status, 0);
    http_result_done(&result);
    rig_stop(&rig);
    call.total_ms = 0;
    http_result_init(&result); /* nobody listens there now */
    assert_int_equal(http_call_run(&call, &result), ERR_UNAVAILABLE);
    assert_non_null(strstr(err_text(), url));
    http_result_done(&result);
    call.url = "ftp://127.0.0.1/x";
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_USAGE);
    http_result_done(&result);
    call.url = "file:///etc/hostname";
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_USAGE);
    http_result_done(&result);
}

struct many {
    struct http_set *set;
    const char *url;
    int done;
    int more; /* calls still to add from inside the callback */
};

static void one_done(void *arg, enum err err, struct http_result *result)
{
    struct many *many = arg;
    assert_int_equal(err, ERR_OK);
    assert_int_equal(result->status, 200);
    assert_string_equal(buf_text(&result->body), "later");
    many->done++;
    if (many->more-- > 0) {
        const struct http_call call = {.method = "POST", .url = many->url, .body = "{}"};
        assert_int_equal(http_set_add(many->set, &call, one_done, many), ERR_OK);
    }
}

static void test_set(void **state)
{
    struct rig rig;
    char url[64];
    rig_start(&rig, NULL);
    make_url(url, sizeof url, &rig, "/later");
    struct many many = {.url = url, .more = 100};
    assert_int_equal(http_set_new(&many.set), ERR_OK);
    assert_int_equal(http_set_poll(many.set, 10), 0);
    for (int i = 0; i < 200; i++) {
        const struct http_call call = {.method = "POST", .url = url, .body = "{}"};
        assert_int_equal(http_set_add(many.set, &call, one_done, &many), ERR_OK);
    }
    int64_t deadline_ns = clock_mono_ns() + PATIENCE_S * NS_PER_S;
    while (http_set_poll(many.set, 100) > 0 && clock_mono_ns() < deadline_ns) {
    }
    assert_int_equal(many.done, 300);
    assert_int_equal(atomic_load(&rig.whole), 300);
    /* Freed with calls running: they end without their callbacks. */
    make_url(url, sizeof url, &rig, "/hold");
    for (int i = 0; i < 5; i++) {
        const struct http_call call = {.method = "GET", .url = url};
        assert_int_equal(http_set_add(many.set, &call, one_done, &many), ERR_OK);
    }
    while (atomic_load(&rig.asked) < 305) {
        assert_int_equal(http_set_poll(many.set, 5), 5);
    }
    http_set_free(many.set);
    wait_for(&rig.left, 5);
    rig_stop(&rig);
}

/* A proxy of the environment is not asked about loopback. */
static void test_no_proxy_for_loopback(void **state)
{
    struct rig rig;
    char url[64];
    struct http_result result;
    rig_start(&rig, NULL);
    make_url(url, sizeof url, &rig, "/echo");
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    const struct http_call call = {.method = "GET", .url = url};
    http_result_init(&result);
    assert_int_equal(http_call_run(&call, &result), ERR_OK);
    assert_int_equal(result.status, 200);
    http_result_done(&result);
    unsetenv("http_proxy");
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_post),   cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_events), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_set),    cmocka_unit_test(test_no_proxy_for_loopback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
