/*
 * model.h - a Blenderbot GGUF in memory: sizes, defaults of generate, weights.  Private to
 * src/engine/.
 *
 * Key and tensor names are those that `wyvern convert` writes.  Every number of the file is checked
 * here, so that nothing behind needs to: sizes, the shape and type of each tensor, ids of tokens.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_MODEL_H
#define WYVERN_ENGINE_BLENDERBOT_MODEL_H

#include <ggml-backend.h>
#include <ggml.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/blenderbot/search.h"
#include "engine/blenderbot/tokenizer.h"

#define BB_BAN_LISTS 3

enum bb_activation { BB_GELU_ERF, BB_GELU_TANH, BB_RELU, BB_SILU };

struct bb_linear { /* weight [in, out], bias [out] */
    struct ggml_tensor *weight, *bias;
    bool packed; /* the weight is in the form of cpu_ops.h */
};

struct bb_norm {
    struct ggml_tensor *weight, *bias;
};

struct bb_block {
    struct bb_norm attn_norm, cross_norm, ffn_norm;
    struct bb_linear qkv, attn_out;
    struct bb_linear cross_q, cross_kv, cross_out; /* decoder only */
    struct bb_linear up, down;
};

struct bb_side { /* encoder or decoder */
    size_t block_count, heads, ffn;
    struct bb_block *blocks;
    struct ggml_tensor *positions;
    struct bb_norm norm;
};

struct bb_model {
    size_t width, vocab_size, positions; /* d_model; positions of each side */
    float norm_epsilon, embed_scale;
    enum bb_activation activation;
    struct bb_side encoder, decoder;
    struct ggml_tensor *embeddings; /* to look ids up in */
    struct bb_linear head;          /* the same numbers, perhaps in another form */
    int32_t start_token;
    struct bb_search_params defaults;
    int32_t *bans[BB_BAN_LISTS]; /* what defaults.bans refers to */
    int32_t prompt_end;          /* the token behind a prompt: the tokenizer's end token */
    bool max_is_new, min_is_new; /* the checkpoint sets max_new_tokens, min_new_tokens: these go
                                    before a max_length and min_length that is asked for */
    struct bb_tokenizer *tokenizer;
    char name[128];
    uint64_t bytes;     /* of the weights in memory */
    struct bb_weights { /* by the kind of memory that they are in */
        struct ggml_context *context;
        ggml_backend_buffer_t buffer;
    } plain, extra;
};

/* Where matrices go: what is fastest here, or as any backend takes them (to hold beside it). */
enum bb_form { BB_FORM_FASTEST, BB_FORM_PLAIN };

/* Loads into the memory of a backend.  ERR_NOT_FOUND, ERR_INVALID, ERR_UNSUPPORTED, ERR_NOMEM;
 * err_text() names the path and what is wrong. */
MUST_USE enum err bb_model_open(struct bb_model *out, const char *path, ggml_backend_t backend,
                                enum bb_form form);
void bb_model_close(struct bb_model *model); /* safe on zeroed memory */

#endif
