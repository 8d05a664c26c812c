/* Tasks, owners, kept requests: what a prompt may ask for besides a chat, and what its record
 * keeps.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/json.h"
#include "wire/prompt.h"
#include "wire/reply.h"
#include "wire/subject.h"

#define ID    "0123456789abcdef0123456789abcdef"
#define GW    "fedcba9876543210"
#define OWNER "0011223344556677"
#define LIMIT (1 << 20)

static struct prompt bare(enum prompt_task task)
{
    return (struct prompt){.id = ID,
                           .gateway = GW,
                           .prompter = "ann",
                           .model = "m",
                           .task = task,
                           .params = prompt_params_default()};
}

/* Through the wire; the buffer is the reader's no longer. */
static struct prompt carry(const struct prompt *prompt)
{
    struct buf buf;
    struct prompt read = {0};
    buf_init(&buf, LIMIT);
    assert_int_equal(prompt_encode(prompt, &buf), ERR_OK);
    if (prompt_decode(&read, buf.data, buf.len) != ERR_OK)
        fail_msg("%s: %s", buf.data, err_text());
    buf_done(&buf);
    return read;
}

static void test_inputs(void **state)
{
    static const enum prompt_task tasks[] = {TASK_TEXT, TASK_TOKENIZE, TASK_EMBED};
    json_t *inputs = json_pack("[s]", "one \xc3\xa9");
    for (size_t i = 0; i < 3; i++) {
        struct prompt prompt = bare(tasks[i]);
        prompt.inputs = inputs;
        struct prompt read = carry(&prompt);
        assert_int_equal(read.task, tasks[i]);
        assert_true(json_equal(read.inputs, inputs));
        assert_int_equal(read.message_count, 0);
        assert_null(read.tokens);
        assert_null(read.request);
        assert_string_equal(read.owner, "");
        prompt_done(&read);
    }
    json_decref(inputs);
    struct prompt prompt = bare(TASK_DETOKENIZE);
    json_t *tokens = json_pack("[i,i]", 1, 2);
    prompt.tokens = tokens;
    struct prompt read = carry(&prompt);
    assert_int_equal(read.task, TASK_DETOKENIZE);
    assert_true(json_equal(read.tokens, tokens));
    prompt_done(&read);
    json_decref(tokens);
    struct prompt_message message = {"user", "x"};
    prompt = bare(TASK_TEMPLATE);
    prompt.messages = &message;
    prompt.message_count = 1;
    read = carry(&prompt);
    assert_int_equal(read.task, TASK_TEMPLATE);
    assert_int_equal(read.message_count, 1);
    prompt_done(&read);
}

static void test_what_is_kept(void **state)
{
    struct prompt_message message = {"user", "x"};
    struct prompt prompt = bare(TASK_CHAT);
    json_t *request = json_pack("{s:s, s:{s:[i,n,b]}}", "kind", "responses", "more", "a", 1, 1);
    prompt.messages = &message;
    prompt.message_count = 1;
    prompt.owner = OWNER;
    prompt.request = request;
    prompt.lane = LANE_BATCH; /* of the subject, not of the message */
    struct prompt read = carry(&prompt);
    assert_int_equal(read.task, TASK_CHAT);
    assert_string_equal(read.owner, OWNER);
    assert_true(json_equal(read.request, request));
    assert_null(read.lane);
    prompt_done(&read);
    json_decref(request);
}

static void test_params(void **state)
{
    struct prompt_message message = {"user", "x"};
    struct prompt prompt = bare(TASK_CHAT);
    prompt.messages = &message;
    prompt.message_count = 1;
    struct prompt read = carry(&prompt);
    assert_true(isnan(read.params.frequency_penalty) && isnan(read.params.presence_penalty) &&
                isnan(read.params.repeat_penalty));
    assert_int_equal(read.params.logprobs, -1);
    assert_null(read.params.logit_bias);
    assert_null(read.params.grammar);
    prompt_done(&read);
    json_t *bias = json_pack("{s:f, s:i}", "5", -100.0, "70", 3);
    prompt.params.frequency_penalty = -2;
    prompt.params.presence_penalty = 0; /* given, and off */
    prompt.params.repeat_penalty = 1.1;
    prompt.params.logprobs = 0;
    prompt.params.logit_bias = bias;
    prompt.params.grammar = "root ::= \"\\n\"";
    read = carry(&prompt);
    assert_true(read.params.frequency_penalty == -2 && read.params.presence_penalty == 0 &&
                read.params.repeat_penalty == 1.1);
    assert_int_equal(read.params.logprobs, 0);
    assert_true(json_equal(read.params.logit_bias, bias));
    assert_string_equal(read.params.grammar, "root ::= \"\\n\"");
    prompt_done(&read);
    json_decref(bias);
}

#define HEAD "{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"" GW "\",\"model\":\"m\","
#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"

static enum err decode(const char *text)
{
    struct prompt prompt = {0};
    enum err err = prompt_decode(&prompt, text, strlen(text));
    prompt_done(&prompt);
    return err;
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        enum err err;
    } cases[] = {
        {HEAD "\"task\":\"dance\"," CHAT "}", ERR_UNSUPPORTED},
        {HEAD "\"task\":\"embed\"}", ERR_INVALID},
        {HEAD "\"task\":\"embed\",\"inputs\":[]}", ERR_INVALID},
        {HEAD "\"task\":\"embed\",\"inputs\":[1]}", ERR_INVALID},
        {HEAD "\"task\":\"embed\",\"inputs\":[\"a\",null]}", ERR_INVALID},
        {HEAD "\"task\":\"embed\",\"inputs\":\"a\"}", ERR_INVALID},
        {HEAD "\"task\":\"text\",\"inputs\":[\"a\",\"b\"]}", ERR_INVALID},
        {HEAD "\"task\":\"tokenize\"," CHAT "}", ERR_INVALID},
        {HEAD "\"task\":\"detokenize\",\"inputs\":[\"a\"]}", ERR_INVALID},
        {HEAD "\"task\":\"detokenize\",\"tokens\":5}", ERR_INVALID},
        {HEAD "\"task\":\"template\",\"inputs\":[\"a\"]}", ERR_INVALID},
        {HEAD "\"inputs\":[\"a\"]}", ERR_INVALID}, /* a chat */
        {HEAD "\"params\":{\"logprobs\":21}," CHAT "}", ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (decode(cases[i].text) != cases[i].err)
            fail_msg("%s", cases[i].text);
    /* Other types than expected count as not given. */
    struct prompt read = {0};
    static const char odd[] =
        HEAD "\"owner\":7,\"detached\":\"yes\",\"params\":{\"logprobs\":\"x\","
             "\"grammar\":1,\"logit_bias\":[1],\"frequency_penalty\":null}," CHAT "}";
    assert_int_equal(prompt_decode(&read, odd, sizeof odd - 1), ERR_OK);
    assert_string_equal(read.owner, "");
    assert_false(read.detached);
    assert_int_equal(read.params.logprobs, -1);
    assert_null(read.params.grammar);
    prompt_done(&read);
}

static void test_bounds(void **state)
{
    struct buf buf;
    buf_init(&buf, LIMIT);
    for (int count = PROMPT_MAX_INPUTS; count <= PROMPT_MAX_INPUTS + 1; count++) {
        struct prompt prompt = bare(TASK_EMBED);
        json_t *inputs = json_array();
        for (int i = 0; i < count; i++)
            json_array_append_new(inputs, json_string("x"));
        prompt.inputs = inputs;
        buf_clear(&buf);
        assert_int_equal(prompt_encode(&prompt, &buf), ERR_OK);
        assert_int_equal(decode(buf.data), count <= PROMPT_MAX_INPUTS ? ERR_OK : ERR_INVALID);
        json_decref(inputs);
    }
    struct prompt_message message = {"user", "x"};
    for (int count = PROMPT_MAX_BIAS; count <= PROMPT_MAX_BIAS + 1; count++) {
        struct prompt prompt = bare(TASK_CHAT);
        json_t *bias = json_object();
        for (int i = 0; i < count; i++) {
            char key[16];
            snprintf(key, sizeof key, "%d", i);
            json_object_set_new(bias, key, json_integer(1));
        }
        prompt.messages = &message;
        prompt.message_count = 1;
        prompt.params.logit_bias = bias;
        buf_clear(&buf);
        assert_int_equal(prompt_encode(&prompt, &buf), ERR_OK);
        assert_int_equal(decode(buf.data), count <= PROMPT_MAX_BIAS ? ERR_OK : ERR_INVALID);
        json_decref(bias);
    }
    /* A request that nests so deep that no worker could read its prompt is not put. */
    for (int depth = JSON_MAX_DEPTH - 1; depth <= JSON_MAX_DEPTH; depth++) {
        struct prompt prompt = bare(TASK_CHAT);
        json_t *request = json_array();
        for (int i = 1; i < depth; i++)
            request = i % 2 ? json_pack("{s:o}", "a", request) : json_pack("[o]", request);
        prompt.messages = &message;
        prompt.message_count = 1;
        prompt.request = request;
        buf_clear(&buf);
        enum err err = prompt_encode(&prompt, &buf);
        assert_int_equal(err, depth < JSON_MAX_DEPTH ? ERR_OK : ERR_LIMIT);
        if (err == ERR_OK)
            assert_int_equal(decode(buf.data), ERR_OK);
        json_decref(request);
    }
    buf_done(&buf);
}

static void test_head(void **state)
{
    static const char newer[] =
        "{\"v\":2,\"id\":\"" ID "\",\"gateway\":\"" GW "\",\"model\":\"m\",\"owner\":\"" OWNER
        "\",\"prompter\":\"ann\",\"detached\":true,\"task\":{}}";
    struct prompt head = {0};
    assert_int_equal(decode(newer), ERR_UNSUPPORTED);
    assert_int_equal(prompt_decode_head(&head, newer, sizeof newer - 1), ERR_OK);
    assert_string_equal(head.id, ID);
    assert_string_equal(head.gateway, GW);
    assert_string_equal(head.owner, OWNER);
    assert_string_equal(head.prompter, "ann");
    assert_true(head.detached);
    prompt_done(&head);
    static const char *const bad[] = {"", "{}", "[]", "{\"v\":1,\"id\":\"" ID "\"}", "{\"id\":1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(prompt_decode_head(&head, bad[i], strlen(bad[i])), ERR_INVALID);
}

static void test_record(void **state)
{
    struct buf buf;
    struct reply read = {0};
    json_t *logprobs = NULL, *cuts = json_pack("[i,i]", 3, 1), *request = json_pack("{}");
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "x");
    json_t *result = json_pack("{s:[]}", "embeddings");
    static const char one[] = "[{\"token\":\"a\",\"logprob\":-0.25}]", two[] = "[{},{}]";
    assert_int_equal(reply_logprobs_add(&logprobs, one, sizeof one - 1), ERR_OK);
    assert_int_equal(reply_logprobs_add(&logprobs, two, sizeof two - 1), ERR_OK);
    assert_int_equal(json_array_size(logprobs), 3);
    static const char *const bad[] = {"", "{}", "[", "null", "[{\"a\":\"\\u0000\"}]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(reply_logprobs_add(&logprobs, bad[i], strlen(bad[i])), ERR_INVALID);
    assert_int_equal(json_array_size(logprobs), 3);
    struct reply reply = {.id = ID,
                          .gateway = GW,
                          .status = REPLY_COMPLETED,
                          .text = "abcd",
                          .owner = OWNER,
                          .logprobs = logprobs,
                          .result = result,
                          .request = request,
                          .messages = messages,
                          .cuts = cuts};
    buf_init(&buf, LIMIT);
    assert_int_equal(reply_encode(&reply, &buf), ERR_OK);
    assert_int_equal(reply_decode(&read, buf.data, buf.len), ERR_OK);
    assert_string_equal(read.owner, OWNER);
    assert_true(json_equal(read.logprobs, logprobs) && json_equal(read.result, result));
    assert_true(json_equal(read.request, request) && json_equal(read.messages, messages));
    assert_true(json_equal(read.cuts, cuts));
    assert_false(read.deleted);
    reply_done(&read);
    reply.text = NULL; /* with the text goes all that was said; whose it was stays */
    reply.deleted = true;
    buf_clear(&buf);
    assert_int_equal(reply_encode(&reply, &buf), ERR_OK);
    assert_int_equal(reply_decode(&read, buf.data, buf.len), ERR_OK);
    assert_true(read.deleted);
    assert_string_equal(read.owner, OWNER);
    assert_true(read.logprobs == NULL && read.result == NULL && read.request == NULL &&
                read.messages == NULL && read.cuts == NULL);
    reply_done(&read);
    json_decref(logprobs);
    json_decref(cuts);
    json_decref(request);
    json_decref(messages);
    json_decref(result);
    buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inputs), cmocka_unit_test(test_what_is_kept),
        cmocka_unit_test(test_params), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounds), cmocka_unit_test(test_head),
        cmocka_unit_test(test_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
