/*
 * link.h - the connection to the broker, on our own loop; private to src/bus/.
 *
 * libnats lets the loop own the socket: what arrives is read and parsed on the loop's thread, and
 * what is published leaves on it, so that no message crosses a thread.  libnats keeps threads for
 * connecting again, pings and callbacks; what those say is noted under a mutex and wakes the loop.
 */
#ifndef WYVERN_BUS_LINK_H
#define WYVERN_BUS_LINK_H

#include <nats/nats.h>

#include "bus/bus.h"

struct link;

struct link_callbacks {          /* on the loop's thread */
    void (*readable)(void *arg); /* messages may have come for subscriptions */
    /* Each loss is told, also one that was mended before we could look. */
    void (*state)(void *arg, bool connected);
    void *arg;
};

/* As bus_open.  *connected: is it there already? */
enum err link_open(struct link **out, bool *connected, struct loop *loop,
                   const struct bus_config *config, const struct link_callbacks *callbacks);
/* Ends the connection and waits until libnats will call no more. */
void link_close(struct link *link);

natsConnection *link_nats(const struct link *link);
enum err link_failed(natsStatus status, const char *what);

/* Between hold and release what is published is kept, to leave in one write. */
void link_hold(struct link *link);
void link_release(struct link *link);
/* After publishing: sends now, unless held. */
void link_flush(struct link *link);

#endif
