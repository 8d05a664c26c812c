/* Streamed replies as they come in: whole, cut anywhere, mixed up, broken off, refused. */
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

#include "verbs/apiclient.h"
#include "verbs/prompts.h"
#include "verbs/talk.h"
#include "wire/json.h"

#define CHUNK(id, content)                                                                         \
    "data: {\"id\":\"" id "\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" content         \
    "\"},\"finish_reason\":null}]}\n\n"
#define LAST(id)                                                                                   \
    "data: {\"id\":\"" id "\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":"           \
    "\"stop\"}],\"wyvern\":{\"prompter\":\"me\",\"inference_worker\":\"infer-0\"}}\n\n"
#define USAGE(id) "data: {\"id\":\"" id "\",\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\n"
#define WHOLE                                                                                      \
    CHUNK("c1", "Hel")                                                                             \
    ": a comment\n\n" CHUNK("c1", "lo w\xc3\xb6rld") LAST("c1") USAGE("c1") "data: [DONE]\n\n"

static char seen[256];

static bool text_note(void *arg, const char *text, size_t len)
{
    strncat(seen, text, len);
    return true;
}

static enum err end_with(struct api_reply *reply, enum err err, int status, const char *body,
                         double retry_after_s)
{
    struct http_result result;
    http_result_init(&result);
    result.status = status;
    result.retry_after_s = retry_after_s;
    assert_int_equal(buf_append_text(&result.body, body), ERR_OK);
    err = api_reply_end(reply, err, &result);
    http_result_done(&result);
    return err;
}

static void a_reply_is_whole_wherever_it_is_cut(void **state)
{
    size_t len = strlen(WHOLE);
    for (size_t cut = 0; cut <= len; cut++) {
        struct api_reply reply;
        api_reply_init(&reply, text_note, NULL);
        seen[0] = '\0';
        assert_true(api_reply_feed(&reply, WHOLE, cut));
        assert_true(api_reply_feed(&reply, &WHOLE[cut], len - cut));
        assert_int_equal(end_with(&reply, ERR_OK, 200, "", 0), ERR_OK);
        assert_string_equal(buf_text(&reply.text), "Hello w\xc3\xb6rld");
        assert_string_equal(seen, "Hello w\xc3\xb6rld");
        assert_string_equal(reply.response_id, "c1");
        assert_string_equal(api_reply_field(&reply, "prompter"), "me");
        assert_string_equal(api_reply_field(&reply, "no such"), "");
        assert_int_equal(api_reply_tokens(&reply), 3);
        assert_false(reply.mixed);
        api_reply_done(&reply);
    }
}

static void feed(struct api_reply *reply, const char *text)
{
    api_reply_init(reply, NULL, NULL);
    (void)api_reply_feed(reply, text, strlen(text));
}

static void another_replys_chunk_shows(void **state)
{
    struct api_reply reply;
    feed(&reply, CHUNK("c1", "a") CHUNK("c2", "b"));
    assert_true(reply.mixed);
    api_reply_done(&reply);
}

static void a_broken_off_reply_is_no_success(void **state)
{
    struct api_reply reply;
    feed(&reply, CHUNK("c1", "a"));
    assert_int_equal(end_with(&reply, ERR_OK, 200, "", 0), ERR_IO);
    api_reply_done(&reply);
    feed(&reply, CHUNK("c1", "a") LAST("c1")); /* without [DONE] */
    assert_int_equal(end_with(&reply, ERR_OK, 200, "", 0), ERR_IO);
    api_reply_done(&reply);
    feed(&reply, CHUNK("c1", "a") "data: [DONE]\n\n"); /* without a finish_reason */
    assert_int_equal(end_with(&reply, ERR_OK, 200, "", 0), ERR_IO);
    api_reply_done(&reply);
    feed(&reply, CHUNK("c1", "a") LAST("c1") "data: [DONE]\n\n"); /* the connection broke */
    assert_int_equal(end_with(&reply, err_set(ERR_IO, "reset"), 200, "", 0), ERR_IO);
    api_reply_done(&reply);
}

static void an_error_in_the_stream_is_told(void **state)
{
    struct api_reply reply;
    feed(&reply, CHUNK("c1", "a") "data: {\"error\":{\"message\":\"three workers "
                                  "died\",\"code\":\"worker_died\"}}\n\n");
    assert_int_not_equal(end_with(&reply, ERR_CANCELLED, 200, "", 0), ERR_OK);
    assert_string_equal(err_text(), "three workers died");
    assert_string_equal(reply.error_code, "worker_died");
    api_reply_done(&reply);
    feed(&reply, "data: {broken\n\n");
    assert_int_not_equal(end_with(&reply, ERR_CANCELLED, 200, "", 0), ERR_OK);
    assert_non_null(strstr(err_text(), "no JSON"));
    api_reply_done(&reply);
    feed(&reply, "data: [1,2]\n\ndata: 7\n\ndata: {\"choices\":7,\"wyvern\":[],\"id\":3}\n\n");
    assert_int_equal(end_with(&reply, ERR_OK, 200, "", 0), ERR_IO); /* odd, and harmless */
    api_reply_done(&reply);
}

static void refusals_speak_for_the_service(void **state)
{
    struct api_reply reply;
    api_reply_init(&reply, NULL, NULL);
    assert_int_equal(
        end_with(&reply, ERR_OK, 400, "{\"error\":{\"message\":\"max_tokens is negative\"}}", 0),
        ERR_INVALID);
    assert_string_equal(err_text(), "max_tokens is negative");
    assert_int_equal(end_with(&reply, ERR_OK, 429, "{\"error\":{\"message\":\"full\"}}", 1.2),
                     ERR_FULL);
    assert_string_equal(err_text(), "full (try again in 2 s)");
    assert_int_equal(end_with(&reply, ERR_OK, 503, "<html>", 0), ERR_UNAVAILABLE);
    assert_non_null(strstr(err_text(), "503"));
    api_reply_done(&reply);
}

static void requests_hold_what_was_asked_for_and_nothing_else(void **state)
{
    struct settings settings = {.min_tokens = 1,
                                .max_tokens = -1,
                                .temperature = 0,
                                .top_p = (double)NAN,
                                .top_k = -1,
                                .seed = 7,
                                .system = "be kind"};
    struct api_message message = {.role = "user", .content = "say \"hi\"\n"};
    struct buf out;
    buf_init(&out, 65536);
    assert_int_equal(api_request_write(&out, &settings, "me", &message, 1), ERR_OK);
    json_t *root = json_loads(buf_text(&out), 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_int(root, "min_tokens", -5), 1);
    assert_int_equal(json_int(root, "seed", -5), 7);
    assert_null(json_object_get(root, "max_tokens"));
    assert_null(json_object_get(root, "top_p"));
    assert_null(json_object_get(root, "top_k"));
    assert_non_null(json_object_get(root, "temperature"));
    assert_string_equal(json_text(root, "user", ""), "me");
    assert_true(json_flag(root, "stream", false));
    const json_t *messages = json_object_get(root, "messages");
    assert_int_equal(json_array_size(messages), 2);
    assert_string_equal(json_text(json_array_get(messages, 0), "role", ""), "system");
    assert_string_equal(json_text(json_array_get(messages, 1), "content", ""), "say \"hi\"\n");
    json_decref(root);
    message.content = "\xff";
    assert_int_equal(api_request_write(&out, &settings, NULL, &message, 1), ERR_INVALID);
    buf_done(&out);
}

static void addresses_join_with_one_slash(void **state)
{
    struct settings settings = {.url = "http://h:1//"};
    struct buf out;
    buf_init(&out, 256);
    assert_int_equal(api_url(&out, &settings, "/wyvern/status"), ERR_OK);
    assert_string_equal(buf_text(&out), "http://h:1/wyvern/status");
    buf_done(&out);
}

static void prompts_come_built_in_or_by_lines(void **state)
{
    struct prompts prompts;
    assert_int_equal(prompts_read(&prompts, NULL), ERR_OK);
    assert_int_equal(prompts.count, 15);
    for (size_t i = 0; i < 15; i++) {
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(prompts.items[i], prompts.items[j]);
    }
    prompts_done(&prompts);

    char path[] = "wyvern-prompts-XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    assert_non_null(file);
    fputs("one\r\n\n   \ntwo words\nthree", file);
    fclose(file);
    assert_int_equal(prompts_read(&prompts, path), ERR_OK);
    assert_int_equal(prompts.count, 3);
    assert_string_equal(prompts.items[0], "one");
    assert_string_equal(prompts.items[2], "three");
    prompts_done(&prompts);
    file = fopen(path, "w");
    fclose(file);
    assert_int_equal(prompts_read(&prompts, path), ERR_INVALID);
    remove(path);
    assert_int_equal(prompts_read(&prompts, path), ERR_NOT_FOUND);
}

static void a_full_talk_loses_its_oldest_pair(void **state)
{
    struct talk *talk = calloc(1, sizeof *talk);
    char text[32];
    for (int i = 0; i < TALK_MESSAGES_MAX + 3; i++) {
        snprintf(text, sizeof text, "m%d", i);
        assert_int_equal(talk_add(talk, i % 2 == 0 ? "user" : "assistant", text), ERR_OK);
    }
    assert_true(talk->count <= TALK_MESSAGES_MAX);
    assert_string_equal(talk->messages[0].role, "user");
    assert_string_equal(talk->messages[0].content, "m4");
    talk_drop_last(talk);
    talk_clear(talk);
    talk_drop_last(talk);
    assert_int_equal(talk->count, 0);
    free(talk);
}

static void key_file_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void the_key_comes_from_a_file_or_the_environment(void **state)
{
    char path[64] = "/tmp/wyvern-key-XXXXXX";
    struct settings settings = {0};
    struct api_key key;
    close(mkstemp(path));
    unsetenv("WYVERN_KEY");
    assert_int_equal(api_key_read(&key, &settings), ERR_OK);
    assert_null(api_key_bearer(&key));
    setenv("WYVERN_KEY", "wv-env", 1);
    assert_int_equal(api_key_read(&key, &settings), ERR_OK);
    assert_string_equal(api_key_bearer(&key), "wv-env");
    settings.key_file = path;
    key_file_write(path, "wv-file\n# more\n");
    assert_int_equal(api_key_read(&key, &settings), ERR_OK);
    assert_string_equal(api_key_bearer(&key), "wv-file");
    key_file_write(path, "");
    assert_int_equal(api_key_read(&key, &settings), ERR_CONFIG);
    key_file_write(path, "two words\n");
    assert_int_equal(api_key_read(&key, &settings), ERR_CONFIG);
    unlink(path);
    assert_int_equal(api_key_read(&key, &settings), ERR_NOT_FOUND);
    settings.key_file = NULL;
    setenv("WYVERN_KEY", "wv-\r\nX-Other: 1", 1);
    assert_int_equal(api_key_read(&key, &settings), ERR_CONFIG);
    assert_null(strstr(err_text(), "Other")); /* a secret is not repeated */
    char longer[API_KEY_MAX + 2];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    setenv("WYVERN_KEY", longer, 1);
    assert_int_equal(api_key_read(&key, &settings), ERR_CONFIG);
    unsetenv("WYVERN_KEY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_is_whole_wherever_it_is_cut),
        cmocka_unit_test(another_replys_chunk_shows),
        cmocka_unit_test(a_broken_off_reply_is_no_success),
        cmocka_unit_test(an_error_in_the_stream_is_told),
        cmocka_unit_test(refusals_speak_for_the_service),
        cmocka_unit_test(requests_hold_what_was_asked_for_and_nothing_else),
        cmocka_unit_test(addresses_join_with_one_slash),
        cmocka_unit_test(prompts_come_built_in_or_by_lines),
        cmocka_unit_test(a_full_talk_loses_its_oldest_pair),
        cmocka_unit_test(the_key_comes_from_a_file_or_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
