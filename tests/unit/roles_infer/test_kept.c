/* Kept pieces come out as they went in, from any number on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "roles/infer/kept.h"

static void test_slices(void **state)
{
    struct kept kept;
    char text[16];
    int32_t tokens[3];
    struct piece items[100];
    kept_init(&kept, 1 << 20);
    for (int i = 0; i < 1000; i++) {
        tokens[0] = i;
        tokens[1] = tokens[2] = -i;
        struct piece piece = {.text = text, .tokens = tokens, .token_count = (size_t)i % 4};
        piece.text_len = (size_t)snprintf(text, sizeof text, "p%d ", i);
        assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    }
    assert_int_equal(kept.count, 1000);
    for (size_t first = 0; first + 100 <= 1000; first += 37) {
        kept_slice(&kept, first, 100, items);
        for (size_t i = 0; i < 100; i++) {
            int n = (int)(first + i);
            int len = snprintf(text, sizeof text, "p%d ", n);
            assert_int_equal(items[i].text_len, len);
            assert_memory_equal(items[i].text, text, (size_t)len);
            assert_int_equal(items[i].token_count, n % 4);
            if (n % 4 > 0)
                assert_int_equal(items[i].tokens[0], n);
            if (n % 4 > 1)
                assert_int_equal(items[i].tokens[1], -n);
        }
    }
    kept_clear(&kept);
    assert_int_equal(kept.count, 0);
    kept_done(&kept);
}

static void test_bound(void **state)
{
    struct kept kept;
    const struct piece piece = {.text = "12345678", .text_len = 8};
    kept_init(&kept, 20);
    assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    assert_int_equal(kept_add(&kept, &piece), ERR_LIMIT);
    assert_int_equal(kept.count, 2);
    assert_string_equal(buf_text(&kept.text), "1234567812345678");
    kept_done(&kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
