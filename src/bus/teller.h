/*
 * teller.h - says each second, and whenever a gateway is new, that this process is there.
 *
 * Loop's thread only.  The presence is the role's: it fills in what changes and may change it at
 * any time between calls.
 */
#ifndef WYVERN_BUS_TELLER_H
#define WYVERN_BUS_TELLER_H

#include "bus/bus.h"
#include "wire/presence.h"

struct teller;

typedef void teller_refresh_fn(void *arg); /* brings the presence up to date before it is said */

/* presence is borrowed for the teller's life; refresh may be NULL. */
MUST_USE enum err teller_new(struct teller **out, struct bus *bus, struct loop *loop,
                             struct presence *presence, teller_refresh_fn *refresh, void *arg);
/* Says it now. */
void teller_tell(struct teller *teller);
/* Says it soon: changes of one busy moment are said once. */
void teller_tell_soon(struct teller *teller);
/* Says one presence, without a teller: a supervisor for its dead child.  Unsent while the broker is
 * away. */
void teller_tell_once(struct bus *bus, const struct presence *presence);
/* Says goodbye, so that nobody has to wait for the silence to mean it, and frees. */
void teller_free(struct teller *teller);

#endif
