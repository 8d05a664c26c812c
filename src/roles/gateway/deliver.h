/*
 * deliver.h - one reply on its way to its client: whole, or streamed piece by piece.
 *
 * Knows what has been handed to HTTP, as a count of bytes and a sum over them, so that a record can
 * be held against it.  Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_DELIVER_H
#define WYVERN_ROLES_GATEWAY_DELIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"
#include "base/id.h"
#include "http/server.h"
#include "wire/claim.h"
#include "wire/reply.h"
#include "wire/trace.h"

struct delivery {
    struct http_exchange *exchange; /* NULL once it closed */
    char id[ID_SIZE];               /* the prompt's */
    char response_id[48];
    const char *model; /* borrowed */
    struct trace trace;
    bool stream, include_usage;
    bool begun;     /* response headers are out */
    bool role_sent; /* the first chunk is out */
    size_t bytes;   /* of reply text handed to HTTP, or counted as if, once nobody reads */
    uint64_t sum;   /* over them */
    int64_t wrote_ns;
    double created; /* Unix seconds */
};

void delivery_init(struct delivery *delivery, struct http_exchange *exchange);

/* The running sum (FNV-1a, 64 bits) and what it starts from. */
#define DELIVERY_SUM_BASIS UINT64_C(14695981039346656037)
uint64_t delivery_sum(uint64_t sum, const char *text, size_t len);
/* Is what was delivered the beginning of the record's text? */
bool delivery_continues(const struct delivery *delivery, const struct reply *record);

/* Sends the headers of a stream, if they are not out yet. */
void delivery_begin(struct delivery *delivery);
/* New pieces, from number `skip` of the message on, as one chunk. */
void delivery_pieces(struct delivery *delivery, const struct pieces *pieces, size_t skip);
/* A completed reply: what is missing of it and the stream's end, or all of it at once. */
void delivery_finish(struct delivery *delivery, const struct reply *record);
/* An error instead of a reply, or behind what was streamed of it. */
void delivery_fail(struct delivery *delivery, const struct api_error *error);

#endif
