/*
 * replies.h - the response queue (stream RESPONSES) and the records (stream REPLIES).
 *
 * All calls and callbacks on the loop's thread.
 */
#ifndef WYVERN_BUS_REPLIES_H
#define WYVERN_BUS_REPLIES_H

#include "bus/js.h"
#include "wire/reply.h"

/* Puts an ending on the response queue.  Whoever answers at ending->answer_to says that the record
 * exists; until then put it again. */
MUST_USE enum err responses_put(struct bus *bus, const struct reply *ending, bus_done_fn *fn,
                                void *arg);

typedef void responses_fetched_fn(void *arg, const char *ack, const struct reply *ending);
typedef void responses_end_fn(void *arg, enum err err);
#define RESPONSES_FETCH_MS 1500
MUST_USE enum err responses_fetch(struct bus *bus, unsigned count, responses_fetched_fn *fn,
                                  responses_end_fn *end, void *arg);
void responses_ack(struct bus *bus, const char *ack);

/* Creates the record.  ERR_EXISTS: the prompt had ended already; the record there counts. */
MUST_USE enum err replies_create(struct bus *bus, const struct reply *record, bus_done_fn *fn,
                                 void *arg);

/* The record; ERR_NOT_FOUND (record NULL) while the prompt has not ended. */
typedef void replies_get_fn(void *arg, enum err err, uint64_t sequence, const struct reply *record);
MUST_USE enum err replies_get(struct bus *bus, const char *gateway, const char *id,
                              replies_get_fn *fn, void *arg);

/* The same by the id alone: whichever gateway owned it. */
MUST_USE enum err replies_find(struct bus *bus, const char *id, replies_get_fn *fn, void *arg);

/* Records of a gateway's prompts (NULL: of all gateways), oldest first, from a sequence on; at last
 * once with record NULL, and where to go on (0: nothing is left). */
typedef void replies_list_fn(void *arg, enum err err, uint64_t sequence,
                             const struct reply *record);
MUST_USE enum err replies_list(struct bus *bus, const char *gateway, uint64_t from, unsigned most,
                               replies_list_fn *fn, void *arg);

/* Puts the record again without its text and what it kept of the request, marked as deleted, if it
 * is still the one with this sequence. */
MUST_USE enum err replies_delete(struct bus *bus, const struct reply *record, uint64_t sequence,
                                 bus_done_fn *fn, void *arg);

/* Puts the record again without its text, if it is still the one with this sequence. */
MUST_USE enum err replies_erase_text(struct bus *bus, const struct reply *record, uint64_t sequence,
                                     bus_done_fn *fn, void *arg);

#define REPLY_BYTES_MAX ((size_t)7 << 20)

#endif
