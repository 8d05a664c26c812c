/*
 * layout.h - which tensor of the checkpoint goes where in the GGUF, with the shape it must have.
 * Private to src/convert/.
 */
#ifndef WYVERN_CONVERT_LAYOUT_H
#define WYVERN_CONVERT_LAYOUT_H

#include "convert/checkpoint.h"
#include "convert/hf_config.h"

enum placing_kind {
    PLACING_MATRIX,    /* of a block: has the weight type asked for */
    PLACING_EMBEDDING, /* token_embd */
    PLACING_EXACT,     /* norms, biases, positions: f32 */
};

struct placing {
    char name[64]; /* in the GGUF */
    enum placing_kind kind;
    unsigned dims;
    int64_t ne[2];               /* row first, as ggml has it */
    const struct tensor *tensor; /* NULL: all zero */
};

struct layout {
    struct placing *items;
    size_t count, cap;
    size_t left_out; /* tensors of the checkpoint that no place takes */
    char first_left[64];
};

/* ERR_INVALID: a tensor is missing or has another shape; ERR_UNSUPPORTED: another number type. */
MUST_USE enum err layout_make(struct layout *out, struct checkpoint *checkpoint,
                              const struct hf_config *config);
void layout_done(struct layout *layout);
/* ERR_INVALID: the embedding has no rows for so many tokens as config.json claims.  (More rows are
 * found by layout_make: the vocabulary's own files may say better what is wrong.) */
MUST_USE enum err layout_check_vocab(struct checkpoint *checkpoint, const struct hf_config *config);

#endif
