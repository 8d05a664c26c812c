/*
 * proc.h - child processes: spawn, a pipe to the parent, reaping.
 *
 * All calls on the loop's thread.  A child runs in a session of its own, so that a Ctrl-C reaches
 * its supervisor alone, and gets death_signal when that supervisor dies.
 */
#ifndef WYVERN_BASE_PROC_H
#define WYVERN_BASE_PROC_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/loop.h"

struct proc;

struct proc_spec {
    const char *const *argv; /* NULL-terminated; argv[0] is the file to run */
    const char *const *env;  /* "NAME=value" added to our environment, NULL-terminated; or NULL */
    const char *log_path;    /* stdout and stderr are appended there; NULL: inherited */
    const char *netns_path;  /* enter this network namespace; NULL: ours */
    const char *hostname;    /* own UTS namespace with this name; NULL: ours */
    bool report;             /* give the child a pipe on descriptor PROC_REPORT_FD, read by us */
    int death_signal;        /* what the child gets when we die; 0: SIGTERM */
};

#define PROC_REPORT_FD 3

/* From inside a child: writes one line on its report pipe; nothing when it has none (the spawner
 * says in the environment whether there is one).  Any thread. */
void proc_report(const char *format, ...) PRINTF_LIKE(1, 2);
/* Did our spawner give us a report pipe? */
bool proc_reports(void);

/* A line the child wrote on its report pipe, without the newline (at most 1023 bytes). */
typedef void proc_line_fn(void *arg, const char *line);
/* The child is gone and reaped, and its last line was delivered.  status as waitpid() gives it.
 * The proc may be freed in the callback. */
typedef void proc_exit_fn(void *arg, int status);

MUST_USE enum err proc_spawn(struct proc **out, struct loop *loop, const struct proc_spec *spec,
                             proc_line_fn *on_line, proc_exit_fn *on_exit, void *arg);
pid_t proc_pid(const struct proc *proc); /* 0 once it was reaped */
void proc_signal(struct proc *proc, int signum);
/* Kills (SIGKILL) and reaps what still runs; on_exit is not called. */
void proc_free(struct proc *proc);

/* "killed by signal 9", "exit status 74": into a static per-thread text. */
const char *proc_status_text(int status);

/* Delay before restart number `restarts` (0 for the first): 0, 250 ms, 500, 1 s … at most 30 s. */
unsigned proc_backoff_ms(unsigned restarts);

#endif
