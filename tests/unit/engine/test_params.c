#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/params.h"

static struct engine_params params;
static struct engine_params_room room;

static enum err map(const char *bias)
{
    struct prompt_params from = prompt_params_default();
    json_t *root = json_loads(bias, 0, NULL);
    assert_non_null(root);
    from.logit_bias = root;
    enum err err = engine_params_of(&params, &room, &from);
    json_decref(root);
    return err;
}

static void nothing_given(void **state)
{
    const struct engine_params none = engine_params_default();
    struct prompt_params from = prompt_params_default();
    assert_int_equal(engine_params_of(&params, &room, &from), ERR_OK);
    assert_true(isnan(params.frequency_penalty) && isnan(none.frequency_penalty));
    assert_true(isnan(params.presence_penalty) && isnan(none.presence_penalty));
    assert_true(isnan(params.repeat_penalty) && isnan(none.repeat_penalty));
    assert_int_equal(params.logprobs, -1);
    assert_int_equal(none.logprobs, -1);
    assert_int_equal(params.bias_count, 0);
    assert_int_equal(none.bias_count, 0);
    assert_null(params.grammar);
    assert_null(params.search);
}

static void everything_given(void **state)
{
    struct prompt_params from = prompt_params_default();
    from.frequency_penalty = 0.5;
    from.presence_penalty = -1;
    from.repeat_penalty = 1.25;
    from.logprobs = 3;
    from.grammar = "root ::= \"a\"";
    assert_int_equal(engine_params_of(&params, &room, &from), ERR_OK);
    assert_true(fabsf(params.frequency_penalty - 0.5f) < 1e-9f);
    assert_true(fabsf(params.presence_penalty + 1) < 1e-9f);
    assert_true(fabsf(params.repeat_penalty - 1.25f) < 1e-9f);
    assert_int_equal(params.logprobs, 3);
    assert_ptr_equal(params.grammar, from.grammar);
}

static void biases(void **state)
{
    assert_int_equal(map("{\"0\": 1, \"50256\": -100, \"2147483647\": 0.5}"), ERR_OK);
    assert_int_equal(params.bias_count, 3);
    assert_int_equal(params.bias[1].token, 50256);
    assert_true(fabsf(params.bias[1].bias + 100) < 1e-6f);
    const char *const bad[] = {
        "{\"\": 1}",           "{\"a\": 1}",   "{\"-1\": 1}",
        "{\" 1\": 1}",         "{\"1.5\": 1}", "{\"0x1\": 1}",
        "{\"2147483648\": 1}", "{\"9e9\": 1}", "{\"99999999999999999999999\": 1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(map(bad[i]), ERR_INVALID);
        assert_int_equal(strncmp(err_text(), "logit_bias ", 11), 0);
    }
    json_t *many = json_object();
    for (int i = 0; i <= PROMPT_MAX_BIAS; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        json_object_set_new(many, key, json_integer(1));
    }
    struct prompt_params from = prompt_params_default();
    from.logit_bias = many;
    assert_int_equal(engine_params_of(&params, &room, &from), ERR_INVALID);
    json_object_del(many, "0");
    assert_int_equal(engine_params_of(&params, &room, &from), ERR_OK);
    assert_int_equal(params.bias_count, PROMPT_MAX_BIAS);
    json_decref(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_given),
        cmocka_unit_test(everything_given),
        cmocka_unit_test(biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
