/*
 * loop.h - the event loop of a role: timers, wake-ups from other threads, descriptors, signals.
 *
 * One thread runs a loop and makes all calls on it and on what belongs to it, except
 * loop_wake_send(), which any thread may call.  Callbacks run on the loop's thread.  libuv inside;
 * http/ reaches it with loop_uv().
 */
#ifndef WYVERN_BASE_LOOP_H
#define WYVERN_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct loop;
struct loop_timer;
struct loop_wake;
struct loop_fd;

typedef void loop_fn(void *arg);
typedef void loop_signal_fn(void *arg, int signum);

MUST_USE enum err loop_new(struct loop **out);
/* Closes every handle left on the loop and frees it. */
void loop_free(struct loop *loop);
/* Runs until loop_stop(). */
void loop_run(struct loop *loop);
/* Loop's thread only; from elsewhere use a wake. */
void loop_stop(struct loop *loop);

/* A timer is made stopped.  start: first shot after delay_ms, then each repeat_ms (0: once). */
MUST_USE enum err loop_timer_new(struct loop_timer **out, struct loop *loop, loop_fn *fn,
                                 void *arg);
void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms, uint64_t repeat_ms);
void loop_timer_stop(struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer);

/* Several sends before the loop looks are one call of fn. */
MUST_USE enum err loop_wake_new(struct loop_wake **out, struct loop *loop, loop_fn *fn, void *arg);
void loop_wake_send(void *wake); /* any thread; void * so that it fits queue_wake_fn */
void loop_wake_free(struct loop_wake *wake);

/* Calls fn while fd is readable.  fd stays the caller's. */
MUST_USE enum err loop_fd_new(struct loop_fd **out, struct loop *loop, int fd, loop_fn *fn,
                              void *arg);
/* Also calls fn (same arg) while fd is writable; NULL: no more. */
void loop_fd_writable(struct loop_fd *watch, loop_fn *fn);
void loop_fd_free(struct loop_fd *watch);

/* fn for each signum until the loop is freed. */
MUST_USE enum err loop_signal(struct loop *loop, int signum, loop_signal_fn *fn, void *arg);

/* The uv_loop_t, for http/ alone. */
void *loop_uv(struct loop *loop);

#endif
