#include "engine/blenderbot/defaults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blenderbot/header.h"

#define MAX_SIZE  (1u << 20)
#define MAX_TOP_K (1u << 20)

static enum err read_token(const struct gguf_context *gguf, const char *name, size_t vocab_size,
                           int32_t *out)
{
    size_t id = 0;
    if (!bb_has_key(gguf, name))
        return ERR_OK;
    enum err err = bb_read_size(gguf, name, 0, (uint32_t)vocab_size - 1, &id);
    if (err == ERR_OK)
        *out = (int32_t)id;
    return err;
}

/* Several tokens, or as older files have it, one. */
static enum err read_set(const struct gguf_context *gguf, const char *name, size_t vocab_size,
                         struct bb_token_set *out)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    struct bb_token_set set = {.count = 1};
    enum err err;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY) {
        err = read_token(gguf, name, vocab_size, &set.ids[0]);
    } else {
        int32_t *ids = NULL;
        err = bb_read_ids(gguf, name, 0, vocab_size, &ids, &set.count);
        if (err == ERR_OK && set.count > BB_SET_MAX)
            err = err_set(ERR_LIMIT, "its header has more than %d tokens in %s", BB_SET_MAX, key);
        if (err == ERR_OK)
            memcpy(set.ids, ids, set.count * sizeof *ids);
        free(ids);
    }
    if (err == ERR_OK)
        *out = set;
    return err;
}

static enum err read_ends(const struct gguf_context *gguf, struct bb_model *model,
                          struct bb_token_set *ends)
{
    int64_t id = gguf_find_key(gguf, "tokenizer.ggml.eos_token_id");
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_UINT32 ||
        gguf_get_val_u32(gguf, id) >= model->vocab_size)
        return err_set(ERR_INVALID, "its header has no tokenizer.ggml.eos_token_id");
    model->prompt_end = (int32_t)gguf_get_val_u32(gguf, id);
    *ends = (struct bb_token_set){{model->prompt_end}, 1};
    return read_set(gguf, "generation.eos_token_id", model->vocab_size, ends);
}

static enum err read_lengths(const struct gguf_context *gguf, struct bb_model *model,
                             struct bb_search_params *defaults)
{
    size_t max_new = 0, min_new = 0;
    enum err err =
        bb_read_default_size(gguf, "generation.max_length", 1, UINT32_MAX, &defaults->max_length);
    if (err == ERR_OK)
        err = bb_read_default_size(gguf, "generation.min_length", 0, UINT32_MAX,
                                   &defaults->min_length);
    if (err == ERR_OK)
        err = bb_read_default_size(gguf, "generation.max_new_tokens", 1, UINT32_MAX, &max_new);
    if (err == ERR_OK)
        err = bb_read_default_size(gguf, "generation.min_new_tokens", 0, UINT32_MAX, &min_new);
    if (max_new > 0)
        defaults->max_length = max_new + 1;
    model->max_is_new = max_new > 0;
    model->min_is_new = bb_has_key(gguf, "generation.min_new_tokens");
    if (model->min_is_new)
        defaults->min_length = min_new + 1;
    return err;
}

static enum err read_counts(const struct gguf_context *gguf, struct bb_search_params *d)
{
    size_t top_k = 50;
    const struct {
        const char *name;
        uint32_t min, max;
        size_t *to;
    } rows[] = {
        {"num_beams", 1, BB_BEAMS_MAX, &d->beams},
        {"num_return_sequences", 1, BB_BEAMS_MAX, &d->returned},
        {"no_repeat_ngram_size", 0, MAX_SIZE, &d->no_repeat},
        {"encoder_no_repeat_ngram_size", 0, MAX_SIZE, &d->prompt_repeat},
        {"top_k", 0, MAX_TOP_K, &top_k},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[64];
        snprintf(name, sizeof name, "generation.%s", rows[i].name);
        enum err err = bb_read_default_size(gguf, name, rows[i].min, rows[i].max, rows[i].to);
        if (err != ERR_OK)
            return err;
    }
    d->draw.top_k = (int)top_k;
    return ERR_OK;
}

static enum err read_numbers(const struct gguf_context *gguf, struct bb_search_params *d)
{
    const struct {
        const char *name;
        float min, max;
        float *to;
    } rows[] = {
        {"repetition_penalty", 1e-3f, 1e3f, &d->repetition_penalty},
        {"encoder_repetition_penalty", 1e-3f, 1e3f, &d->prompt_penalty},
        {"length_penalty", -100, 100, &d->length_penalty},
        {"temperature", 0, 1e6f, &d->draw.temperature},
        {"top_p", 0, 1, &d->draw.top_p},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[64];
        snprintf(name, sizeof name, "generation.%s", rows[i].name);
        enum err err = bb_read_default_float(gguf, name, rows[i].min, rows[i].max, rows[i].to);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* The last word may lack its end in a broken file: it must not be read past. */
static enum err check_words(const int32_t *words, size_t count)
{
    if (count > 0 && words[count - 1] != -1)
        return err_set(ERR_INVALID,
                       "its header has a senseless " BB_PREFIX "generation.bad_words_ids");
    return ERR_OK;
}

static enum err read_bans(const struct gguf_context *gguf, struct bb_model *model,
                          struct bb_bans *bans)
{
    size_t vocab_size = model->vocab_size;
    enum err err = bb_read_ids(gguf, "generation.suppress_tokens", 0, vocab_size, &model->bans[0],
                               &bans->always_count);
    if (err == ERR_OK)
        err = bb_read_ids(gguf, "generation.begin_suppress_tokens", 0, vocab_size, &model->bans[1],
                          &bans->first_count);
    if (err == ERR_OK)
        err = bb_read_ids(gguf, "generation.bad_words_ids", -1, vocab_size, &model->bans[2],
                          &bans->words_count);
    bans->always = model->bans[0];
    bans->first = model->bans[1];
    bans->words = model->bans[2];
    return err == ERR_OK ? check_words(bans->words, bans->words_count) : err;
}

enum err bb_defaults_read(struct bb_model *model, const struct gguf_context *gguf)
{
    static const char *const stops[] = {"false", "true", "never"};
    int stop = 0;
    /* What generate does where a checkpoint says nothing: 20 new tokens behind the start token. */
    struct bb_search_params d = {.beams = 1,
                                 .returned = 1,
                                 .max_length = 21,
                                 .repetition_penalty = 1,
                                 .prompt_penalty = 1,
                                 .length_penalty = 1,
                                 .start = model->start_token,
                                 .forced_first = BB_NO_TOKEN,
                                 .draw = {.temperature = 1, .top_p = 1}};
    enum err err = read_ends(gguf, model, &d.ends);
    if (err == ERR_OK)
        err = read_counts(gguf, &d);
    if (err == ERR_OK)
        err = read_lengths(gguf, model, &d);
    if (err == ERR_OK)
        err = read_numbers(gguf, &d);
    if (err == ERR_OK)
        err = bb_read_default_bool(gguf, "generation.do_sample", &d.sample);
    if (err == ERR_OK)
        err = bb_read_default_bool(gguf, "generation.remove_invalid_values", &d.remove_infinite);
    if (err == ERR_OK)
        err = bb_read_default_bool(gguf, "generation.renormalize_logits", &d.renormalise);
    if (err == ERR_OK)
        err = bb_read_choice(gguf, "generation.early_stopping", stops, 3, &stop);
    if (err == ERR_OK)
        err =
            read_token(gguf, "generation.forced_bos_token_id", model->vocab_size, &d.forced_first);
    if (err == ERR_OK)
        err = read_set(gguf, "generation.forced_eos_token_id", model->vocab_size, &d.forced_last);
    if (err == ERR_OK)
        err = read_bans(gguf, model, &d.bans);
    d.early_stop = (enum bb_early_stop)stop;
    if (err == ERR_OK)
        model->defaults = d;
    return err;
}
