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
    kept_init(&kept, 1 << 20, 1 << 20);
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
    kept_init(&kept, 20, 20);
    assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    assert_int_equal(kept_add(&kept, &piece), ERR_LIMIT);
    assert_int_equal(kept.count, 2);
    assert_string_equal(buf_text(&kept.text), "1234567812345678");
    kept_done(&kept);
}

/* Pieces with logprobs and without take turns; both come out as they went in. */
static void test_logprobs(void **state)
{
    struct kept kept;
    struct piece items[9];
    json_t *array = NULL, *cuts = NULL;
    char entry[32];
    kept_init(&kept, 1000, 1000);
    assert_int_equal(kept_logprobs(&kept, &array), ERR_OK);
    assert_null(array);
    for (int i = 0; i < 9; i++) {
        struct piece piece = {.text = "abcdefghi", .text_len = (size_t)i};
        if (i % 2 == 0) {
            piece.logprobs = entry;
            piece.logprobs_len = (size_t)snprintf(entry, sizeof entry, "[{\"token\":\"t%d\"}]", i);
        }
        assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    }
    kept_slice(&kept, 0, 9, items);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(items[i].logprobs != NULL, i % 2 == 0);
        int len = snprintf(entry, sizeof entry, "[{\"token\":\"t%d\"}]", i);
        assert_int_equal(items[i].logprobs_len, i % 2 == 0 ? len : 0);
        if (i % 2 == 0)
            assert_memory_equal(items[i].logprobs, entry, (size_t)len);
    }
    assert_int_equal(kept_logprobs(&kept, &array), ERR_OK);
    assert_int_equal(json_array_size(array), 5);
    assert_string_equal(json_string_value(json_object_get(json_array_get(array, 4), "token")),
                        "t8");
    json_decref(array);
    assert_int_equal(kept_cuts(&kept, &cuts), ERR_OK);
    assert_int_equal(json_array_size(cuts), 9);
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(json_integer_value(json_array_get(cuts, i)), i);
    json_decref(cuts);
    const struct piece broken = {.text = "x", .text_len = 1, .logprobs = "[{", .logprobs_len = 2};
    assert_int_equal(kept_add(&kept, &broken), ERR_OK);
    assert_int_equal(kept_logprobs(&kept, &array), ERR_INVALID);
    kept_clear(&kept);
    assert_int_equal(kept_logprobs(&kept, &array), ERR_OK);
    assert_null(array);
    assert_int_equal(kept_cuts(&kept, &cuts), ERR_OK);
    assert_int_equal(json_array_size(cuts), 0);
    json_decref(cuts);
    kept_done(&kept);
}

/* Where logprobs do not fit, nothing of the piece is there. */
static void test_logprobs_bound(void **state)
{
    struct kept kept;
    const struct piece piece = {
        .text = "1234", .text_len = 4, .logprobs = "[1,2,3]", .logprobs_len = 7};
    kept_init(&kept, 100, 10);
    assert_int_equal(kept_add(&kept, &piece), ERR_OK);
    assert_int_equal(kept_add(&kept, &piece), ERR_LIMIT);
    assert_int_equal(kept.count, 1);
    assert_string_equal(buf_text(&kept.text), "1234");
    kept_done(&kept);
}

static void test_fitting(void **state)
{
    struct kept kept;
    int32_t tokens[4] = {1, 2, 3, 4};
    const struct piece small = {.text = "1234", .text_len = 4, .tokens = tokens, .token_count = 1};
    static char text[1000];
    memset(text, 'x', sizeof text);
    const struct piece large = {
        .text = text, .text_len = 50, .logprobs = text, .logprobs_len = sizeof text};
    kept_init(&kept, 1 << 20, 1 << 20);
    for (int i = 0; i < 10; i++)
        assert_int_equal(kept_add(&kept, &small), ERR_OK);
    assert_int_equal(kept_add(&kept, &large), ERR_OK);
    assert_int_equal(kept_fitting(&kept, 0, 512, 80), 10); /* 8 bytes each */
    assert_int_equal(kept_fitting(&kept, 0, 512, 79), 9);
    assert_int_equal(kept_fitting(&kept, 0, 3, 80), 3);
    assert_int_equal(kept_fitting(&kept, 9, 512, 100), 1);
    assert_int_equal(kept_fitting(&kept, 10, 512, 100), 1); /* alone, whatever its size */
    assert_int_equal(kept_fitting(&kept, 0, 512, 2000), 11);
    assert_int_equal(kept_fitting(&kept, 11, 512, 2000), 0);
    kept_done(&kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),   cmocka_unit_test(test_bound),
        cmocka_unit_test(test_logprobs), cmocka_unit_test(test_logprobs_bound),
        cmocka_unit_test(test_fitting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
