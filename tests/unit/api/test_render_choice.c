/* render.c, render_choice.c, error.c: the exact shapes that clients see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "api/render.h"
#include "wire/json.h"

#define ID "0123456789abcdef0123456789abcdef"
#define FP "\"system_fingerprint\":\"wyvern-" WYVERN_VERSION "\""
#define WYVERN                                                                                     \
    "\"wyvern\":{\"prompter\":\"ann\",\"prompt_id\":\"" ID "\",\"response_id\":\"chatcmpl-" ID     \
    "\","                                                                                          \
    "\"inference_worker\":\"infer.0\",\"response_worker\":\"respond.1\",\"node\":\"node1\","       \
    "\"device\":\"cpu:0\",\"attempt\":2,\"truncated_tokens\":4,\"accepted_at\":1732375850.250000," \
    "\"started_at\":1732375851.500000,\"finished_at\":1732375852.000001}"
#define USAGE                                                                                      \
    "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12,"                  \
    "\"prompt_tokens_details\":{\"cached_tokens\":3}}"
#define TIMINGS                                                                                    \
    "\"timings\":{\"cache_n\":3,\"prompt_n\":2,\"prompt_ms\":4,\"prompt_per_token_ms\":2,"         \
    "\"prompt_per_second\":500,\"predicted_n\":7,\"predicted_ms\":14,"                             \
    "\"predicted_per_token_ms\":2,\"predicted_per_second\":500}"
#define CHUNK_HEAD                                                                                 \
    "{\"id\":\"chatcmpl-" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1732375850,"     \
    "\"model\":\"m\"," FP ","

static struct reply sample(void)
{
    return (struct reply){.id = ID,
                          .gateway = "fedcba9876543210",
                          .prompter = "ann",
                          .model = "m",
                          .response_id = "resp-1",
                          .status = REPLY_COMPLETED,
                          .finish_reason = "length",
                          .text = "a \"b\"\n",
                          .pieces = 3,
                          .error_code = "",
                          .error_text = "",
                          .prompt_tokens = 5,
                          .reply_tokens = 7,
                          .cached_tokens = 3,
                          .truncated_tokens = 4,
                          .worker = "infer.0",
                          .node = "node1",
                          .device = "cpu:0",
                          .responder = "respond.1",
                          .attempt = 2,
                          .prompt_ms = 4,
                          .decode_ms = 14,
                          .accepted_at = 1732375850.25,
                          .started_at = 1732375851.5,
                          .finished_at = 1732375852.000001};
}

static struct render chat(void)
{
    struct render render = {.kind = API_CHAT, .model = "m", .created = 1732375850.9};
    render_id(render.id, API_CHAT, ID);
    return render;
}

/* The JSON of all events, one behind the other. */
static void on_event(void *arg, const char *event, int64_t sequence, const struct buf *json)
{
    assert_null(event);
    assert_int_equal(sequence, -1);
    assert_int_equal(buf_append(arg, json->data, json->len), ERR_OK);
}

static void test_whole(void **state)
{
    struct reply reply = sample();
    const struct reply *record = &reply;
    struct render render = chat();
    struct buf buf;

    buf_init(&buf, 4096);
    assert_int_equal(render_whole(&render, &record, 1, NULL, &buf), ERR_OK);
    assert_string_equal(
        buf.data,
        "{\"id\":\"chatcmpl-" ID "\",\"object\":\"chat.completion\",\"created\":1732375850,"
        "\"model\":\"m\"," FP ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"a \\\"b\\\"\\n\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"length\"}]," USAGE "," TIMINGS "," WYVERN "}");
    buf_done(&buf);
    buf_init(&buf, 100);
    assert_int_equal(render_whole(&render, &record, 1, NULL, &buf), ERR_LIMIT);
    assert_int_equal(buf.len, 0);
    buf_done(&buf);
}

static void test_chunks(void **state)
{
    struct reply reply = sample();
    const struct reply *record = &reply;
    struct render render = chat();
    struct buf buf;

    buf_init(&buf, 4096);
    assert_int_equal(render_open(&render, on_event, &buf), ERR_OK);
    assert_int_equal(buf.len, 0);
    assert_int_equal(render_piece(&render, 0, &(struct piece){.text = "\xc3\xa9x", .text_len = 2},
                                  on_event, &buf),
                     ERR_OK);
    assert_string_equal(buf.data,
                        CHUNK_HEAD "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                                   "\"content\":\"\xc3\xa9\"},\"logprobs\":null,"
                                   "\"finish_reason\":null}]}");
    buf_clear(&buf);
    assert_int_equal(
        render_piece(&render, 1, &(struct piece){.text = "\t", .text_len = 1}, on_event, &buf),
        ERR_OK);
    assert_string_equal(buf.data,
                        CHUNK_HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\t\"},"
                                   "\"logprobs\":null,\"finish_reason\":null}]}");
    buf_clear(&buf);
    assert_int_equal(render_close(&render, record, on_event, &buf), ERR_OK);
    assert_string_equal(buf.data,
                        CHUNK_HEAD "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                                   "\"finish_reason\":\"length\"}]," TIMINGS "," WYVERN "}");
    buf_clear(&buf);
    assert_int_equal(render_usage(&render, &record, 1, on_event, &buf), ERR_OK);
    assert_string_equal(buf.data, CHUNK_HEAD "\"choices\":[]," USAGE "}");
    buf_done(&buf);
}

static void test_models(void **state)
{
    static const char *const names[] = {"a", "b\"c"};
    struct buf buf;

    buf_init(&buf, 4096);
    assert_int_equal(models_write(names, 2, 7.9, &buf), ERR_OK);
    assert_string_equal(buf.data,
                        "{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"object\":\"model\","
                        "\"created\":7,\"owned_by\":\"wyvern\"},{\"id\":\"b\\\"c\","
                        "\"object\":\"model\",\"created\":7,\"owned_by\":\"wyvern\"}]}");
    buf_clear(&buf);
    assert_int_equal(models_write(NULL, 0, 7, &buf), ERR_OK);
    assert_string_equal(buf.data, "{\"object\":\"list\",\"data\":[]}");
    buf_done(&buf);
}

static void test_errors_of_replies(void **state)
{
    struct reply reply = sample();
    struct api_error error;

    reply.status = REPLY_FAILED;
    api_error_of_reply(&reply, &error);
    assert_int_equal(error.status, 500);
    assert_string_equal(error.code, "internal_error");
    reply.error_code = "context_length_exceeded";
    reply.error_text = "too long";
    reply.error_status = 400;
    api_error_of_reply(&reply, &error);
    assert_int_equal(error.status, 400);
    assert_string_equal(error.type, "invalid_request_error");
    assert_string_equal(error.code, "context_length_exceeded");
    assert_string_equal(error.param, "messages");
    assert_string_equal(error.message, "too long");
    reply.error_status = 200; /* no error's status */
    api_error_of_reply(&reply, &error);
    assert_int_equal(error.status, 500);
    reply = sample();
    reply.status = REPLY_CANCELLED;
    api_error_of_reply(&reply, &error);
    assert_int_equal(error.status, 499);
    assert_string_equal(error.code, "cancelled");
    reply.status = REPLY_EXPIRED;
    api_error_of_reply(&reply, &error);
    assert_int_equal(error.status, 503);
    assert_string_equal(error.code, "expired");
    assert_string_equal(error.type, "server_error");
}

static void test_error_shape(void **state)
{
    struct api_error error;
    struct buf buf;
    char text[600];

    buf_init(&buf, 4096);
    assert_int_equal(api_error_set(&error, 429, NULL, NULL, "full: %d", 3), ERR_INVALID);
    assert_int_equal(api_error_write(&error, &buf), ERR_OK);
    assert_string_equal(buf.data,
                        "{\"error\":{\"message\":\"full: 3\","
                        "\"type\":\"rate_limit_exceeded\",\"param\":null,\"code\":null}}");
    /* a long sentence is cut between characters */
    memset(text, 'x', sizeof text);
    text[0] = 'a';
    for (size_t i = 1; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    text[sizeof text - 1] = '\0';
    api_error_set(&error, 400, "c", "p", "%s", text);
    size_t len = strlen(error.message);
    assert_int_equal(len, sizeof error.message - 1);
    assert_int_equal((unsigned char)error.message[len - 1], 0xa9);
    api_error_set(&error, 400, "c", "p", "%s", text + 1);
    len = strlen(error.message);
    assert_int_equal(len, sizeof error.message - 2);
    assert_int_equal((unsigned char)error.message[len - 1], 0xa9);
    buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),       cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_models),      cmocka_unit_test(test_errors_of_replies),
        cmocka_unit_test(test_error_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
