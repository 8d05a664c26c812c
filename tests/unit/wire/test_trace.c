/* trace.c: what the W3C's Trace Context says is good is taken, everything else is as if absent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/trace.h"

#define ID   "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"
#define GOOD "00-" ID "-" SPAN "-01"

static void test_good(void **state)
{
    static const struct {
        const char *text;
        bool sampled;
    } cases[] = {
        {GOOD, true},
        {"00-" ID "-" SPAN "-00", false},
        {"00-" ID "-" SPAN "-02", false}, /* a flag that is not known here */
        {"00-" ID "-" SPAN "-ff", true},
        {"cc-" ID "-" SPAN "-01", true}, /* a later version */
        {"cc-" ID "-" SPAN "-01-what the future brings", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct trace trace;
        assert_true(trace_parse(&trace, cases[i].text));
        assert_string_equal(trace.id, ID);
        assert_string_equal(trace.span, SPAN);
        assert_int_equal(trace.sampled, cases[i].sampled);
        assert_string_equal(trace.state, "");
    }
}

static const char *const bad[] = {
    "",
    "0",
    "00-",
    "00-" ID "-" SPAN,
    "00-" ID "-" SPAN "-",
    "00-" ID "-" SPAN "-1",
    "00-" ID "-" SPAN "-01-",
    "00-" ID "-" SPAN "-01 ",
    " 00-" ID "-" SPAN "-01",
    "00-" ID "-" SPAN "-0x",
    "00-" ID "-" SPAN "-0A",
    "ff-" ID "-" SPAN "-01",
    "0x-" ID "-" SPAN "-01",
    "CC-" ID "-" SPAN "-01",
    "cc-" ID "-" SPAN "-01.more",
    "00-00000000000000000000000000000000-" SPAN "-01",
    "00-" ID "-0000000000000000-01",
    "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",
    "00-4bf92f3577b34da6a3ce929d0e0e473-" SPAN "-01 ",
    "00-" ID "-00f067aa0ba902bz-01",
    "00_" ID "_" SPAN "_01",
    "00-" ID "." SPAN "-01",
};

static void test_bad(void **state)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct trace trace = {.id = "before"};
        char id[ID_SIZE];
        char *copy = strdup(bad[i]); /* not a byte to spare */
        assert_false(trace_parse(&trace, copy));
        assert_string_equal(trace.id, "before");
        trace_id_of(id, copy);
        assert_string_equal(id, "");
        trace_begin(&trace, copy); /* a new one */
        assert_true(id_is_valid(trace.id, ID_LEN) && id_is_valid(trace.span, TAG_LEN));
        assert_string_not_equal(trace.id, ID);
        assert_false(trace.sampled);
        free(copy);
    }
}

static void test_goes_on(void **state)
{
    struct trace trace, next;
    char text[TRACE_PARENT_SIZE], id[ID_SIZE];

    trace_begin(&trace, GOOD);
    assert_string_equal(trace.id, ID);
    assert_string_not_equal(trace.span, SPAN);
    trace_write(text, &trace);
    assert_int_equal(strlen(text), TRACE_PARENT_SIZE - 1);
    assert_true(trace_parse(&next, text));
    assert_string_equal(next.id, ID);
    assert_string_equal(next.span, trace.span);
    assert_true(next.sampled);
    trace_id_of(id, text);
    assert_string_equal(id, ID);
    trace_id_of(id, NULL);
    assert_string_equal(id, "");
    trace_begin(&trace, NULL);
    trace_begin(&next, NULL);
    assert_string_not_equal(trace.id, next.id);
}

static void test_state(void **state)
{
    static const char *const fine[] = {
        "a=1", "a=1,b=2", "vendor@tenant=x:y z", " a=1 ,\tb=2 ", "a=1,,b=2", "0x*/-_=!~", ""};
    static const char *const wrong[] = {"a",    "a=",      "=1",     "A=1",        "a=1=2",
                                        "a =1", "a=1\x01", "a=\xe9", "a=1\r\nb=2", "@a=1"};
    struct trace trace;
    char longest[TRACE_STATE_MAX + 3], many[200] = "";

    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        trace_begin(&trace, GOOD);
        assert_true(trace_add_state(&trace, fine[i]));
        assert_string_equal(trace.state, fine[i]);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        trace_begin(&trace, GOOD);
        assert_true(trace_add_state(&trace, "first=1"));
        assert_false(trace_add_state(&trace, wrong[i]));
        assert_string_equal(trace.state, "");
        assert_string_equal(trace.id, ID); /* the parent stands */
    }
    trace_begin(&trace, GOOD);
    assert_true(trace_add_state(&trace, "a=1") && trace_add_state(&trace, "b=2"));
    assert_string_equal(trace.state, "a=1,b=2");
    /* two members of 256 bytes with a comma are one too long */
    memset(longest, 'v', sizeof longest);
    longest[1] = longest[258] = '=';
    longest[256] = ',';
    longest[512] = '\0';
    assert_true(trace_add_state(&trace, "") && trace.state[0] != '\0');
    trace_begin(&trace, GOOD);
    assert_true(trace_add_state(&trace, longest));
    assert_false(trace_add_state(&trace, "a=1"));
    longest[512] = 'v';
    longest[513] = '\0';
    assert_false(trace_add_state(&trace, longest));
    for (size_t i = 0; i < 32; i++)
        strcat(many, i == 0 ? "a=1" : ",a=1");
    assert_true(trace_add_state(&trace, many));
    assert_false(trace_add_state(&trace, "a=1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
