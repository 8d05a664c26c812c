#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/emit.h"

static struct emit emit;

static void begin(const char *const *stop, size_t count)
{
    assert_int_equal(emit_init(&emit, stop, count), ERR_OK);
}

static int end(void **state)
{
    emit_done(&emit);
    return 0;
}

static void put(int32_t token, const char *text)
{
    assert_int_equal(emit_token(&emit, token, text, strlen(text)), ERR_OK);
}

/* The piece, "" if none. */
static const char *take(bool last)
{
    bool any = false;
    assert_int_equal(emit_take(&emit, last, &any), ERR_OK);
    assert_true(any == (emit.piece.len > 0 || emit.tokens.len > 0));
    return buf_text(&emit.piece);
}

static size_t tokens_taken(void)
{
    return emit.tokens.len / sizeof(int32_t);
}

static void words_go_straight_out(void **state)
{
    begin(NULL, 0);
    put(1, "Hello");
    assert_string_equal(take(false), "Hello");
    assert_int_equal(tokens_taken(), 1);
    assert_string_equal(take(false), "");
    assert_int_equal(tokens_taken(), 0);
    put(2, "");
    assert_string_equal(take(false), "");
    put(3, " you");
    assert_string_equal(take(false), " you");
    assert_int_equal(tokens_taken(), 2); /* the one without text too */
}

static void emoji_over_tokens(void **state)
{
    begin(NULL, 0);
    put(1, "a\xF0\x9F");
    assert_string_equal(take(false), "a");
    put(2, "\x99");
    assert_string_equal(take(false), "");
    put(3, "\x82"
           "b");
    assert_string_equal(take(false), "\xF0\x9F\x99\x82"
                                     "b");
    assert_int_equal(tokens_taken(), 2);
}

static void unfinished_character_is_dropped_at_the_end(void **state)
{
    begin(NULL, 0);
    put(1, "a\xE2\x82");
    assert_string_equal(take(true), "a");
    assert_int_equal(tokens_taken(), 1);
}

static void bytes_that_are_no_text(void **state)
{
    begin(NULL, 0);
    put(1, "a\xFF"
           "b\xE2\x82z\xED\xA0\x80");
    /* One for 0xFF, one for the cut-off character, three for the surrogate. */
    assert_string_equal(take(false), "a\xEF\xBF\xBD"
                                     "b\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD"
                                     "\xEF\xBF\xBD");
}

static void stop_string_over_tokens(void **state)
{
    const char *stop[] = {"STOP", "\n\n"};
    begin(stop, 2);
    put(1, "one S");
    assert_string_equal(take(false), "one ");
    put(2, "TO");
    assert_string_equal(take(false), "");
    put(3, "Ptwo");
    assert_true(emit.stopped);
    assert_string_equal(take(true), "");
    assert_int_equal(tokens_taken(), 2);
}

static void almost_a_stop_string(void **state)
{
    const char *stop[] = {"STOP"};
    begin(stop, 1);
    put(1, "ST");
    assert_string_equal(take(false), "");
    put(2, "STO");
    assert_string_equal(take(false), "ST");
    put(3, "RE");
    assert_string_equal(take(false), "STORE");
    assert_false(emit.stopped);
}

static void held_back_text_comes_at_the_end(void **state)
{
    const char *stop[] = {"STOP"};
    begin(stop, 1);
    put(1, "ST");
    assert_string_equal(take(true), "ST");
}

static void the_first_stop_string_wins(void **state)
{
    const char *stop[] = {"cd", "bc"};
    begin(stop, 2);
    put(1, "abcdef");
    assert_true(emit.stopped);
    assert_string_equal(take(true), "a");
}

static void nothing_after_the_stop(void **state)
{
    const char *stop[] = {"."};
    begin(stop, 1);
    put(1, "a.");
    put(2, "b");
    assert_string_equal(take(true), "a");
}

static void going_on(void **state)
{
    const char *stop[] = {"STOP"};
    begin(stop, 1);
    put(1, "Hello ");
    put(2, "S");
    put(3, "\xF0\x9F");
    assert_int_equal(emit_resume(&emit, "Hel"), ERR_OK);
    assert_string_equal(take(false), "lo "); /* S and the emoji's beginning are held back again */
    assert_int_equal(tokens_taken(), 0);
    put(4, "\x99\x82");
    assert_string_equal(take(false), "S\xF0\x9F\x99\x82");
    assert_int_equal(tokens_taken(), 1);
}

static void going_on_from_another_text(void **state)
{
    begin(NULL, 0);
    put(1, "Hello ");
    assert_int_equal(emit_resume(&emit, "Help"), ERR_INVALID);
    assert_int_equal(emit_resume(&emit, "Hello you"), ERR_INVALID);
}

/* Pieces joined are the same however the bytes fall into tokens. */
static void any_split_gives_the_same_text(void **state)
{
    const char *text = "x\xC3\xA9y\xE2\x82\xACz\xF0\x9F\x99\x82 and STO but no more";
    const char *stop[] = {"STOP"};
    for (size_t step = 1; step < 9; step++) {
        char joined[128] = "";
        begin(stop, 1);
        for (size_t at = 0; at < strlen(text); at += step) {
            size_t len = strlen(text) - at < step ? strlen(text) - at : step;
            assert_int_equal(emit_token(&emit, (int32_t)at, text + at, len), ERR_OK);
            strcat(joined, take(false));
        }
        strcat(joined, take(true));
        assert_string_equal(joined, text);
        emit_done(&emit);
    }
}

static void note(const char *json)
{
    assert_int_equal(emit_note(&emit, json, strlen(json)), ERR_OK);
}

static void notes_go_with_their_tokens(void **state)
{
    const char *stop = "END";
    begin(&stop, 1);
    note("1");
    put(1, "one E");
    assert_string_equal(take(false), "one ");
    assert_string_equal(buf_text(&emit.notes), "[1]");
    note("2");
    put(2, "N");
    assert_string_equal(take(false), "");
    assert_int_equal(emit.notes.len, 0);
    note("3");
    put(3, "E");
    put(4, "");
    assert_string_equal(take(false), "EN");
    assert_string_equal(buf_text(&emit.notes), "[2,3]");
    assert_string_equal(take(true), "E");
    assert_int_equal(emit.notes.len, 0);
}

static void bytes_are_made_text(void **state)
{
    struct buf out;
    buf_init(&out, 1000);
    assert_int_equal(emit_clean(&out, "a\xC3\xA9\xFF\0\xF0\x9F\x99z\xE2\x82", 11), ERR_OK);
    assert_string_equal(buf_text(&out), "a\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz"
                                        "\xEF\xBF\xBD");
    buf_done(&out);
}

#define TEST(fn) cmocka_unit_test_teardown(fn, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(words_go_straight_out),
        TEST(emoji_over_tokens),
        TEST(unfinished_character_is_dropped_at_the_end),
        TEST(bytes_that_are_no_text),
        TEST(stop_string_over_tokens),
        TEST(almost_a_stop_string),
        TEST(held_back_text_comes_at_the_end),
        TEST(the_first_stop_string_wins),
        TEST(nothing_after_the_stop),
        TEST(going_on),
        TEST(going_on_from_another_text),
        TEST(any_split_gives_the_same_text),
        TEST(notes_go_with_their_tokens),
        TEST(bytes_are_made_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
