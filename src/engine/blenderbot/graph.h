/*
 * graph.h - the encoder and one step of the decoder as ggml graphs, and the caches they use.
 * Private to src/engine/blenderbot/.
 *
 * A runner has `slots` places for prompts, each with keys and values for cross-attention
 * (`positions` cells) and `beams` rows of `positions` cells for self-attention.  Cell (slot, beam,
 * position) holds what the sequence that was row `beam` wrote there; which cells a row of a step
 * reads is a table of the caller's, so sequences follow their beams without a copy.
 *
 * On CPUs attention is an operation of our own that reads through the table; other backends gather
 * the cells first.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_GRAPH_H
#define WYVERN_ENGINE_BLENDERBOT_GRAPH_H

#include "engine/blenderbot/model.h"

struct bb_runner;
struct ggml_threadpool;

struct bb_runner_config {
    size_t slots, beams;
    bool gather; /* attend as on other backends (for tests) */
};

/* A row of a step: one token and what it may look at. */
struct bb_row {
    int32_t token;
    size_t position;
    size_t slot;          /* whose prompt */
    int32_t cell;         /* where its own keys and values go */
    const int32_t *cells; /* position + 1 of them, its own last */
};

/* model must outlive the runner. */
MUST_USE enum err bb_runner_open(struct bb_runner **out, const struct bb_model *model,
                                 ggml_backend_t backend, const struct bb_runner_config *config);
void bb_runner_close(struct bb_runner *runner);

int32_t bb_runner_cell(const struct bb_runner *runner, size_t slot, size_t beam, size_t position);
uint64_t bb_runner_cache_bytes(const struct bb_runner *runner);
uint64_t bb_runner_scratch_bytes(const struct bb_runner *runner);
/* pool may be NULL: threads of its own for each step. */
void bb_runner_set_threads(struct bb_runner *runner, unsigned threads,
                           struct ggml_threadpool *pool);

/* Encodes a prompt of 1 … positions ids into a slot.  states: NULL, or count × width numbers. */
MUST_USE enum err bb_runner_encode(struct bb_runner *runner, size_t slot, const int32_t *ids,
                                   size_t count, float *states);

/* One step of 1 … slots × max(beams, positions) rows; scores: rows × vocab_size numbers. */
MUST_USE enum err bb_runner_decode(struct bb_runner *runner, const struct bb_row *rows,
                                   size_t count, float *scores);

#endif
