/* A child that is kept running: real shells that die, recover, or never start. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"

#define DEADLINE_MS 30000

struct fixture {
    struct loop *loop;
    struct loop_timer *deadline;
    struct child *child;
    unsigned readies, exits, ends;
    unsigned stop_after_readies, kill_after_readies;
    char line[64];
    bool expired;
    char folder[64];
};

static void expire(void *arg)
{
    struct fixture *f = arg;
    f->expired = true;
    loop_stop(f->loop);
}

static void take_line(void *arg, struct child *child, const char *line)
{
    (void)child;
    struct fixture *f = arg;
    snprintf(f->line, sizeof f->line, "%s", line);
}

static void take_ready(void *arg, struct child *child)
{
    struct fixture *f = arg;
    f->readies++;
    assert_true(child_ready(child));
    if (f->readies == f->stop_after_readies)
        child_stop(child, SIGTERM);
    else if (f->readies <= f->kill_after_readies)
        kill(child_pid(child), SIGKILL);
}

static void take_exit(void *arg, struct child *child, int status)
{
    (void)status;
    struct fixture *f = arg;
    f->exits++;
    assert_int_equal(child_pid(child), 0);
}

static void take_end(void *arg, struct child *child)
{
    struct fixture *f = arg;
    f->ends++;
    assert_true(child_ended(child));
    loop_stop(f->loop);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(loop_new(&f->loop), ERR_OK);
    assert_int_equal(loop_timer_new(&f->deadline, f->loop, expire, f), ERR_OK);
    loop_timer_start(f->deadline, DEADLINE_MS, 0);
    snprintf(f->folder, sizeof f->folder, P_tmpdir "/wyvern-child-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    child_free(f->child);
    loop_timer_free(f->deadline);
    loop_free(f->loop);
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void start(struct fixture *f, const char *script, bool report)
{
    const char *argv[] = {"/bin/sh", "-c", script, f->folder, NULL};
    struct proc_spec spec = {.argv = argv, .report = report};
    struct child_events events = {take_line, take_ready, take_exit, take_end, f};
    assert_int_equal(child_new(&f->child, f->loop, "subject", &spec, &events), ERR_OK);
    assert_true(child_ended(f->child));
    assert_int_equal(child_start(f->child), ERR_OK);
    assert_false(child_ended(f->child));
}

static void run(struct fixture *f)
{
    loop_run(f->loop);
    assert_false(f->expired);
    assert_int_equal(f->ends, 1);
}

static void gives_up_after_three_starts_and_says_why(void **state)
{
    struct fixture *f = *state;
    start(f, "echo x >> $0/starts; echo 'fatal the model is broken' >&3; exit 66", true);
    run(f);
    assert_true(child_given_up(f->child));
    assert_string_equal(child_reason(f->child), "the model is broken");
    assert_int_equal(child_exit_status(f->child), 66);
    assert_int_equal(f->exits, CHILD_START_TRIES);
}

static void without_a_sentence_the_status_is_told(void **state)
{
    struct fixture *f = *state;
    start(f, "kill -ABRT $$", true);
    run(f);
    assert_true(child_given_up(f->child));
    assert_non_null(strstr(child_reason(f->child), "subject"));
    assert_non_null(strstr(child_reason(f->child), "signal 6"));
    assert_int_equal(child_exit_status(f->child), EX_SOFTWARE);
}

static void a_late_success_is_one(void **state)
{
    struct fixture *f = *state;
    f->stop_after_readies = 1;
    start(f,
          "echo x >> $0/starts; [ $(wc -l < $0/starts) -ge 3 ] || exit 1; echo '+held' >&3;"
          "echo ready >&3; exec sleep 1000",
          true);
    run(f);
    assert_false(child_given_up(f->child));
    assert_int_equal(f->exits, 3);
    assert_string_equal(f->line, "+held");
}

static void once_ready_it_is_never_given_up(void **state)
{
    struct fixture *f = *state;
    f->kill_after_readies = 4;
    f->stop_after_readies = 5;
    start(f, "echo ready >&3; exec sleep 1000", true);
    run(f);
    assert_int_equal(f->readies, 5);
    assert_int_equal(f->exits, 5);
    assert_false(child_given_up(f->child));
}

static void without_a_pipe_living_is_being_ready(void **state)
{
    struct fixture *f = *state;
    f->stop_after_readies = 1;
    start(f, "exec sleep 1000", false);
    run(f);
    assert_int_equal(f->readies, 1);
}

/* Between two runs: it is over at once, without a callback. */
static void stop_now(void *arg)
{
    struct fixture *f = arg;
    if (child_pid(f->child) != 0)
        return;
    child_stop(f->child, SIGTERM);
    loop_stop(f->loop);
}

static void stopping_between_two_runs(void **state)
{
    struct fixture *f = *state;
    struct loop_timer *timer;
    assert_int_equal(loop_timer_new(&timer, f->loop, stop_now, f), ERR_OK);
    start(f, "exit 1", true);
    loop_timer_start(timer, 1, 1);
    loop_run(f->loop);
    loop_timer_free(timer);
    assert_false(f->expired);
    assert_true(child_ended(f->child));
    assert_false(child_given_up(f->child));
    assert_int_equal(f->ends, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gives_up_after_three_starts_and_says_why, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_sentence_the_status_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_late_success_is_one, setup, teardown),
        cmocka_unit_test_setup_teardown(once_ready_it_is_never_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_pipe_living_is_being_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(stopping_between_two_runs, setup, teardown),
    };
    return cmocka_run_group_tests_name("child", tests, NULL, NULL);
}
