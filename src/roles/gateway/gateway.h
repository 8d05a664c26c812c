/*
 * gateway.h - private to the gateway: what its files share.
 *
 * One loop owns every socket, every session and the connection to the broker.  routes.c finds who
 * answers a request: accept.c makes prompts of it, stored.c knows replies that were made or are
 * being made, files.c and batches.c are about those, about.c says how the service is.  Who must ask
 * the broker first is a visit meanwhile (visit.h).  session.c follows one reply, deliver.c writes
 * it, erase.c takes away what is not to be kept, registry.c knows who else is there, figures.c
 * counts.
 */
#ifndef WYVERN_ROLES_GATEWAY_GATEWAY_H
#define WYVERN_ROLES_GATEWAY_GATEWAY_H

#include <uthash.h>

#include "api/error.h"
#include "base/heap.h"
#include "bus/bus.h"
#include "bus/endings.h"
#include "bus/prompts.h"
#include "bus/room.h"
#include "bus/teller.h"
#include "config/options.h"
#include "http/server.h"
#include "roles/gateway/cors.h"
#include "roles/gateway/figures.h"
#include "roles/gateway/keys.h"
#include "roles/gateway/registry.h"
#include "wire/presence.h"
#include "wire/trace.h"

struct batches;
struct erasure;
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
    unsigned ticks;
    struct heap heap;
    struct teller *teller;
    struct room *room;
    struct keys *keys;        /* NULL: none are asked for */
    struct cors *cors;        /* NULL: off */
    struct presence presence; /* boot is our tag: prompts we own carry it */
    struct join join;
    struct batches *batches;
    struct session *sessions; /* all */
    unsigned session_count;
    struct session *sessions_by_id; /* those of our own prompts */
    struct erasure *erasures;       /* texts that are to go */
    unsigned erasure_count;
    struct prompt_params defaults; /* what requests leave open */
    json_t *defaults_root;
    size_t held_bytes; /* what is kept for readers beside the output that they have not taken */
    double started_at;
    int64_t away_since_ns; /* broker away since; 0: it is there */
    bool was_complete;     /* every worker asked for has been ready once */
    bool draining;
};

/* caller: the key that the request came with; good during the call. */
typedef void route_fn(struct gateway *gateway, struct http_exchange *exchange,
                      const struct http_request *request, const struct key *caller);

/* gateway.c: do readers who take their time hold all the memory that there is for them?  Asked
 * before more is begun that may have to be held; what goes on goes on. */
bool gateway_is_clogged(const struct gateway *gateway);
#define GATEWAY_CLOGGED                                                                            \
    "too many large replies wait for readers who are slow; try again in a moment"

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
void gateway_reply_json(struct http_exchange *exchange, const struct buf *json);
/* The client's trace, or a new one. */
void gateway_trace(struct trace *out, const struct http_request *request);
/* A parameter of the request's query, decoded, into out: "" when it can't be, or is too long.
 * False: it is not there. */
bool gateway_query(const struct http_request *request, const char *name, char *out, size_t cap);
/* All paths that are answered, one a line. */
void gateway_write_routes(struct buf *out);
/* What stands between a path's prefix ("/v1/responses/") and its suffix ("" or "/cancel"); false:
 * the path is another, or that is empty, too long or has a slash. */
bool gateway_path_id(const struct http_request *request, const char *prefix, const char *suffix,
                     char *out, size_t cap);

/* about.c: how the service is. */
route_fn about_health, about_ready, about_status, about_metrics, about_sd, about_models,
    about_model, about_props, about_slots, about_root, about_console;

#endif
