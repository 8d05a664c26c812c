/* What a prompt asks of the engine, and what the engine's results become. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base64.h"
#include "roles/infer/ask.h"

#define ID "0123456789abcdef0123456789abcdef"

/* The prompt of a message with these further fields. */
static struct prompt decode(const char *fields)
{
    struct prompt prompt = {0};
    char text[2048];
    int len = snprintf(
        text, sizeof text,
        "{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"0123456789abcdef\",\"model\":\"m\",%s}", fields);
    if (prompt_decode(&prompt, text, (size_t)len) != ERR_OK)
        fail_msg("%s", err_text());
    return prompt;
}

static void test_tasks(void **state)
{
    struct ask ask;
    struct prompt prompt = decode("\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]");
    assert_int_equal(ask_init(&ask, &prompt), ERR_OK);
    assert_int_equal(ask.request.task, ENGINE_GENERATE);
    assert_int_equal(ask.request.message_count, 1);
    assert_string_equal(ask.request.messages[0].content, "hello");
    assert_null(ask.request.raw_prompt);
    assert_int_equal(ask.request.params.logprobs, -1);
    assert_true(isnan(ask.request.params.frequency_penalty));
    assert_int_equal(ask.request.params.seed, 0x0123456789abcde); /* of its id */
    ask_done(&ask);
    prompt_done(&prompt);

    prompt = decode("\"task\":\"text\",\"inputs\":[\"once\"],\"params\":{\"seed\":5,\"logprobs\":3,"
                    "\"frequency_penalty\":0.5,\"logit_bias\":{\"7\":-100,\"9\":1.5},"
                    "\"grammar\":\"root ::= [a-z]\"}");
    assert_int_equal(ask_init(&ask, &prompt), ERR_OK);
    assert_int_equal(ask.request.task, ENGINE_GENERATE);
    assert_null(ask.request.messages);
    assert_string_equal(ask.request.raw_prompt, "once");
    assert_int_equal(ask.request.params.seed, 5);
    assert_int_equal(ask.request.params.logprobs, 3);
    assert_int_equal(ask.request.params.bias_count, 2);
    assert_string_equal(ask.request.params.grammar, "root ::= [a-z]");
    ask_done(&ask);
    prompt_done(&prompt);

    prompt = decode("\"task\":\"embed\",\"inputs\":[\"a\",\"\",\"c\"]");
    assert_int_equal(ask_init(&ask, &prompt), ERR_OK);
    assert_int_equal(ask.request.task, ENGINE_EMBED);
    assert_int_equal(ask.request.input_count, 3);
    assert_string_equal(ask.request.inputs[2], "c");
    ask_done(&ask);
    prompt_done(&prompt);

    prompt = decode("\"task\":\"detokenize\",\"tokens\":[1,2147483647,0]");
    assert_int_equal(ask_init(&ask, &prompt), ERR_OK);
    assert_int_equal(ask.request.task, ENGINE_DETOKENIZE);
    assert_int_equal(ask.request.resume_token_count, 3);
    assert_int_equal(ask.request.resume_tokens[1], INT32_MAX);
    ask_done(&ask);
    prompt_done(&prompt);

    prompt = decode("\"task\":\"template\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]");
    assert_int_equal(ask_init(&ask, &prompt), ERR_OK);
    assert_int_equal(ask.request.task, ENGINE_TEMPLATE);
    assert_int_equal(ask.request.message_count, 1);
    ask_done(&ask);
    prompt_done(&prompt);

    prompt = decode("\"task\":\"tokenize\",\"inputs\":[\"a b\"]");
    assert_int_equal(ask_init(&ask, &prompt), ERR_OK);
    assert_int_equal(ask.request.task, ENGINE_TOKENIZE);
    assert_string_equal(ask.request.raw_prompt, "a b");
    ask_done(&ask);
    prompt_done(&prompt);
}

static void test_bad_tokens(void **state)
{
    static const char *const bad[] = {"[-1]",    "[2147483648]", "[1.5]",
                                      "[\"1\"]", "[null]",       "[1,[]]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char fields[100];
        struct ask ask;
        snprintf(fields, sizeof fields, "\"task\":\"detokenize\",\"tokens\":%s", bad[i]);
        struct prompt prompt = decode(fields);
        assert_int_equal(ask_init(&ask, &prompt), ERR_INVALID);
        ask_done(&ask);
        prompt_done(&prompt);
    }
    static const char *const biases[] = {"\"x\":1", "\"\":1", "\"-1\":1", "\"1e3\":1",
                                         "\"99999999999\":1"};
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++) {
        char fields[200];
        struct ask ask;
        snprintf(fields, sizeof fields,
                 "\"task\":\"text\",\"inputs\":[\"a\"],\"params\":{\"logit_bias\":{%s}}",
                 biases[i]);
        struct prompt prompt = decode(fields);
        assert_int_equal(ask_init(&ask, &prompt), ERR_INVALID);
        ask_done(&ask);
        prompt_done(&prompt);
    }
}

static void test_embeddings(void **state)
{
    static const float vectors[6] = {0.5f, -1.0f, 0.25f, 1.0f, 0.0f, -0.0f};
    const struct engine_event event = {
        .last = true, .vectors = vectors, .vector_count = 2, .vector_size = 3};
    json_t *result = NULL;
    assert_int_equal(result_make(&result, TASK_EMBED, &event), ERR_OK);
    const json_t *array = json_object_get(result, "embeddings");
    assert_int_equal(json_array_size(array), 2);
    /* 0.5, -1, 0.25 as little-endian floats */
    assert_string_equal(json_string_value(json_array_get(array, 0)), "AAAAPwAAgL8AAIA+");
    struct buf bytes;
    buf_init(&bytes, 100);
    const json_t *second = json_array_get(array, 1);
    assert_int_equal(base64_decode(&bytes, json_string_value(second), json_string_length(second)),
                     ERR_OK);
    assert_int_equal(bytes.len, 12);
    assert_memory_equal(bytes.data, "\0\0\x80\x3f\0\0\0\0\0\0\0\x80", 12);
    buf_done(&bytes);
    json_decref(result);
    const struct engine_event none = {.last = true};
    assert_int_equal(result_make(&result, TASK_EMBED, &none), ERR_INTERNAL);
}

static void check(enum prompt_task task, const struct engine_event *event, const char *expected)
{
    json_t *result = NULL;
    assert_int_equal(result_make(&result, task, event), ERR_OK);
    char *text = json_dumps(result, JSON_COMPACT);
    assert_string_equal(text, expected);
    free(text);
    json_decref(result);
}

static void test_texts(void **state)
{
    static const int32_t tokens[] = {5, 0, 70000};
    static const char *const texts[] = {"a", "\xEF\xBF\xBD", ""};
    const struct engine_event tokenized = {
        .last = true, .tokens = tokens, .token_count = 3, .token_texts = texts};
    check(TASK_TOKENIZE, &tokenized,
          "{\"tokens\":[5,0,70000],\"pieces\":[\"a\",\"\xEF\xBF\xBD\",\"\"]}");
    const struct engine_event empty = {.last = true};
    check(TASK_TOKENIZE, &empty, "{\"tokens\":[],\"pieces\":[]}");
    check(TASK_DETOKENIZE, &empty, "{\"content\":\"\"}");
    const struct engine_event text = {.last = true, .text = "\xC3\xA9 \"x\"", .text_len = 6};
    check(TASK_DETOKENIZE, &text, "{\"content\":\"\xC3\xA9 \\\"x\\\"\"}");
    check(TASK_TEMPLATE, &text, "{\"prompt\":\"\xC3\xA9 \\\"x\\\"\"}");
    /* What would make a message that nobody can read. */
    const struct engine_event odd = {.last = true, .text = "a\0b\xff\xC3", .text_len = 5};
    check(TASK_DETOKENIZE, &odd,
          "{\"content\":\"a\xEF\xBF\xBD"
          "b\xEF\xBF\xBD\xEF\xBF\xBD\"}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_bad_tokens),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
