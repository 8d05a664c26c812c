/* schema.c and its parts, format.c: which replies a schema allows, and which schemas are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/request.h"
#include "gbnf.h"

#define HEAD                                                                                       \
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}],"                        \
    "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":"

static enum err parse(struct api_request *request, const char *schema, struct api_error *error)
{
    struct buf body;

    buf_init(&body, 4 << 20);
    assert_int_equal(buf_printf(&body, "%s%s}}}", HEAD, schema), ERR_OK);
    enum err err = chat_parse(request, body.data, body.len, 0, error);
    buf_done(&body);
    return err;
}

struct sample {
    const char *schema;
    const char *taken[9], *refused[12];
};

static const struct sample samples[] = {
    {"{}", {"{\"a\":[1,null]}", "7", "\"\\u00e9\""}, {"", "{", "{}}", "[1,]", "\"\\ud800\"", "01"}},
    {"{\"type\":\"null\"}", {"null"}, {"nul", "\"null\""}},
    {"{\"type\":\"boolean\",\"title\":\"t\"}", {"true", "false"}, {"null", "TRUE"}},
    {"{\"type\":\"string\"}",
     {"\"\"", "\"a\\\"b\"", "\"h\xc3\xa9\"", "\"\\ud83d\\ude00\""},
     {"a", "\"a", "\"\\x\"", "\"\n\"", "\"\\ude00\"", "\"\\ud83d\""}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"\xf0\x9f\x98\x80z\\n\""},
     {"\"\"", "\"a\"", "\"abcd\""}},
    {"{\"type\":\"string\",\"maxLength\":0}", {"\"\""}, {"\"a\""}},
    {"{\"minLength\":1}", {"\"a\"", "\"abcdef\""}, {"\"\"", "1"}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-12-31\"", "\"2024-02-29\"", "\"2000-02-29\"", "\"1996-02-29\"", "\"2023-02-28\"",
      "\"1999-04-30\"", "\"1000-01-01\"", "\"9999-10-29\""},
     {"\"2024-13-01\"", "\"x\"", "\"2024-02-30\"", "\"2023-02-29\"", "\"1900-02-29\"",
      "\"2023-04-31\"", "\"2023-11-31\"", "\"2023-01-32\"", "\"2023-01-00\"", "\"0000-01-01\"",
      "\"2023-00-10\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-12-31T23:59:59Z\"", "\"2024-12-31T23:59:59.25+01:30\""},
     {"\"2024-12-31\"", "\"2024-12-31T24:00:00Z\"", "\"2024-12-31T23:59:59\""}},
    {"{\"type\":\"string\",\"format\":\"time\"}", {"\"00:00:00Z\""}, {"\"00:00Z\""}},
    {"{\"type\":\"string\",\"format\":\"uuid\"}",
     {"\"01234567-89ab-cdef-0123-456789abcdef\""},
     {"\"01234567-89ab-cdef-0123-456789abcde\""}},
    {"{\"type\":\"integer\"}", {"0", "-1", "123"}, {"1.0", "01", "1e3", "--1", ""}},
    {"{\"type\":\"number\"}", {"0", "-1.5", "2e-7", "1E5"}, {".5", "1.", "e", "1e999"}},
    {"{\"type\":\"integer\",\"minimum\":0}", {"0", "7", "10", "123456"}, {"-1", "-0", "00"}},
    {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":12}",
     {"3", "9", "10", "12"},
     {"2", "13", "1", "03", "-3", "30", "120"}},
    {"{\"type\":\"integer\",\"minimum\":-15,\"maximum\":205}",
     {"-15", "-1", "0", "99", "100", "199", "205"},
     {"-16", "-20", "-150", "206", "210", "300", "-0"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":-100,\"exclusiveMaximum\":-9}",
     {"-10", "-99"},
     {"-9", "-100", "10", "0"}},
    {"{\"type\":\"integer\",\"maximum\":-5}", {"-5", "-6", "-10", "-5000"}, {"-4", "5", "0"}},
    {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":5}", {"5"}, {"4", "6", "55"}},
    {"{\"type\":\"integer\",\"minimum\":150}", {"150", "199", "200", "999", "1000"}, {"149", "99"}},
    {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
     {"0", "0.5", "1", "1.0", "0.0"},
     {"1.1", "-0.1", "2", "1.01", "-0", "00.5"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0}",
     {"0.1", "3", "0.001", "10.5"},
     {"0", "0.0", "-1"}},
    {"{\"type\":\"number\",\"minimum\":-2,\"exclusiveMaximum\":3}",
     {"-2", "-2.0", "-1.9", "-0.5", "0", "2.99"},
     {"-2.1", "3", "3.0", "-3"}},
    {"{\"type\":\"number\",\"maximum\":-3}", {"-3", "-3.5", "-10.25"}, {"-2.9", "3", "-2"}},
    {"{\"type\":\"number\",\"exclusiveMaximum\":0}", {"-0.5", "-7"}, {"0", "-0", "-0.0", "1"}},
    {"{\"enum\":[\"a\\\"\\\\\",1,null,{\"x\":[\"\xc3\xa9\"]}]}",
     {"\"a\\\"\\\\\"", "1", "null", "{\"x\":[\"\xc3\xa9\"]}"},
     {"\"a\"", "2", "{\"x\":[]}"}},
    {"{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
    {"{\"const\":\"only\"}", {"\"only\""}, {"\"other\""}},
    {"{\"type\":[\"string\",\"null\"],\"maxLength\":1}", {"null", "\"a\""}, {"\"ab\"", "1"}},
    {"{\"type\":\"object\"}",
     {"{}", "{ }", "{\"a\": {\"b\": 1}}"},
     {"[]", "{\"a\":\n1}", "{  }", "{\"a\"}", "{a:1}"}},
    {"{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}",
     {"{}"},
     {"{\"a\":1}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"}},"
     "\"required\":[\"a\",\"b\"],\"additionalProperties\":false}",
     {"{\"a\":1,\"b\":null}", "{\"a\": 1, \"b\": null}", "{\n  \"a\": 1,\n  \"b\": null\n}"},
     {"{\"b\":null,\"a\":1}", "{\"a\":1}", "{}", "{\"a\":1,\"b\":null,\"c\":1}",
      "{\"a\":1.5,\"b\":null}", "{\"a\":1  ,\"b\":null}"}},
    {"{\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"required\":[\"b\"]}",
     {"{\"b\":1}", "{\"a\":1,\"b\":1}", "{\"a\":1,\"b\":1,\"c\":1}", "{\"b\":1,\"c\":1}"},
     {"{}", "{\"a\":1}", "{\"c\":1}", "{\"a\":1,\"c\":1}", "{\"b\":1,\"a\":1}", "{,\"b\":1}",
      "{\"b\":1,}"}},
    {"{\"properties\":{\"a\":{},\"b\":{},\"c\":{}}}",
     {"{}", "{\"a\":1}", "{\"b\":1}", "{\"c\":1}", "{\"a\":1,\"c\":1}",
      "{\"a\":1,\"b\":1,\"c\":1}"},
     {"{\"c\":1,\"a\":1}", "{\"a\":1,\"a\":1}", "{,}", "{\"d\":1}"}},
    {"{\"properties\":{\"a\":{}},\"required\":[\"a\"],\"additionalProperties\":"
     "{\"type\":\"integer\"}}",
     {"{\"a\":\"x\"}", "{\"a\":\"x\",\"b\":1}", "{\"a\":1,\"ab\":2,\"\":3}"},
     {"{\"a\":1,\"a\":2}", "{\"b\":1}", "{\"a\":1,\"b\":\"x\"}"}},
    {"{\"properties\":{\"ab\":{},\"a\":{},\"b]\":{}},\"additionalProperties\":true}",
     {"{}", "{\"ab\":1,\"abc\":2}", "{\"x\":1,\"y\":2}", "{\"a\":0,\"b\":1}", "{\"b]x\":0}"},
     {"{\"x\":1,\"ab\":2}", "{\"ab\":1,\"ab\":2}", "{\"x\":1,\"b]\":2}"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"null\"}}",
     {"{}", "{\"a\":null,\"b\":null}"},
     {"{\"a\":1}", "{\"a\":null,}"}},
    {"{\"type\":\"array\"}", {"[]", "[1, \"a\"]"}, {"{}", "[1 2]", "[1 ,2]", "[1\n,2]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
     {"[]", "[1,2,3]", "[ 1 ]"},
     {"[\"a\"]"}},
    {"{\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}",
     {"[1,2]", "[1,2,3]"},
     {"[]", "[1]", "[1,2,3,4]"}},
    {"{\"items\":{\"type\":\"integer\"},\"maxItems\":1}", {"[]", "[1]"}, {"[1,2]"}},
    {"{\"type\":\"array\",\"maxItems\":0}", {"[]", "[ ]"}, {"[1]"}},
    {"{\"type\":\"array\",\"minItems\":1}", {"[1]", "[1,\"a\",{}]"}, {"[]"}},
    {"{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}",
     {"[1,\"a\"]"},
     {"[1]", "[\"a\",1]", "[1,\"a\",2]"}},
    {"{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"null\"},\"minItems\":2,"
     "\"maxItems\":3}",
     {"[1,null]", "[1,null,null]"},
     {"[1]", "[1,null,null,null]", "[1,2]"}},
    {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"array\",\"items\":{\"type\":\"null\"}}]}",
     {"1", "[null]"},
     {"\"a\"", "[1]"}},
    {"{\"oneOf\":[{\"const\":1},{\"const\":2}]}", {"1", "2"}, {"3", "12"}},
    {"{\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
     "\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]}},"
     "\"required\":[\"v\",\"next\"]}},\"allOf\":[{\"$ref\":\"#/$defs/node\"}]}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", {"[]", "[[],[[]]]"}, {"[1]"}},
};

static void test_what_is_taken(void **state)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct sample *sample = &samples[i];
        struct api_request request;
        struct api_error error;
        if (parse(&request, sample->schema, &error) != ERR_OK)
            fail_msg("%s: %s", sample->schema, error.message);
        const char *rules = request.prompt.params.grammar;
        assert_non_null(rules);
        for (size_t k = 0; k < 9 && sample->taken[k] != NULL; k++)
            if (!gbnf_takes(rules, sample->taken[k]))
                fail_msg("%s: not taken: %s\n%s", sample->schema, sample->taken[k], rules);
        for (size_t k = 0; k < 12 && sample->refused[k] != NULL; k++)
            if (gbnf_takes(rules, sample->refused[k]))
                fail_msg("%s: taken: %s\n%s", sample->schema, sample->refused[k], rules);
        api_request_done(&request);
    }
}

/* Every number near the bounds, against arithmetic. */
static void test_bounds(void **state)
{
    static const int bounds[] = {-1000, -101, -100, -99, -12, -10, -9,  -1,
                                 0,     1,    9,    10,  37,  99,  100, 250};
    const size_t count = sizeof bounds / sizeof *bounds;
    char schema[200], text[16];

    for (size_t a = 0; a < count; a++) {
        for (size_t b = a; b <= count; b++) {
            struct api_request request;
            struct api_error error;
            if (b < count)
                snprintf(schema, sizeof schema,
                         "{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", bounds[a],
                         bounds[b]);
            else
                snprintf(schema, sizeof schema, "{\"type\":\"integer\",\"minimum\":%d}", bounds[a]);
            assert_int_equal(parse(&request, schema, &error), ERR_OK);
            for (int value = -1200; value <= 1200; value += value % 7 == 0 ? 3 : 1) {
                bool fits = value >= bounds[a] && (b == count || value <= bounds[b]);
                snprintf(text, sizeof text, "%d", value);
                if (gbnf_takes(request.prompt.params.grammar, text) != fits)
                    fail_msg("%s: %s", schema, text);
            }
            api_request_done(&request);
        }
    }
}

#define AT "response_format.json_schema.schema"

static void test_refused(void **state)
{
    static const struct {
        const char *schema, *param;
    } cases[] = {
        {"7", AT},
        {"[]", AT},
        {"true", AT},
        {"{\"type\":\"colour\"}", AT ".type"},
        {"{\"type\":7}", AT ".type"},
        {"{\"type\":[]}", AT ".type"},
        {"{\"type\":[\"string\",7]}", AT ".type"},
        {"{\"pattern\":\"(a+)+$\"}", AT ".pattern"},
        {"{\"not\":{}}", AT ".not"},
        {"{\"type\":\"array\",\"uniqueItems\":true}", AT ".uniqueItems"},
        {"{\"properties\":{\"a\":{\"multipleOf\":2}}}", AT ".properties.a.multipleOf"},
        {"{\"properties\":{\"a\":7}}", AT ".properties.a"},
        {"{\"properties\":{\"a\":false}}", AT ".properties.a"},
        {"{\"properties\":[]}", AT ".properties"},
        {"{\"required\":\"a\"}", AT ".required"},
        {"{\"required\":[7]}", AT ".required"},
        {"{\"required\":[\"a\"]}", AT ".required"},
        {"{\"additionalProperties\":7}", AT ".additionalProperties"},
        {"{\"items\":{\"type\":\"x\"}}", AT ".items.type"},
        {"{\"prefixItems\":{}}", AT ".prefixItems"},
        {"{\"prefixItems\":[{},7]}", AT ".prefixItems[1]"},
        {"{\"minItems\":-1}", AT ".minItems"},
        {"{\"minItems\":1.5}", AT ".minItems"},
        {"{\"maxItems\":1001}", AT ".maxItems"},
        {"{\"maxItems\":1e308}", AT ".maxItems"},
        {"{\"minItems\":3,\"maxItems\":2}", AT ".minItems"},
        {"{\"prefixItems\":[{}],\"items\":false,\"minItems\":2}", AT ".minItems"},
        {"{\"minLength\":\"2\"}", AT ".minLength"},
        {"{\"type\":\"string\",\"format\":\"email\"}", AT ".format"},
        {"{\"format\":\"date\",\"minLength\":3}", AT ".format"},
        {"{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", AT ".minimum"},
        {"{\"type\":\"number\",\"minimum\":1,\"exclusiveMaximum\":1}", AT ".minimum"},
        {"{\"type\":\"number\",\"minimum\":0.5}", AT ".minimum"},
        {"{\"type\":\"integer\",\"maximum\":9223372036854775807}", AT ".maximum"},
        {"{\"type\":\"number\",\"exclusiveMinimum\":true}", AT ".exclusiveMinimum"},
        {"{\"enum\":[]}", AT ".enum"},
        {"{\"enum\":1}", AT ".enum"},
        {"{\"type\":\"string\",\"enum\":[1]}", AT ".enum"},
        {"{\"type\":\"string\",\"const\":1}", AT ".const"},
        {"{\"enum\":[\"a\"],\"minLength\":1}", AT ".minLength"},
        {"{\"minLength\":1,\"minimum\":1}", AT ".type"},
        {"{\"anyOf\":[]}", AT ".anyOf"},
        {"{\"anyOf\":{}}", AT ".anyOf"},
        {"{\"oneOf\":[{},{\"type\":\"x\"}]}", AT ".oneOf[1].type"},
        {"{\"allOf\":[{},{}]}", AT ".allOf"},
        {"{\"anyOf\":[{}],\"type\":\"string\"}", AT},
        {"{\"anyOf\":[{}],\"oneOf\":[{}]}", AT},
        {"{\"$ref\":\"http://127.0.0.1/x\"}", AT ".$ref"},
        {"{\"$ref\":\"#/$defs/none\"}", AT ".$ref"},
        {"{\"$ref\":7}", AT ".$ref"},
        {"{\"$ref\":\"#\"}", AT},
        {"{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"anyOf\":[{\"type\":\"null\"},"
         "{\"$ref\":\"#/$defs/a\"}]}},\"$ref\":\"#/$defs/a\"}",
         AT},
        {"{\"$defs\":{\"a\":{\"type\":\"x\"}},\"items\":{\"$ref\":\"#/$defs/a\"}}", AT ".a.type"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_request request;
        struct api_error error = {.status = 0};
        if (parse(&request, cases[i].schema, &error) != ERR_INVALID)
            fail_msg("taken: %s", cases[i].schema);
        if (strcmp(error.param, cases[i].param) != 0)
            fail_msg("'%s' named for %s", error.param, cases[i].schema);
        assert_int_equal(error.status, 400);
        assert_non_null(error.code);
    }
}

/* `count` times `part` (its %zu are the number and the next) between head and tail; how it is
 * taken. */
static enum err repeated(const char *head, const char *part, size_t count, const char *tail,
                         size_t *grammar_len)
{
    struct api_request request;
    struct api_error error = {.status = 0};
    struct buf schema;

    buf_init(&schema, 4 << 20);
    assert_int_equal(buf_append_text(&schema, head), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        char line[300];
        if (i > 0 && head[strlen(head) - 1] != ':')
            assert_int_equal(buf_append_text(&schema, ","), ERR_OK);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(line, sizeof line, part, i, i + 1);
#pragma GCC diagnostic pop
        assert_int_equal(buf_append_text(&schema, line), ERR_OK);
    }
    assert_int_equal(buf_append_text(&schema, tail), ERR_OK);
    enum err err = parse(&request, schema.data, &error);
    if (err == ERR_OK) {
        *grammar_len = strlen(request.prompt.params.grammar);
        api_request_done(&request);
    } else {
        assert_int_equal(error.status, 400);
        assert_true(strncmp(error.param, "response_format", 15) == 0);
    }
    buf_done(&schema);
    return err;
}

static void test_sizes_are_bounded(void **state)
{
    size_t len = 0;

    /* optional properties: linear */
    assert_int_equal(repeated("{\"properties\":{", "\"p%zu\":{}", 200, "}}", &len), ERR_OK);
    assert_true(len < 20000);
    assert_int_equal(repeated("{\"properties\":{", "\"p%zu\":{}", 5000, "}}", &len), ERR_INVALID);
    /* other names beside many */
    assert_int_equal(
        repeated("{\"properties\":{", "\"p%zu\":{}", 200, "},\"additionalProperties\":true}", &len),
        ERR_OK);
    /* depth */
    for (size_t depth = 20; depth <= 40; depth += 20) {
        char tail[64] = "{}";
        memset(tail + 2, '}', depth + 1);
        assert_int_equal(repeated("{\"items\":", "{\"items\":", depth, tail, &len),
                         depth == 20 ? ERR_OK : ERR_INVALID);
    }
    /* values, definitions, counts */
    assert_int_equal(repeated("{\"enum\":[", "\"value %zu\"", 1000, "]}", &len), ERR_OK);
    assert_int_equal(repeated("{\"enum\":[", "\"value %zu\"", 100000, "]}", &len), ERR_INVALID);
    assert_int_equal(repeated("{\"anyOf\":[", "{\"const\":%zu}", 5000, "]}", &len), ERR_INVALID);
    assert_int_equal(repeated("{\"properties\":{", "\"p%zu\":{\"maxLength\":1000}", 20, "}}", &len),
                     ERR_OK);
    assert_int_equal(repeated("{\"properties\":{", "\"p%zu\":{\"maxLength\":1000}", 21, "}}", &len),
                     ERR_INVALID);
    /* a chain of references, each but a name for the next: walked once, not by recursion */
    assert_int_equal(repeated("{\"items\":{\"$ref\":\"#/$defs/d0\"},\"$defs\":{\"d250\":{},",
                              "\"d%zu\":{\"$ref\":\"#/$defs/d%zu\"}", 250, "}}", &len),
                     ERR_OK);
    assert_int_equal(repeated("{\"items\":{\"$ref\":\"#/$defs/d0\"},\"$defs\":{\"d300\":{},",
                              "\"d%zu\":{\"$ref\":\"#/$defs/d%zu\"}", 300, "}}", &len),
                     ERR_INVALID);
}

static void test_other_formats(void **state)
{
#define MESSAGES "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}],"
    static const struct {
        const char *body, *param; /* param NULL: taken */
    } cases[] = {
        {MESSAGES "\"response_format\":{\"type\":\"json_object\"}}", NULL},
        {MESSAGES "\"response_format\":{\"type\":\"text\"},\"grammar\":\"root ::= \\\"a\\\"\"}",
         NULL},
        {MESSAGES "\"response_format\":{\"type\":\"json_object\"},\"grammar\":\"root ::= [a]\"}",
         "grammar"},
        {MESSAGES "\"response_format\":{}}", "response_format.type"},
        {MESSAGES "\"response_format\":{\"type\":\"xml\"}}", "response_format.type"},
        {MESSAGES "\"response_format\":7}", "response_format"},
        {MESSAGES "\"response_format\":{\"type\":\"json_schema\"}}", "response_format.json_schema"},
        {MESSAGES "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
         "response_format.json_schema.schema"},
        {MESSAGES "\"grammar\":7}", "grammar"},
        {MESSAGES "\"json_schema\":{\"type\":\"null\"}}", "json_schema"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_request request;
        struct api_error error = {.status = 0};
        enum err err = chat_parse(&request, cases[i].body, strlen(cases[i].body), 0, &error);
        if (cases[i].param != NULL) {
            if (err != ERR_INVALID || strcmp(error.param, cases[i].param) != 0)
                fail_msg("%d '%s' for %s", err, error.param, cases[i].body);
            continue;
        }
        assert_int_equal(err, ERR_OK);
        assert_non_null(request.prompt.params.grammar);
        api_request_done(&request);
    }
    struct api_request request;
    struct api_error error;
    assert_int_equal(chat_parse(&request, cases[0].body, strlen(cases[0].body), 0, &error), ERR_OK);
    assert_true(gbnf_takes(request.prompt.params.grammar, "{\"a\": [true, {}]}"));
    assert_false(gbnf_takes(request.prompt.params.grammar, "[]"));
    assert_false(gbnf_takes(request.prompt.params.grammar, "{\"a\":          1}"));
    api_request_done(&request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_taken), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_sizes_are_bounded),
        cmocka_unit_test(test_other_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
