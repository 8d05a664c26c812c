/* render_response.c: response objects, and events whose numbers follow from the pieces' alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "api/render.h"
#include "wire/json.h"

#define ID "0123456789abcdef0123456789abcdef"

static struct reply sample(enum reply_status status, const char *finish)
{
    return (struct reply){.id = ID,
                          .gateway = "fedcba9876543210",
                          .prompter = "ann",
                          .model = "m",
                          .status = status,
                          .finish_reason = finish,
                          .text = "ab\xc3\xa9",
                          .pieces = 2,
                          .error_code = "",
                          .error_text = "",
                          .prompt_tokens = 5,
                          .reply_tokens = 7,
                          .cached_tokens = 3,
                          .worker = "w",
                          .node = "n",
                          .device = "d",
                          .responder = "r",
                          .attempt = 1,
                          .accepted_at = 10,
                          .finished_at = 12.5};
}

struct seen { /* of a stream */
    size_t count;
    int64_t numbers[32];
    char names[32][48];
    json_t *last;
};

static void on_event(void *arg, const char *event, int64_t sequence, const struct buf *json)
{
    struct seen *seen = arg;
    json_t *value = json_loads(json->data, 0, NULL);

    assert_non_null(value);
    assert_true(seen->count < 32);
    assert_string_equal(json_text(value, "type", ""), event);
    assert_int_equal(json_int(value, "sequence_number", -1), sequence);
    seen->numbers[seen->count] = sequence;
    snprintf(seen->names[seen->count++], sizeof seen->names[0], "%s", event);
    json_decref(seen->last);
    seen->last = value;
}

static struct render render_of(const json_t *request)
{
    struct render render = {
        .kind = API_RESPONSE, .model = "m", .created = 10.5, .request = request};
    render_id(render.id, API_RESPONSE, ID);
    return render;
}

static const char *status_of(const struct seen *seen)
{
    return json_text(json_object_get(seen->last, "response"), "status", "");
}

/* A whole stream of two pieces. */
static void play(struct seen *seen, const struct render *as, const struct reply *record)
{
    struct render render = *as;

    assert_int_equal(render_open(&render, on_event, seen), ERR_OK);
    for (uint64_t i = 0; i < record->pieces; i++)
        assert_int_equal(
            render_piece(&render, i, &(struct piece){.text = "x", .text_len = 1}, on_event, seen),
            ERR_OK);
    assert_int_equal(render_close(&render, record, on_event, seen), ERR_OK);
}

static void test_events(void **state)
{
    static const char *const names[] = {
        "response.created",           "response.in_progress",
        "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta",
        "response.output_text.done",  "response.content_part.done",
        "response.output_item.done",  "response.completed",
    };
    struct reply record = sample(REPLY_COMPLETED, "stop");
    struct render render = render_of(NULL);
    struct seen seen = {.count = 0};

    play(&seen, &render, &record);
    assert_int_equal(seen.count, 10);
    for (size_t i = 0; i < seen.count; i++) {
        assert_int_equal(seen.numbers[i], i);
        assert_string_equal(seen.names[i], names[i]);
    }
    assert_string_equal(status_of(&seen), "completed");
    const json_t *response = json_object_get(seen.last, "response");
    const json_t *item = json_array_get(json_object_get(response, "output"), 0);
    assert_string_equal(json_text(item, "id", ""), "msg_" ID);
    assert_string_equal(json_text(json_array_get(json_object_get(item, "content"), 0), "text", ""),
                        "ab\xc3\xa9");
    assert_int_equal(json_int(json_object_get(response, "usage"), "total_tokens", 0), 12);
    json_decref(seen.last);
}

static void test_background_has_one_more(void **state)
{
    json_t *request = json_pack("{s:b}", "background", 1);
    struct reply record = sample(REPLY_COMPLETED, "length");
    struct render render = render_of(request);
    struct seen seen = {.count = 0};

    assert_int_equal(render_base(&render), 5);
    play(&seen, &render, &record);
    assert_int_equal(seen.count, 11);
    for (size_t i = 0; i < seen.count; i++)
        assert_int_equal(seen.numbers[i], i);
    assert_string_equal(seen.names[1], "response.queued");
    assert_string_equal(seen.names[10], "response.incomplete");
    assert_string_equal(status_of(&seen), "incomplete");
    assert_string_equal(
        json_text(json_object_get(json_object_get(seen.last, "response"), "incomplete_details"),
                  "reason", ""),
        "max_output_tokens");
    json_decref(seen.last);
    json_decref(request);
}

static void test_other_endings(void **state)
{
    struct reply record = sample(REPLY_CANCELLED, "");
    struct render render = render_of(NULL);
    struct seen seen = {.count = 0};
    struct api_error error;

    play(&seen, &render, &record);
    assert_string_equal(seen.names[9], "response.incomplete");
    assert_string_equal(status_of(&seen), "cancelled");
    assert_true(json_is_null(
        json_object_get(json_object_get(seen.last, "response"), "incomplete_details")));
    seen.count = 0;
    record = sample(REPLY_FAILED, "");
    record.error_code = "worker_died";
    record.error_text = "three workers died";
    record.error_status = 500;
    api_error_of_reply(&record, API_RESPONSE, &error);
    assert_int_equal(render_fail(&render, &error, &record, 0, on_event, &seen), ERR_OK);
    assert_int_equal(seen.numbers[0], 4 + 2);
    assert_string_equal(seen.names[0], "response.failed");
    assert_string_equal(status_of(&seen), "failed");
    const json_t *said = json_object_get(json_object_get(seen.last, "response"), "error");
    assert_string_equal(json_text(said, "code", ""), "server_error");
    assert_string_equal(json_text(said, "message", ""), "three workers died");
    /* without a record the pieces that were said count */
    assert_int_equal(render_fail(&render, &error, NULL, 9, on_event, &seen), ERR_OK);
    assert_int_equal(seen.numbers[1], 4 + 9);
    json_decref(seen.last);
}

static json_t *object_of(const struct render *render, const struct reply *record, bool running)
{
    struct buf buf;
    json_t *value;

    buf_init(&buf, 1 << 16);
    assert_int_equal(render_response(render, record, running, &buf), ERR_OK);
    value = json_loads(buf.data, 0, NULL);
    assert_non_null(value);
    buf_done(&buf);
    return value;
}

static void test_object_repeats_the_request(void **state)
{
    static const char body[] =
        "{\"model\":\"m\",\"input\":\"hi\",\"instructions\":\"be kind\",\"temperature\":0.7,"
        "\"metadata\":{\"a\":\"b\"},\"max_output_tokens\":9,\"background\":true,"
        "\"text\":{\"format\":{\"type\":\"json_object\"}},\"truncation\":\"auto\","
        "\"previous_response_id\":\"resp_" ID "\"}";
    struct api_request request;
    struct api_error error;

    assert_int_equal(response_parse(&request, body, sizeof body - 1, 7.25, &error), ERR_OK);
    struct render render = render_of(request.kept);
    struct reply record = sample(REPLY_EXPIRED, "");
    json_t *object = object_of(&render, NULL, false);
    assert_string_equal(json_text(object, "status", ""), "queued");
    assert_string_equal(json_text(object, "instructions", ""), "be kind");
    assert_true(json_number(object, "temperature", 0) == 0.7);
    assert_int_equal(json_int(object, "max_output_tokens", 0), 9);
    assert_string_equal(json_text(object, "previous_response_id", ""), "resp_" ID);
    assert_string_equal(json_text(object, "truncation", ""), "auto");
    assert_string_equal(json_text(json_object_get(object, "metadata"), "a", ""), "b");
    assert_string_equal(
        json_text(json_object_get(json_object_get(object, "text"), "format"), "type", ""),
        "json_object");
    assert_true(json_flag(object, "background", false));
    assert_true(json_flag(object, "store", false));
    assert_int_equal(json_array_size(json_object_get(object, "output")), 0);
    assert_true(json_number(request.kept, "created", 0) == 7.25);
    json_decref(object);
    object = object_of(&render, NULL, true);
    assert_string_equal(json_text(object, "status", ""), "in_progress");
    json_decref(object);
    object = object_of(&render, &record, true);
    assert_string_equal(json_text(object, "status", ""), "failed");
    json_decref(object);
    api_request_done(&request);
}

/* ---- previous_response_id ---- */

static struct reply earlier(json_t **root)
{
    struct reply record = sample(REPLY_COMPLETED, "stop");

    *root = json_loads("{\"request\":{\"api\":\"response\",\"instructions\":\"old\"},\"messages\":["
                       "{\"role\":\"system\",\"content\":\"old\"},"
                       "{\"role\":\"user\",\"content\":\"one\"}]}",
                       0, NULL);
    record.request = json_object_get(*root, "request");
    record.messages = json_object_get(*root, "messages");
    return record;
}

static enum err follow(const char *body, const struct reply *previous, const char *const *roles,
                       const char *const *contents, size_t count)
{
    struct api_request request;
    struct api_error error = {.status = 0};

    assert_int_equal(response_parse(&request, body, strlen(body), 7, &error), ERR_OK);
    assert_string_equal(request.previous, ID);
    enum err err = response_follow(&request, previous, &error);
    if (err == ERR_OK) {
        assert_int_equal(request.prompt.message_count, count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(request.prompt.messages[i].role, roles[i]);
            assert_string_equal(request.prompt.messages[i].content, contents[i]);
        }
    } else {
        assert_int_equal(error.status, 400);
        assert_string_equal(error.param, "previous_response_id");
    }
    api_request_done(&request);
    return err;
}

static void test_follow(void **state)
{
    static const char plain[] =
        "{\"model\":\"m\",\"input\":\"two\",\"previous_response_id\":\"resp_" ID "\"}";
    static const char told[] = "{\"model\":\"m\",\"input\":\"two\",\"instructions\":\"new\","
                               "\"previous_response_id\":\"resp_" ID "\"}";
    static const char *const roles[] = {"system", "user", "assistant", "user"};
    static const char *const contents[] = {"new", "one", "ab\xc3\xa9", "two"};
    json_t *root;
    struct reply previous = earlier(&root), other;

    assert_int_equal(follow(plain, &previous, roles + 1, contents + 1, 3), ERR_OK);
    assert_int_equal(follow(told, &previous, roles, contents, 4), ERR_OK);
    other = previous;
    other.status = REPLY_CANCELLED;
    assert_int_equal(follow(told, &other, NULL, NULL, 0), ERR_INVALID);
    other = previous;
    other.text = NULL;
    assert_int_equal(follow(told, &other, NULL, NULL, 0), ERR_INVALID);
    other = previous;
    other.request = NULL; /* it was not kept, or is a chat completion */
    assert_int_equal(follow(told, &other, NULL, NULL, 0), ERR_INVALID);
    json_t *many = json_array();
    for (int i = 0; i < PROMPT_MAX_MESSAGES; i++)
        json_array_append_new(many, json_pack("{s:s,s:s}", "role", "user", "content", ""));
    other = previous;
    other.messages = many;
    assert_int_equal(follow(told, &other, NULL, NULL, 0), ERR_INVALID);
    json_decref(many);
    json_decref(root);
}

static void test_ids(void **state)
{
    char id[64], back[ID_SIZE];

    for (enum api_kind kind = API_CHAT; kind <= API_EMBEDDING; kind++) {
        render_id(id, kind, ID);
        assert_true(render_prompt_id(back, kind, id));
        assert_string_equal(back, ID);
        assert_false(render_prompt_id(back, kind, ID));
        id[strlen(id) - 1] = 'G';
        assert_false(render_prompt_id(back, kind, id));
    }
    assert_false(render_prompt_id(back, API_RESPONSE, "chatcmpl-" ID));
    assert_false(render_prompt_id(back, API_RESPONSE, "resp_" ID "0"));
    assert_false(render_prompt_id(back, API_RESPONSE, "resp_"));
    assert_false(render_prompt_id(back, API_RESPONSE, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),        cmocka_unit_test(test_background_has_one_more),
        cmocka_unit_test(test_other_endings), cmocka_unit_test(test_object_repeats_the_request),
        cmocka_unit_test(test_follow),        cmocka_unit_test(test_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
