/*
 * tally.h - what the inference workers of a node have served, put together from their presence.
 *
 * A worker counts from its own start; the sums here only grow while this process lives, also when
 * workers end and others take their names: each is kept by name and boot.  What a worker served
 * before this process started is not in them, or a restart of this process would look like a burst
 * of requests.  Pure: the caller gives the time.  One thread.
 */
#ifndef WYVERN_ROLES_TALLY_H
#define WYVERN_ROLES_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/presence.h"

#define TALLY_MAX 512 /* workers kept apart; the longest gone are then merged into one sum */

struct tally_worker {
    struct presence presence; /* the last it said */
    int64_t heard_ns;
    bool gone; /* said goodbye, fell silent, or was followed by another of its name */
    uint64_t before_counts[LATENCY_BUCKET_COUNT + 1]; /* what it had served before we were there */
    double before_sum;
};

struct tally {
    struct tally_worker *workers;
    size_t count, cap;
    uint64_t merged_counts[LATENCY_BUCKET_COUNT + 1]; /* of workers that are no longer kept apart */
    double merged_sum;
};

void tally_init(struct tally *tally);
void tally_done(struct tally *tally);

bool tally_knows(const struct tally *tally, const struct presence *presence);
/* older: it ran before this process did; counts for a worker that is not known yet.
 * ERR_FULL: TALLY_MAX workers are alive; this one is left out.  ERR_NOMEM. */
MUST_USE enum err tally_hear(struct tally *tally, const struct presence *presence, bool older,
                             int64_t now_ns);
/* Marks who has been silent for PRESENCE_GONE_MS. */
void tally_sweep(struct tally *tally, int64_t now_ns);
/* Latency of everything served since our start, as metrics_set_histogram wants it. */
void tally_latency(const struct tally *tally, uint64_t counts[LATENCY_BUCKET_COUNT + 1],
                   double *sum);

#endif
