/*
 * visit.h - a request that is answered with what the broker says, while its client may leave.
 *
 * Who handles such a request keeps what it needs in a structure that begins with a struct visit.
 * The visit owns itself: it goes once its exchange is over (or was given away) and nobody calls
 * back any more.  So each call of the broker that names it as its argument is counted, by
 * visit_asked or visit_waits; its callback begins with visit_back and ends with visit_settle,
 * behind which the visit may be gone.  In between it is there, whatever is answered.  A handler
 * that made one need not settle it as long as its exchange is open: no exchange closes inside a
 * call.
 *
 * What a client that left has set going goes on; answers to it go nowhere.  Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_VISIT_H
#define WYVERN_ROLES_GATEWAY_VISIT_H

#include "roles/gateway/gateway.h"

struct visit;

struct visit_kind {
    const char *missing;               /* what a 404 says */
    void (*left)(struct visit *visit); /* the exchange is over; NULL: that changes nothing */
    void (*done)(struct visit *visit); /* lets go of what it owns, not of itself; NULL: nothing */
};

struct visit {
    const struct visit_kind *kind;
    struct gateway *gateway;
    struct http_exchange *exchange; /* NULL: over, given away, or there never was one */
    unsigned pending;               /* calls of the broker that name it */
    char owner[OWNER_LEN + 1];      /* whose request it is: what is another's does not exist */
    const char *request_id;         /* for the answer's headers; NULL: none.  Both borrowed from */
    const struct trace *trace;      /* what is around the visit */
};

/* size bytes that begin with a visit, the others zero.  NULL: no memory, and that is answered. */
void *visit_new(size_t size, const struct visit_kind *kind, struct gateway *gateway,
                struct http_exchange *exchange, const struct key *caller);
/* The same of memory that is there; exchange and owner may be NULL. */
void visit_init(struct visit *visit, const struct visit_kind *kind, struct gateway *gateway,
                struct http_exchange *exchange, const char *owner);

/* A call of the broker that names it was made. */
void visit_waits(struct visit *visit);
/* The same, if it could be; else that is the answer. */
void visit_asked(struct visit *visit, enum err err);
void visit_back(struct visit *visit);
void visit_settle(struct visit *visit);
/* The exchange is another's, who has set its own http_on_close. */
void visit_give(struct visit *visit);

void visit_answer(struct visit *visit, enum err err, const struct buf *json);
void visit_refuse(struct visit *visit, const struct api_error *error);
void visit_fail(struct visit *visit, int status, const char *code, const char *param,
                const char *text);
/* What the broker said instead: ERR_NOT_FOUND, ERR_FULL, any other. */
void visit_fail_as(struct visit *visit, enum err err);
/* Answers so when the gateway is clogged: nothing large may be begun. */
bool visit_is_clogged(struct visit *visit);

#endif
