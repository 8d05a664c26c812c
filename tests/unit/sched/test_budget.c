#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sched/budget.h"

static void nothing_waits(void **state)
{
    assert_int_equal(budget_prefill(0, 0), 0);
    assert_int_equal(budget_prefill(8, 0), 0);
}

static void nobody_decodes(void **state)
{
    assert_int_equal(budget_prefill(0, 1), BUDGET_STEP_TOKENS);
    assert_int_equal(budget_prefill(0, 200), BUDGET_STEP_TOKENS);
}

static void decoders_are_spared(void **state)
{
    assert_int_equal(budget_prefill(1, 1), BUDGET_BESIDE);
    assert_int_equal(budget_prefill(8, 1), BUDGET_BESIDE);
    assert_int_equal(budget_prefill(8, 8), BUDGET_BESIDE);
}

static void a_burst_counts_more_than_one_decoder(void **state)
{
    assert_int_equal(budget_prefill(1, 7), 7 * BUDGET_BESIDE);
    assert_int_equal(budget_prefill(2, 7), 3 * BUDGET_BESIDE);
    assert_int_equal(budget_prefill(1, 255), BUDGET_STEP_TOKENS);
}

static void more_waiting_never_gets_less(void **state)
{
    for (unsigned decoding = 0; decoding <= 256; decoding++) {
        for (unsigned waiting = 1; waiting < 256; waiting++) {
            unsigned budget = budget_prefill(decoding, waiting);
            assert_in_range(budget, BUDGET_BESIDE, BUDGET_STEP_TOKENS);
            assert_true(budget_prefill(decoding, waiting + 1) >= budget);
            assert_true(budget_prefill(decoding + 1, waiting) <= budget);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_waits),
        cmocka_unit_test(nobody_decodes),
        cmocka_unit_test(decoders_are_spared),
        cmocka_unit_test(a_burst_counts_more_than_one_decoder),
        cmocka_unit_test(more_waiting_never_gets_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
