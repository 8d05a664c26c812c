/* chat.c: what a request may say, what is refused and under which name, and that no bytes crash it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/request.h"

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* Parses from memory without a byte to spare. */
static enum err parse(struct api_request *request, const char *body, size_t len,
                      struct api_error *error)
{
    char *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, body, len);
    enum err err = chat_parse(request, copy, len, 1732375850, error);
    free(copy);
    return err;
}

static void test_everything_given(void **state)
{
    static const char body[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be kind\"},"
        "{\"role\":\"user\",\"name\":\"ann\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":\"\","
        "\"tool_calls\":null}],\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"max_tokens\":5,\"max_completion_tokens\":300,\"min_tokens\":100,\"temperature\":0,"
        "\"top_p\":0.5,\"top_k\":40,\"seed\":9223372036854775807,\"stop\":[\"x\",\"yy\"],"
        "\"user\":\"ann\",\"n\":1,\"logprobs\":false,\"tools\":[],\"tool_choice\":\"none\","
        "\"response_format\":{\"type\":\"text\"},\"presence_penalty\":0,\"logit_bias\":{},"
        "\"modalities\":[\"text\"],\"something_new\":[1,{}]}";
    struct api_request request;
    struct api_error error;
    const struct prompt_params *params = &request.prompt.params;

    assert_int_equal(parse(&request, body, sizeof body - 1, &error), ERR_OK);
    assert_string_equal(request.prompt.model, "m");
    assert_string_equal(request.prompt.prompter, "ann");
    assert_int_equal(request.prompt.message_count, 3);
    assert_string_equal(request.prompt.messages[0].role, "system");
    assert_string_equal(request.prompt.messages[1].content, "a\nb");
    assert_string_equal(request.prompt.messages[2].content, "");
    assert_true(request.stream);
    assert_true(request.include_usage);
    assert_int_equal(params->max_tokens, 300);
    assert_int_equal(params->min_tokens, 100);
    assert_true(params->temperature == 0);
    assert_true(params->top_p == 0.5);
    assert_int_equal(params->top_k, 40);
    assert_true(params->seed == INT64_MAX);
    assert_int_equal(params->stop_count, 2);
    assert_string_equal(params->stop[1], "yy");
    api_request_done(&request);
    api_request_done(&request);
    api_request_done(NULL);
}

static void test_least(void **state)
{
    static const char body[] = "{\"model\":\"default\"," HI
                               ",\"max_tokens\":null,\"stop\":null,\"seed\":-1,\"user\":null}";
    struct api_request request;
    struct api_error error;

    assert_int_equal(parse(&request, body, sizeof body - 1, &error), ERR_OK);
    assert_string_equal(request.prompt.prompter, "");
    assert_false(request.stream);
    assert_false(request.include_usage);
    assert_int_equal(request.prompt.params.max_tokens, -1);
    assert_int_equal(request.prompt.params.min_tokens, -1);
    assert_true(isnan(request.prompt.params.temperature));
    assert_true(request.prompt.params.seed == -1);
    api_request_done(&request);
}

#define OUTER(fields) "{\"model\":\"m\"," HI "," fields "}"
#define MESSAGE(text) "{\"model\":\"m\",\"messages\":[" text "]}"

static void test_refused(void **state)
{
    static const struct {
        const char *body, *param;
    } cases[] = {
        {"", ""},
        {"null", ""},
        {"[]", ""},
        {"{\"model\":\"m\"," HI, "messages"},
        {"{" HI "}", "model"},
        {"{\"model\":7," HI "}", "model"},
        {"{\"model\":\"\"," HI "}", "model"},
        {"{\"model\":\"a\\nb\"," HI "}", "model"},
        {"{\"model\":\"" /* 65 bytes */
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"," HI "}",
         "model"},
        {"{\"model\":\"m\"}", "messages"},
        {"{\"model\":\"m\",\"messages\":{}}", "messages"},
        {"{\"model\":\"m\",\"messages\":[]}", "messages"},
        {MESSAGE("1"), "messages[0]"},
        {MESSAGE("{\"content\":\"a\"}"), "messages[0].role"},
        {MESSAGE("{\"role\":1,\"content\":\"a\"}"), "messages[0].role"},
        {MESSAGE("{\"role\":\"robot\",\"content\":\"a\"}"), "messages[0].role"},
        {MESSAGE("{\"role\":\"tool\",\"content\":\"a\"}"), "messages[0].role"},
        {MESSAGE("{\"role\":\"user\"}"), "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":null}"), "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":7}"), "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":[]}"), "messages[0].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":{}}"),
         "messages[1].content"},
        {MESSAGE("{\"role\":\"user\",\"content\":[\"a\"]}"), "messages[0].content[0]"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"},"
                 "{\"type\":\"image_url\",\"image_url\":{\"url\":\"http://127.0.0.1/\"}}]}"),
         "messages[0].content[1].type"},
        {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"),
         "messages[0].content[0].text"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"\\u0000\"}"), "messages"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"\xff\"}"), "messages"},
        {MESSAGE("{\"role\":\"user\",\"content\":\"\\udc00\"}"), "messages"},
        {MESSAGE("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}"),
         "messages[0].tool_calls"},
        {OUTER("\"max_tokens\":0"), "max_tokens"},
        {OUTER("\"max_tokens\":-1"), "max_tokens"},
        {OUTER("\"max_tokens\":1000001"), "max_tokens"},
        {OUTER("\"max_tokens\":99999999999999999999999"), "max_tokens"},
        {OUTER("\"max_tokens\":1e400"), "max_tokens"},
        {OUTER("\"max_tokens\":1.5"), "max_tokens"},
        {OUTER("\"max_tokens\":\"5\""), "max_tokens"},
        {OUTER("\"max_tokens\":true"), "max_tokens"},
        {OUTER("\"max_completion_tokens\":0"), "max_completion_tokens"},
        {OUTER("\"min_tokens\":-1"), "min_tokens"},
        {OUTER("\"min_tokens\":6,\"max_tokens\":5"), "min_tokens"},
        {OUTER("\"temperature\":-0.1"), "temperature"},
        {OUTER("\"temperature\":2.1"), "temperature"},
        {OUTER("\"temperature\":\"hot\""), "temperature"},
        {OUTER("\"top_p\":0"), "top_p"},
        {OUTER("\"top_p\":1.01"), "top_p"},
        {OUTER("\"top_k\":-2"), "top_k"},
        {OUTER("\"top_k\":1000001"), "top_k"},
        {OUTER("\"seed\":-2"), "seed"},
        {OUTER("\"seed\":9223372036854775808"), "seed"},
        {OUTER("\"seed\":0.5"), "seed"},
        {OUTER("\"stop\":\"\""), "stop"},
        {OUTER("\"stop\":7"), "stop"},
        {OUTER("\"stop\":[\"a\",\"\"]"), "stop[1]"},
        {OUTER("\"stop\":[\"a\",7]"), "stop[1]"},
        {OUTER("\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\","
               "\"12\",\"13\",\"14\",\"15\",\"16\",\"17\"]"),
         "stop"},
        {OUTER("\"user\":7"), "user"},
        {OUTER("\"user\":\"a\\u007f\""), "user"},
        {OUTER("\"user\":\"a\\u0085\""), "user"},
        {OUTER("\"user\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""),
         "user"},
        {OUTER("\"stream\":\"yes\""), "stream"},
        {OUTER("\"stream_options\":{}"), "stream_options"},
        {OUTER("\"stream\":true,\"stream_options\":[]"), "stream_options"},
        {OUTER("\"stream\":true,\"stream_options\":{\"include_usage\":1}"),
         "stream_options.include_usage"},
        {OUTER("\"n\":2,\"store\":true"), "n"},
        {OUTER("\"num_return_sequences\":2,\"stream\":true"), "num_return_sequences"},
        {OUTER("\"n\":65"), "n"},
        {OUTER("\"n\":0"), "n"},
        {OUTER("\"n\":99999999999999999999"), "n"},
        {OUTER("\"n\":\"1\""), "n"},
        {OUTER("\"logprobs\":1"), "logprobs"},
        {OUTER("\"top_logprobs\":3"), "top_logprobs"},
        {OUTER("\"top_logprobs\":3,\"logprobs\":false"), "top_logprobs"},
        {OUTER("\"top_logprobs\":21,\"logprobs\":true"), "top_logprobs"},
        {OUTER("\"tools\":[{}]"), "tools"},
        {OUTER("\"tool_choice\":\"required\""), "tool_choice"},
        {OUTER("\"functions\":[{}]"), "functions"},
        {OUTER("\"function_call\":{\"name\":\"x\"}"), "function_call"},
        {OUTER("\"audio\":{\"voice\":\"x\"}"), "audio"},
        {OUTER("\"modalities\":[\"text\",\"audio\"]"), "modalities"},
        {OUTER("\"frequency_penalty\":2.5"), "frequency_penalty"},
        {OUTER("\"presence_penalty\":-3"), "presence_penalty"},
        {OUTER("\"repeat_penalty\":0"), "repeat_penalty"},
        {OUTER("\"logit_bias\":[5]"), "logit_bias"},
        {OUTER("\"logit_bias\":{\"a\":1}"), "logit_bias"},
        {OUTER("\"logit_bias\":{\"-5\":1}"), "logit_bias"},
        {OUTER("\"logit_bias\":{\"5\":101}"), "logit_bias.5"},
        {OUTER("\"logit_bias\":{\"5\":\"1\"}"), "logit_bias.5"},
        {OUTER("\"response_format\":{\"type\":\"yaml\"}"), "response_format.type"},
        {OUTER("\"response_format\":\"text\""), "response_format"},
        {OUTER("\"max_tokens\":1,\"max_tokens\":2"), "max_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_request request = {.stream = true};
        struct api_error error = {.status = 0};
        if (parse(&request, cases[i].body, strlen(cases[i].body), &error) != ERR_INVALID)
            fail_msg("taken: %s", cases[i].body);
        if (strcmp(error.param, cases[i].param) != 0)
            fail_msg("'%s' named for %s", error.param, cases[i].body);
        assert_int_equal(error.status, 400);
        assert_string_equal(error.type, "invalid_request_error");
        assert_non_null(error.code);
        assert_true(error.message[0] != '\0');
        assert_true(request.stream); /* untouched */
    }
}

static void test_counts_are_bounded(void **state)
{
    struct api_request request;
    struct api_error error;
    struct buf body;

    buf_init(&body, 1 << 20);
    for (int most = PROMPT_MAX_MESSAGES; most <= PROMPT_MAX_MESSAGES + 1; most++) {
        buf_clear(&body);
        assert_int_equal(buf_append_text(&body, "{\"model\":\"m\",\"messages\":["), ERR_OK);
        for (int i = 0; i < most; i++)
            assert_int_equal(
                buf_printf(&body, "%s{\"role\":\"user\",\"content\":\"\"}", i > 0 ? "," : ""),
                ERR_OK);
        assert_int_equal(buf_append_text(&body, "]}"), ERR_OK);
        enum err err = parse(&request, body.data, body.len, &error);
        assert_int_equal(err, most > PROMPT_MAX_MESSAGES ? ERR_INVALID : ERR_OK);
        if (err == ERR_OK)
            api_request_done(&request);
        else
            assert_string_equal(error.param, "messages");
    }
    buf_clear(&body);
    assert_int_equal(buf_append_text(&body, "{\"model\":\"m\",\"x\":"), ERR_OK);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf_append_text(&body, "["), ERR_OK);
    assert_int_equal(parse(&request, body.data, body.len, &error), ERR_INVALID);
    assert_string_equal(error.param, "x");
    buf_done(&body);
}

static void test_broken_bodies(void **state)
{
    static const char body[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":\"h\\u00e9 \\ud83d\\ude00\"}]},{\"role\":\"system\",\"content\":\"x\"}],"
        "\"stop\":[\"a\",\"b\"],\"max_tokens\":12,\"temperature\":0.5,\"n\":1,\"seed\":77,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"user\":\"u\"}";
    const size_t size = sizeof body - 1;
    unsigned seed = 7;

    for (int round = 0; round < 20000; round++) {
        char changed[sizeof body];
        size_t len = (size_t)round < size ? (size_t)round : size;
        memcpy(changed, body, size);
        for (int k = len < size ? 0 : 1 + rand_r(&seed) % 4; k > 0; k--) {
            size_t at = (size_t)rand_r(&seed) % size;
            char any = (char)(unsigned char)(rand_r(&seed) & 0xff);
            changed[at] = rand_r(&seed) % 3 ? body[(size_t)rand_r(&seed) % size] : any;
        }
        struct api_request request;
        struct api_error error = {.status = 0};
        enum err err = parse(&request, changed, len, &error);
        if (err == ERR_OK) {
            assert_true(request.prompt.message_count > 0);
            api_request_done(&request);
        } else {
            struct buf out; /* whatever was wrong, saying so gives good JSON */
            json_t *value = NULL;
            assert_int_equal(error.status, 400);
            buf_init(&out, 8192);
            assert_int_equal(api_error_write(&error, &out), ERR_OK);
            value = json_loads(out.data, 0, NULL);
            assert_non_null(value);
            json_decref(value);
            buf_done(&out);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_given), cmocka_unit_test(test_least),
        cmocka_unit_test(test_refused),          cmocka_unit_test(test_counts_are_bounded),
        cmocka_unit_test(test_broken_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
