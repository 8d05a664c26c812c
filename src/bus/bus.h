/*
 * bus.h - one connection to the broker, seen from a loop.  Alone with its folder it knows nats.h.
 *
 * All calls and callbacks on the loop's thread, which also reads and writes the socket.  Nothing is
 * buffered while the broker is away: publishes fail with ERR_UNAVAILABLE, requests with a timeout,
 * and the owner is told when the broker is back.  Subscriptions survive a reconnect.
 */
#ifndef WYVERN_BUS_BUS_H
#define WYVERN_BUS_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "config/settings.h"

struct bus;
struct bus_subscription;

struct bus_message { /* borrowed during the callback */
    const char *subject;
    const char *reply; /* "" when none */
    const char *data;  /* NUL-terminated */
    size_t len;
    int status; /* of a Status header line (204, 404, 408, 409); 0: none */
    void *raw;  /* for bus_message_header */
};

/* A header's value, or NULL: looked up on demand, because most messages are never asked. */
const char *bus_message_header(const struct bus_message *message, const char *name);

struct bus_header {
    const char *name;
    const char *value;
};

typedef void bus_message_fn(void *arg, const struct bus_message *message);
/* Connection state changed.  After connected = true the broker may have lost what was not synced.
 */
typedef void bus_state_fn(void *arg, bool connected);

struct bus_config {
    const struct join *join; /* address and credentials; borrowed during bus_open */
    const char *client_name; /* "infer.node1.0": seen in the broker's own reports */
    const char *role;        /* names the inbox: _INBOX_<role>.> */
    bool wait;               /* keep trying when the broker can't be reached at first */
    bus_state_fn *on_state;  /* may be NULL */
    void *arg;
};

/* ERR_UNAVAILABLE, ERR_DENIED. */
MUST_USE enum err bus_open(struct bus **out, struct loop *loop, const struct bus_config *config);
void bus_close(struct bus *bus);
bool bus_connected(const struct bus *bus);

MUST_USE enum err bus_subscribe(struct bus_subscription **out, struct bus *bus, const char *subject,
                                bus_message_fn *fn, void *arg);
void bus_unsubscribe(struct bus_subscription *subscription);

/* Fire and forget. */
MUST_USE enum err bus_publish(struct bus *bus, const char *subject,
                              const struct bus_header *headers, size_t header_count,
                              const void *data, size_t len);

/* What is published between hold and release leaves in one write. */
void bus_hold(struct bus *bus);
void bus_release(struct bus *bus);

/*
 * A request: fn gets each answer.  It returns false when it wants no more; until then further
 * answers may come (a fetch, a batched get).  The request ends with err = ERR_OK after that,
 * or is told once with message = NULL and err = ERR_TIMEOUT (no answer for timeout_ms since the
 * last one), ERR_UNAVAILABLE (connection lost, or nobody listens) or ERR_CANCELLED (bus_close).
 */
typedef bool bus_reply_fn(void *arg, enum err err, const struct bus_message *message);
/* On failure fn is not called.  *id (may be NULL) is for bus_request_cancel. */
MUST_USE enum err bus_request(struct bus *bus, const char *subject,
                              const struct bus_header *headers, size_t header_count,
                              const void *data, size_t len, unsigned timeout_ms, bus_reply_fn *fn,
                              void *arg, uint64_t *id);
/* The same for a pull from a consumer: its answers bear the subjects of the stored messages instead
 * of our inbox, so each such request that is under way gets an inbox of its own. */
MUST_USE enum err bus_pull(struct bus *bus, const char *subject, const void *data, size_t len,
                           unsigned timeout_ms, bus_reply_fn *fn, void *arg);
/* Takes all pulls under way back from the broker, for a worker that leaves: what was on its way
 * still comes, then each ends with ERR_CANCELLED, and so does any later bus_pull. */
void bus_pulls_end(struct bus *bus);
/* fn is not called any more. */
void bus_request_cancel(struct bus *bus, uint64_t id);

/* Inbox prefix of this connection plus a name of our choice: an address to be answered at.
 * Subscribe to it like to any subject. */
void bus_inbox(const struct bus *bus, const char *name, char *out, size_t cap);

#endif
