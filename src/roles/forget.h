/*
 * forget.h - for the response worker: what was said to the readers of a gateway that is gone.
 *
 * A gateway that has delivered a reply that nobody asked to keep puts its record again without the
 * text.  One that died can't; so each response worker looks at the records of gateways that have
 * fallen silent, and, when it starts, at all that stood there before it.  Several doing so at once
 * is harmless: a record is put again only as it was read.  Loop's thread only.
 */
#ifndef WYVERN_ROLES_FORGET_H
#define WYVERN_ROLES_FORGET_H

#include "bus/bus.h"

struct forget;

MUST_USE enum err forget_new(struct forget **out, struct bus *bus);
void forget_free(struct forget *forget); /* after the bus, which it needs no more; takes NULL */
/* Once a second. */
void forget_tick(struct forget *forget);
/* A reply of this gateway's was recorded: it may be gone, and its records looked at, already. */
void forget_heard_of(struct forget *forget, const char *boot);
/* The broker was away: silence meanwhile means nothing.  Takes NULL. */
void forget_reconnected(struct forget *forget);

#endif
