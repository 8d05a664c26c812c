/*
 * registry.h - who is there: what the processes of the service say of themselves each second.
 *
 * Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_REGISTRY_H
#define WYVERN_ROLES_GATEWAY_REGISTRY_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"
#include "bus/bus.h"
#include "wire/presence.h"

struct registry;

MUST_USE enum err registry_new(struct registry **out, struct bus *bus);
void registry_free(struct registry *registry);
/* Forgets who was silent for PRESENCE_GONE_MS.  Call each second while the broker is there. */
void registry_sweep(struct registry *registry);
/* The broker was away: silence meanwhile means nothing. */
void registry_reconnected(struct registry *registry);

unsigned registry_ready_workers(const struct registry *registry);
/* Slots of all ready workers together. */
unsigned registry_slots(const struct registry *registry);
/* What the workers are: "llama", "blenderbot", "fake"; "" while none has said so. */
const char *registry_arch(const struct registry *registry);
/* Positions of one slot; 0: not known. */
unsigned registry_context(const struct registry *registry);
/* Is the gateway with this tag there? */
bool registry_gateway_here(const struct registry *registry, const char *tag);
/* An array with one object for each slot of each worker, as llama-server's /slots has. */
MUST_USE enum err registry_write_slots(struct registry *registry, struct buf *out);
/* What Prometheus may scrape, as its HTTP discovery wants it: the telemetry workers and gateways
 * that are there, by name.  own_host stands for an address that means "all of this host's".
 * ERR_UNAVAILABLE: who is there is not known yet. */
MUST_USE enum err registry_targets(struct registry *registry, const char *own_host,
                                   struct buf *out);
/* "nodes", "response_workers" and "gateways" of the status, set on object. */
MUST_USE enum err registry_describe(struct registry *registry, json_t *object);

#endif
