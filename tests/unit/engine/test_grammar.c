#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/grammar.h"

static const char json[] =
    "root   ::= object\n"
    "value  ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
    "object ::= \"{\" ws ( string \":\" ws value (\",\" ws string \":\" ws value)* )? \"}\" ws\n"
    "array  ::= \"[\" ws ( value (\",\" ws value)* )? \"]\" ws\n"
    "string ::= \"\\\"\" ( [^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt/] | \"u\" "
    "[0-9a-fA-F]{4}) )* \"\\\"\" ws\n"
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9]{1,3})? ws\n"
    "# optional space\n"
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

static struct grammar *open_grammar(const char *text)
{
    struct grammar *grammar = NULL;
    enum err err = grammar_open(&grammar, text);
    if (err != ERR_OK)
        print_error("%s\n", err_text());
    assert_int_equal(err, ERR_OK);
    return grammar;
}

/* 'y' whole, 'b' a beginning, 'n' neither; at once and byte by byte. */
static char judge(const char *rules, const char *text)
{
    size_t len = strlen(text);
    struct grammar *grammar = open_grammar(rules), *slow = open_grammar(rules);
    bool allowed = false, each = true;
    assert_int_equal(grammar_test(grammar, text, len, &allowed), ERR_OK);
    for (size_t i = 0; i < len && each; i++) {
        assert_int_equal(grammar_test(slow, text + i, 1, &each), ERR_OK);
        assert_int_equal(grammar_accept(slow, text + i, 1), each ? ERR_OK : ERR_INVALID);
    }
    assert_int_equal(each, allowed);
    assert_int_equal(grammar_accept(grammar, text, len), allowed ? ERR_OK : ERR_INVALID);
    char verdict = !allowed ? 'n' : grammar_may_end(grammar) ? 'y' : 'b';
    if (allowed) {
        assert_int_equal(grammar_may_end(slow), verdict == 'y');
        assert_int_equal(grammar_must_end(slow), grammar_must_end(grammar));
    }
    grammar_close(grammar);
    grammar_close(slow);
    return verdict;
}

static void judges(void **state)
{
    static const struct {
        const char *rules, *text;
        char verdict;
    } rows[] = {
        {"root ::= \"yes\" | \"no\"", "yes", 'y'},
        {"root ::= \"yes\" | \"no\"", "ye", 'b'},
        {"root ::= \"yes\" | \"no\"", "yesno", 'n'},
        {"root ::= \"yes\" | \"no\"", "", 'b'},
        {"root ::= [a-c]+", "abcabc", 'y'},
        {"root ::= [a-c]+", "abd", 'n'},
        {"root ::= [^a-c]", "b", 'n'},
        {"root ::= [^a-c]", "d", 'y'},
        {"root ::= [^a-c]", "\xF0\x9F\x99\x82", 'y'},
        {"root ::= [^a-c]", "\xF0\x9F", 'b'},
        {"root ::= [\\u00e0-\\u00ff]", "\xC3", 'b'},
        {"root ::= [\\u00e0-\\u00ff]", "\xC2", 'n'},
        {"root ::= [\\u00e0-\\u00ff]", "\xC3\xA9", 'y'},
        {"root ::= \"\xC3\xA9\" \"\\U0001F642\"", "\xC3\xA9\xF0\x9F\x99\x82", 'y'},
        {"root ::= .", "\xED\xA0\x80", 'n'}, /* a surrogate */
        {"root ::= .", "\xED\xA0", 'n'},     /* the beginning of one */
        {"root ::= .", "\xC0\x80", 'n'},     /* overlong */
        {"root ::= .", "\xE0\x80", 'n'},     /* likewise */
        {"root ::= .", "\xF4\x90", 'n'},     /* beyond Unicode */
        {"root ::= .", "\xFF", 'n'},
        {"root ::= . .", "a\x80", 'n'},
        {"root ::= [x-]", "-", 'y'},
        {"root ::= [\\]\\[\\\\\\-]+", "[]\\-", 'y'},
        {"root ::= \"a\"{3}", "aa", 'b'},
        {"root ::= \"a\"{3}", "aaa", 'y'},
        {"root ::= \"a\"{3}", "aaaa", 'n'},
        {"root ::= \"a\"{2,}", "aaaaa", 'y'},
        {"root ::= \"a\"{2,}", "a", 'b'},
        {"root ::= (\"a\" | \"bc\"){1,3} \"!\"", "abcbc!", 'y'},
        {"root ::= (\"a\" | \"bc\"){1,3} \"!\"", "abcbca", 'n'},
        {"root ::= \"a\"{0} \"b\"", "b", 'y'},
        {"root ::= \"a\"{0,2} \"b\"", "aab", 'y'},
        {"root ::= (\"a\"?)* \"b\"", "aab", 'y'}, /* may be empty within a repetition */
        {"root ::= (\"\")* \"b\"", "b", 'y'},
        {"root ::= (\"a\"?)+", "", 'y'},
        {"root ::= ((\"x\"* | \"y\")* \"z\"?)*", "xxyzyx", 'y'},
        {"root ::= a \"b\"\na ::= \"x\" a | \"\"", "xxxb", 'y'},
        {"root ::= \"(\" root \")\" | \"x\"", "(((x)))", 'y'},
        {"root ::= \"(\" root \")\" | \"x\"", "(((x))))", 'n'},
        {"root ::= (\n \"a\" |\n \"b\" # comment\n)\r\n\r\n# end", "b", 'y'},
        {json, "{\"a\": [1, -2.5e+3, true], \"b\": {\"\\u00e9\\n\": null}}", 'y'},
        {json, "{\"a\": [1, -2.5e+3, tru", 'b'},
        {json, "{\"a\": 01}", 'n'},
        {json, "{\"a\n\": 1}", 'n'},
        {json, "[1]", 'n'},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char verdict = judge(rows[i].rules, rows[i].text);
        if (verdict != rows[i].verdict)
            fail_msg("%s on %s: %c", rows[i].rules, rows[i].text, verdict);
    }
}

static void the_end_is_known(void **state)
{
    struct grammar *grammar = open_grammar("root ::= \"a\" \"b\"?");
    assert_false(grammar_may_end(grammar));
    assert_int_equal(grammar_accept(grammar, "a", 1), ERR_OK);
    assert_true(grammar_may_end(grammar));
    assert_false(grammar_must_end(grammar));
    assert_int_equal(grammar_accept(grammar, "b", 1), ERR_OK);
    assert_true(grammar_must_end(grammar));
    bool allowed = true;
    assert_int_equal(grammar_test(grammar, "b", 1, &allowed), ERR_OK);
    assert_false(allowed);
    grammar_close(grammar);
}

static char big[200000];

/* `count` times text, between two others. */
static const char *much(const char *before, const char *text, size_t count, const char *after)
{
    size_t len = strlen(text), at = strlen(before);
    strcpy(big, before);
    for (size_t i = 0; i < count; i++, at += len)
        strcpy(big + at, text);
    strcpy(big + at, after);
    return big;
}

static const char *nested(int depth)
{
    static char text[400];
    snprintf(text, sizeof text, "root ::= %.*s\"a\"%.*s", depth,
             "((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((", depth,
             "))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))");
    return text;
}

static void refuse(const char *text)
{
    struct grammar *grammar = NULL;
    enum err err = grammar_open(&grammar, text);
    if (err != ERR_INVALID)
        print_error("accepted: %.60s\n", text);
    assert_int_equal(err, ERR_INVALID);
    assert_int_equal(strncmp(err_text(), "grammar ", 8), 0);
    assert_null(grammar);
}

static void hostile_grammars_are_refused(void **state)
{
    static const char *const texts[] = {
        "",
        " ",
        "# nothing",
        "root",
        "root ::",
        "root ::= (",
        "root ::= )",
        "root ::= \"a",
        "root ::= [a",
        "root ::= [a-",
        "root ::= [b-a]",
        "root ::= \"\\",
        "root ::= \"\\q\"",
        "root ::= \"\\x1\"",
        "root ::= \"\\uD8\"",
        "root ::= \"\\U00110000\"",
        "root ::= *",
        "root ::= \"a\" | *",
        "root ::= \"a\"{",
        "root ::= \"a\"{1",
        "root ::= \"a\"{,2}",
        "root ::= \"a\"{3,2}",
        "root ::= \"a\"{99999999999999999999}",
        "root ::= \"a\"{1,2",
        "root ::= b",
        "b ::= \"a\"",
        "root ::= \"a\"\nroot ::= \"b\"",
        "::= \"a\"",
        "root ::= <think>",
        "root ::= !<[1]>",
        "root ::= \"a\" ;",
        "root = \"a\"",
        "root ::= \"\xC3\"",
        "root ::= [\xFF]",
        "root\xC3\xA9 ::= \"a\"",
        "r\x01oot ::= \"a\"",
        /* left recursion */
        "root ::= root",
        "root ::= root \"a\" | \"a\"",
        "root ::= a\na ::= b\nb ::= a | \"x\"",
        "root ::= e root \"a\" | \"x\"\ne ::= f\nf ::= | \"y\"", /* behind what may be empty */
        "root ::= (\"y\"? root)* \"x\"",
        "root ::= \"a\" b\nb ::= \"\" b \"c\" | \"d\"",
        "root ::= []",
        "root ::= [\\uD800-\\uDFFF]",
        "root ::= [^\\x00-\\U0010FFFF]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        refuse(texts[i]);
    refuse(much("root ::= ", "(", 30000, "\"a\""));
    refuse(nested(65));
    refuse(much("root ::= \"a\"", "{1000}", 3, ""));
    refuse(much("root ::= \"a\"", "{2}", 64, ""));
    refuse(much("root ::= \"", "a", 65530, "\""));
    char rules[80000] = "root ::= r0\n";
    for (size_t i = 0, at = strlen(rules); i < 2100; i++)
        at += (size_t)sprintf(rules + at, "r%zu ::= \"a\"\n", i);
    refuse(rules);
}

/* What takes llama.cpp for ever, or its stack, is read at once. */
static void heavy_grammars_are_read(void **state)
{
    char rules[80000] = "root ::= r0\n";
    size_t at = strlen(rules);
    for (size_t i = 0; i < 2000; i++) /* 2^2000 ways down */
        at += (size_t)sprintf(rules + at, "r%zu ::= r%zu | r%zu\n", i, i + 1, i + 1);
    sprintf(rules + at, "r2000 ::= \"a\"\n");
    assert_int_equal(judge(rules, "a"), 'y');
    assert_int_equal(judge(nested(64), "a"), 'y');
    assert_int_equal(judge(much("root ::= \"a\"", "*", 4000, ""), "aaaa"), 'y');
    assert_int_equal(judge(much("root ::= \"", "a", 60000, "\""), "aaaa"), 'b');
    assert_int_equal(judge(much("root ::= \"a\"", " | \"a\"", 5000, ""), "a"), 'y');
}

static void ambiguity_is_bounded(void **state)
{
    struct grammar *grammar = open_grammar("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"x\"");
    enum err err = ERR_OK;
    size_t taken = 0;
    while (err == ERR_OK && taken < 64) {
        err = grammar_accept(grammar, "a", 1);
        taken += err == ERR_OK;
    }
    assert_int_equal(err, ERR_INVALID);
    assert_int_equal(strncmp(err_text(), "grammar ", 8), 0);
    assert_in_range(taken, 5, 63);
    bool allowed = false; /* and it is whole still */
    assert_int_equal(grammar_test(grammar, "x", 1, &allowed), ERR_OK);
    assert_true(allowed);
    grammar_close(grammar);
}

/* A long reply does not make it grow: frames that are done with are swept up. */
static void long_texts(void **state)
{
    struct grammar *grammar = open_grammar(json);
    assert_int_equal(grammar_accept(grammar, "{\"a\":[", 6), ERR_OK);
    for (size_t i = 0; i < 20000; i++)
        assert_int_equal(grammar_accept(grammar, "{\"b\":[1,2]},", 12), ERR_OK);
    assert_int_equal(grammar_accept(grammar, "3]}", 3), ERR_OK);
    assert_true(grammar_may_end(grammar));
    grammar_close(grammar);
    grammar = open_grammar(json); /* as deep as it goes */
    assert_int_equal(grammar_accept(grammar, "{\"a\":", 5), ERR_OK);
    enum err err = ERR_OK;
    size_t deep = 0;
    for (; err == ERR_OK && deep < 5000; deep += err == ERR_OK)
        err = grammar_accept(grammar, "[", 1);
    assert_int_equal(err, ERR_INVALID);
    assert_in_range(deep, 200, 2000);
    for (size_t i = 0; i < deep; i++)
        assert_int_equal(grammar_accept(grammar, "]", 1), ERR_OK);
    assert_int_equal(grammar_accept(grammar, "}", 1), ERR_OK);
    assert_true(grammar_may_end(grammar));
    grammar_close(grammar);
}

static const char *const words[] = {
    "",  "a",    "ab", "abc", "abd", "b",        "ba", "\xC3", "\xA9", "{\"", "{\"a\":", "{",
    "}", "true", "t",  "tr",  "rue", "\xC3\xA9", "1",  "12",   "a",    "\"",  " ",       "\n  "};
#define WORD_COUNT (sizeof words / sizeof *words)

static const char *get_word(void *arg, int32_t id, size_t *len)
{
    *len = strlen(words[id]);
    return words[id];
}

/* Sifting a whole vocabulary says what testing each word says. */
static void sifting_is_testing(void **state)
{
    static const char *const begins[] = {"", "{", "{\"", "{\"a\":", "{\"a\":t", "{\"\xC3", "{}"};
    struct grammar_words sorted;
    assert_int_equal(grammar_words_make(&sorted, WORD_COUNT, get_word, NULL), ERR_OK);
    assert_int_equal(sorted.count, WORD_COUNT - 1);
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) {
        struct grammar *grammar = open_grammar(json);
        assert_int_equal(grammar_accept(grammar, begins[i], strlen(begins[i])), ERR_OK);
        unsigned char allowed[WORD_COUNT] = {0};
        size_t count = 0, tested = 0;
        assert_int_equal(grammar_sift(grammar, &sorted, allowed, &count), ERR_OK);
        for (size_t k = 1; k < WORD_COUNT; k++) {
            bool one = false;
            assert_int_equal(grammar_test(grammar, words[k], strlen(words[k]), &one), ERR_OK);
            assert_int_equal(allowed[k], one);
            tested += one;
        }
        assert_int_equal(count, tested);
        assert_true(count > 0);
        grammar_close(grammar);
    }
    grammar_words_done(&sorted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(judges),
        cmocka_unit_test(the_end_is_known),
        cmocka_unit_test(hostile_grammars_are_refused),
        cmocka_unit_test(heavy_grammars_are_read),
        cmocka_unit_test(ambiguity_is_bounded),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(sifting_is_testing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
