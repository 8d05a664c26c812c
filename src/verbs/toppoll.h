/*
 * toppoll.h - asks the gateway for its status, and gateways and nodes for their metrics, all at
 * once and each with a deadline, so that none holds up the others.  One thread.
 */
#ifndef WYVERN_VERBS_TOPPOLL_H
#define WYVERN_VERBS_TOPPOLL_H

#include <stdbool.h>
#include <stddef.h>

#include "config/options.h"
#include "verbs/topmodel.h"

#define TOP_EACH_MS 1000

enum top_poll_scope {
    TOP_POLL_ALL,
    TOP_POLL_GPUS, /* of the nodes only those whose workers run on GPUs; no gateway's metrics */
};

struct top_poller;
/* top is borrowed for the poller's life. */
MUST_USE enum err top_poller_new(struct top_poller **out, struct top *top,
                                 const struct settings *settings, enum top_poll_scope scope);
void top_poller_free(struct top_poller *poller);

/* Begins a round: who has not answered the last one is not asked again. */
void top_poller_ask(struct top_poller *poller);
/* Lets calls go on for at most timeout_ms; earlier when one has ended.  True when none is open. */
bool top_poller_run(struct top_poller *poller, unsigned timeout_ms);
/* Why the last status did not come; ERR_OK: it did, or none was asked for. */
enum err top_poller_status(const struct top_poller *poller);

#endif
