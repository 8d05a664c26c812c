/*
 * erase.h - what was said in a reply that nobody asked us to keep is taken out of its record.
 * Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_ERASE_H
#define WYVERN_ROLES_GATEWAY_ERASE_H

#include "wire/reply.h"

struct gateway;

/* Takes the text out of a record, if it is not to be kept; sequence: the record's, 0: it is none
 * of ours.  Tried again until the broker has answered. */
void erase_text(struct gateway *gateway, const struct reply *record, uint64_t sequence);
void erase_tick(struct gateway *gateway);
/* After the bus: nobody calls back any more. */
void erase_free(struct gateway *gateway);

#endif
