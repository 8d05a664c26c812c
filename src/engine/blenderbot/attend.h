/*
 * attend.h - attention that reads keys and values through a table of cells.  Private to
 * src/engine/blenderbot/; CPU only.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_ATTEND_H
#define WYVERN_ENGINE_BLENDERBOT_ATTEND_H

#include <ggml.h>
#include <stddef.h>
#include <stdint.h>

struct attend_job {
    size_t heads;
    size_t most;           /* cells that one row reads at most */
    const int32_t **cells; /* for each row of the step: the cells it reads */
    const size_t *counts;  /* how many */
    const int32_t *own;    /* for each row: where its key and value go; NULL: they are there */
};

/* The operation.  query: [width, rows], or [3 × width, rows] of queries, keys and values when
 * job->own is given, which are stored first.  keys, values: the caches, [width, cells], f32.  The
 * job must live until the graph is computed. */
struct ggml_tensor *attend_op(struct ggml_context *context, struct ggml_tensor *query,
                              struct ggml_tensor *keys, struct ggml_tensor *values,
                              struct attend_job *job);

#endif
