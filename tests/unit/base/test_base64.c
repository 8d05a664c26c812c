/* base64: RFC 4648's own examples, every length, and texts that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base64.h"

static void test_examples(void **state)
{
    static const char *const pairs[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xff\xfe\xfb", "//77"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct buf out;
        buf_init(&out, 100);
        size_t len = strlen(pairs[i][0]);
        assert_int_equal(base64_encode(&out, pairs[i][0], len), ERR_OK);
        assert_string_equal(buf_text(&out), pairs[i][1]);
        assert_int_equal(out.len, base64_len(len));
        buf_clear(&out);
        assert_int_equal(base64_decode(&out, pairs[i][1], strlen(pairs[i][1])), ERR_OK);
        assert_string_equal(buf_text(&out), pairs[i][0]);
        buf_done(&out);
    }
}

static void test_all_lengths(void **state)
{
    static unsigned char data[10000];
    srand(7);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)rand();
    for (size_t len = 0; len <= sizeof data; len += len < 100 ? 1 : 997) {
        struct buf text, bytes;
        buf_init(&text, 20000);
        buf_init(&bytes, 20000);
        assert_int_equal(base64_encode(&text, data, len), ERR_OK);
        assert_int_equal(text.len, base64_len(len));
        assert_int_equal(base64_decode(&bytes, buf_text(&text), text.len), ERR_OK);
        assert_int_equal(bytes.len, len);
        if (len > 0)
            assert_memory_equal(bytes.data, data, len);
        buf_done(&text);
        buf_done(&bytes);
    }
}

static void test_refused(void **state)
{
    static const char *const bad[] = {"Z",    "Zg",     "Zg=",  "Zg==Zg==", "Z===", "====", "Zh==",
                                      "Zm9=", "Zm9v\n", "Z g=", "Zm-_",     "=AAA", "Zg=g"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf out;
        buf_init(&out, 100);
        assert_int_equal(buf_append_text(&out, "kept"), ERR_OK);
        assert_int_equal(base64_decode(&out, bad[i], strlen(bad[i])), ERR_INVALID);
        assert_string_equal(buf_text(&out), "kept");
        buf_done(&out);
    }
}

static void test_bound(void **state)
{
    struct buf out;
    char data[5000] = "";
    buf_init(&out, 4096);
    assert_int_equal(buf_append_text(&out, "kept"), ERR_OK);
    assert_int_equal(base64_encode(&out, data, sizeof data), ERR_LIMIT);
    assert_string_equal(buf_text(&out), "kept");
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_all_lengths),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
