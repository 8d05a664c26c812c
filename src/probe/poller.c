/*
 * poller.c - one thread, one mutex.  The reading itself is done without the mutex, into a buffer of
 * the thread's own; the mutex is held for copying alone.
 */
#include "probe/poller.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define LEAVE_MS 500 /* how long poller_free waits for a reading to end */

struct poller {
    struct poller_config config;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* leaving, or ended */
    bool leaving, ended;
    bool abandoned;   /* the owner is gone: the thread frees all when it ends */
    int64_t began_ns; /* of the reading under way; 0: none is */
    struct poller_news news;
    void *latest; /* under the mutex */
    void *fresh;  /* the thread's own */
};

static void poller_destroy(struct poller *poller)
{
    pthread_cond_destroy(&poller->changed);
    pthread_mutex_destroy(&poller->mutex);
    free(poller->latest);
    free(poller->fresh);
    free(poller);
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

/* One reading; the mutex is held on entry and on return, not in between. */
static void read_once(struct poller *poller)
{
    enum poll_answer answer;
    int64_t end_ns;

    poller->began_ns = clock_mono_ns();
    pthread_mutex_unlock(&poller->mutex);
    answer = poller->config.read(poller->config.state, poller->fresh);
    end_ns = clock_mono_ns();
    pthread_mutex_lock(&poller->mutex);
    poller->news.answer = answer;
    poller->news.duration_s = (double)(end_ns - poller->began_ns) / (double)NS_PER_S;
    poller->news.readings++;
    snprintf(poller->news.why, sizeof poller->news.why, "%s",
             answer == POLL_WELL ? "" : err_text());
    memcpy(poller->latest, poller->fresh, poller->config.size);
    poller->began_ns = 0;
}

static void *poller_run(void *arg)
{
    struct poller *poller = arg;
    bool abandoned;
    int64_t next_ns = clock_mono_ns();

    pthread_mutex_lock(&poller->mutex);
    while (!poller->leaving) {
        read_once(poller);
        next_ns += poller->config.period_ms * NS_PER_MS;
        if (next_ns < clock_mono_ns()) /* it took too long: no readings in a row to catch up */
            next_ns = clock_mono_ns() + poller->config.period_ms * NS_PER_MS;
        struct timespec until = timespec_of(next_ns);
        while (!poller->leaving && clock_mono_ns() < next_ns)
            pthread_cond_timedwait(&poller->changed, &poller->mutex, &until);
    }
    pthread_mutex_unlock(&poller->mutex);
    if (poller->config.done != NULL)
        poller->config.done(poller->config.state);
    pthread_mutex_lock(&poller->mutex);
    poller->ended = true;
    abandoned = poller->abandoned;
    pthread_cond_broadcast(&poller->changed);
    pthread_mutex_unlock(&poller->mutex);
    if (abandoned) /* else the owner waits for this thread's end, and frees */
        poller_destroy(poller);
    return NULL;
}

enum err poller_new(struct poller **out, const struct poller_config *config)
{
    struct poller *poller = calloc(1, sizeof *poller);
    pthread_condattr_t attr;

    if (poller != NULL) {
        poller->config = *config;
        poller->latest = calloc(1, config->size);
        poller->fresh = calloc(1, config->size);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_mutex_init(&poller->mutex, NULL);
        pthread_cond_init(&poller->changed, &attr);
        pthread_condattr_destroy(&attr);
    }
    if (poller == NULL || poller->latest == NULL || poller->fresh == NULL ||
        pthread_create(&poller->thread, NULL, poller_run, poller) != 0) {
        if (config->done != NULL)
            config->done(config->state);
        if (poller != NULL)
            poller_destroy(poller);
        return err_set(ERR_NOMEM, "no memory for a thread that reads");
    }
    *out = poller;
    return ERR_OK;
}

void poller_latest(struct poller *poller, void *out, struct poller_news *news)
{
    int64_t taken_ns;

    pthread_mutex_lock(&poller->mutex);
    taken_ns = poller->began_ns != 0 ? clock_mono_ns() - poller->began_ns : 0;
    memcpy(out, poller->latest, poller->config.size);
    *news = poller->news;
    pthread_mutex_unlock(&poller->mutex);
    if (taken_ns > poller->config.hang_ms * NS_PER_MS) {
        news->answer = POLL_FAILED;
        news->hangs = true;
        news->duration_s = (double)taken_ns / (double)NS_PER_S;
        snprintf(news->why, sizeof news->why, "a reading has hung for %.0f s", news->duration_s);
    }
}

void poller_free(struct poller *poller)
{
    struct timespec until = timespec_of(clock_mono_ns() + LEAVE_MS * NS_PER_MS);
    bool ended;

    if (poller == NULL)
        return;
    pthread_mutex_lock(&poller->mutex);
    poller->leaving = true;
    pthread_cond_broadcast(&poller->changed);
    while (!poller->ended)
        if (pthread_cond_timedwait(&poller->changed, &poller->mutex, &until) != 0)
            break;
    ended = poller->ended;
    if (!ended) {
        pthread_detach(poller->thread);
        poller->abandoned = true;
    }
    pthread_mutex_unlock(&poller->mutex);
    if (!ended)
        return;
    pthread_join(poller->thread, NULL);
    poller_destroy(poller);
}
