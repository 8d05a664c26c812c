/*
 * loadgpu.h - how busy the GPUs of a load's workers are meanwhile, asked of their nodes' metrics
 * about once a second.  One thread.  NULL is a watcher of nothing.
 */
#ifndef WYVERN_VERBS_LOADGPU_H
#define WYVERN_VERBS_LOADGPU_H

#include <jansson.h>
#include <stdint.h>

#include "config/options.h"
#include "verbs/report.h"

struct load_gpus;
/* *out stays NULL when no worker of the status runs on a GPU. */
MUST_USE enum err load_gpus_new(struct load_gpus **out, const struct settings *settings,
                                const json_t *status);
void load_gpus_free(struct load_gpus *gpus);
/* Call often; never waits.  begin_ns: when the load began. */
void load_gpus_run(struct load_gpus *gpus, int64_t begin_ns);
/* Gives the report's workers their tracks, which stay the watcher's. */
void load_gpus_attach(const struct load_gpus *gpus, struct report *report);

#endif
