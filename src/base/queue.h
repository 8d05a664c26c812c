/*
 * queue.h - a bounded queue of pointers between threads.
 *
 * Many threads push, one pops.  The queue never owns what its pointers point to.  A wake function,
 * called after a push that found the queue empty and without the queue's lock held, tells a
 * loop-driven consumer to come and pop (loop_wake_send fits).  A consumer without a loop waits.
 */
#ifndef WYVERN_BASE_QUEUE_H
#define WYVERN_BASE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct queue;

typedef void queue_wake_fn(void *arg);

MUST_USE enum err queue_new(struct queue **out, size_t capacity, queue_wake_fn *wake, void *arg);
/* The caller pops and frees what is left first. */
void queue_free(struct queue *queue);

/* ERR_FULL: the item was not taken. */
MUST_USE enum err queue_push(struct queue *queue, void *item);
/* NULL when empty. */
void *queue_pop(struct queue *queue);
/* Waits until an item is there, up to the deadline (clock_mono_ns; INT64_MAX for ever), or until
 * queue_wake_waiter.  NULL when none came. */
void *queue_pop_wait(struct queue *queue, int64_t deadline_ns);
/* Makes the present or next queue_pop_wait return at once. */
void queue_wake_waiter(struct queue *queue);

#endif
