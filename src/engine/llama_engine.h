/*
 * llama_engine.h - the engine for decoder models, on libllama.  Private to src/engine/.
 *
 * llama_open.c makes and frees it, llama_prompt.c turns a request into tokens, llama.c runs it.
 * Slot i is sequence i of the context, in a cache stream of its own.
 */
#ifndef WYVERN_ENGINE_LLAMA_ENGINE_H
#define WYVERN_ENGINE_LLAMA_ENGINE_H

#include <llama.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "engine/emit.h"
#include "engine/ops.h"
#include "engine/pools.h"
#include "engine/sample.h"
#include "sched/crowd.h"
#include "sched/slots.h"

enum slot_state {
    SLOT_FREE,
    SLOT_PROMPT, /* part of its tokens is not in the cache */
    SLOT_DECODE, /* all but its newest token are */
    SLOT_ENDING, /* nothing to compute; the last event is due */
};

struct llama_slot {
    enum slot_state state;
    void *user;
    int32_t *tokens;     /* prompt and reply; while free, what the cache holds */
    size_t count;        /* of tokens */
    size_t cached;       /* the first so many are in the cache */
    size_t prompt_count; /* the first so many are the prompt */
    size_t reply_count;  /* resumed ones included */
    size_t reused;       /* of the prompt: found in a cache */
    size_t min_reply, max_reply;
    size_t take;    /* tokens of this slot in the present step */
    int32_t row;    /* of its scores in the present step; −1: none */
    uint64_t order; /* when it started or was last used, counted in starts and ends */
    bool placed;    /* other slots' caches were searched for its beginning */
    enum engine_finish finish;
    struct sample_params sample;
    struct emit emit;
    int64_t start_ns, first_ns, last_ns; /* first prompt token computed, first token, newest */
    char error_text[160];
};

struct llama_engine {
    struct engine base;
    struct llama_model *model;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
    struct pools pools;
    struct crowd crowd;
    unsigned threads;    /* of the last step */
    char *chat_template; /* owned */
    size_t vocab_size;
    int32_t *enders; /* tokens that end a reply */
    size_t ender_count;
    struct sample_params defaults;
    bool can_share; /* a part of a sequence's cache can be kept */
    struct llama_slot *slots;
    struct slot_view *views; /* scratch, one for each slot */
    unsigned active;
    uint64_t orders;
    struct llama_batch batch;
    struct sampler sampler;
};

enum err llama_engine_open(struct engine **out, const struct engine_config *config);
void llama_engine_close(struct engine *engine);

/* The tokens (int32_t) of a request's prompt, without what it resumes; out is initialised by the
 * caller with a limit. */
MUST_USE enum err llama_prompt_tokens(struct llama_engine *llama,
                                      const struct engine_request *request, struct buf *out);

/* Whether the runtime knows this template (a name, or a model's own text). */
bool llama_prompt_knows(const char *chat_template);

#endif
