/*
 * child.h - a child process that is kept running: started again with back-off when it dies, given
 * up when it can't even start.
 *
 * All calls and callbacks on the loop's thread.  A child with a report pipe (proc.h) may say
 * "ready" once it does its work, and "fatal SENTENCE" when it can't; other lines go to on_line.
 * One without a pipe counts as ready once it has lived for a second.  A child that dies
 * CHILD_START_TRIES times in a row without ever having been ready is given up; after it was ready
 * once it is started again for ever.
 */
#ifndef WYVERN_BASE_CHILD_H
#define WYVERN_BASE_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/proc.h"

#define CHILD_START_TRIES 3

struct child;

/* Any may be NULL.  None may free the child. */
struct child_events {
    void (*on_line)(void *arg, struct child *child, const char *line);
    void (*on_ready)(void *arg, struct child *child);
    /* Died; whether it will be started again is not settled yet. */
    void (*on_exit)(void *arg, struct child *child, int status);
    /* Gone for good: asked to stop, or given up (err_text-like sentence in child_reason). */
    void (*on_end)(void *arg, struct child *child);
    void *arg;
};

/* Everything in spec is copied. */
MUST_USE enum err child_new(struct child **out, struct loop *loop, const char *name,
                            const struct proc_spec *spec, const struct child_events *events);
/* SIGKILL when it still runs; no callback. */
void child_free(struct child *child);

/* First start.  An error of the first spawn is told here. */
MUST_USE enum err child_start(struct child *child);
/* Asks it to end with signum, and never starts it again.  May be called again with another. */
void child_stop(struct child *child, int signum);

const char *child_name(const struct child *child);
pid_t child_pid(const struct child *child); /* 0: not running now */
bool child_ready(const struct child *child);
bool child_ended(const struct child *child); /* gone for good, or never started */
bool child_given_up(const struct child *child);
const char *child_reason(const struct child *child); /* why it was given up; "" otherwise */
const char *child_fatal(const struct child *child);  /* what its last run said of itself; or "" */
int child_exit_status(const struct child *child);    /* sysexits of the last death, 70 by signal */

#endif
