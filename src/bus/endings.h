/*
 * endings.h - bringing prompts to their end: the part that workers, gateways and response workers
 * share.
 *
 * An ending is put on the response queue, and put again, until a response worker answers that the
 * record exists.  A cancellation is what anybody does who ends a prompt that no worker shall finish
 * (its reader left, its owner is gone, it waited too long), in this order: tombstone on the claim
 * (it fences the worker), read the pieces (final now), ending, and only when the record exists the
 * prompt leaves its queue.
 *
 * All calls and callbacks on the loop's thread.
 */
#ifndef WYVERN_BUS_ENDINGS_H
#define WYVERN_BUS_ENDINGS_H

#include "base/id.h"
#include "bus/bus.h"
#include "bus/js.h"
#include "wire/prompt.h"
#include "wire/reply.h"

struct endings;

MUST_USE enum err endings_new(struct endings **out, struct bus *bus, struct loop *loop);
/* Callbacks of what is still under way are not called. */
void endings_free(struct endings *endings);
/* How many are under way. */
size_t endings_count(const struct endings *endings);

/* Puts an ending (copied; answer_to is filled in here).  fn: ERR_OK once the record exists.  While
 * one for the same prompt is on its way from here, its record is waited for. */
MUST_USE enum err endings_put(struct endings *endings, const struct reply *ending, bus_done_fn *fn,
                              void *arg);

struct cancel_spec { /* texts are copied */
    const char *id, *gateway, *prompter, *model;
    const char *owner; /* NULL, "": none */
    const json_t
        *request; /* the prompt's, for the record of a detached reply; NULL: none; kept by */
    const json_t *messages; /* reference, so they may not change any more */
    const char *reason;     /* "cancelled", "owner_gone", "expired" */
    bool tombstone;         /* put one first; false: it stands there already */
    bool fenced;        /* put it only if the latest claim is this one; else fn gets ERR_EXISTS */
    uint64_t fence;     /* its sequence; 0: nobody has claimed */
    bool unclaimed;     /* as far as is known nobody has claimed: cheaper where it is so */
    bool keep_in_queue; /* the caller holds the prompt and acknowledges it itself */
    bool detached;
    double accepted_at;   /* 0: not known */
    const char *trace_id; /* NULL, "": not known */
};

/* What cancels a prompt that stands in the queue, tombstone and all; borrowed from the prompt,
 * trace_id from the caller's memory. */
struct cancel_spec cancel_spec_of(const struct prompt *prompt, const char *reason,
                                  double accepted_at, char trace_id[ID_SIZE]);

/* fn: ERR_OK when the record exists and the prompt is out of its queue.  On ERR_UNAVAILABLE nothing
 * is lost: whoever meets the tombstone, or expires the prompt, does the rest. */
MUST_USE enum err endings_cancel(struct endings *endings, const struct cancel_spec *spec,
                                 bus_done_fn *fn, void *arg);

/* What a response worker sends to an ending's answer_to. */
void endings_answer(struct bus *bus, const char *answer_to);

#endif
