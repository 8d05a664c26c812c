/* Text that fits a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/wrap.h"

static void expect(const char *text, int column, int indent, int width, const char *wanted)
{
    char *got = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&got, &len);
    wrap_print(out, text, column, indent, width);
    fclose(out);
    assert_string_equal(got, wanted);
    free(got);
}

static void lines_break_at_spaces(void **state)
{
    expect("", 0, 0, 10, "\n");
    expect("one two three", 0, 0, 80, "one two three\n");
    expect("one two three", 0, 2, 8, "one two\n  three\n");
    expect("one two", 6, 4, 10, "one\n    two\n");
    expect("exactly ten", 0, 0, 11, "exactly ten\n");
    expect("exactly ten!", 0, 0, 11, "exactly\nten!\n");
}

static void long_words_and_newlines_stay(void **state)
{
    expect("unbreakableword x", 0, 1, 5, "unbreakableword\n x\n");
    expect("a\nb", 3, 3, 20, "a\n   b\n");
}

static void columns_are_counted_not_bytes(void **state)
{
    assert_int_equal(wrap_columns("abc"), 3);
    assert_int_equal(wrap_columns("wörld"), 5);
    assert_int_equal(wrap_columns("日本"), 4);
    assert_int_equal(wrap_columns("e\xcc\x81"), 1); /* a combining accent */
    assert_int_equal(wrap_columns("\xf0\x9f\x98\x80"), 2);
    assert_int_equal(wrap_columns("\xf0\x9f"), 1); /* cut: no reading beyond the end */
    expect("ää öö", 0, 0, 5, "ää öö\n");
}

static void the_width_has_bounds(void **state)
{
    setenv("COLUMNS", "5", 1);
    assert_int_equal(wrap_width(-1), WRAP_WIDTH_LEAST);
    setenv("COLUMNS", "100000", 1);
    assert_int_equal(wrap_width(-1), WRAP_WIDTH_MOST);
    setenv("COLUMNS", "many", 1);
    assert_int_equal(wrap_width(-1), WRAP_WIDTH_DEFAULT);
    unsetenv("COLUMNS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_break_at_spaces),
        cmocka_unit_test(long_words_and_newlines_stay),
        cmocka_unit_test(columns_are_counted_not_bytes),
        cmocka_unit_test(the_width_has_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
