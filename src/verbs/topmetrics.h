/*
 * topmetrics.h - which metrics `wyvern top` reads, and where they go; for topmodel.c.
 */
#ifndef WYVERN_VERBS_TOPMETRICS_H
#define WYVERN_VERBS_TOPMETRICS_H

#include "verbs/topmodel.h"

/* Makes what came by metrics unknown. */
void top_worker_forget(struct top_worker *worker);
void top_node_forget(struct top_node *node); /* its GPUs' as well */

#endif
