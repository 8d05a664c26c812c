#include "roles/tally.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

void tally_init(struct tally *tally)
{
    *tally = (struct tally){.workers = NULL};
}

void tally_done(struct tally *tally)
{
    free(tally->workers);
    tally_init(tally);
}

static struct tally_worker *find(const struct tally *tally, const struct presence *presence)
{
    for (size_t i = 0; i < tally->count; i++) {
        const struct presence *known = &tally->workers[i].presence;
        if (strcmp(known->name, presence->name) == 0 && strcmp(known->boot, presence->boot) == 0)
            return &tally->workers[i];
    }
    return NULL;
}

bool tally_knows(const struct tally *tally, const struct presence *presence)
{
    return find(tally, presence) != NULL;
}

static void add_latency(uint64_t counts[LATENCY_BUCKET_COUNT + 1], double *sum,
                        const struct tally_worker *worker)
{
    const struct presence *now = &worker->presence;

    for (size_t i = 0; i <= LATENCY_BUCKET_COUNT; i++)
        if (now->latency_counts[i] > worker->before_counts[i]) /* else it lies */
            counts[i] += now->latency_counts[i] - worker->before_counts[i];
    if (now->latency_sum > worker->before_sum)
        *sum += now->latency_sum - worker->before_sum;
}

/* Makes room by merging the worker that has been gone for longest. */
static enum err merge_oldest(struct tally *tally)
{
    size_t oldest = tally->count;

    for (size_t i = 0; i < tally->count; i++)
        if (tally->workers[i].gone &&
            (oldest == tally->count ||
             tally->workers[i].heard_ns < tally->workers[oldest].heard_ns))
            oldest = i;
    if (oldest == tally->count)
        return err_set(ERR_FULL, "more than %d inference workers", TALLY_MAX);
    add_latency(tally->merged_counts, &tally->merged_sum, &tally->workers[oldest]);
    tally->workers[oldest] = tally->workers[--tally->count];
    return ERR_OK;
}

static enum err make_room(struct tally *tally)
{
    size_t cap = tally->cap > 0 ? tally->cap * 2 : 8;
    struct tally_worker *workers;

    if (tally->count == TALLY_MAX)
        return merge_oldest(tally);
    if (tally->count < tally->cap)
        return ERR_OK;
    workers = realloc(tally->workers, cap * sizeof *workers);
    if (workers == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    tally->workers = workers;
    tally->cap = cap;
    return ERR_OK;
}

static void begin(struct tally_worker *worker, const struct presence *presence, bool older)
{
    *worker = (struct tally_worker){.presence = *presence};
    if (!older)
        return;
    memcpy(worker->before_counts, presence->latency_counts, sizeof worker->before_counts);
    worker->before_sum = presence->latency_sum;
}

enum err tally_hear(struct tally *tally, const struct presence *presence, bool older,
                    int64_t now_ns)
{
    struct tally_worker *worker = find(tally, presence);

    if (worker == NULL) {
        enum err err = make_room(tally);
        if (err != ERR_OK)
            return err;
        for (size_t i = 0; i < tally->count; i++)
            if (strcmp(tally->workers[i].presence.name, presence->name) == 0)
                tally->workers[i].gone = true;
        worker = &tally->workers[tally->count++];
        begin(worker, presence, older);
    }
    if (presence->leaving && (presence->prompts_total < worker->presence.prompts_total ||
                              presence->reply_tokens_total < worker->presence.reply_tokens_total)) {
        worker->gone = true; /* its supervisor says so for it, without its figures */
        return ERR_OK;
    }
    worker->presence = *presence;
    worker->heard_ns = now_ns;
    worker->gone = presence->leaving;
    return ERR_OK;
}

void tally_sweep(struct tally *tally, int64_t now_ns)
{
    for (size_t i = 0; i < tally->count; i++)
        if (now_ns - tally->workers[i].heard_ns > PRESENCE_GONE_MS * NS_PER_MS)
            tally->workers[i].gone = true;
}

void tally_latency(const struct tally *tally, uint64_t counts[LATENCY_BUCKET_COUNT + 1],
                   double *sum)
{
    memcpy(counts, tally->merged_counts, sizeof tally->merged_counts);
    *sum = tally->merged_sum;
    for (size_t i = 0; i < tally->count; i++)
        add_latency(counts, sum, &tally->workers[i]);
}
