/*
 * session.h - one reply as a gateway follows it: its own prompt's from the offer on, or one that is
 * on its way already, whoever owns it.  Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_SESSION_H
#define WYVERN_ROLES_GATEWAY_SESSION_H

#include "api/request.h"
#include "bus/bus.h"
#include "roles/gateway/deliver.h"
#include "wire/prompt.h"
#include "wire/trace.h"

struct gateway;

/* What was asked for, shared by the sessions of its texts until all of them are accepted. */
struct asked {
    struct api_request request; /* owned */
    char prompter[PROMPT_MAX_PROMPTER + 1];
    char owner[OWNER_LEN + 1];
    char traceparent[TRACE_PARENT_SIZE];
    struct trace trace;
    json_t *borrowed; /* owned: what the request borrows from besides its own root */
    const char *lane; /* NULL: main */
    bool detached;
    bool shared; /* others may put the same ids at the same time */
    double created;
    unsigned refs;
};
/* Takes the request; with one reference, the caller's.  NULL: no memory, and the request is gone.
 */
struct asked *asked_new(struct api_request *request, const struct trace *trace, double created);
void asked_drop(struct asked *asked);

/* Puts the prompt as number index of the outlet's deliveries under this id, and follows it.  text:
 * of several prompts the one that is meant, else NULL.  again: the id may be in the queue already,
 * or its reply made: then that is followed. */
MUST_USE enum err session_begin(struct gateway *gateway, struct asked *asked, struct outlet *outlet,
                                unsigned index, const char *id, const json_t *text, bool again);

/* Follows the reply to a prompt that is in the queue.  asked may be NULL: a reader who came back;
 * kind: how it is written. */
MUST_USE enum err session_attach(struct gateway *gateway, const struct prompt *prompt,
                                 double created, enum api_kind kind, struct outlet *outlet,
                                 unsigned index);

/* What is heard on live.<gw>.>: claims, pieces, records. */
void session_live(struct gateway *gateway, const struct bus_message *message);
void sessions_tick(struct gateway *gateway);
void sessions_reconnected(struct gateway *gateway);
unsigned sessions_count(const struct gateway *gateway);
/* Nobody waits for any of them: all are of replies that go on without us. */
bool sessions_may_leave(const struct gateway *gateway);
void sessions_free(struct gateway *gateway);

#endif
