/*
 * llama_engine.h - the engine for decoder models, on libllama.  Private to src/engine/.
 *
 * llama_open.c makes and frees it, llama_prompt.c turns a request into tokens, llama_pick.c picks
 * the next token, llama_task.c does what is no reply, llama.c runs it.
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
#include "engine/grammar.h"
#include "engine/ops.h"
#include "engine/pools.h"
#include "engine/sample.h"
#include "engine/task.h"
#include "sched/crowd.h"
#include "sched/slots.h"

enum slot_state {
    SLOT_FREE,
    SLOT_PROMPT, /* part of its tokens is not in the cache */
    SLOT_DECODE, /* all but its newest token are */
    SLOT_ENDING, /* nothing to compute; the last event is due */
    SLOT_TASK,   /* a task that computes: its cache stays what it was */
};

struct llama_asks { /* what makes picking a token more than drawing one */
    bool any;
    float frequency, presence; /* 0: off */
    float repeat;              /* 1: off */
    int logprobs;              /* -1: off */
    struct engine_bias *bias;  /* owned */
    size_t bias_count;
    struct grammar *grammar; /* NULL: none */
};

struct llama_task { /* what is asked for besides a reply */
    char **inputs;  /* of ENGINE_EMBED, owned */
    size_t input_count, input;
    struct buf ids; /* int32_t: of the present input */
    size_t done;    /* of ids: computed */
    double *sum;    /* of their states */
    struct task_result result;
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
    struct llama_asks asks;
    struct llama_task *task; /* NULL: a reply */
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
    /* Made when first asked for: */
    float *shaped;    /* one slot's scores with penalties and so on */
    uint32_t *counts; /* of each token: zero between uses */
    unsigned char *allowed;
    struct grammar_words words;
    struct buf note;
    struct llama_context *embedder;
    struct llama_batch embed_batch;
    int embed_pooling; /* enum llama_pooling_type */
};

enum err llama_engine_open(struct engine **out, const struct engine_config *config);
void llama_engine_close(struct engine *engine);

/* The tokens (int32_t) of a request's prompt, without what it resumes; out is initialised by the
 * caller with a limit. */
MUST_USE enum err llama_prompt_tokens(struct llama_engine *llama,
                                      const struct engine_request *request, struct buf *out);

/* Of one text as it is.  ERR_LIMIT: `what` has more tokens than the context. */
MUST_USE enum err llama_text_tokens(struct llama_engine *llama, const char *text, const char *what,
                                    bool with_start, struct buf *out);

/* The prompt's text as the template makes it, appended. */
MUST_USE enum err llama_prompt_text(struct llama_engine *llama,
                                    const struct engine_request *request, struct buf *out);

/* Whether the runtime knows this template (a name, or a model's own text). */
bool llama_prompt_knows(const char *chat_template);

#define LLAMA_PIECE_MAX 512 /* bytes of one token's text */
/* Text of a token; control tokens have none, unless `special`. */
MUST_USE enum err llama_token_text(const struct llama_engine *llama, int32_t token, bool special,
                                   char out[LLAMA_PIECE_MAX], size_t *len);

/* What params ask for; ERR_INVALID names it. */
MUST_USE enum err llama_asks_read(struct llama_engine *llama, struct llama_asks *out,
                                  const struct engine_params *params);
void llama_asks_done(struct llama_asks *asks);

/* The slot's next token, given the model's scores (which may be changed).  *over: nothing more may
 * be said, and token is unset. */
MUST_USE enum err llama_pick(struct llama_engine *llama, struct llama_slot *slot, float *scores,
                             int32_t *token, bool *over);

/* Makes slot->task; what takes no computing is done at once. */
MUST_USE enum err llama_task_start(struct llama_engine *llama, struct llama_slot *slot,
                                   const struct engine_request *request);
void llama_task_done(struct llama_slot *slot); /* no task: no-op */
/* Computes up to `most` tokens of the slot's; *ended: that was all. */
MUST_USE enum err llama_task_step(struct llama_engine *llama, struct llama_slot *slot, size_t most,
                                  bool *ended);

#endif
