/*
 * blenderbot_engine.h - the engine for Blenderbot, an encoder-decoder.  Private to src/engine/.
 *
 * blenderbot.c runs the sequences, params.c says how each is searched, prompt.c turns a request
 * into ids and does what is no reply, model.c loads, graph.c computes, search.c chooses tokens.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_ENGINE_H
#define WYVERN_ENGINE_BLENDERBOT_ENGINE_H

#include "base/buf.h"
#include "engine/blenderbot/graph.h"
#include "engine/emit.h"
#include "engine/ops.h"
#include "engine/pools.h"
#include "engine/task.h"
#include "sched/crowd.h"

struct bb_sequence {
    bool active;
    bool encoded;
    bool is_task; /* no reply: task has all there is */
    struct task_result task;
    void *user;
    int32_t *prompt; /* with its end token */
    size_t prompt_count, truncated;
    struct bb_search search; /* kept after the last event: that points into it */
    int32_t *resumed;        /* tokens that were said elsewhere */
    size_t resumed_count;
    bool strayed; /* a beam search that was done again came to others: it is led along them */
    int32_t *cells, *next_cells; /* for each beam: the cell of each position */
    size_t said;                 /* tokens of the reply given to emit, the start token included */
    struct emit emit;
    enum engine_finish finish;
    int64_t start_ns, first_ns, last_ns;
    bool wants_trace;
    struct engine_trace trace;
    struct engine_sequence results[BB_BEAMS_MAX];
    struct buf texts; /* theirs, where there are several */
    char error_text[160];
};

struct bb_engine {
    struct engine base;
    ggml_backend_t backend;
    struct bb_model model;
    struct bb_runner *runner;
    size_t beams;                     /* that a request may ask for */
    struct crowd crowd, encode_crowd; /* steps of the decoder; prompts */
    struct pools pools;
    unsigned threads; /* of the last step; 0: none yet */
    struct bb_sequence *sequences;
    unsigned active;
    struct bb_row *rows; /* scratch of a step */
    float *scores;
    size_t scores_rows; /* room */
};

/* The ids (int32_t) of a request's prompt, end token included; *truncated: how many were left out
 * to fit.  ERR_LIMIT: too long. */
MUST_USE enum err bb_prompt_ids(const struct bb_engine *engine,
                                const struct engine_request *request, struct buf *out,
                                size_t *truncated);

/* Text and tokens: all but replies and embeddings. */
MUST_USE enum err bb_task_run(const struct bb_engine *engine, const struct engine_request *request,
                              struct task_result *result);

/* What a request asks for over the checkpoint's defaults.  ERR_INVALID. */
MUST_USE enum err bb_params_resolve(const struct bb_engine *engine,
                                    const struct engine_params *params,
                                    struct bb_search_params *out);

#endif
