/*
 * batches.h - /v1/batches, and who moves which batch.
 *
 * A batch's state is an object; it names the gateway that moves it.  When that one is gone, whoever
 * puts its own name there first goes on (batch_run.c).  Any gateway shows, lists and cancels any.
 * Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_BATCHES_H
#define WYVERN_ROLES_GATEWAY_BATCHES_H

#include "roles/gateway/gateway.h"

struct batches;

MUST_USE enum err batches_new(struct batches **out, struct gateway *gateway);
/* After sessions_free and endings_free.  Takes NULL. */
void batches_free(struct batches *batches);
void batches_tick(struct batches *batches);
/* The broker was away: who is there must be heard anew. */
void batches_reconnected(struct batches *batches);

route_fn batches_post, batches_list, batches_get, batches_cancel;

#endif
