/* json.c, utf8.c: bounds, what is refused, naming the field, and that what we write reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/json.h"
#include "wire/utf8.h"

static enum err parse(const char *text, char field[64])
{
    json_t *value = NULL;
    /* a copy without a byte to spare, so that a sanitizer sees reads beyond it */
    size_t len = strlen(text);
    char *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, text, len);
    enum err err = json_parse_naming(&value, copy, len, field, 64);
    json_decref(value);
    free(copy);
    return err;
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *field;
    } cases[] = {
        {"", ""},
        {"{", ""},
        {"{\"a\":1", "a"},
        {"{\"a\":1}x", ""},
        {"{\"a\":\"\\u0000\"}", "a"},
        {"{\"a\":\"\\ud800\"}", "a"},
        {"{\"a\":1,\"a\":2}", "a"},
        {"{\"x\":{\"y\":1},\"max_tokens\":1e999}", "max_tokens"},
        {"{\"x\":[1,2],\"a\":\"\xff\"}", "a"},
        {"{\"x\":[1,2],\"a\":\"\xed\xa0\x80\"}", "a"},
        {"{\"a\":tru}", "a"},
        {"\"abc", ""},
        {"\"abc\\", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char field[64] = "?";
        assert_int_equal(parse(cases[i].text, field), ERR_INVALID);
        assert_string_equal(field, cases[i].field);
    }
}

static void test_depth(void **state)
{
    char text[2 * JSON_MAX_DEPTH + 8], field[64];
    json_t *value = NULL;

    memset(text, '[', JSON_MAX_DEPTH);
    memset(text + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
    assert_int_equal(json_parse(&value, text, 2 * JSON_MAX_DEPTH), ERR_OK);
    json_decref(value);
    memset(text, '[', JSON_MAX_DEPTH + 1);
    memset(text + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
    value = NULL;
    assert_int_equal(json_parse(&value, text, 2 * JSON_MAX_DEPTH + 2), ERR_LIMIT);
    assert_null(value);
    /* brackets in strings are no nesting */
    assert_int_equal(
        parse("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"", field),
        ERR_OK);
    size_t len = 100000;
    char *deep = malloc(len);
    memset(deep, '[', len);
    assert_int_equal(json_parse(&value, deep, len), ERR_LIMIT);
    free(deep);
}

/* And they alone: their neighbours stay integers, the texts that look like them texts. */
static void test_large_integers_become_reals(void **state)
{
    json_t *value = NULL;
    const char *text = "{\"a\":99999999999999999999,\"b\":5,\"99999999999999999999\":\"\\\"-9\","
                       "\"c\":[9223372036854775807,9223372036854775808,-9223372036854775808,"
                       "-9223372036854775809,0,99999999999999999999.5,99999999999999999999e1]}";
    static const bool real[] = {false, true, false, true, false, true, true};

    assert_int_equal(json_parse(&value, text, strlen(text)), ERR_OK);
    assert_true(json_is_real(json_object_get(value, "a")));
    assert_true(json_number(value, "a", 0) == 99999999999999999999.0);
    assert_int_equal(json_int(value, "b", 0), 5);
    assert_string_equal(json_text(value, "99999999999999999999", ""), "\"-9");
    const json_t *c = json_object_get(value, "c");
    assert_int_equal(json_array_size(c), sizeof real);
    for (size_t i = 0; i < sizeof real; i++)
        assert_int_equal(json_is_real(json_array_get(c, i)), real[i]);
    assert_true(json_integer_value(json_array_get(c, 0)) == INT64_MAX);
    assert_true(json_integer_value(json_array_get(c, 2)) == INT64_MIN);
    assert_true(json_real_value(json_array_get(c, 3)) == -0x1p63);
    json_decref(value);
    value = NULL;
    assert_int_equal(json_parse(&value, "-1000000000000000000000000000000", 32), ERR_OK);
    assert_true(json_real_value(value) == -1e30);
    json_decref(value);
}

/* What is wrong beside them is found where it stands: as beside a number of the same length. */
static void test_faults_beside_large_integers(void **state)
{
    static const struct {
        const char *text, *field;
    } cases[] = {
        {"{\"a\":#,\"b\":tru}", "b"},
        {"{\"a\":[#,#],\n \"b\":#,\"c\":1e999}", "c"},
        {"{\"a\":[#,#],\n \"b\":#,\"c\":tru}", "c"},
        {"{\"a\":[#,#,\n \"b\":#", "a"},
        {"{\"a\":#,\"a\":1}", "a"},
        {"{\"a\":#,\"b\":\"\\u0000\"}", "b"},
        {"{\"a\":#-1}", "a"},
        {"{\"a\":#,\"b\":\"#", "b"},
        {"{\"a\":#,\"b\":\"\\", "b"},
        {"#,", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const char *const numbers[] = {"1.345678901234567890", "99999999999999999999"};
        char said[2][256];
        for (size_t k = 0; k < 2; k++) {
            char text[256] = "", field[64] = "?";
            for (const char *at = cases[i].text; *at != '\0'; at++)
                strncat(text, *at == '#' ? numbers[k] : at, *at == '#' ? 20 : 1);
            assert_int_equal(parse(text, field), ERR_INVALID);
            assert_string_equal(field, cases[i].field);
            snprintf(said[k], sizeof said[k], "%.*s", (int)strcspn(err_text(), ":"), err_text());
        }
        assert_string_equal(said[1], said[0]);
    }
    char deep[2 * JSON_MAX_DEPTH + 64], field[64];
    memset(deep, '[', JSON_MAX_DEPTH + 1);
    strcpy(deep + JSON_MAX_DEPTH + 1, "99999999999999999999");
    assert_int_equal(parse(deep, field), ERR_LIMIT);
}

static void test_typed_access(void **state)
{
    json_t *value = NULL;
    const char *text = "{\"t\":\"x\",\"i\":-3,\"n\":1.5,\"f\":true,\"u\":\"h\\u00e9\xe2\x82\xac\"}";
    char copy[5];

    assert_int_equal(json_parse(&value, text, strlen(text)), ERR_OK);
    assert_string_equal(json_text(value, "t", "?"), "x");
    assert_string_equal(json_text(value, "i", "?"), "?");
    assert_int_equal(json_int(value, "i", 9), -3);
    assert_int_equal(json_uint(value, "i", 9), 9);
    assert_int_equal(json_int(value, "n", 9), 9);
    assert_true(json_number(value, "n", 0) == 1.5);
    assert_true(json_number(value, "i", 0) == -3.0);
    assert_true(json_flag(value, "f", false));
    assert_true(json_flag(value, "t", true));
    json_text_copy(value, "u", copy, sizeof copy); /* h é, and no part of the euro sign */
    assert_string_equal(copy, "h\xc3\xa9");
    json_decref(value);
}

static void test_strings_read_back(void **state)
{
    char every[0x80];
    struct buf buf;
    json_t *value = NULL;

    for (int i = 0; i < 0x7f; i++)
        every[i] = (char)(i + 1);
    every[0x7f] = '\0';
    buf_init(&buf, 4096);
    assert_int_equal(json_append_string(&buf, every, 0x7f), ERR_OK);
    assert_int_equal(json_parse(&value, buf.data, buf.len), ERR_OK);
    assert_string_equal(json_string_value(value), every);
    json_decref(value);
    buf_clear(&buf);
    /* NUL, a lone continuation, a cut character: each becomes U+FFFD, the rest stays */
    assert_int_equal(json_append_string(&buf, "a\0b\x80\xe2\x82\xacz\xe2\x82", 10), ERR_OK);
    assert_string_equal(buf.data, "\"a\xef\xbf\xbd"
                                  "b\xef\xbf\xbd\xe2\x82\xacz\xef\xbf\xbd\xef\xbf\xbd\"");
    buf_done(&buf);
}

static void test_out_writes_and_takes_back(void **state)
{
    struct buf buf;
    struct json_out out;

    buf_init(&buf, 120);
    assert_int_equal(buf_append_text(&buf, "x"), ERR_OK);
    json_out_begin(&out, &buf);
    json_out_object(&out, NULL);
    json_out_int(&out, "i", INT64_MIN);
    json_out_uint(&out, "u", UINT64_MAX);
    json_out_number(&out, "n", 0.1);
    json_out_number(&out, "bad", NAN);
    json_out_time(&out, "t", 1732375850.25);
    json_out_array(&out, "a");
    json_out_object(&out, NULL);
    json_out_object_end(&out);
    json_out_flag(&out, NULL, true);
    json_out_array_end(&out);
    json_out_object_end(&out);
    assert_int_equal(json_out_end(&out), ERR_OK);
    assert_string_equal(buf.data,
                        "x{\"i\":-9223372036854775808,\"u\":18446744073709551615,\"n\":0.1,"
                        "\"bad\":null,\"t\":1732375850.250000,\"a\":[{},true]}");
    size_t before = buf.len;
    json_out_begin(&out, &buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "k", "more than the limit");
    json_out_text(&out, "l", "of one hundred and twenty bytes");
    json_out_object_end(&out);
    assert_int_equal(json_out_end(&out), ERR_LIMIT);
    assert_int_equal(buf.len, before);
    assert_int_equal(buf.data[before], 0);
    buf_done(&buf);
}

static void test_json_write(void **state)
{
    json_t *value = json_pack("{s:i,s:[s]}", "a", 1, "b", "\xc3\xa9");
    struct buf buf;

    buf_init(&buf, 64);
    assert_int_equal(json_write(value, &buf), ERR_OK);
    assert_string_equal(buf.data, "{\"a\":1,\"b\":[\"\xc3\xa9\"]}");
    buf_done(&buf);
    buf_init(&buf, 10);
    assert_int_equal(json_write(value, &buf), ERR_LIMIT);
    assert_int_equal(buf.len, 0);
    buf_done(&buf);
    json_decref(value);
}

/* Every sequence of one to four bytes against the definition: decode, and encode again. */
static size_t slow_char_len(const unsigned char *s, size_t len)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t need = s[0] < 0x80       ? 1
                  : s[0] >> 5 == 6  ? 2
                  : s[0] >> 4 == 14 ? 3
                  : s[0] >> 3 == 30 ? 4
                                    : 0;
    unsigned code = need == 1 ? s[0] : s[0] & (0x7fU >> need);

    if (need == 0 || need > len)
        return 0;
    for (size_t i = 1; i < need; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        code = code << 6 | (s[i] & 0x3fU);
    }
    if (code < least[need] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return 0;
    return need;
}

static void test_utf8(void **state)
{
    static const unsigned char interesting[] = {
        0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf,
        0xe0, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff};
    const size_t n = sizeof interesting;
    unsigned char s[4];

    for (unsigned first = 0; first < 256; first++) {
        for (size_t rest = 0; rest < n * n * n; rest++) {
            s[0] = (unsigned char)first;
            s[1] = interesting[rest % n];
            s[2] = interesting[rest / n % n];
            s[3] = interesting[rest / n / n];
            for (size_t len = 1; len <= 4; len++)
                if (utf8_char_len((const char *)s, len) != slow_char_len(s, len))
                    fail_msg("%02x %02x %02x %02x, %zu bytes", s[0], s[1], s[2], s[3], len);
        }
    }
    assert_int_equal(utf8_char_len("", 0), 0);
    assert_true(utf8_is_valid("a\0\xf0\x9f\x98\x80", 6));
    assert_false(utf8_is_valid("a\xf0\x9f\x98", 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_large_integers_become_reals),
        cmocka_unit_test(test_faults_beside_large_integers),
        cmocka_unit_test(test_typed_access),
        cmocka_unit_test(test_strings_read_back),
        cmocka_unit_test(test_out_writes_and_takes_back),
        cmocka_unit_test(test_json_write),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
