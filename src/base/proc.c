/*
 * proc.c - see proc.h.
 *
 * A child's end is seen through a pidfd on the loop, so no SIGCHLD handler is needed and each child
 * is reaped by whoever spawned it.  Between fork and exec only system calls are made: everything
 * that allocates or can fail for a reason worth a sentence happens before the fork.  A second pipe,
 * closed by a successful exec, carries back the step that failed and its errno.
 */
#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_MAX_LEN  1023
#define BACKOFF_MIN   250u
#define BACKOFF_MAX   30000u
#define BACKOFF_SHIFT 7 /* 250 ms << 7 is past the maximum */

extern char **environ;

/* In the environment of a child that has a report pipe: a descriptor 3 may be anybody's. */
#define REPORT_VARIABLE "WYVERN_REPORT_FD"
#define REPORT_ENTRY    REPORT_VARIABLE "=3"

struct proc {
    pid_t pid; /* 0 once reaped */
    int pidfd;
    int report_fd; /* -1: none */
    struct loop_fd *exit_watch;
    struct loop_fd *report_watch;
    proc_line_fn *on_line;
    proc_exit_fn *on_exit;
    void *arg;
    char line[LINE_MAX_LEN + 1];
    size_t line_len;
};

/* What the child needs after the fork; all made before it. */
struct launch {
    const struct proc_spec *spec;
    char **env;
    pid_t parent;
    int null_fd, log_fd, netns_fd;
    int report[2];
    int error[2];
};

enum step { STEP_NETNS, STEP_HOSTNAME, STEP_DESCRIPTORS, STEP_DEATH_SIGNAL, STEP_EXEC };
static const char *const step_names[] = {"enter the network namespace", "set the hostname",
                                         "arrange descriptors", "follow its parent", "run"};

struct failure {
    enum step step;
    int number;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- the child's side ----------------------------------------------------------------------- */

static void child_fail(const struct launch *launch, enum step step)
{
    struct failure failure = {.step = step, .number = errno};
    ssize_t written = write(launch->error[1], &failure, sizeof failure);
    (void)written; /* the exit status is all that is left to say */
    _exit(127);
}

static void child_signals_reset(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
}

/* Puts descriptors where the program expects them; all others close when it starts. */
static void child_descriptors(struct launch *launch)
{
    /* Out of the way first: a descriptor of ours may lie on one of the places below 4. */
    int error_fd = fcntl(launch->error[1], F_DUPFD_CLOEXEC, 10);
    int report_fd = launch->report[1] < 0 ? -1 : fcntl(launch->report[1], F_DUPFD_CLOEXEC, 10);
    int log_fd = launch->log_fd < 0 ? -1 : fcntl(launch->log_fd, F_DUPFD_CLOEXEC, 10);
    int null_fd = fcntl(launch->null_fd, F_DUPFD_CLOEXEC, 10);
    if (error_fd < 0 || null_fd < 0 || (launch->report[1] >= 0 && report_fd < 0) ||
        (launch->log_fd >= 0 && log_fd < 0))
        child_fail(launch, STEP_DESCRIPTORS);
    launch->error[1] = error_fd;
    if (dup2(null_fd, STDIN_FILENO) < 0)
        child_fail(launch, STEP_DESCRIPTORS);
    if (log_fd >= 0 && (dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0))
        child_fail(launch, STEP_DESCRIPTORS);
    if (report_fd >= 0 && dup2(report_fd, PROC_REPORT_FD) < 0)
        child_fail(launch, STEP_DESCRIPTORS);
    unsigned first = report_fd >= 0 ? PROC_REPORT_FD + 1 : PROC_REPORT_FD;
    /* Kernels before 5.11 refuse; ours are opened close-on-exec anyway. */
    (void)close_range(first, ~0U, CLOSE_RANGE_CLOEXEC);
}

static void child_run(struct launch *launch)
{
    const struct proc_spec *spec = launch->spec;
    child_signals_reset();
    setsid(); /* a Ctrl-C in the terminal is for the supervisor, which tells its children */
    if (launch->netns_fd >= 0 && setns(launch->netns_fd, CLONE_NEWNET) != 0)
        child_fail(launch, STEP_NETNS);
    if (spec->hostname &&
        (unshare(CLONE_NEWUTS) != 0 || sethostname(spec->hostname, strlen(spec->hostname)) != 0))
        child_fail(launch, STEP_HOSTNAME);
    child_descriptors(launch);
    unsigned long death = (unsigned long)(spec->death_signal ? spec->death_signal : SIGTERM);
    if (prctl(PR_SET_PDEATHSIG, death) != 0 || getppid() != launch->parent)
        child_fail(launch, STEP_DEATH_SIGNAL);
    execvpe(spec->argv[0], (char *const *)(void *)spec->argv, launch->env);
    child_fail(launch, STEP_EXEC);
}

/* --- the parent's side ---------------------------------------------------------------------- */

static bool env_overrides(const char *const *env, const char *entry)
{
    size_t len = strcspn(entry, "=") + 1;
    for (; env && *env; env++)
        if (strncmp(*env, entry, len) == 0)
            return true;
    return false;
}

/* Ours with the additions in place; the array alone is the caller's to free. */
static char **env_merge(const char *const *added, bool report)
{
    size_t count = 2;
    for (char **e = environ; *e; e++)
        count++;
    for (const char *const *a = added; a && *a; a++)
        count++;
    char **env = calloc(count, sizeof *env);
    if (!env)
        return NULL;
    size_t n = 0;
    for (char **e = environ; *e; e++)
        if (!env_overrides(added, *e) && strncmp(*e, REPORT_ENTRY, strlen(REPORT_VARIABLE) + 1))
            env[n++] = *e;
    for (const char *const *a = added; a && *a; a++)
        env[n++] = (char *)(uintptr_t)*a;
    if (report)
        env[n] = (char *)(uintptr_t)REPORT_ENTRY;
    return env;
}

static enum err launch_prepare(struct launch *launch, const struct proc_spec *spec)
{
    *launch = (struct launch){.spec = spec,
                              .parent = getpid(),
                              .null_fd = -1,
                              .log_fd = -1,
                              .netns_fd = -1,
                              .report = {-1, -1},
                              .error = {-1, -1}};
    launch->env = env_merge(spec->env, spec->report);
    if (!launch->env)
        return err_set(ERR_NOMEM, "out of memory");
    launch->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (launch->null_fd < 0)
        return err_set(ERR_OS, "can't open /dev/null: %s", strerror(errno));
    if (spec->log_path) {
        launch->log_fd = open(spec->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (launch->log_fd < 0)
            return err_set(ERR_IO, "can't open the log %s: %s", spec->log_path, strerror(errno));
    }
    if (spec->netns_path) {
        launch->netns_fd = open(spec->netns_path, O_RDONLY | O_CLOEXEC);
        if (launch->netns_fd < 0)
            return err_set(ERR_OS, "can't open the network namespace %s: %s", spec->netns_path,
                           strerror(errno));
    }
    if (pipe2(launch->error, O_CLOEXEC) != 0 ||
        (spec->report && pipe2(launch->report, O_CLOEXEC) != 0))
        return err_set(ERR_OS, "can't make a pipe: %s", strerror(errno));
    return ERR_OK;
}

static void launch_done(struct launch *launch)
{
    free(launch->env);
    close_fd(&launch->null_fd);
    close_fd(&launch->log_fd);
    close_fd(&launch->netns_fd);
    close_fd(&launch->report[0]);
    close_fd(&launch->report[1]);
    close_fd(&launch->error[0]);
    close_fd(&launch->error[1]);
}

/* Waits until the program runs, or says what kept it from running. */
static enum err launch_outcome(struct launch *launch, pid_t pid)
{
    struct failure failure;
    ssize_t got;
    close_fd(&launch->error[1]);
    do
        got = read(launch->error[0], &failure, sizeof failure);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof failure)
        return ERR_OK;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    enum err code = failure.number == ENOENT ? ERR_NOT_FOUND : ERR_OS;
    return err_set(code, "can't start %s: can't %s: %s", launch->spec->argv[0],
                   step_names[failure.step], strerror(failure.number));
}

static void take_line(struct proc *proc)
{
    proc->line[proc->line_len] = '\0';
    proc->line_len = 0;
    if (proc->on_line)
        proc->on_line(proc->arg, proc->line);
}

/* Reads what is there; false once the child's end is closed. */
static bool report_read(struct proc *proc)
{
    char data[4096];
    for (;;) {
        ssize_t got = read(proc->report_fd, data, sizeof data);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno == EAGAIN;
        if (got == 0)
            return false;
        for (ssize_t i = 0; i < got; i++) {
            if (data[i] == '\n')
                take_line(proc);
            else if (proc->line_len < LINE_MAX_LEN)
                proc->line[proc->line_len++] = data[i];
        }
    }
}

static void report_close(struct proc *proc)
{
    loop_fd_free(proc->report_watch);
    proc->report_watch = NULL;
    close_fd(&proc->report_fd);
}

static void report_readable(void *arg)
{
    struct proc *proc = arg;
    if (!report_read(proc))
        report_close(proc);
}

static void child_ended(void *arg)
{
    struct proc *proc = arg;
    int status = 0;
    pid_t got = waitpid(proc->pid, &status, WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR))
        return;
    proc->pid = 0;
    loop_fd_free(proc->exit_watch);
    proc->exit_watch = NULL;
    close_fd(&proc->pidfd);
    if (proc->report_fd >= 0) {
        report_read(proc);
        report_close(proc);
    }
    if (proc->on_exit)
        proc->on_exit(proc->arg, status); /* may free proc */
}

static enum err watch_start(struct proc *proc, struct loop *loop)
{
    proc->pidfd = (int)syscall(SYS_pidfd_open, proc->pid, 0);
    if (proc->pidfd < 0)
        return err_set(ERR_OS, "can't watch a child: %s", strerror(errno));
    if (fcntl(proc->pidfd, F_SETFD, FD_CLOEXEC) != 0 ||
        (proc->report_fd >= 0 && fcntl(proc->report_fd, F_SETFL, O_NONBLOCK) != 0))
        return err_set(ERR_OS, "can't watch a child: %s", strerror(errno));
    enum err err = loop_fd_new(&proc->exit_watch, loop, proc->pidfd, child_ended, proc);
    if (err == ERR_OK && proc->report_fd >= 0)
        err = loop_fd_new(&proc->report_watch, loop, proc->report_fd, report_readable, proc);
    return err;
}

enum err proc_spawn(struct proc **out, struct loop *loop, const struct proc_spec *spec,
                    proc_line_fn *on_line, proc_exit_fn *on_exit, void *arg)
{
    struct launch launch;
    struct proc *proc = calloc(1, sizeof *proc);
    if (!proc)
        return err_set(ERR_NOMEM, "out of memory");
    proc->pidfd = proc->report_fd = -1;
    proc->on_line = on_line;
    proc->on_exit = on_exit;
    proc->arg = arg;
    enum err err = launch_prepare(&launch, spec);
    if (err != ERR_OK)
        goto out;
    pid_t pid = fork();
    if (pid < 0) {
        err = err_set(ERR_OS, "can't start %s: %s", spec->argv[0], strerror(errno));
        goto out;
    }
    if (pid == 0)
        child_run(&launch); /* does not return */
    err = launch_outcome(&launch, pid);
    if (err != ERR_OK)
        goto out;
    proc->pid = pid;
    proc->report_fd = launch.report[0];
    launch.report[0] = -1;
    err = watch_start(proc, loop);
    if (err == ERR_OK) {
        *out = proc;
        proc = NULL;
    }
out:
    launch_done(&launch);
    proc_free(proc);
    return err;
}

pid_t proc_pid(const struct proc *proc)
{
    return proc->pid;
}

void proc_signal(struct proc *proc, int signum)
{
    if (proc->pid > 0)
        kill(proc->pid, signum);
}

void proc_free(struct proc *proc)
{
    if (!proc)
        return;
    if (proc->pid > 0) {
        kill(proc->pid, SIGKILL);
        while (waitpid(proc->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    loop_fd_free(proc->exit_watch);
    close_fd(&proc->pidfd);
    report_close(proc);
    free(proc);
}

bool proc_reports(void)
{
    return getenv(REPORT_VARIABLE) != NULL;
}

void proc_report(const char *format, ...)
{
    char line[LINE_MAX_LEN + 1];
    va_list args;
    if (!proc_reports())
        return;
    va_start(args, format);
    int len = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (len < 0)
        return;
    size_t used = (size_t)len < sizeof line - 1 ? (size_t)len : sizeof line - 2;
    for (size_t i = 0; i < used; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[used] = '\n';
    ssize_t written = write(PROC_REPORT_FD, line, used + 1); /* one write: whole lines */
    (void)written; /* whoever reads it is gone: so are we soon */
}

const char *proc_status_text(int status)
{
    static _Thread_local char text[48];
    if (WIFSIGNALED(status))
        snprintf(text, sizeof text, "killed by signal %d", WTERMSIG(status));
    else
        snprintf(text, sizeof text, "exit status %d", WEXITSTATUS(status));
    return text;
}

unsigned proc_backoff_ms(unsigned restarts)
{
    if (restarts == 0)
        return 0;
    if (restarts > BACKOFF_SHIFT)
        return BACKOFF_MAX;
    unsigned delay_ms = BACKOFF_MIN << (restarts - 1);
    return delay_ms < BACKOFF_MAX ? delay_ms : BACKOFF_MAX;
}
