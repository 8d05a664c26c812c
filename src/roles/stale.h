/*
 * stale.h - for the response worker: pieces of replies that have ended.
 *
 * Whoever records a reply purges its pieces.  It may die in between; and nats-server, killed, may
 * bring back what was purged (nats-server pull requests 7384 and 7387).  So each response worker
 * looks at the pieces that are stored when it has come to the broker, and purges again what a
 * record answers for.  Several doing so at once is harmless.  Loop's thread only.
 */
#ifndef WYVERN_ROLES_STALE_H
#define WYVERN_ROLES_STALE_H

#include "bus/bus.h"

struct stale;

MUST_USE enum err stale_new(struct stale **out, struct bus *bus);
void stale_free(struct stale *stale); /* after the bus, which it needs no more; takes NULL */
/* There may be some: the broker came back, a purge failed.  Takes NULL. */
void stale_expect(struct stale *stale);
/* Once a second. */
void stale_tick(struct stale *stale);

#endif
