/* The reader of server-sent events, cut at every byte and in every kind of line end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "http/sse.h"

struct seen {
    char text[1024];
    size_t len;
    int stop_after; /* 0: never */
    int count;
};

static bool note(void *arg, const char *event, const char *data, size_t len)
{
    struct seen *seen = arg;
    assert_int_equal(strlen(data), len);
    seen->len += (size_t)snprintf(seen->text + seen->len, sizeof seen->text - seen->len, "%s=%s;",
                                  event, data);
    seen->count++;
    return seen->count != seen->stop_after;
}

static const char stream[] = "\xef\xbb\xbf"
                             "data: {\"a\":1}\n\n"
                             ": a comment\n\n"
                             "event: done\ndata: [DONE]\n\n"
                             "data\n\n"
                             "data:no space\ndata:  two spaces\nid: 7\nretry: 9\nodd: x\n\n"
                             "event: forgotten\n\n"
                             "data: after: colon\n\n"
                             "data: never finished";
static const char wanted[] = "message={\"a\":1};done=[DONE];message=;"
                             "message=no space\n two spaces;message=after: colon;";

/* The stream with another line end. */
static size_t with_ends(char *out, const char *end)
{
    size_t len = 0;
    for (const char *at = stream; *at != '\0'; at++) {
        if (*at == '\n') {
            memcpy(out + len, end, strlen(end));
            len += strlen(end);
        } else {
            out[len++] = *at;
        }
    }
    return len;
}

static void test_every_cut(void **state)
{
    (void)state;
    static const char *const ends[] = {"\n", "\r\n", "\r"};
    for (size_t e = 0; e < 3; e++) {
        char text[2 * sizeof stream];
        size_t len = with_ends(text, ends[e]);
        for (size_t cut = 0; cut <= len; cut++) {
            struct sse_reader reader;
            struct seen seen = {0};
            sse_reader_init(&reader, 100);
            assert_int_equal(sse_reader_feed(&reader, text, cut, note, &seen), ERR_OK);
            assert_int_equal(sse_reader_feed(&reader, text + cut, len - cut, note, &seen), ERR_OK);
            assert_string_equal(seen.text, wanted);
            sse_reader_done(&reader);
        }
    }
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    struct sse_reader reader;
    struct seen seen = {0};
    sse_reader_init(&reader, 100);
    for (size_t i = 0; i < sizeof stream - 1; i++) {
        assert_int_equal(sse_reader_feed(&reader, stream + i, 1, note, &seen), ERR_OK);
    }
    assert_string_equal(seen.text, wanted);
    sse_reader_done(&reader);
}

static void test_stop(void **state)
{
    (void)state;
    struct sse_reader reader;
    struct seen seen = {.stop_after = 2};
    sse_reader_init(&reader, 100);
    assert_int_equal(sse_reader_feed(&reader, stream, sizeof stream - 1, note, &seen),
                     ERR_CANCELLED);
    assert_int_equal(seen.count, 2);
    sse_reader_done(&reader);
}

static void test_limits(void **state)
{
    (void)state;
    struct sse_reader reader;
    struct seen seen = {0};
    sse_reader_init(&reader, 20);
    const char *line = "data: 0123456789012345\n\n";
    assert_int_equal(sse_reader_feed(&reader, line, strlen(line), note, &seen), ERR_LIMIT);
    sse_reader_done(&reader);
    sse_reader_init(&reader, 20);
    const char *lines = "data: 0123456789\ndata: 0123456789\n\n";
    assert_int_equal(sse_reader_feed(&reader, lines, strlen(lines), note, &seen), ERR_LIMIT);
    sse_reader_done(&reader);
    sse_reader_init(&reader, 20);
    const char *just = "data: 01234567890123\n\n";
    assert_int_equal(sse_reader_feed(&reader, just, strlen(just), note, &seen), ERR_OK);
    assert_string_equal(seen.text, "message=01234567890123;");
    sse_reader_done(&reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
