/* render_result.c: vectors as they came or as numbers, tokens, texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/render.h"
#include "wire/json.h"

#define ID "0123456789abcdef0123456789abcdef"

static char *whole(enum api_kind kind, const char *result, const struct api_request *request)
{
    json_t *root = json_loads(result, 0, NULL);
    struct reply record = {.id = ID,
                           .prompter = "",
                           .model = "m",
                           .text = "",
                           .prompt_tokens = 4,
                           .worker = "w",
                           .node = "n",
                           .device = "d",
                           .responder = "r",
                           .result = root};
    const struct reply *records = &record;
    struct render render = {.kind = kind, .model = "m"};
    struct buf out;

    buf_init(&out, 1 << 20);
    assert_int_equal(render_whole(&render, &records, 1, request, &out), ERR_OK);
    json_decref(root);
    return buf_take(&out, NULL);
}

static void append_base64(struct buf *out, const unsigned char *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)bytes[i] << 16;
        bits |= i + 1 < len ? (uint32_t)bytes[i + 1] << 8 : 0;
        bits |= i + 2 < len ? bytes[i + 2] : 0;
        char group[4] = {digits[bits >> 18], digits[bits >> 12 & 63],
                         i + 1 < len ? digits[bits >> 6 & 63] : '=',
                         i + 2 < len ? digits[bits & 63] : '='};
        assert_int_equal(buf_append(out, group, 4), ERR_OK);
    }
}

static void test_floats_are_the_same_floats(void **state)
{
    float numbers[4096];
    unsigned seed = 3;
    struct buf result;
    const struct api_request request = {.as_base64 = false};

    for (size_t i = 0; i < 4096; i++) {
        uint32_t bits = (uint32_t)rand_r(&seed) << 16 ^ (uint32_t)rand_r(&seed);
        if ((bits >> 23 & 0xff) == 0xff)
            bits &= ~(1u << 24); /* a number */
        memcpy(&numbers[i], &bits, 4);
    }
    numbers[0] = 0.1F;
    numbers[1] = -1.0F;
    for (size_t count = 1; count <= 4096; count = count < 8 ? count + 1 : count * 8) {
        buf_init(&result, 1 << 20);
        assert_int_equal(buf_append_text(&result, "{\"embeddings\":[\""), ERR_OK);
        append_base64(&result, (const unsigned char *)numbers, count * 4);
        assert_int_equal(buf_append_text(&result, "\"]}"), ERR_OK);
        char *text = whole(API_EMBEDDING, result.data, &request);
        json_t *value = json_loads(text, 0, NULL);
        assert_non_null(value);
        const json_t *vector =
            json_object_get(json_array_get(json_object_get(value, "data"), 0), "embedding");
        assert_int_equal(json_array_size(vector), count);
        for (size_t i = 0; i < count; i++) {
            float back = (float)json_number_value(json_array_get(vector, i));
            assert_true(memcmp(&back, &numbers[i], 4) == 0 || (back == 0 && numbers[i] == 0));
        }
        json_decref(value);
        free(text);
        buf_done(&result);
    }
}

static void test_embeddings(void **state)
{
    struct api_request request = {.as_base64 = true};
    char *text = whole(API_EMBEDDING, "{\"embeddings\":[\"zczMPQ==\",\"AACAvw==\"]}", &request);

    assert_true(
        strncmp(text,
                "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,"
                "\"embedding\":\"zczMPQ==\"},{\"object\":\"embedding\",\"index\":1,"
                "\"embedding\":\"AACAvw==\"}],\"model\":\"m\",\"usage\":{\"prompt_tokens\":4,"
                "\"total_tokens\":4},",
                strlen("{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,"
                       "\"embedding\":\"zczMPQ==\"},{")) == 0);
    free(text);
    request.as_base64 = false;
    text = whole(API_EMBEDDING, "{\"embeddings\":[\"zczMPQAAgL8=\"]}", &request);
    assert_non_null(strstr(text, "\"embedding\":[0.100000001,-1]}]"));
    free(text);
    /* what is broken gives no numbers that were not there */
    text = whole(API_EMBEDDING, "{\"embeddings\":[\"zczM\",7,\"!!!!\"]}", &request);
    assert_non_null(strstr(text, "\"index\":0,\"embedding\":[]}"));
    assert_non_null(strstr(text, "\"index\":2,\"embedding\":[]}"));
    free(text);
}

static void test_llama_servers(void **state)
{
    static const struct {
        enum api_kind kind;
        const char *result, *text;
        bool with_pieces;
    } cases[] = {
        {API_TOKENIZE, "{\"tokens\":[5,6],\"pieces\":[\"a\",\" b\"]}", "{\"tokens\":[5,6]}", false},
        {API_TOKENIZE, "{\"tokens\":[5,6],\"pieces\":[\"a\",\" b\"]}",
         "{\"tokens\":[{\"id\":5,\"piece\":\"a\"},{\"id\":6,\"piece\":\" b\"}]}", true},
        {API_TOKENIZE, "{\"tokens\":[5,6],\"pieces\":[[240,159],7]}",
         "{\"tokens\":[{\"id\":5,\"piece\":[240,159]},{\"id\":6,\"piece\":\"\"}]}", true},
        {API_TOKENIZE, "{\"tokens\":[],\"pieces\":[]}", "{\"tokens\":[]}", false},
        {API_DETOKENIZE, "{\"content\":\"a b\"}", "{\"content\":\"a b\"}", false},
        {API_TEMPLATE, "{\"prompt\":\"<|im_start|>\"}", "{\"prompt\":\"<|im_start|>\"}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct api_request request = {.with_pieces = cases[i].with_pieces};
        char *text = whole(cases[i].kind, cases[i].result, &request);
        assert_string_equal(text, cases[i].text);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_floats_are_the_same_floats),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_llama_servers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
