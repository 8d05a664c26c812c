/*
 * gateway.h - private to the gateway: what its files share.
 *
 * One loop owns every socket, every session and the connection to the broker.  routes.c answers
 * HTTP requests, session.c takes one prompt from acceptance to its delivered reply, registry.c
 * knows who else is there, figures.c counts.
 */
#ifndef WYVERN_ROLES_GATEWAY_GATEWAY_H
#define WYVERN_ROLES_GATEWAY_GATEWAY_H

#include <uthash.h>

#include "api/chat.h"
#include "bus/bus.h"
#include "bus/endings.h"
#include "bus/prompts.h"
#include "bus/room.h"
#include "bus/teller.h"
#include "config/options.h"
#include "http/server.h"
#include "roles/gateway/figures.h"
#include "roles/gateway/registry.h"
#include "wire/presence.h"
#include "wire/trace.h"

struct session;

struct gateway {
    const struct settings *settings;
    struct loop *loop;
    struct bus *bus;
    struct endings *endings;
    struct http_server *http;
    struct registry *registry;
    struct figures *figures;
    struct bus_subscription *live;
    struct loop_timer *tick;
    struct teller *teller;
    struct room *room;
    struct presence presence; /* boot is our tag: prompts we own carry it */
    struct join join;
    struct session *sessions;      /* by prompt id */
    struct prompt_params defaults; /* what requests leave open */
    json_t *defaults_root;
    double started_at;
    int64_t away_since_ns; /* broker away since; 0: it is there */
    bool was_complete;     /* every worker asked for has been ready once */
    bool draining;
};

/* routes.c */
http_handler_fn gateway_handle; /* arg: struct gateway */
http_error_fn gateway_error_body;
/* request_id and trace may be NULL. */
void gateway_reply_error(struct http_exchange *exchange, const struct api_error *error,
                         const char *request_id, const struct trace *trace);
#define GATEWAY_REPLY_HEADERS 3
/* Headers that each reply to a prompt has; returns how many.  parent is room for a text of theirs.
 */
size_t gateway_reply_headers(struct http_header out[GATEWAY_REPLY_HEADERS],
                             char parent[TRACE_PARENT_SIZE], const char *request_id,
                             const struct trace *trace);
bool gateway_is_ready(const struct gateway *gateway);

/* session.c: takes the request over (chat_request_done when it ends). */
void session_begin(struct gateway *gateway, struct http_exchange *exchange,
                   struct chat_request *request, const char *prompter, const struct trace *trace);
void session_live(struct gateway *gateway, const struct bus_message *message);
void sessions_tick(struct gateway *gateway);
void sessions_reconnected(struct gateway *gateway);
unsigned sessions_count(const struct gateway *gateway);
void sessions_free(struct gateway *gateway);

#endif
