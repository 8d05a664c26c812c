/*
 * runtime_log.h - what libllama and ggml say: errors to our log, the rest read for facts.  Private
 * to src/engine/.  The runtime has one log for the whole process.
 */
#ifndef WYVERN_ENGINE_RUNTIME_LOG_H
#define WYVERN_ENGINE_RUNTIME_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

/* Facts that the runtime tells nowhere else. */
struct runtime_facts {
    uint64_t kv_bytes, compute_bytes;
    char complaint[256]; /* the last error, "" if none */
};

/* Collects facts from now on, and keeps errors out of the log: the caller reports them. */
void runtime_log_collect(struct runtime_facts *facts);
/* As collect, and also reports how far quantising is. */
void runtime_log_collect_progress(struct runtime_facts *facts, engine_progress_fn *progress,
                                  void *arg);
/* Back to normal. */
void runtime_log_release(void);

#endif
