/*
 * room.h - how full the broker's streams are, so that a gateway can refuse before they are.
 *
 * Asks every ROOM_INTERVAL_MS.  Loop's thread only.
 */
#ifndef WYVERN_BUS_ROOM_H
#define WYVERN_BUS_ROOM_H

#include "bus/bus.h"

struct room;

#define ROOM_INTERVAL_MS 2000
#define ROOM_FULL        0.9 /* share of a stream's bound from which on nothing new is accepted */
#define ROOM_STREAMS     5

MUST_USE enum err room_new(struct room **out, struct bus *bus, struct loop *loop);
void room_free(struct room *room);

/* Has any stream that a prompt needs on its way reached ROOM_FULL of its bytes? */
bool room_is_full(const struct room *room);
/* Has this one, "OBJECTS" for what files and batches need? */
bool room_stream_full(const struct room *room, const char *stream);
/* Share of its bound that stream number i < ROOM_STREAMS has in use, and its name; -1: not known.
 */
double room_used(const struct room *room, unsigned i, const char **name);

#endif
