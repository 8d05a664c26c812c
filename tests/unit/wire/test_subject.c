/* subject.c: names as tokens and back, and telling subjects apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "wire/presence.h"
#include "wire/subject.h"

#define ID "0123456789abcdef0123456789abcdef"
#define GW "fedcba9876543210"

static void test_tokens(void **state)
{
    char token[SUBJECT_TOKEN_MAX], name[MODEL_NAME_MAX + 1];

    assert_int_equal(subject_encode(token, sizeof token, "SmolLM2.Q8_0 *>\xc3\xa9="), ERR_OK);
    assert_string_equal(token, "SmolLM2=2EQ8_0=20=2A=3E=C3=A9=3D");
    assert_int_equal(subject_decode(name, sizeof name, token), ERR_OK);
    assert_string_equal(name, "SmolLM2.Q8_0 *>\xc3\xa9=");
    assert_int_equal(subject_encode(token, 4, "abc"), ERR_OK);
    assert_int_equal(subject_encode(token, 4, "abcd"), ERR_LIMIT);
    assert_string_equal(token, "abc");
    assert_int_equal(subject_encode(token, 4, "a."), ERR_LIMIT);
    assert_int_equal(subject_encode(token, sizeof token, ""), ERR_INVALID);
    static const char *const bad[] = {"",    "a.b", "a b", "=", "=2", "=2e",
                                      "=00", "=G0", "a=",  "*", ">"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(subject_decode(name, sizeof name, bad[i]), ERR_INVALID);
    assert_int_equal(subject_decode(name, 3, "abc"), ERR_LIMIT);
}

static void test_made_subjects_parse(void **state)
{
    char subject[SUBJECT_MAX], live[SUBJECT_MAX + 8], model[MODEL_NAME_MAX + 1];
    struct subject_parts parts;

    subject_claim(subject, GW, ID);
    assert_string_equal(subject, "tok." GW "." ID ".c");
    assert_int_equal(subject_parse(&parts, subject), SUBJECT_CLAIM);
    assert_string_equal(parts.gateway, GW);
    assert_string_equal(parts.id, ID);
    subject_pieces(subject, GW, ID);
    snprintf(live, sizeof live, "live.%s", subject + strlen("tok."));
    assert_int_equal(subject_parse(&parts, live), SUBJECT_PIECES);
    subject_reply(subject, GW, ID);
    assert_string_equal(subject, "reply." GW "." ID);
    assert_int_equal(subject_parse(&parts, subject), SUBJECT_REPLY);
    snprintf(live, sizeof live, "live.%s", subject + strlen("reply."));
    assert_int_equal(subject_parse(&parts, live), SUBJECT_REPLY);
    assert_string_equal(parts.id, ID);
    subject_response(subject, ID);
    assert_string_equal(subject, "response." ID);
    subject_prompt_any(subject, ID);
    assert_string_equal(subject, "prompt.*.*." ID);
    memset(model, '.', MODEL_NAME_MAX); /* the longest a model's token gets */
    model[MODEL_NAME_MAX] = '\0';
    subject_prompt(subject, model, LANE_MAIN, ID);
    assert_int_equal(subject_parse(&parts, subject), SUBJECT_PROMPT);
    assert_string_equal(parts.gateway, "");
    assert_string_equal(parts.id, ID);
}

static void test_others(void **state)
{
    static const char *const others[] = {
        "",
        "tok",
        "tok.",
        "tok." GW "." ID,
        "tok." GW "." ID ".x",
        "tok." GW "." ID ".c.c",
        "tok." GW "0." ID ".c",
        "tok.FEDCBA9876543210." ID ".c",
        "tok." GW "." GW ".c",
        "reply." GW,
        "reply." GW "." ID ".c",
        "prompt.m.main",
        "prompt.m.main." ID "0",
        "prompt..main." ID,
        "live.live." GW "." ID ".c",
        "live.tok." GW "." ID ".c",
        "state.infer.n.a",
    };
    struct subject_parts parts = {.gateway = "untouched"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(subject_parse(&parts, others[i]), SUBJECT_OTHER);
    assert_string_equal(parts.gateway, "untouched");
}

static void test_presence_subject(void **state)
{
    struct presence presence = {.role = "infer", .node = "node 1", .name = "infer.0"};
    char subject[SUBJECT_MAX];

    presence_subject(&presence, subject, sizeof subject);
    assert_string_equal(subject, "state.infer.node=201.infer=2E0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_made_subjects_parse),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_presence_subject),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
