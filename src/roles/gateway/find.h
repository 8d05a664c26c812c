/*
 * find.h - a reply by its id, whichever gateway owns it and wherever it is: ended (its record), or
 * on its way (its prompt is in the queue).  Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_FIND_H
#define WYVERN_ROLES_GATEWAY_FIND_H

#include "bus/bus.h"
#include "wire/prompt.h"
#include "wire/reply.h"

struct found {
    const struct reply *record; /* with its sequence; or */
    uint64_t sequence;
    const struct prompt *prompt; /* when it was accepted; or both NULL: unknown */
    double accepted_at;
};

/* err other than ERR_OK: the broker can't be asked now. */
typedef void found_fn(void *arg, enum err err, const struct found *found);
MUST_USE enum err find_reply(struct bus *bus, const char *id, found_fn *fn, void *arg);

#endif
