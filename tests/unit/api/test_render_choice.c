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

#define ENTRY(token, tops)                                                                         \
    "{\"token\":\"" token "\",\"logprob\":-0.1,\"bytes\":[97],\"top_logprobs\":[" tops "]}"
#define TOP "{\"token\":\"b\",\"logprob\":-0.2,\"bytes\":[98]}"

static json_t *part_of(const struct buf *buf, const char *key)
{
    json_t *value = json_loads(buf->data, 0, NULL), *part;
    assert_non_null(value);
    part = json_object_get(json_array_get(json_object_get(value, "choices"), 0), key);
    json_incref(part);
    json_decref(value);
    return part;
}

static void expect_part(const struct buf *buf, const char *key, const char *json)
{
    json_t *part = part_of(buf, key), *wanted = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(wanted);
    if (!json_equal(part, wanted))
        fail_msg("%s of %s", key, buf->data);
    json_decref(part);
    json_decref(wanted);
}

static void test_logprobs(void **state)
{
    static const char entries[] = "[" ENTRY("\xc3\xa9", TOP "," TOP) "," ENTRY("b", TOP) "]";
    struct reply reply = sample();
    const struct reply *record = &reply;
    struct piece piece = {.text = "\xc3\xa9"
                                  "b",
                          .text_len = 3,
                          .logprobs = entries,
                          .logprobs_len = sizeof entries - 1};
    json_t *root = json_loads(entries, 0, NULL);
    struct render render = chat();
    struct buf buf;

    reply.logprobs = root;
    buf_init(&buf, 8192);
    render.logprobs = true;
    assert_int_equal(render_piece(&render, 0, &piece, on_event, &buf), ERR_OK);
    expect_part(
        &buf, "logprobs",
        "{\"content\":[" ENTRY("\xc3\xa9", TOP "," TOP) "," ENTRY("b", TOP) "],"
                                                                            "\"refusal\":null}");
    buf_clear(&buf);
    assert_int_equal(render_whole(&render, &record, 1, NULL, &buf), ERR_OK);
    assert_non_null(strstr(buf.data, "\"logprob\":-0.1,\"bytes\":[97]"));
    /* the older form: offsets go on from piece to piece, in characters */
    render.kind = API_COMPLETION;
    for (int i = 0; i < 2; i++) {
        buf_clear(&buf);
        assert_int_equal(render_piece(&render, 0, &piece, on_event, &buf), ERR_OK);
        expect_part(&buf, "logprobs",
                    i == 0 ? "{\"tokens\":[\"\xc3\xa9\",\"b\"],\"token_logprobs\":[-0.1,-0.1],"
                             "\"top_logprobs\":[{\"b\":-0.2,\"\xc3\xa9\":-0.1},{\"b\":-0.2}],"
                             "\"text_offset\":[0,1]}"
                           : "{\"tokens\":[\"\xc3\xa9\",\"b\"],\"token_logprobs\":[-0.1,-0.1],"
                             "\"top_logprobs\":[{\"b\":-0.2,\"\xc3\xa9\":-0.1},{\"b\":-0.2}],"
                             "\"text_offset\":[2,3]}");
    }
    buf_clear(&buf); /* not asked for: not said */
    render.logprobs = false;
    assert_int_equal(render_piece(&render, 0, &piece, on_event, &buf), ERR_OK);
    expect_part(&buf, "logprobs", "null");
    buf_done(&buf);
    json_decref(root);
}

/* Two texts of each of two prompts: the prompts count once each. */
static void test_several(void **state)
{
    struct reply replies[4];
    const struct reply *records[4];
    struct render renders[4];
    struct api_request request = {.n = 2};
    struct buf buf;

    for (unsigned i = 0; i < 4; i++) {
        replies[i] = sample();
        replies[i].prompt_tokens = i < 2 ? 10 : 100;
        records[i] = &replies[i];
        renders[i] = chat();
        renders[i].kind = API_COMPLETION;
        renders[i].n = 2;
        renders[i].index = i;
        renders[i].echo = i < 2 ? "one" : "two";
    }
    buf_init(&buf, 8192);
    assert_int_equal(render_whole(renders, records, 4, &request, &buf), ERR_OK);
    json_t *value = json_loads(buf.data, 0, NULL);
    const json_t *choices = json_object_get(value, "choices");
    assert_int_equal(json_array_size(choices), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(json_int(json_array_get(choices, i), "index", -1), i);
        assert_string_equal(json_text(json_array_get(choices, i), "text", ""),
                            i < 2 ? "onea \"b\"\n" : "twoa \"b\"\n");
    }
    assert_int_equal(json_int(json_object_get(value, "usage"), "prompt_tokens", 0), 110);
    assert_int_equal(json_int(json_object_get(value, "usage"), "completion_tokens", 0), 28);
    assert_int_equal(
        json_array_size(json_object_get(json_object_get(value, "wyvern"), "prompt_ids")), 4);
    json_decref(value);
    buf_clear(&buf);
    assert_int_equal(render_usage(renders, records, 4, on_event, &buf), ERR_OK);
    assert_non_null(strstr(buf.data, "\"prompt_tokens\":110,"));
    /* what is echoed comes once, before the first text */
    buf_clear(&buf);
    assert_int_equal(
        render_piece(&renders[2], 0, &(struct piece){.text = "x", .text_len = 1}, on_event, &buf),
        ERR_OK);
    assert_non_null(strstr(buf.data, "\"index\":2,\"text\":\"two\""));
    assert_non_null(strstr(buf.data, "\"index\":2,\"text\":\"x\""));
    buf_clear(&buf);
    assert_int_equal(render_close(&renders[2], records[2], on_event, &buf), ERR_OK);
    assert_null(strstr(buf.data, "two"));
    buf_done(&buf);
}

/* One record with several texts, as a search gives them; and one that says nothing. */
static void test_choices_of_a_search(void **state)
{
    json_t *choices = json_loads("[{\"text\":\"a\",\"finish_reason\":\"stop\",\"tokens\":7},"
                                 "{\"text\":\"b\",\"finish_reason\":\"length\",\"tokens\":5}]",
                                 0, NULL);
    struct reply reply = sample();
    const struct reply *record = &reply;
    struct render render = chat();
    struct buf buf;

    reply.choices = choices;
    buf_init(&buf, 8192);
    assert_int_equal(render_whole(&render, &record, 1, NULL, &buf), ERR_OK);
    assert_non_null(strstr(buf.data, "\"index\":1,\"message\":{\"role\":\"assistant\","
                                     "\"content\":\"b\""));
    assert_non_null(strstr(buf.data, "\"completion_tokens\":12,"));
    buf_clear(&buf);
    assert_int_equal(render_close(&render, record, on_event, &buf), ERR_OK);
    assert_non_null(strstr(buf.data, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"));
    buf_done(&buf);
    json_decref(choices);
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
    api_error_of_reply(&reply, API_CHAT, &error);
    assert_int_equal(error.status, 500);
    assert_string_equal(error.code, "internal_error");
    reply.error_code = "context_length_exceeded";
    reply.error_text = "too long";
    reply.error_status = 400;
    api_error_of_reply(&reply, API_CHAT, &error);
    assert_int_equal(error.status, 400);
    assert_string_equal(error.type, "invalid_request_error");
    assert_string_equal(error.code, "context_length_exceeded");
    assert_string_equal(error.param, "messages");
    assert_string_equal(error.message, "too long");
    api_error_of_reply(&reply, API_EMBEDDING, &error);
    assert_string_equal(error.param, "input");
    reply.error_code = "invalid_prompt";
    reply.error_text = "grammar line 3: ) is missing";
    api_error_of_reply(&reply, API_COMPLETION, &error);
    assert_string_equal(error.param, "grammar");
    reply.error_text = "The model is no embedder";
    api_error_of_reply(&reply, API_EMBEDDING, &error);
    assert_string_equal(error.param, "");
    reply.error_status = 200; /* no error's status */
    api_error_of_reply(&reply, API_CHAT, &error);
    assert_int_equal(error.status, 500);
    reply = sample();
    reply.status = REPLY_CANCELLED;
    api_error_of_reply(&reply, API_CHAT, &error);
    assert_int_equal(error.status, 499);
    assert_string_equal(error.code, "cancelled");
    reply.status = REPLY_EXPIRED;
    api_error_of_reply(&reply, API_CHAT, &error);
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
        cmocka_unit_test(test_error_shape), cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_several),     cmocka_unit_test(test_choices_of_a_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
