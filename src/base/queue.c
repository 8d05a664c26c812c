/*
 * A ring under one mutex.  The wake function runs without the mutex, so it may take locks of its
 * own; a consumer that is waiting in queue_pop_wait is woken by the condition variable instead.
 */
#include "base/queue.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"

struct queue {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty;
    void **items;
    size_t capacity, head, count;
    bool woken;
    queue_wake_fn *wake;
    void *wake_arg;
};

enum err queue_new(struct queue **out, size_t capacity, queue_wake_fn *wake, void *arg)
{
    struct queue *queue = calloc(1, sizeof *queue);
    void **items = calloc(capacity, sizeof *items);
    if (queue == NULL || items == NULL) {
        free(queue);
        free(items);
        return err_set(ERR_NOMEM, "out of memory");
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->not_empty, &attr);
    pthread_condattr_destroy(&attr);
    queue->items = items;
    queue->capacity = capacity;
    queue->wake = wake;
    queue->wake_arg = arg;
    *out = queue;
    return ERR_OK;
}

void queue_free(struct queue *queue)
{
    if (queue == NULL)
        return;
    pthread_mutex_destroy(&queue->mutex);
    pthread_cond_destroy(&queue->not_empty);
    free(queue->items);
    free(queue);
}

enum err queue_push(struct queue *queue, void *item)
{
    pthread_mutex_lock(&queue->mutex);
    bool full = queue->count == queue->capacity;
    bool was_empty = queue->count == 0;
    if (!full) {
        queue->items[(queue->head + queue->count) % queue->capacity] = item;
        queue->count++;
        pthread_cond_signal(&queue->not_empty);
    }
    pthread_mutex_unlock(&queue->mutex);
    if (full)
        return err_set(ERR_FULL, "queue of %zu is full", queue->capacity);
    if (was_empty && queue->wake != NULL)
        queue->wake(queue->wake_arg);
    return ERR_OK;
}

/* Mutex held on entry. */
static void *pop_locked(struct queue *queue)
{
    if (queue->count == 0)
        return NULL;
    void *item = queue->items[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->count--;
    return item;
}

void *queue_pop(struct queue *queue)
{
    pthread_mutex_lock(&queue->mutex);
    void *item = pop_locked(queue);
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void *queue_pop_wait(struct queue *queue, int64_t deadline_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / NS_PER_S),
                                   .tv_nsec = (long)(deadline_ns % NS_PER_S)};
    pthread_mutex_lock(&queue->mutex);
    int waited = 0;
    while (queue->count == 0 && !queue->woken && waited == 0) {
        if (deadline_ns == INT64_MAX)
            pthread_cond_wait(&queue->not_empty, &queue->mutex);
        else
            waited = pthread_cond_timedwait(&queue->not_empty, &queue->mutex, &until);
    }
    queue->woken = false;
    void *item = pop_locked(queue);
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void queue_wake_waiter(struct queue *queue)
{
    pthread_mutex_lock(&queue->mutex);
    queue->woken = true;
    pthread_cond_signal(&queue->not_empty);
    pthread_mutex_unlock(&queue->mutex);
}
