#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sched/crowd.h"

#define ROWS 8

/* Plays steps on a machine where one row costs so much with all threads and with one; returns how
 * many steps used all of them. */
static unsigned play(struct crowd *crowd, unsigned steps, int64_t many_ns, int64_t one_ns)
{
    unsigned many = 0;
    for (unsigned i = 0; i < steps; i++) {
        bool all = crowd_threads(crowd, ROWS) > 1;
        many += all;
        crowd_note(crowd, ROWS, (all ? many_ns : one_ns) * (ROWS + 2));
    }
    return many;
}

static void quiet_machine_uses_all(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    assert_int_equal(crowd_threads(&crowd, ROWS), 2);
    assert_int_equal(play(&crowd, 10000, 100, 200), 10000 - CROWD_TRY_STEPS);
}

static void one_thread_stays_one(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 1);
    assert_int_equal(play(&crowd, 1000, 100, 200), 0);
}

static void a_crowd_is_left_and_its_end_noticed(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    play(&crowd, 100, 100, 200);
    assert_int_equal(crowd_threads(&crowd, ROWS), 2);
    /* Half a CPU taken away: two threads cost a hundred times as much, one twice. */
    unsigned many = play(&crowd, 2000, 10000, 400);
    assert_in_range(many, 1, 12);
    assert_int_equal(crowd_threads(&crowd, ROWS), 1);
    assert_true(play(&crowd, CROWD_STAY_MAX + CROWD_TRY_STEPS, 100, 200) > 0);
    assert_int_equal(crowd_threads(&crowd, ROWS), 2);
    assert_int_equal(play(&crowd, 100, 100, 200), 100);
}

static void crowded_from_the_start(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    assert_in_range(play(&crowd, 1000, 10000, 400), CROWD_FIRST_TRY, CROWD_FIRST_TRY + 8);
}

static void slower_but_still_better_is_kept(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    play(&crowd, 100, 100, 200);
    /* Everything is four times slower: all threads are still the better choice. */
    assert_true(play(&crowd, 1000, 400, 800) > 1000 - 3 * CROWD_TRY_STEPS);
}

static void steps_without_rows_count_nothing(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    for (int i = 0; i < 100; i++)
        crowd_note(&crowd, 0, 1000000);
    assert_int_equal(crowd_threads(&crowd, ROWS), 2);
}

/* A step waits for the weights, whatever its rows: 22 ms with two threads and 30 with one for one
 * row, 30 and 60 for twelve. */
static int64_t heavy_step(bool all, unsigned rows)
{
    return all ? 21000000 + rows * 800000 : 27000000 + rows * 2700000;
}

static void few_rows_after_many_are_no_crowd(void **state)
{
    struct crowd crowd;
    unsigned one = 0;
    crowd_init(&crowd, 2);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned rows = i / 40 % 2 == 0 ? 12 : 1;
        bool all = crowd_threads(&crowd, rows) > 1;
        one += !all;
        crowd_note(&crowd, rows, heavy_step(all, rows));
    }
    assert_int_equal(one, 2 * CROWD_TRY_STEPS);
}

/* The first step after a pause, or after a change of threads, costs more. */
static void a_slow_first_step_decides_nothing(void **state)
{
    struct crowd crowd;
    bool before = true;
    unsigned one = 0;
    crowd_init(&crowd, 2);
    for (unsigned i = 0; i < 1000; i++) {
        bool all = crowd_threads(&crowd, 1) > 1;
        int64_t cost = all ? 13000000 : 20000000;
        bool slow = i == 0 || all != before;
        one += !all;
        before = all;
        crowd_note(&crowd, 1, slow ? cost * 19 / 10 : cost);
    }
    assert_int_equal(one, CROWD_TRY_STEPS);
}

/* One row is no faster with two threads, and that is no reason to do twelve with one. */
static void one_row_alone_is_left_to_one_thread(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    for (unsigned i = 0; i < 400; i++)
        crowd_note(&crowd, 1, crowd_threads(&crowd, 1) > 1 ? 45000000 : 44000000);
    assert_int_equal(crowd_threads(&crowd, 1), 1);
    for (unsigned i = 0; i < 400; i++) {
        bool all = crowd_threads(&crowd, 12) > 1;
        crowd_note(&crowd, 12, heavy_step(all, 12));
    }
    assert_int_equal(crowd_threads(&crowd, 12), 2);
}

static void a_crowd_that_few_rows_met_is_known_to_many(void **state)
{
    struct crowd crowd;
    crowd_init(&crowd, 2);
    for (unsigned i = 0; i < 100; i++) {
        unsigned rows = i % 2 == 0 ? 12 : 1;
        crowd_note(&crowd, rows, heavy_step(crowd_threads(&crowd, rows) > 1, rows));
    }
    for (unsigned i = 0; i < CROWD_TRY_STEPS; i++)
        crowd_note(&crowd, 1, 2000000000);
    assert_int_equal(crowd_threads(&crowd, 1), 1);
    assert_int_equal(crowd_threads(&crowd, 12), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quiet_machine_uses_all),
        cmocka_unit_test(one_thread_stays_one),
        cmocka_unit_test(a_crowd_is_left_and_its_end_noticed),
        cmocka_unit_test(crowded_from_the_start),
        cmocka_unit_test(slower_but_still_better_is_kept),
        cmocka_unit_test(few_rows_after_many_are_no_crowd),
        cmocka_unit_test(a_slow_first_step_decides_nothing),
        cmocka_unit_test(one_row_alone_is_left_to_one_thread),
        cmocka_unit_test(a_crowd_that_few_rows_met_is_known_to_many),
        cmocka_unit_test(steps_without_rows_count_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
