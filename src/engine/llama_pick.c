/*
 * llama_pick.c - picks a sequence's next token: penalties, biases, the grammar, and what is told of
 * probabilities.
 *
 * A sequence that asks for none of these draws from the model's scores as they are.  The others get
 * a copy: repeat_penalty, frequency_penalty and presence_penalty, logit_bias, in this order.  Of a
 * grammar a token is drawn first and tested by itself; only if it is refused the grammar sifts the
 * whole vocabulary, and another one is drawn from what it allows, by a number of its own: so the
 * chances are those of drawing from the allowed tokens alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/llama_engine.h"
#include "engine/logprobs.h"

#define REPEAT_WINDOW 64 /* tokens that repeat_penalty looks back on, as llama.cpp does */
#define REDRAW        UINT64_C(0xA0761D6478BD642F) /* another stream of random numbers */
#define NOTE_LIMIT    ((size_t)1 << 20)

static enum err out_of_memory(void)
{
    return err_set(ERR_NOMEM, "out of memory");
}

enum err llama_token_text(const struct llama_engine *llama, int32_t token, bool special,
                          char out[LLAMA_PIECE_MAX], size_t *len)
{
    int32_t n = llama_token_to_piece(llama->vocab, token, out, LLAMA_PIECE_MAX, 0, special);
    if (n < 0)
        return err_set(ERR_UNSUPPORTED, "token %d has more than %d bytes of text", token,
                       LLAMA_PIECE_MAX);
    *len = (size_t)n;
    return ERR_OK;
}

/* ---- what is asked for ---- */

void llama_asks_done(struct llama_asks *asks)
{
    free(asks->bias);
    grammar_close(asks->grammar);
    *asks = (struct llama_asks){0};
}

static enum err read_bias(const struct llama_engine *llama, struct llama_asks *out,
                          const struct engine_params *params)
{
    for (size_t i = 0; i < params->bias_count; i++) {
        if ((size_t)params->bias[i].token >= llama->vocab_size)
            return err_set(ERR_INVALID, "logit_bias has the token %d, which the model has not",
                           params->bias[i].token);
    }
    if (params->bias_count == 0)
        return ERR_OK;
    out->bias = malloc(params->bias_count * sizeof *out->bias);
    if (out->bias == NULL)
        return out_of_memory();
    memcpy(out->bias, params->bias, params->bias_count * sizeof *out->bias);
    out->bias_count = params->bias_count;
    return ERR_OK;
}

struct word_source {
    const struct llama_engine *llama;
    char text[LLAMA_PIECE_MAX];
};

static const char *get_word(void *arg, int32_t id, size_t *len)
{
    struct word_source *source = arg;
    *len = 0;
    if (!llama_vocab_is_eog(source->llama->vocab, id) &&
        llama_token_text(source->llama, id, false, source->text, len) != ERR_OK)
        *len = 0; /* such a token can't be said anyway */
    return source->text;
}

static enum err read_grammar(struct llama_engine *llama, struct llama_asks *out, const char *text)
{
    struct word_source source = {.llama = llama};
    enum err err = ERR_OK;
    if (llama->words.count == 0)
        err = grammar_words_make(&llama->words, llama->vocab_size, get_word, &source);
    if (err == ERR_OK && llama->allowed == NULL) {
        llama->allowed = calloc(llama->vocab_size, 1);
        err = llama->allowed != NULL ? ERR_OK : out_of_memory();
    }
    return err == ERR_OK ? grammar_open(&out->grammar, text) : err;
}

enum err llama_asks_read(struct llama_engine *llama, struct llama_asks *out,
                         const struct engine_params *params)
{
    struct llama_asks asks = {
        .frequency = isnan(params->frequency_penalty) ? 0 : params->frequency_penalty,
        .presence = isnan(params->presence_penalty) ? 0 : params->presence_penalty,
        .repeat = isnan(params->repeat_penalty) ? 1 : params->repeat_penalty,
        .logprobs = params->logprobs,
    };
    enum err err = read_bias(llama, &asks, params);
    if (err == ERR_OK && params->grammar != NULL)
        err = read_grammar(llama, &asks, params->grammar);
    asks.any = asks.frequency != 0 || asks.presence != 0 || asks.repeat != 1 ||
               asks.logprobs >= 0 || asks.bias_count > 0 || asks.grammar != NULL;
    if (err == ERR_OK && asks.any && llama->shaped == NULL) {
        llama->shaped = calloc(llama->vocab_size, sizeof *llama->shaped);
        llama->counts = calloc(llama->vocab_size, sizeof *llama->counts);
        buf_init(&llama->note, NOTE_LIMIT);
        if (llama->shaped == NULL || llama->counts == NULL)
            err = out_of_memory();
    }
    if (err == ERR_OK)
        *out = asks;
    else
        llama_asks_done(&asks);
    return err;
}

/* ---- scores ---- */

static void punish_repeats(struct llama_engine *llama, const struct llama_slot *slot, float *scores)
{
    size_t first = slot->count > REPEAT_WINDOW ? slot->count - REPEAT_WINDOW : 0;
    for (size_t i = first; i < slot->count; i++) {
        int32_t token = slot->tokens[i];
        float *score = &scores[token];
        if (llama->counts[token]++ == 0)
            *score = *score > 0 ? *score / slot->asks.repeat : *score * slot->asks.repeat;
    }
    for (size_t i = first; i < slot->count; i++)
        llama->counts[slot->tokens[i]] = 0;
}

static void punish_said(struct llama_engine *llama, const struct llama_slot *slot, float *scores)
{
    size_t first = slot->count - slot->reply_count;
    for (size_t i = first; i < slot->count; i++)
        llama->counts[slot->tokens[i]]++;
    for (size_t i = first; i < slot->count; i++) {
        uint32_t *count = &llama->counts[slot->tokens[i]];
        if (*count > 0)
            scores[slot->tokens[i]] -= (float)*count * slot->asks.frequency + slot->asks.presence;
        *count = 0;
    }
}

static void forbid_end(const struct llama_engine *llama, const struct llama_slot *slot,
                       float *scores)
{
    for (size_t i = 0; slot->reply_count < slot->min_reply && i < llama->ender_count; i++)
        scores[llama->enders[i]] = -INFINITY;
}

static void shape_scores(struct llama_engine *llama, const struct llama_slot *slot, float *scores)
{
    const struct llama_asks *asks = &slot->asks;
    if (asks->repeat != 1)
        punish_repeats(llama, slot, scores);
    if (asks->frequency != 0 || asks->presence != 0)
        punish_said(llama, slot, scores);
    for (size_t i = 0; i < asks->bias_count; i++)
        scores[asks->bias[i].token] += asks->bias[i].bias;
    forbid_end(llama, slot, scores);
}

/* ---- grammar ---- */

static enum err test_token(const struct llama_engine *llama, struct grammar *grammar, int32_t token,
                           bool *allowed)
{
    char text[LLAMA_PIECE_MAX];
    size_t len = 0;
    if (llama_vocab_is_eog(llama->vocab, token)) {
        *allowed = grammar_may_end(grammar);
        return ERR_OK;
    }
    enum err err = llama_token_text(llama, token, false, text, &len);
    *allowed = false;
    return err == ERR_OK && len > 0 ? grammar_test(grammar, text, len, allowed) : err;
}

/* Forbids what the grammar does not allow.  *any: something is left. */
static enum err sift_scores(struct llama_engine *llama, struct llama_slot *slot, float *scores,
                            bool *any)
{
    struct grammar *grammar = slot->asks.grammar;
    size_t count = 0;
    memset(llama->allowed, 0, llama->vocab_size);
    enum err err = grammar_sift(grammar, &llama->words, llama->allowed, &count);
    bool may_end = grammar_may_end(grammar) && slot->reply_count >= slot->min_reply;
    for (size_t i = 0; may_end && i < llama->ender_count; i++, count++)
        llama->allowed[llama->enders[i]] = 1;
    for (size_t i = 0; i < llama->vocab_size; i++) {
        if (llama->allowed[i] == 0)
            scores[i] = -INFINITY;
    }
    *any = count > 0;
    return err;
}

static enum err obey_grammar(struct llama_engine *llama, struct llama_slot *slot, float *scores,
                             int32_t *token, bool *over)
{
    bool allowed = false, any = false;
    enum err err = test_token(llama, slot->asks.grammar, *token, &allowed);
    if (err != ERR_OK || allowed)
        return err;
    err = sift_scores(llama, slot, scores, &any);
    if (err != ERR_OK)
        return err;
    if (any) {
        struct sample_params again = slot->sample;
        again.seed ^= REDRAW;
        return sampler_pick(&llama->sampler, scores, llama->vocab_size, &again, slot->reply_count,
                            token);
    }
    *over = grammar_may_end(slot->asks.grammar); /* min_tokens can't be had */
    return *over
               ? ERR_OK
               : err_set(ERR_UNSUPPORTED, "grammar asks for text that the model has no tokens for");
}

/* ---- what is told ---- */

static void write_token(struct json_out *out, const struct llama_engine *llama, int32_t token,
                        double logprob)
{
    char text[LLAMA_PIECE_MAX];
    size_t len = 0;
    if (llama_token_text(llama, token, true, text, &len) != ERR_OK)
        len = 0;
    logprobs_write_token(out, text, len, logprob);
}

static enum err tell_logprobs(struct llama_engine *llama, struct llama_slot *slot,
                              const float *scores, int32_t token)
{
    size_t most = slot->asks.logprobs > 0 ? (size_t)slot->asks.logprobs : 1, count = 0;
    enum err err = sampler_best(&llama->sampler, scores, llama->vocab_size, most, &count);
    if (err != ERR_OK || count == 0)
        return err;
    const struct sample_candidate *top = llama->sampler.top;
    double sum = sample_log_sum(scores, llama->vocab_size, top[0].score);
    struct json_out out;
    buf_clear(&llama->note);
    json_out_begin(&out, &llama->note);
    json_out_object(&out, NULL);
    write_token(&out, llama, token, (double)scores[token] - sum);
    json_out_array(&out, "top_logprobs");
    for (size_t i = 0; i < count && (int)i < slot->asks.logprobs; i++) {
        json_out_object(&out, NULL);
        write_token(&out, llama, top[i].id, (double)top[i].score - sum);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
    err = json_out_end(&out);
    return err == ERR_OK ? emit_note(&slot->emit, llama->note.data, llama->note.len) : err;
}

enum err llama_pick(struct llama_engine *llama, struct llama_slot *slot, float *scores,
                    int32_t *token, bool *over)
{
    float *shaped = scores;
    *over = false;
    if (slot->asks.any) {
        shaped = llama->shaped;
        memcpy(shaped, scores, llama->vocab_size * sizeof *scores);
        shape_scores(llama, slot, shaped);
    } else {
        forbid_end(llama, slot, shaped);
    }
    enum err err = sampler_pick(&llama->sampler, shaped, llama->vocab_size, &slot->sample,
                                slot->reply_count, token);
    if (err == ERR_OK && slot->asks.grammar != NULL)
        err = obey_grammar(llama, slot, shaped, token, over);
    if (err != ERR_OK || *over || slot->asks.logprobs < 0 || !slot->asks.any)
        return err;
    char text[LLAMA_PIECE_MAX];
    size_t len = 0;
    err = llama_token_text(llama, *token, false, text, &len);
    bool said = len > 0 && !llama_vocab_is_eog(llama->vocab, *token);
    return err == ERR_OK && said ? tell_logprobs(llama, slot, scores, *token) : err;
}
