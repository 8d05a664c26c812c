/*
 * task.h - results of what is asked for besides a reply, until their event was read.  Private to
 * src/engine/.
 */
#ifndef WYVERN_ENGINE_TASK_H
#define WYVERN_ENGINE_TASK_H

#include "base/buf.h"
#include "engine/engine.h"

#define TASK_BYTES_MAX ((size_t)1 << 27)

struct task_result {
    bool has_text;
    struct buf text;         /* ENGINE_DETOKENIZE, ENGINE_TEMPLATE */
    struct buf tokens;       /* ENGINE_TOKENIZE: int32_t */
    struct buf words;        /* their texts, each with its NUL */
    const char **word_texts; /* into words */
    float *vectors;          /* ENGINE_EMBED */
    size_t vector_count, vector_size;
    unsigned prompt_tokens;
};

void task_result_init(struct task_result *result);
void task_result_done(struct task_result *result); /* safe on zeroed memory */

/* One token and its bytes. */
MUST_USE enum err task_add_token(struct task_result *result, int32_t token, const char *text,
                                 size_t len);
/* Bytes as text. */
MUST_USE enum err task_add_text(struct task_result *result, const char *text, size_t len);
/* Room for vectors, all zero. */
MUST_USE enum err task_add_vectors(struct task_result *result, size_t count, size_t size);
/* To Euclidean length 1.  ERR_INTERNAL: all zero, or not numbers. */
MUST_USE enum err task_normalise(float *vector, size_t size);

/* Nothing more is added: the last event. */
MUST_USE enum err task_fill_event(struct task_result *result, struct engine_event *event);

#endif
