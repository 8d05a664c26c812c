/*
 * search.h - which tokens follow: greedy, sampling and beam search as Hugging Face's generate does
 * them (transformers 5), token by token.  Private to src/engine/; pure: scores in, tokens out.
 *
 * A search holds `beams` running sequences of one reply, all of the same length, each beginning
 * with the decoder's start token.  The owner computes the scores of the token behind each of them
 * (only of the first while bb_search_rows() is 1: all are equal then) and calls bb_search_step(),
 * which replaces them: running sequence i goes on from what was sequence parent[i].
 *
 * Beam search keeps 2 × beams candidates a step (with k end tokens, k + 1 times beams); those that
 * end go to the `beams` best finished ones, if they are among the first `beams`; the others run on.
 * Scores are sums of log-probabilities; those of finished sequences are divided by
 * length ^ length_penalty.  All of this is done in the precision and order of the original, since
 * ties and near ties decide; topk.h has the order among equals.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_SEARCH_H
#define WYVERN_ENGINE_BLENDERBOT_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/sample.h"

#define BB_BEAMS_MAX 64
#define BB_SET_MAX   8
#define BB_NO_TOKEN  (-1)

enum bb_early_stop { BB_STOP_HEURISTIC, BB_STOP_FULL, BB_STOP_NEVER }; /* false, true, "never" */

struct bb_token_set {
    int32_t ids[BB_SET_MAX];
    size_t count;
};

/* Tokens that a checkpoint forbids; its lists are borrowed. */
struct bb_bans {
    const int32_t *always, *first, *words; /* words: one behind the other, each ended by −1; its
                                              last token may not follow the others */
    size_t always_count, first_count, words_count;
};

struct bb_search_params {
    size_t beams;         /* 1 … BB_BEAMS_MAX */
    size_t returned;      /* num_return_sequences, at most beams */
    size_t max_length;    /* tokens, start and end token included; at least 2 */
    size_t min_length;    /* the end tokens are forbidden while there are fewer tokens than this */
    size_t no_repeat;     /* size of n-grams that may come once; 0: off */
    size_t prompt_repeat; /* size of n-grams of the prompt that may not come; 0: off */
    float repetition_penalty; /* 1: off */
    float prompt_penalty;     /* the same for the prompt's tokens */
    float length_penalty;
    enum bb_early_stop early_stop;
    int32_t start;
    struct bb_token_set ends;        /* empty: only the length ends a sequence */
    int32_t forced_first;            /* BB_NO_TOKEN: none */
    struct bb_token_set forced_last; /* empty: none */
    struct bb_bans bans;
    bool remove_infinite; /* what is forbidden gets the lowest number instead of −∞ */
    bool renormalise;     /* once more to log-probabilities, after all rules */
    bool sample;
    struct sample_params draw;
};

struct bb_hypothesis {
    int32_t *tokens; /* owned by the search */
    size_t length;
    float score;
    bool finished;
};

struct bb_search {
    struct bb_search_params params;
    size_t vocab_size;
    const int32_t *prompt; /* borrowed: the encoder's ids, end token included */
    size_t prompt_count;
    size_t length; /* of all running sequences */
    bool ended;
    bool uniform;                  /* all running sequences are equal */
    bool improvable;               /* a running one may still beat a finished one */
    bool led_to_end;               /* by forced tokens: none of the finished ones is the reply */
    struct bb_hypothesis *running; /* beams */
    struct bb_hypothesis *done; /* beams, best first; finished false: a place that none is worth */
    size_t *parent;             /* beams: of the last step */
    void *scratch;
};

bool bb_token_set_has(const struct bb_token_set *set, int32_t token);

/* Takes the prompt's ids by reference.  ERR_NOMEM. */
MUST_USE enum err bb_search_init(struct bb_search *search, const struct bb_search_params *params,
                                 size_t vocab_size, const int32_t *prompt, size_t prompt_count);
void bb_search_done(struct bb_search *search); /* safe on zeroed memory */

/* Rows of scores that the next step wants: 1 or beams. */
size_t bb_search_rows(const struct bb_search *search);

/* Takes the model's scores, row by row (they are changed), and moves on by a token.  forced:
 * BB_NO_TOKEN, or the token that a reply which is gone on with had here (only while the sequences
 * are all equal).  ERR_INTERNAL when the scores are no numbers. */
MUST_USE enum err bb_search_step(struct bb_search *search, float *scores, int32_t forced);

/* Tokens from the start token on that every sequence which may still become the reply shares. */
size_t bb_search_settled(const struct bb_search *search);

/* The i-th best sequence so far (i < returned), start token included. */
const struct bb_hypothesis *bb_search_result(const struct bb_search *search, size_t i);

#endif
