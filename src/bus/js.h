/*
 * js.h - JetStream's own JSON answers and publishes with expectations; private to src/bus/.
 *
 * Source: nats-server's JetStream API, ADR-8 (KV), ADR-31 (direct get), error codes of
 * server/errors.json.
 */
#ifndef WYVERN_BUS_JS_H
#define WYVERN_BUS_JS_H

#include <jansson.h>

#include "bus/bus.h"

#define JS_TIMEOUT_MS 5000

/* How an operation ended, exactly once unless its call itself failed.  sequence: of what was
 * stored or found; 0 otherwise. */
typedef void bus_done_fn(void *arg, enum err err, uint64_t sequence);

/* The answer to a publish: ERR_EXISTS when an expectation was not met, ERR_FULL when the stream
 * has no room, ERR_UNAVAILABLE for anything else that is not a yes. */
enum err js_ack_read(const struct bus_message *message, uint64_t *sequence);

/* The answer to an API call: ERR_NOT_FOUND, ERR_UNAVAILABLE, …; *out is the whole answer. */
enum err js_answer_read(const struct bus_message *message, json_t **out);

struct js_expect {
    bool set;
    uint64_t sequence;   /* last sequence on the subject: 0 for "none yet" */
    const char *subject; /* the subject meant, NULL: the one published to */
};

/* Publishes into a stream and reports its answer. */
MUST_USE enum err js_publish(struct bus *bus, const char *subject, const struct js_expect *expect,
                             const void *data, size_t len, bus_done_fn *fn, void *arg);

/* The same; what was stored goes by itself after keep_s seconds (of a stream with allow_msg_ttl).
 */
MUST_USE enum err js_publish_for(struct bus *bus, const char *subject,
                                 const struct js_expect *expect, unsigned keep_s, const void *data,
                                 size_t len, bus_done_fn *fn, void *arg);

/* A direct get: "last_by_subj" of a subject, which may hold wildcards.  fn gets one answer. */
MUST_USE enum err js_last(struct bus *bus, const char *stream, const char *subject,
                          bus_reply_fn *fn, void *arg);
/* What a stream has of a subject with wildcards, oldest first, from a sequence on (0: the first),
 * at most so many (1 … JS_LIST_MOST): fn for each message, and at last once with message NULL:
 * ERR_OK, or why it ended early; next is where to go on, 0: nothing is left. */
typedef void js_list_fn(void *arg, enum err err, const struct bus_message *message, uint64_t next);
#define JS_LIST_MOST 1000
MUST_USE enum err js_list(struct bus *bus, const char *stream, const char *subject, uint64_t from,
                          unsigned most, js_list_fn *fn, void *arg);
/* Of a message that a direct get brought: its sequence in the stream. */
uint64_t js_stored_sequence(const struct bus_message *message);

/* An API call whose answer only says yes or no. */
MUST_USE enum err js_call(struct bus *bus, const char *subject, const char *json, bus_done_fn *fn,
                          void *arg);

#endif
