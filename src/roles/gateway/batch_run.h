/*
 * batch_run.h - the batches that this gateway moves.  Private to batches.c.
 *
 * Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_BATCH_RUN_H
#define WYVERN_ROLES_GATEWAY_BATCH_RUN_H

#include <sys/queue.h>

#include "api/batches.h"
#include "roles/gateway/gateway.h"

#define BATCH_RUNS_MAX    32
#define BATCH_OBJECT_SIZE 64

struct batch_run;

struct batch_runs {
    struct gateway *gateway;
    LIST_HEAD(, batch_run) list;
    unsigned count;
    unsigned asking; /* prompts of all of them that are on their way */
};

/* "batch.<id>" holds a batch's state, "batchrun.<id>" stands as long as it is not over. */
void batch_object_name(char out[BATCH_OBJECT_SIZE], const char *id);
void batch_mark_name(char out[BATCH_OBJECT_SIZE], const char *id);

bool batch_runs_have(const struct batch_runs *runs, const char *id);
/* Moves a batch from where its state says it is.  sequence: of that state, which names us.  Takes
 * the batch. */
MUST_USE enum err batch_runs_begin(struct batch_runs *runs, struct batch *batch, uint64_t sequence);
/* Its state was changed by somebody: look. */
void batch_runs_look(struct batch_runs *runs, const char *id);
void batch_runs_tick(struct batch_runs *runs);
/* After the sessions: nobody calls back any more. */
void batch_runs_free(struct batch_runs *runs);

#endif
