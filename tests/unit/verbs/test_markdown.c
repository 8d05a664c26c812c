/* What a reply's Markdown looks like on a terminal, and what of it never gets there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "config/wrap.h"
#include "verbs/markdown.h"
#include "wire/utf8.h"

struct screen {
    struct buf out;
    int width;
    size_t room; /* bytes after which the reader leaves; 0: never */
};

static bool screen_write(void *arg, const char *text, size_t len)
{
    struct screen *screen = arg;
    if (screen->room > 0 && screen->out.len + len > screen->room)
        return false;
    assert_int_equal(buf_append(&screen->out, text, len), ERR_OK);
    return true;
}

static int screen_width(void *arg)
{
    return ((struct screen *)arg)->width;
}

/* Drawn in parts of `part` bytes (0: at once). */
static char *drawn(const char *text, size_t len, int width, size_t part)
{
    struct screen screen = {.width = width};
    struct markdown *md = NULL;
    buf_init(&screen.out, (size_t)256 << 20);
    assert_int_equal(markdown_new(&md, screen_write, screen_width, &screen, true), ERR_OK);
    for (size_t at = 0; at < len; at += part == 0 ? len : part) {
        size_t n = part == 0 || len - at < part ? len - at : part;
        assert_true(markdown_feed(md, text + at, n));
    }
    markdown_end(md);
    assert_true(markdown_at_line_start(md));
    markdown_free(md);
    char *out = buf_take(&screen.out, NULL);
    return out != NULL ? out : strdup("");
}

/* Without styles; fails on any other escape. */
static char *plain(char *text)
{
    char *to = text;
    for (const char *at = text; *at != '\0';) {
        if (*at != '\033') {
            *to++ = *at++;
            continue;
        }
        size_t len = 2 + strspn(at + 2, "0123456789;");
        assert_true(at[1] == '[' && at[len] == 'm');
        at += len + 1;
    }
    *to = '\0';
    return text;
}

static void expect_plain(const char *text, int width, const char *wanted)
{
    char *out = plain(drawn(text, strlen(text), width, 0));
    assert_string_equal(out, wanted);
    free(out);
}

static void expect(const char *text, const char *wanted)
{
    char *out = drawn(text, strlen(text), 80, 0);
    assert_string_equal(out, wanted);
    free(out);
}

#define BOLD  "\033[0;1m"
#define CODE  "\033[0;36m"
#define RESET "\033[0m"

static void test_spans(void **state)
{
    expect("a **b** c", "a " BOLD "b" RESET " c\n");
    expect("*i* and _i_", "\033[0;3mi" RESET " and \033[0;3mi" RESET "\n");
    expect("***x***", "\033[0;1;3mx" RESET "\n");
    expect("run `a*b*` now", "run " CODE "a*b*" RESET " now\n");
    expect("``a`b``", CODE "a`b" RESET "\n");
    expect("~~old~~", "\033[0;9mold" RESET "\n");
    expect("**a *b***", BOLD "a \033[0;1;3mb" RESET "\n");
    expect_plain("[wyvern](http://x/y(z)) and [http://a](http://a)", 80,
                 "wyvern (http://x/y(z)) and http://a\n");
    expect_plain("![a cat](cat.png)", 80, "a cat (cat.png)\n");
}

/* Nothing is lost of what only looks like a marker. */
static void test_no_spans(void **state)
{
    static const char *const same[] = {
        "2 * 3 * 4",
        "*args and **kwargs",
        "snake_case_name and __init",
        "a[0] and x[i](",
        "5 ** 2",
        "`open",
        "a **** b",
        "**",
        "[x] [y",
        "~5 ~ 6~",
        "look! [ ] no",
        "a \\ b",
        "__",
        "!",
        "<b>x</b> &amp; <!-- -->",
    };
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        char wanted[200];
        snprintf(wanted, sizeof wanted, "%s\n", same[i]);
        expect_plain(same[i], 80, wanted);
    }
    expect_plain("\\*not\\* \\`code\\`", 80, "*not* `code`\n");
}

static void test_blocks(void **state)
{
    expect("# Top", "\033[0;1;4;32mTop\033[0m\n");
    expect_plain("## Second *x*\ntext\n\nmore", 80, "Second x\ntext\n\nmore\n");
    expect_plain("#hashtag\n####### seven", 80, "#hashtag\n####### seven\n");
    expect_plain("- a\n- b\n  - c\n* d\n+ e\n-f", 80, "• a\n• b\n  ◦ c\n• d\n• e\n-f\n");
    expect_plain("1. one\n10) ten\n1.5 is no item\n2024", 80,
                 "1. one\n10) ten\n1.5 is no item\n2024\n");
    expect_plain("> said\n> > twice\nnot", 80, "│ said\n│ │ twice\nnot\n");
    expect_plain("- [ ] to do\n- [x] done", 80, "• [ ] to do\n• [x] done\n");
    expect_plain("a\n\n---\nb", 50, "a\n\n──────────────────────────────────────────────────\nb\n");
}

static void test_code(void **state)
{
    expect_plain("```c\nint a = 1; // **no**\n\n\tif (a)\n```\nafter", 40,
                 "── c ───────────────────────────────────\nint a = 1; // **no**\n\n    if (a)\n"
                 "────────────────────────────────────────\nafter\n");
    /* Longer fences hold shorter ones; one without an end still ends. */
    char *out = plain(drawn("````\n```\nx", 10, 40, 0));
    assert_non_null(strstr(out, "\n```\nx\n──"));
    free(out);
    /* Lines of code are not broken: what is copied from the screen is the code. */
    char text[400] = "~~~\n";
    for (int i = 0; i < 30; i++)
        strcat(text, "word12345 ");
    out = plain(drawn(text, strlen(text), 40, 0));
    assert_non_null(strstr(out, text + 4));
    free(out);
    expect_plain("1. a\n   ```\n   x\n   ```", 40,
                 "1. a\n   ─────────────────────────────────────\n   x\n"
                 "   ─────────────────────────────────────\n");
    expect_plain("> ```\n> x\n> ```\ny", 40,
                 "│ ──────────────────────────────────────\n│ x\n"
                 "│ ──────────────────────────────────────\ny\n");
}

static void lines_fit(const char *out, int width)
{
    char line[8192];
    for (const char *at = out; *at != '\0';) {
        size_t len = strcspn(at, "\n");
        assert_true(len < sizeof line);
        memcpy(line, at, len);
        line[len] = '\0';
        if ((int)wrap_columns(line) > width)
            fail_msg("%zu columns of %d: %s", wrap_columns(line), width, line);
        at += len + (at[len] == '\n');
    }
}

static void test_wrapping(void **state)
{
    expect_plain("- aaaa bbbb cccc dddd", 12, "• aaaa bbbb\n  cccc dddd\n");
    expect_plain("> aaaa bbbb cccc", 8, "│ aaaa\n│ bbbb\n│ cccc\n");
    expect_plain("12. aaaa bbbb", 10, "12. aaaa\n    bbbb\n");
    expect_plain("aaaaaaaaaaaaaaaaaaaaaaaa", 10, "aaaaaaaaaa\naaaaaaaaaa\naaaa\n");
    expect_plain("日本語のとても長い文章です", 10, "日本語のと\nても長い文\n章です\n");
    /* Letters from right to left stay in their order: the terminal turns them round. */
    expect_plain("שלום עולם טוב", 10, "שלום עולם\nטוב\n");
    expect_plain("- مرحبا بالعالم", 40, "• مرحبا بالعالم\n");
    /* A style goes on behind a break, and does not colour it. */
    char *out = drawn("**aaaa bbbb**", 13, 6, 0);
    assert_string_equal(out, BOLD "aaaa" RESET "\n" BOLD "bbbb" RESET "\n");
    free(out);
    static const char text[] = "# A heading of many words indeed\n\nSome **bold and long "
                               "text** with `code spans` and [a link](http://x.example/path) in "
                               "it.\n\n1. first thing of many\n   - nested thing with words\n"
                               "> > quoted deeper with a lot of words\n";
    for (int width = 12; width < 90; width++) {
        out = plain(drawn(text, sizeof text - 1, width, 0));
        if (width > 20)
            lines_fit(out, width);
        free(out);
    }
}

static void test_resizing(void **state)
{
    struct screen screen = {.width = 10};
    struct markdown *md = NULL;
    buf_init(&screen.out, 4096);
    assert_int_equal(markdown_new(&md, screen_write, screen_width, &screen, true), ERR_OK);
    assert_true(markdown_feed(md, "aaaa bbbb cccc ", 15));
    screen.width = 20;
    assert_true(markdown_feed(md, "dddd eeee ffff gggg hhhh", 24));
    markdown_end(md);
    assert_string_equal(plain(screen.out.data), "aaaa bbbb\ncccc dddd\neeee ffff gggg hhhh\n");
    markdown_free(md);
    buf_done(&screen.out);
}

static void test_tables(void **state)
{
    static const char table[] =
        "| Name | Count |\n|:-----|------:|\n| **a** | 1 |\n| bcd | `22` |\n";
    expect_plain(table, 80, "Name │ Count\n─────┼──────\na    │     1\nbcd  │    22\n");
    /* Cells that are too long break within their column. */
    expect_plain("| k | v |\n|---|---|\n| x | aaaa bbbb cccc dddd eeee |\n", 20,
                 "k │ v\n──┼─────────────────\nx │ aaaa bbbb cccc\n  │ dddd eeee\n");
    /* No room for columns: one line a cell. */
    expect_plain("|aaaaaaaaa|bbbbbbbbb|ccccccccc|\n|-|-|-|\n|111111111|222222222|333333333|\n", 24,
                 "aaaaaaaaa: 111111111\nbbbbbbbbb: 222222222\nccccccccc: 333333333\n");
    /* Rows without a rule are text; missing cells are empty, escaped bars no border. */
    expect_plain("| a | b |\nnext", 80, "| a | b |\nnext\n");
    expect_plain("| a | b |\n| c | d |\n| e |", 80, "| a | b |\n| c | d |\n| e |\n");
    expect_plain("|a|b|\n|-|-|\n|x\\|y|\n", 80, "a   │ b\n────┼──\nx|y │ \n");
    expect_plain("> |a|\n> |-|\n> |1|\nz", 80, "│ a\n│ ─\n│ 1\nz\n");
    char *out = plain(drawn("|a|\n|-", 6, 80, 0));
    assert_string_equal(out, "a\n─\n");
    free(out);
}

/* ---- hostile ---- */

static void only_harmless(const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        size_t len = utf8_char_len(text, left);
        assert_true(len > 0);
        uint32_t a = (unsigned char)text[0], b = len > 1 ? (unsigned char)text[1] : 0;
        assert_false(len == 1 && ((a < 0x20 && a != '\n') || a == 0x7f));
        assert_false(len == 2 && a == 0xc2 && b < 0xa0); /* C1 */
        assert_false(len == 3 && memcmp(text, "\xe2\x80\xae", 3) == 0);
        text += len;
        left -= len;
    }
}

static void test_controls(void **state)
{
    static const char *const bad[] = {
        "\033[2J\033]0;title\007",
        "**\033[31mred**",
        "`\033c`",
        "```\n\033[2J\n```\n",
        "```\033[2J\nx\n```\n",
        "|\033[1m|\n|-|\n|\x9b|\n",
        "\xc2\x9b"
        "2J",
        "\x9b"
        "2J",
        "\xe2\x80\xae"
        "evil",
        "[\033](\033)",
        "# \b\b\b\x7f",
        "> \033P",
        "- \033\\",
        "a\vb\fc\rd",
        "1. \x1b[6n",
        "\xff\xfe\xc3",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (size_t part = 0; part < 3; part++) {
            char *out = plain(drawn(bad[i], strlen(bad[i]), 80, part));
            only_harmless(out);
            free(out);
        }
    }
    char *out = plain(drawn("a\0b", 3, 80, 0));
    assert_string_equal(out, "a?b\n");
    free(out);
}

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Anything at all: it ends, nothing harmful comes out, and parts do not matter. */
static void test_random_text(void **state)
{
    static const char *const words[] = {
        "*",  "**",  "_",     "`",        "```",  "~~~", "\n", "\n\n",  "|",    "|-|\n", "> ",
        "- ", "1. ", "# ",    "[",        "](",   ")",   "!",  "\\",    " ",    "a",     "word ",
        "é",  "日",  "\033[", "\xc2\x9b", "\xff", "\t",  "\r", "---\n", "    ", "~~",    "\xe2\x80",
    };
    uint32_t seed = 7;
    char text[600];
    for (int round = 0; round < 3000; round++) {
        size_t len = 0, count = random_next(&seed) % 80;
        for (size_t i = 0; i < count; i++) {
            const char *word = words[random_next(&seed) % (sizeof words / sizeof words[0])];
            len += (size_t)snprintf(text + len, sizeof text - len, "%s", word);
        }
        int width = 20 + (int)(random_next(&seed) % 60);
        char *whole = drawn(text, len, width, 0);
        for (size_t part = 1; part < 8; part += 3) {
            char *parts = drawn(text, len, width, part);
            if (strcmp(whole, parts) != 0)
                fail_msg("parts of %zu differ for: %s", part, text);
            free(parts);
        }
        only_harmless(plain(whole));
        free(whole);
    }
}

/* 100,000 characters of markers end soon: looking ahead is bounded. */
static void test_long_text(void **state)
{
    static const char *const units[] = {"*a",    "`",   "[",  "**",     "_a _",       "|a",
                                        "|a|\n", "> ",  "- ", "*a`b[c", "aaaaaaaaaa", "``` ",
                                        "`a``",  "![[", "#",  "\\",     "\n",         "|-|\n"};
    size_t len = 100000;
    char *text = malloc(len);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t unit = strlen(units[i]);
        for (size_t at = 0; at < len; at++)
            text[at] = units[i][at % unit];
        free(plain(drawn(text, len, 80, 0)));
    }
    free(text);
}

static void test_words_show_at_once(void **state)
{
    struct screen screen = {.width = 80};
    struct markdown *md = NULL;
    buf_init(&screen.out, 4096);
    assert_int_equal(markdown_new(&md, screen_write, screen_width, &screen, true), ERR_OK);
    assert_true(markdown_feed(md, "Hello wor", 9));
    assert_string_equal(buf_text(&screen.out), "Hello");
    assert_true(markdown_feed(md, "ld **and", 8));
    assert_string_equal(buf_text(&screen.out), "Hello world");
    assert_true(markdown_feed(md, " more** x", 9));
    assert_string_equal(plain(screen.out.data), "Hello world and more");
    markdown_free(md);
    buf_done(&screen.out);
}

static void test_reader_leaves(void **state)
{
    struct screen screen = {.width = 80, .room = 20};
    struct markdown *md = NULL;
    buf_init(&screen.out, 4096);
    assert_int_equal(markdown_new(&md, screen_write, screen_width, &screen, true), ERR_OK);
    bool goes_on = true;
    for (int i = 0; i < 20 && goes_on; i++)
        goes_on = markdown_feed(md, "word word ", 10);
    assert_false(goes_on);
    markdown_end(md);
    assert_true(screen.out.len <= 20);
    markdown_free(md);
    buf_done(&screen.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_no_spans),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_code),
        cmocka_unit_test(test_wrapping),
        cmocka_unit_test(test_resizing),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_controls),
        cmocka_unit_test(test_random_text),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_words_show_at_once),
        cmocka_unit_test(test_reader_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
