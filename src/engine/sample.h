/*
 * sample.h - picks the next token from the model's scores.  Private to src/engine/; pure.
 *
 * Order: temperature, top-k, top-p, draw.  The draw is a function of (seed, position in the reply)
 * alone, so that whoever goes on with a reply draws what the first would have drawn.
 */
#ifndef WYVERN_ENGINE_SAMPLE_H
#define WYVERN_ENGINE_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct sample_params {
    float temperature; /* 0: the highest score wins; ties: the lowest id */
    float top_p;       /* 1: off */
    int top_k;         /* 0: off */
    uint64_t seed;
};

struct sample_candidate {
    float score;
    int32_t id;
};

struct sampler { /* scratch memory, one a thread */
    struct sample_candidate *top;
    size_t cap;
};

void sampler_done(struct sampler *sampler);

/* scores: one for each of the vocab_size tokens; −INFINITY forbids a token.  ERR_INTERNAL when no
 * score is a number. */
MUST_USE enum err sampler_pick(struct sampler *sampler, const float *scores, size_t vocab_size,
                               const struct sample_params *params, uint64_t position,
                               int32_t *token);

/* The `most` best tokens, best first, in sampler->top; returns in *count how many there are: fewer
 * only where scores are no numbers. */
MUST_USE enum err sampler_best(struct sampler *sampler, const float *scores, size_t vocab_size,
                               size_t most, size_t *count);

/* log(Σ e^score), to five digits; best: the highest of the scores. */
double sample_log_sum(const float *scores, size_t vocab_size, float best);

/* Uniform in [0, 1). */
double sample_uniform(uint64_t seed, uint64_t position);

#endif
