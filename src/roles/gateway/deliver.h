/*
 * deliver.h - replies on their way to who asked: whole, or streamed piece by piece.
 *
 * An outlet is one HTTP exchange (or one follower inside the gateway, see outlet_follow), and what
 * is answered there: one reply, or several texts of one request, each a delivery.  A delivery knows
 * what has been handed on, as a count of bytes and a sum over them, so that a record can be held
 * against it.  Loop's thread only.
 *
 * A stream is written as fast as it is read, and no faster: with a little unsent, nothing more is
 * taken.  What waits meanwhile stays where it is kept anyway.  Of a reply that is being made that
 * is the broker's stream: its session is told when there is room, and reads on.  Of one that has
 * ended it is the record, which the outlet keeps until its reader has all of it.  (Who takes
 * nothing at all for http_limits.write_ms is cut.)
 */
#ifndef WYVERN_ROLES_GATEWAY_DELIVER_H
#define WYVERN_ROLES_GATEWAY_DELIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"
#include "api/render.h"
#include "base/id.h"
#include "http/server.h"
#include "wire/claim.h"
#include "wire/reply.h"
#include "wire/trace.h"

struct session;
struct outlet;

struct delivery { /* one reply's share of an outlet; embedded in its session */
    struct outlet *outlet;
    struct render render;
    json_t *request;    /* owned: what render.request points to */
    json_t *echo;       /* owned: the same of render.echo */
    uint64_t pieces;    /* of the reply that were handed on */
    size_t bytes;       /* of its text */
    uint64_t sum;       /* over them */
    size_t told;        /* tokens whose logprobs were */
    bool opened, ended; /* its first events are out; its end, too */
    bool waits;         /* it was given more than its reader took: drained will come */
    /* There is room again.  NULL: nobody wants to know.  Never inside a call of this header. */
    void (*drained)(struct delivery *delivery);
    /* The exchange is over: complete, or its reader left.  Comes once, and never inside a call of
     * this header. */
    void (*closed)(struct delivery *delivery, bool complete);
};

struct outlet_spec {
    struct http_exchange *exchange; /* NULL: a follower */
    unsigned count;                 /* deliveries */
    bool stream, include_usage;
    int64_t after; /* events up to this number are left out; -1: none are */
    const struct trace *trace;
    const char *request_id;            /* the prompt's id, for the header */
    const struct api_request *request; /* what whole replies are written by; copied */
    size_t *kept_total; /* where the memory of records that it keeps is added up; NULL: nowhere */
};

MUST_USE enum err outlet_new(struct outlet **out, const struct outlet_spec *spec);

/* A follower hears how its one reply ended: the record, or why there is none.  Both are borrowed.
 */
typedef void outlet_done_fn(void *arg, const struct reply *record, const struct api_error *error);
void outlet_follow(struct outlet *outlet, outlet_done_fn *done, void *arg);
/* At the gateway's own end: a follower hears nothing any more. */
void outlet_forget(struct outlet *outlet);

/* A delivery joins or leaves; an outlet whose exchange is over goes with the last of them. */
void outlet_join(struct outlet *outlet, struct delivery *delivery, unsigned index);
void outlet_leave(struct delivery *delivery);
bool outlet_is_streamed(const struct outlet *outlet);
bool outlet_is_followed(const struct outlet *outlet); /* by one inside the gateway */
/* Keeps an outlet while deliveries join it one by one. */
void outlet_hold(struct outlet *outlet);
void outlet_release(struct outlet *outlet);
/* An error instead of all that was asked for, unless it was answered already. */
void outlet_fail(struct outlet *outlet, int status, const char *code, const char *text);
const char *outlet_request_id(const struct outlet *outlet);
/* Signs of life of a stream: headers when they are late, comments into a silence. */
void outlet_tick(struct outlet *outlet, int64_t now_ns, int64_t came_ns);
/* Answers with the state of a reply that goes on without its reader (API_RESPONSE). */
void outlet_accept(struct outlet *outlet, const struct delivery *delivery);

/* The running sum (FNV-1a, 64 bits) and what it starts from. */
#define DELIVERY_SUM_BASIS UINT64_C(14695981039346656037)
uint64_t delivery_sum(uint64_t sum, const char *text, size_t len);
/* Is what was delivered the beginning of the record's text, as far as it tells any? */
bool delivery_continues(const struct delivery *delivery, const struct reply *record);

/* Sends a stream's headers and first events now, before there is a piece. */
void delivery_open(struct delivery *delivery);
/* New pieces, from number `skip` of the message on.  How many of them were handed on: when there
 * was no room for the others, delivery->waits. */
size_t delivery_pieces(struct delivery *delivery, const struct pieces *pieces, size_t skip);
/* Its end: what is missing of it and the stream's end, or all of it at once; or an error, if it
 * ended so.  The outlet keeps what it needs of both: the delivery may leave. */
void delivery_finish(struct delivery *delivery, const struct reply *record);
/* An error instead of a reply, or behind what was streamed of it. */
void delivery_fail(struct delivery *delivery, const struct api_error *error);

#endif
