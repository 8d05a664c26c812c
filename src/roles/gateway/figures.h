/*
 * figures.h - what the gateway counts, and its /metrics.  Loop's thread only.
 *
 * Latencies use vLLM's buckets, which people's dashboards know.
 */
#ifndef WYVERN_ROLES_GATEWAY_FIGURES_H
#define WYVERN_ROLES_GATEWAY_FIGURES_H

#include <stdbool.h>

#include "base/buf.h"
#include "bus/prompts.h"
#include "bus/room.h"
#include "http/server.h"
#include "metrics/text.h"
#include "wire/reply.h"

struct figures;

/* model: the one that is served, borrowed: the only value that label ever has. */
MUST_USE enum err figures_new(struct figures **out, const char *model);
void figures_free(struct figures *figures);

void figures_accepted(struct figures *figures);
void figures_refused(struct figures *figures, const char *why); /* "queue_full", "unavailable" … */
void figures_first_piece(struct figures *figures, double seconds);
/* Between two pieces of one streamed reply, as they were handed to its reader. */
void figures_next_piece(struct figures *figures, double seconds);
/* A prompt was given out again: `again` times more than was known of it. */
void figures_given_again(struct figures *figures, unsigned again);
/* A reply was delivered, or how it ended otherwise: counts usage too. */
void figures_ended(struct figures *figures, const struct reply *record);
void figures_reader_left(struct figures *figures);

struct figures_now { /* read when somebody asks */
    const struct http_counts *http;
    const struct room *room;
    struct prompts_depth depth;
    bool depth_known;
    bool broker_connected;
    unsigned ready_workers, slots, open_replies;
};
MUST_USE enum err figures_write(struct figures *figures, const struct figures_now *now,
                                enum metrics_format format, struct buf *out);

#endif
