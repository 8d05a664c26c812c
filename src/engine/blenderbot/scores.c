#include "engine/blenderbot/scores.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void bb_scores_normalise(float *scores, size_t count)
{
    float best = -INFINITY;
    for (size_t i = 0; i < count; i++)
        best = scores[i] > best ? scores[i] : best;
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)expf(scores[i] - best);
    float rest = (float)log(sum);
    for (size_t i = 0; i < count; i++)
        scores[i] = scores[i] - best - rest;
}

/* Each token that is there already becomes less likely, once. */
static void penalise(float *scores, const int32_t *tokens, size_t count, float penalty,
                     uint8_t *seen)
{
    for (size_t i = 0; i < count; i++) {
        int32_t token = tokens[i];
        if (seen[token])
            continue;
        seen[token] = 1;
        scores[token] = scores[token] < 0 ? scores[token] * penalty : scores[token] / penalty;
    }
    for (size_t i = 0; i < count; i++)
        seen[tokens[i]] = 0;
}

/* Forbids what would repeat an n-gram of `text` behind the last size − 1 tokens. */
static void forbid_repeats(float *scores, const int32_t *tokens, size_t count, size_t size,
                           const int32_t *text, size_t text_count)
{
    if (count + 1 < size)
        return;
    const int32_t *tail = tokens + (count + 1 - size);
    for (size_t i = 0; i + size <= text_count; i++) {
        if (memcmp(text + i, tail, (size - 1) * sizeof *tail) == 0)
            scores[text[i + size - 1]] = -INFINITY;
    }
}

static void allow_only(float *scores, size_t count, const int32_t *tokens, size_t token_count)
{
    for (size_t i = 0; i < count; i++)
        scores[i] = -INFINITY;
    for (size_t i = 0; i < token_count; i++)
        scores[tokens[i]] = 0;
}

static void forbid(float *scores, const int32_t *tokens, size_t count)
{
    for (size_t i = 0; i < count; i++)
        scores[tokens[i]] = -INFINITY;
}

/* Forbids the last token of each word whose others are the last tokens. */
static void forbid_words(float *scores, const int32_t *tokens, size_t count,
                         const struct bb_bans *bans)
{
    size_t len = 0;
    for (size_t at = 0; at < bans->words_count; at += len + 1) {
        const int32_t *word = bans->words + at;
        for (len = 0; word[len] >= 0;)
            len++;
        if (len >= 1 && len - 1 <= count &&
            memcmp(tokens + (count - (len - 1)), word, (len - 1) * sizeof *word) == 0)
            scores[word[len - 1]] = -INFINITY;
    }
}

static void make_finite(float *scores, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (scores[i] == -INFINITY)
            scores[i] = -FLT_MAX;
    }
}

void bb_scores_restrict(const struct bb_search *search, const int32_t *tokens, float *scores,
                        uint8_t *seen)
{
    const struct bb_search_params *params = &search->params;
    const struct bb_bans *bans = &params->bans;
    size_t length = search->length, vocab_size = search->vocab_size;
    if (params->prompt_penalty != 1.0f)
        penalise(scores, search->prompt, search->prompt_count, 1 / params->prompt_penalty, seen);
    if (params->repetition_penalty != 1.0f)
        penalise(scores, tokens, length, params->repetition_penalty, seen);
    if (params->no_repeat > 0)
        forbid_repeats(scores, tokens, length, params->no_repeat, tokens, length);
    if (params->prompt_repeat > 0)
        forbid_repeats(scores, tokens, length, params->prompt_repeat, search->prompt,
                       search->prompt_count);
    forbid_words(scores, tokens, length, bans);
    if (length < params->min_length)
        forbid(scores, params->ends.ids, params->ends.count);
    if (params->forced_first != BB_NO_TOKEN && length == 1)
        allow_only(scores, vocab_size, &params->forced_first, 1);
    if (params->forced_last.count > 0 && length + 1 == params->max_length)
        allow_only(scores, vocab_size, params->forced_last.ids, params->forced_last.count);
    if (params->remove_infinite)
        make_finite(scores, vocab_size);
    forbid(scores, bans->always, bans->always_count);
    if (length == (params->forced_first != BB_NO_TOKEN ? 2 : 1))
        forbid(scores, bans->first, bans->first_count);
}

static int compare_down(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

void bb_scores_narrow(float *scores, size_t count, const struct sample_params *draw, size_t keep,
                      float *sorted)
{
    for (size_t i = 0; i < count; i++)
        sorted[i] = scores[i] /= draw->temperature;
    qsort(sorted, count, sizeof *sorted, compare_down);
    size_t most = draw->top_k > 0 ? (size_t)draw->top_k : count;
    if (most < keep)
        most = keep;
    if (most > count)
        most = count;
    while (most < count && sorted[most] == sorted[most - 1]) /* equals stay */
        most++;
    double sum = 0, kept = 0;
    for (size_t i = 0; i < most; i++)
        sum += exp((double)(sorted[i] - sorted[0]));
    size_t stay = 0;
    while (stay < most && (stay < keep || kept < (double)draw->top_p * sum))
        kept += exp((double)(sorted[stay++] - sorted[0]));
    float threshold = sorted[stay > 0 ? stay - 1 : 0];
    for (size_t i = 0; i < count; i++) {
        if (scores[i] < threshold)
            scores[i] = -INFINITY;
    }
}
