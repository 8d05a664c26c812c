/*
 * scores.h - what changes the model's scores before a token is chosen: the logits processors of
 * Hugging Face's generate, in its order.  Private to src/engine/blenderbot/; pure.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_SCORES_H
#define WYVERN_ENGINE_BLENDERBOT_SCORES_H

#include "engine/blenderbot/search.h"

/* Scores to log-probabilities. */
void bb_scores_normalise(float *scores, size_t count);

/* Applies the rules of the search to the scores of the token behind `tokens`.  seen: vocab_size
 * bytes, all zero, before and after. */
void bb_scores_restrict(const struct bb_search *search, const int32_t *tokens, float *scores,
                        uint8_t *seen);

/* Temperature, top-k and top-p: what they leave out becomes −INFINITY.  At least `keep` tokens
 * stay. sorted: scratch for `count` scores. */
void bb_scores_narrow(float *scores, size_t count, const struct sample_params *draw, size_t keep,
                      float *sorted);

#endif
