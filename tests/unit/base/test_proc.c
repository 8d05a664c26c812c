/* Children as they really are: shells that report, exit, hang, or can't be started. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "base/proc.h"

#define DEADLINE_MS 20000

struct fixture {
    struct loop *loop;
    struct loop_timer *deadline;
    struct proc *proc;
    char lines[8][1100];
    size_t line_count;
    int status;
    bool exited, expired, free_in_exit;
    int signal_after_line; /* 0: none */
};

static void expire(void *arg)
{
    struct fixture *f = arg;
    f->expired = true;
    loop_stop(f->loop);
}

static void take_line(void *arg, const char *line)
{
    struct fixture *f = arg;
    assert_false(f->exited); /* the last line comes before the end */
    assert_true(f->line_count < 8);
    snprintf(f->lines[f->line_count++], sizeof f->lines[0], "%s", line);
    if (f->signal_after_line)
        proc_signal(f->proc, f->signal_after_line);
}

static void take_exit(void *arg, int status)
{
    struct fixture *f = arg;
    f->exited = true;
    f->status = status;
    assert_int_equal(proc_pid(f->proc), 0);
    if (f->free_in_exit) {
        proc_free(f->proc);
        f->proc = NULL;
    }
    loop_stop(f->loop);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(loop_new(&f->loop), ERR_OK);
    assert_int_equal(loop_timer_new(&f->deadline, f->loop, expire, f), ERR_OK);
    loop_timer_start(f->deadline, DEADLINE_MS, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    proc_free(f->proc);
    loop_timer_free(f->deadline);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void spawn_shell(struct fixture *f, struct proc_spec spec, const char *script)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    spec.argv = argv;
    assert_int_equal(proc_spawn(&f->proc, f->loop, &spec, take_line, take_exit, f), ERR_OK);
    assert_true(proc_pid(f->proc) > 0);
}

static void run(struct fixture *f)
{
    loop_run(f->loop);
    assert_false(f->expired);
    assert_true(f->exited);
}

static void reports_lines_then_exit(void **state)
{
    struct fixture *f = *state;
    spawn_shell(f, (struct proc_spec){.report = true},
                "[ $WYVERN_REPORT_FD = 3 ] && echo '+$JS.ACK.1' >&3; echo ready >&3; printf 'cut "
                "off' >&3; exit 74");
    run(f);
    assert_int_equal(f->line_count, 2); /* a line without its end is none */
    assert_string_equal(f->lines[0], "+$JS.ACK.1");
    assert_string_equal(f->lines[1], "ready");
    assert_true(WIFEXITED(f->status));
    assert_int_equal(WEXITSTATUS(f->status), 74);
    assert_string_equal(proc_status_text(f->status), "exit status 74");
}

static void cuts_a_line_that_is_too_long(void **state)
{
    struct fixture *f = *state;
    spawn_shell(f, (struct proc_spec){.report = true},
                "i=0; while [ $i -lt 300 ]; do printf 0123456789 >&3; i=$((i+1)); done;"
                "echo >&3; echo next >&3");
    run(f);
    assert_int_equal(f->line_count, 2);
    assert_int_equal(strlen(f->lines[0]), 1023);
    assert_string_equal(f->lines[1], "next");
}

static void a_killed_child_is_told_as_such(void **state)
{
    struct fixture *f = *state;
    f->signal_after_line = SIGKILL;
    spawn_shell(f, (struct proc_spec){.report = true}, "echo here >&3; exec sleep 1000");
    run(f);
    assert_true(WIFSIGNALED(f->status));
    assert_string_equal(proc_status_text(f->status), "killed by signal 9");
}

static void may_be_freed_in_its_own_exit(void **state)
{
    struct fixture *f = *state;
    f->free_in_exit = true;
    spawn_shell(f, (struct proc_spec){.report = true}, "echo x >&3");
    run(f);
    assert_null(f->proc);
}

static void free_kills_and_reaps(void **state)
{
    struct fixture *f = *state;
    spawn_shell(f, (struct proc_spec){0}, "trap '' TERM; exec sleep 1000");
    pid_t pid = proc_pid(f->proc);
    proc_free(f->proc);
    f->proc = NULL;
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    assert_false(f->exited);
}

static void a_missing_program_is_an_error_at_once(void **state)
{
    struct fixture *f = *state;
    const char *argv[] = {"/nonexistent/program", NULL};
    struct proc_spec spec = {.argv = argv, .report = true};
    assert_int_equal(proc_spawn(&f->proc, f->loop, &spec, take_line, take_exit, f), ERR_NOT_FOUND);
    assert_null(f->proc);
    assert_non_null(strstr(err_text(), "/nonexistent/program"));
    spec.netns_path = "/nonexistent/namespace";
    assert_int_equal(proc_spawn(&f->proc, f->loop, &spec, take_line, take_exit, f), ERR_OS);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing was left to reap */
}

static void environment_log_and_descriptors(void **state)
{
    struct fixture *f = *state;
    char log[] = P_tmpdir "/wyvern-proc-XXXXXX";
    int fd = mkstemp(log);
    assert_true(fd >= 0);
    int leak = open("/dev/null", O_RDONLY); /* not close-on-exec: must not reach the child */
    assert_true(leak >= 0);
    assert_int_equal(setenv("WYVERN_PROC_TEST", "old", 1), 0);
    const char *env[] = {"WYVERN_PROC_TEST=new", "WYVERN_PROC_MORE=more", NULL};
    char script[160];
    snprintf(script, sizeof script,
             "echo $WYVERN_PROC_TEST $WYVERN_PROC_MORE; [ -e /proc/self/fd/%d ] && echo leak;"
             "env | grep -c '^WYVERN_PROC_TEST=' >&2; cat",
             leak);
    spawn_shell(f, (struct proc_spec){.env = env, .log_path = log}, script);
    run(f);
    assert_int_equal(WEXITSTATUS(f->status), 0); /* cat found an empty stdin */
    char text[64] = "";
    ssize_t got = read(fd, text, sizeof text - 1);
    assert_true(got > 0);
    assert_string_equal(text, "new more\n1\n");
    close(leak);
    close(fd);
    unlink(log);
}

/* A parent in between dies by SIGKILL: its child must follow. */
static void a_child_dies_with_its_parent(void **state)
{
    (void)state;
    int pipe_fd[2];
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
    pid_t middle = fork();
    assert_true(middle >= 0);
    if (middle == 0) {
        struct loop *loop;
        struct proc *proc;
        const char *argv[] = {"/bin/sleep", "1000", NULL};
        struct proc_spec spec = {.argv = argv};
        if (loop_new(&loop) != ERR_OK || proc_spawn(&proc, loop, &spec, NULL, NULL, NULL) != ERR_OK)
            _exit(1);
        pid_t pid = proc_pid(proc);
        if (write(pipe_fd[1], &pid, sizeof pid) != (ssize_t)sizeof pid)
            _exit(1);
        for (;;)
            pause();
    }
    pid_t child = 0;
    assert_int_equal(read(pipe_fd[0], &child, sizeof child), sizeof child);
    assert_int_equal(kill(child, 0), 0);
    kill(middle, SIGKILL);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
    bool gone = false;
    for (int i = 0; i < DEADLINE_MS / 10 && !gone; i++) {
        FILE *file = fopen(path, "r"); /* gone, or a zombie that the system's init has to reap */
        gone = !file || !fgets(line, sizeof line, file) || strstr(line, ") Z ");
        if (file)
            fclose(file);
        if (!gone)
            usleep(10000);
    }
    assert_true(gone);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

static void back_off_grows_to_a_limit(void **state)
{
    (void)state;
    assert_int_equal(proc_backoff_ms(0), 0);
    assert_int_equal(proc_backoff_ms(1), 250);
    assert_int_equal(proc_backoff_ms(2), 500);
    assert_int_equal(proc_backoff_ms(7), 16000);
    assert_int_equal(proc_backoff_ms(8), 30000);
    assert_int_equal(proc_backoff_ms(4000000000u), 30000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reports_lines_then_exit, setup, teardown),
        cmocka_unit_test_setup_teardown(cuts_a_line_that_is_too_long, setup, teardown),
        cmocka_unit_test_setup_teardown(a_killed_child_is_told_as_such, setup, teardown),
        cmocka_unit_test_setup_teardown(may_be_freed_in_its_own_exit, setup, teardown),
        cmocka_unit_test_setup_teardown(free_kills_and_reaps, setup, teardown),
        cmocka_unit_test_setup_teardown(a_missing_program_is_an_error_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(environment_log_and_descriptors, setup, teardown),
        cmocka_unit_test(a_child_dies_with_its_parent),
        cmocka_unit_test(back_off_grows_to_a_limit),
    };
    return cmocka_run_group_tests_name("proc", tests, NULL, NULL);
}
