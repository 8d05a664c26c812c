/* Every field of every endpoint with values of every kind: taken or refused by name, and nothing
 * crashes; with "stream" and without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/request.h"

static const struct value {
    char letter;
    const char *json; /* NULL: 10,000 strings */
} values[] = {
    {'s', "\"x\""},
    {'e', "\"\""},
    {'z', "0"},
    {'i', "1"},
    {'m', "-1"},
    {'h', "1e308"},
    {'g', "999"},
    {'f', "0.5"},
    {'t', "true"},
    {'F', "false"},
    {'O', "{}"},
    {'o', "{\"x\":1}"},
    {'S', "{\"x\":\"y\"}"},
    {'A', "[]"},
    {'a', "[1]"},
    {'T', "[\"x\"]"},
    {'L', NULL},
    {'B', "1e999"},
    {'H', "99999999999999999999"},
};

struct field {
    const char *name, *taken; /* letters of the values that are taken; null always is */
};

struct endpoint {
    api_parse_fn *parse;
    const char *base; /* fields that are required, each with a comma behind it */
    const char *required[3];
    bool streams;
    const struct field fields[48];
};

#define MODEL    "\"model\":\"m\","
#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
#define SAMPLING                                                                                   \
    {"temperature", "zif"}, {"top_p", "if"}, {"top_k", "zimg"}, {"seed", "zimg"}, {"stop", "sTA"}, \
        {"frequency_penalty", "zifm"}, {"presence_penalty", "zifm"}, {"repeat_penalty", "if"},     \
        {"logit_bias", "O"}, {"user", "se"}, {"truncate", ""}, {"min_tokens", "zig"},              \
        {"grammar", "se"}, {"num_beams", "i"},                                                     \
    {                                                                                              \
        "early_stopping", "tF"                                                                     \
    }
#define IGNORED                                                                                    \
    {                                                                                              \
        "something_new", "sezimhgftFOoSAaTLH"                                                      \
    }

static const struct endpoint endpoints[] = {
    {chat_parse,
     MODEL MESSAGES,
     {"model", "messages"},
     true,
     {SAMPLING,
      IGNORED,
      {"max_tokens", "ig"},
      {"max_completion_tokens", "ig"},
      {"stream", "tF"},
      {"n", "i"},
      {"logprobs", "tF"},
      {"top_logprobs", "z"},
      {"response_format", ""},
      {"metadata", "OS"},
      {"store", "tF"},
      {"modalities", "A"},
      {"tools", "zFOA"},
      {"functions", "zFOA"},
      {"audio", "zFOA"},
      {"prediction", "zFOA"},
      {"web_search_options", "zFOA"},
      {"reasoning_effort", "zFOA"},
      {"service_tier", "sezimhgftFOoSAaTLH"},
      {"parallel_tool_calls", "sezimhgftFOoSAaTLH"}}},
    {completion_parse,
     MODEL "\"prompt\":\"hi\",",
     {"model", "prompt"},
     true,
     {SAMPLING,
      IGNORED,
      {"max_tokens", "ig"},
      {"stream", "tF"},
      {"n", "i"},
      {"best_of", "i"},
      {"echo", "tF"},
      {"logprobs", "zi"},
      {"suffix", "e"},
      {"response_format", ""}}},
    {response_parse,
     MODEL "\"input\":\"hi\",",
     {"model", "input"},
     true,
     {SAMPLING,
      IGNORED,
      {"max_output_tokens", "ig"},
      {"instructions", "se"},
      {"stream", "tF"},
      {"metadata", "OS"},
      {"store", "tF"},
      {"background", "tF"},
      {"previous_response_id", ""},
      {"safety_identifier", "se"},
      {"truncation", ""},
      {"text", "OoS"},
      {"reasoning", "O"},
      {"tools", "zFOA"},
      {"tool_choice", "zFOA"},
      {"include", "zFOA"},
      {"prompt", "zFOA"},
      {"conversation", "zFOA"},
      {"top_logprobs", "zFOA"},
      {"max_tool_calls", "zFOA"}}},
    {embedding_parse,
     MODEL "\"input\":\"hi\",",
     {"model", "input"},
     false,
     {{"encoding_format", ""}, {"dimensions", ""}, {"user", "se"}}},
    {tokenize_parse,
     "\"content\":\"hi\",",
     {"content"},
     false,
     {{"model", "s"}, {"with_pieces", "tF"}, {"add_special", "F"}}},
    {detokenize_parse, "\"tokens\":[1],", {"tokens"}, false, {{"model", "s"}}},
    {template_parse, MESSAGES, {"messages"}, false, {{"model", "s"}, {"tools", "zFOA"}}},
};
#define ENDPOINTS (sizeof endpoints / sizeof *endpoints)

static char *ten_thousand(void)
{
    struct buf text;

    buf_init(&text, 1 << 20);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(buf_printf(&text, "%s\"s%d\"", i > 0 ? "," : "[", i), ERR_OK);
    assert_int_equal(buf_append_text(&text, "]"), ERR_OK);
    return buf_take(&text, NULL);
}

/* What comes of a body; param (96 bytes) is what an error names. */
static enum err parse(const struct endpoint *endpoint, const char *body, char *param)
{
    struct api_request request = {.kind = API_TEMPLATE};
    struct api_error error = {.status = 0};
    char *copy = malloc(strlen(body)); /* without a byte to spare */

    memcpy(copy, body, strlen(body));
    enum err err = endpoint->parse(&request, copy, strlen(body), 7, &error);
    free(copy);
    param[0] = '\0';
    if (err == ERR_OK) {
        assert_non_null(request.root);
        assert_non_null(request.prompt.model);
        api_request_done(&request);
        assert_null(request.root);
    } else {
        struct buf out;
        assert_int_equal(err, ERR_INVALID);
        assert_int_equal(error.status, 400);
        assert_non_null(error.code);
        assert_true(error.message[0] != '\0');
        memcpy(param, error.param, sizeof error.param);
        buf_init(&out, 8192);
        assert_int_equal(api_error_write(&error, &out), ERR_OK);
        buf_done(&out);
    }
    return err;
}

static bool names(const char *param, const char *field)
{
    size_t len = strlen(field);
    return strncmp(param, field, len) == 0 &&
           (param[len] == '\0' || param[len] == '.' || param[len] == '[');
}

static void check(const struct endpoint *endpoint, const struct field *field, bool stream,
                  const char *json, char letter)
{
    struct buf body;
    char param[96];

    buf_init(&body, 4 << 20);
    assert_int_equal(buf_printf(&body, "{%s%s\"%s\":%s}", endpoint->base,
                                stream ? "\"stream\":true," : "", field->name, json),
                     ERR_OK);
    enum err err = parse(endpoint, body.data, param);
    bool taken = letter == '\0' || strchr(field->taken, letter) != NULL;
    if ((err == ERR_OK) != taken)
        fail_msg("%s: %.200s (%s)", taken ? "refused" : "taken", body.data, param);
    if (err != ERR_OK && !names(param, field->name))
        fail_msg("'%s' named for %.200s", param, body.data);
    buf_done(&body);
}

static void test_every_field(void **state)
{
    char *many = ten_thousand();

    for (size_t e = 0; e < ENDPOINTS; e++) {
        const struct endpoint *endpoint = &endpoints[e];
        for (const struct field *field = endpoint->fields; field->name != NULL; field++) {
            for (int stream = 0; stream <= endpoint->streams; stream++) {
                if (stream && strcmp(field->name, "stream") == 0)
                    continue;
                check(endpoint, field, stream, "null", '\0');
                for (size_t v = 0; v < sizeof values / sizeof *values; v++)
                    check(endpoint, field, stream, values[v].json != NULL ? values[v].json : many,
                          values[v].letter);
            }
        }
    }
    free(many);
}

/* What is required, missing or of a wrong kind. */
static void test_required(void **state)
{
    for (size_t e = 0; e < ENDPOINTS; e++) {
        const struct endpoint *endpoint = &endpoints[e];
        for (size_t r = 0; r < 3 && endpoint->required[r] != NULL; r++) {
            for (size_t v = 0; v <= sizeof values / sizeof *values; v++) {
                const char *name = endpoint->required[r];
                const char *json = v < sizeof values / sizeof *values ? values[v].json : "null";
                char param[96];
                struct buf body;
                json_t *base;
                if (json == NULL || strchr("BH", json[0]) != NULL)
                    continue;
                buf_init(&body, 4096);
                assert_int_equal(buf_printf(&body, "{%s\"x\":1}", endpoint->base), ERR_OK);
                base = json_loads(body.data, 0, NULL);
                json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
                if (value == NULL || (json_is_string(value) && strcmp(name, "messages") != 0) ||
                    strcmp(json, "[\"x\"]") == 0 || (strcmp(json, "[1]") == 0 && name[0] == 't') ||
                    (strcmp(json, "[]") == 0 && name[0] == 't')) {
                    json_decref(value);
                    json_decref(base);
                    buf_done(&body);
                    continue;
                }
                json_object_set_new(base, name, value);
                char *text = json_dumps(base, 0);
                if (parse(endpoint, text, param) != ERR_INVALID || !names(param, name))
                    fail_msg("'%s' named for %s", param, text);
                free(text);
                json_object_del(base, name);
                text = json_dumps(base, 0);
                if (parse(endpoint, text, param) != ERR_INVALID || strcmp(param, name) != 0)
                    fail_msg("'%s' named for %s", param, text);
                free(text);
                json_decref(base);
                buf_done(&body);
            }
        }
    }
}

/* Bodies that are no JSON of ours, at every endpoint. */
static void test_hostile_bodies(void **state)
{
    static const struct {
        const char *tail, *param;
    } tails[] = {
        {"\"x\":\"\xff\"}", "x"},
        {"\"x\":\"\xed\xa0\x80\"}", "x"},
        {"\"x\":\"\\ud800\"}", "x"},
        {"\"x\":\"a\\u0000b\"}", "x"},
        {"\"x\":1,\"x\":2}", "x"},
        {"\"x\":1e}", "x"},
        {"\"x\":01}", "x"},
        {"\"x\":NaN}", "x"},
        {"\"x\":{\"a\":1,\"a\":2}}", "x"},
        {"\"x\":[}", "x"},
        {"\"x\":'a'}", "x"},
        {"\"x\":\"", "x"},
    };
    static const char *const others[] = {"", "[]", "null", "7", "\"a\"", "{", "{}x"};
    char param[96], body[512];
    struct buf deep;

    for (size_t e = 0; e < ENDPOINTS; e++) {
        for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
            snprintf(body, sizeof body, "{%s%s%s", endpoints[e].base,
                     endpoints[e].streams ? "\"stream\":true," : "", tails[i].tail);
            if (parse(&endpoints[e], body, param) != ERR_INVALID ||
                strcmp(param, tails[i].param) != 0)
                fail_msg("'%s' named for %s", param, body);
        }
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            assert_int_equal(parse(&endpoints[e], others[i], param), ERR_INVALID);
        buf_init(&deep, 1 << 20);
        assert_int_equal(buf_printf(&deep, "{%s\"x\":", endpoints[e].base), ERR_OK);
        for (int i = 0; i < 100000; i++)
            assert_int_equal(buf_append_text(&deep, i % 2 ? "[" : "{\"a\":"), ERR_OK);
        assert_int_equal(parse(&endpoints[e], deep.data, param), ERR_INVALID);
        assert_string_equal(param, "x");
        buf_done(&deep);
    }
}

/* Random damage to a full body: nothing but 400s and what is taken. */
static void test_damage(void **state)
{
    unsigned seed = 11;

    for (size_t e = 0; e < ENDPOINTS; e++) {
        char base[512];
        int size = snprintf(base, sizeof base,
                            "{%s\"stop\":[\"a\"],\"n\":1,\"metadata\":{\"a\":\"b\"},\"text\":{},"
                            "\"instructions\":\"x\",\"logit_bias\":{\"5\":1},\"user\":\"u\"}",
                            endpoints[e].base);
        for (int round = 0; round < 3000; round++) {
            char changed[512], param[96];
            memcpy(changed, base, (size_t)size + 1);
            for (int k = 1 + rand_r(&seed) % 4; k > 0; k--) {
                char any = (char)(unsigned char)(1 + rand_r(&seed) % 255);
                changed[rand_r(&seed) % size] =
                    rand_r(&seed) % 3 ? base[rand_r(&seed) % size] : any;
            }
            (void)!parse(&endpoints[e], changed, param);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_required),
        cmocka_unit_test(test_hostile_bodies),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
