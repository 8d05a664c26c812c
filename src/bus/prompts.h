/*
 * prompts.h - the prompt queue: stream PROMPTS, a work queue on disk.
 *
 * All calls and callbacks on the loop's thread.
 */
#ifndef WYVERN_BUS_PROMPTS_H
#define WYVERN_BUS_PROMPTS_H

#include "bus/js.h"
#include "wire/prompt.h"
#include "wire/subject.h"

/* Puts a prompt; fn's ERR_OK is the moment of acceptance.  ERR_FULL: the queue's bound is reached.
 * ERR_UNAVAILABLE, ERR_TIMEOUT: it may or may not be there; putting it again is safe (the subject
 * takes one message), and ERR_EXISTS then says that it is. */
MUST_USE enum err prompts_put(struct bus *bus, const struct prompt *prompt, bus_done_fn *fn,
                              void *arg);

#define PROMPTS_ACK_MAX 256

struct prompt_delivery { /* borrowed during the callback */
    const char *ack;     /* subject for prompts_ack() and its like; copy it */
    unsigned delivered;  /* 1: nobody had it before */
    uint64_t sequence;
    double accepted_at; /* Unix seconds: when the broker had it on disk */
    const char *data;
    size_t len;
};

typedef void prompts_fetched_fn(void *arg, const struct prompt_delivery *delivery);
/* The fetch is over; `missing` of the prompts asked for did not come. */
typedef void prompts_end_fn(void *arg, enum err err, unsigned missing);

#define PROMPTS_FETCH_MS 1500

/* Asks for at most `count` prompts of a model and lane, waiting PROMPTS_FETCH_MS for the first. */
MUST_USE enum err prompts_fetch(struct bus *bus, const char *model, const char *lane,
                                unsigned count, prompts_fetched_fn *fn, prompts_end_fn *end,
                                void *arg);

#define PROMPTS_ACK_WAIT_MS 5000 /* silence after which the broker gives a prompt to another */

void prompts_working(struct bus *bus, const char *ack); /* heartbeat */
/* To another worker, after delay_ms. */
void prompts_hand_back(struct bus *bus, const char *ack, unsigned delay_ms);
/* Takes it out of the queue for good, and reports that the broker has done so. */
MUST_USE enum err prompts_ack(struct bus *bus, const char *ack, bus_done_fn *fn, void *arg);

/* Takes a prompt out by its id, whether it waits or is in hand. */
MUST_USE enum err prompts_remove(struct bus *bus, const char *id, bus_done_fn *fn, void *arg);

struct prompts_depth {
    uint64_t waiting, in_flight, limit;
};
typedef void prompts_depth_fn(void *arg, enum err err, const struct prompts_depth *depth);
MUST_USE enum err prompts_depth(struct bus *bus, const char *model, prompts_depth_fn *fn,
                                void *arg);

/* The oldest prompt stored at or after a sequence, whether it waits or is in hand. */
typedef void prompts_next_fn(void *arg, enum err err, uint64_t sequence, double accepted_at,
                             const struct prompt *prompt);
MUST_USE enum err prompts_next(struct bus *bus, uint64_t from, prompts_next_fn *fn, void *arg);

/* A prompt by its id, whether it waits or is in hand; ERR_NOT_FOUND (prompt NULL): it is not in the
 * queue, which is so too once it has ended. */
typedef void prompts_find_fn(void *arg, enum err err, double accepted_at,
                             const struct prompt *prompt);
MUST_USE enum err prompts_find(struct bus *bus, const char *id, prompts_find_fn *fn, void *arg);

/* Keeps a prompt that killed its workers, for a person to look at: stream DEAD. */
MUST_USE enum err prompts_bury(struct bus *bus, const char *id, const char *data, size_t len,
                               bus_done_fn *fn, void *arg);

/* Name of the pull consumer of a model and lane. */
void prompts_consumer(char out[SUBJECT_MAX], const char *model, const char *lane);

#endif
