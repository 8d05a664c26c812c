/*
 * loadview.h - the load generator's progress: live bars per worker on a terminal, a plain line
 * every few seconds elsewhere, nothing when quiet.  On standard error.  One thread.
 */
#ifndef WYVERN_VERBS_LOADVIEW_H
#define WYVERN_VERBS_LOADVIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "verbs/report.h"
#include "verbs/term.h"

#define VIEW_WORKERS_MAX 512

struct view_worker {
    char id[REPORT_NAME_MAX], node[REPORT_NAME_MAX];
    unsigned slots, running;
    size_t done;                    /* answered by it, as we saw */
    uint64_t done_tokens;           /* in those */
    uint64_t tokens, tokens_before; /* its own count, now and when we began; 0: it keeps none */
    bool seen;                      /* in the last status */
};

struct load_view {
    bool quiet;
    struct term_live live;
    int64_t drawn_ns; /* when last */
    size_t drawn_answered;
    struct view_worker *workers; /* owned */
    size_t worker_count;
    bool has_status;
};

struct load_counts {
    size_t total, answered, failed, open, retrying;
    double seconds;
    uint64_t tokens; /* of answered prompts */
};

MUST_USE enum err load_view_init(struct load_view *view, bool quiet);
void load_view_done(struct load_view *view);
/* What GET /wyvern/status answered.  The first one sets what later counts are compared with. */
void load_view_status(struct load_view *view, const json_t *status);
void load_view_answer(struct load_view *view, const struct outcome *outcome);
/* Draws when it is time to; at_once: in any case. */
void load_view_draw(struct load_view *view, const struct load_counts *counts, bool at_once);
/* Slots of a worker; 0 when not known. */
unsigned load_view_slots(const struct load_view *view, const char *node, const char *id);

#endif
