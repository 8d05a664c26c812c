#include "convert/hf_generation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/gguf_blenderbot.h"
#include "wire/json.h"

#define KEY_SIZE 96
#define IDS_MAX  (1u << 20) /* of one list; no more than the engine takes */

static const char *key_of(char out[KEY_SIZE], const char *name)
{
    snprintf(out, KEY_SIZE, "blenderbot.generation.%s", name);
    return out;
}

static bool is_set(const json_t *value)
{
    return value != NULL && !json_is_null(value);
}

/* ---- what is not followed ---- */

enum neutral { NEUTRAL_NONE, NEUTRAL_FALSE, NEUTRAL_EQUAL, NEUTRAL_LOW, NEUTRAL_HIGH };

/* Settings that the engine does not know, and what of them does nothing: null alone, false, or a
 * number: the limit, at most that, at least that. */
static const struct {
    const char *name;
    enum neutral neutral;
    double limit;
    bool sampling; /* matters only where tokens are drawn */
} unknown[] = {
    {"sequence_bias", NEUTRAL_NONE, 0, false},
    {"exponential_decay_length_penalty", NEUTRAL_NONE, 0, false},
    {"constraints", NEUTRAL_NONE, 0, false},
    {"force_words_ids", NEUTRAL_NONE, 0, false},
    {"watermarking_config", NEUTRAL_NONE, 0, false},
    {"dola_layers", NEUTRAL_NONE, 0, false},
    {"stop_strings", NEUTRAL_NONE, 0, false},
    {"guidance_scale", NEUTRAL_EQUAL, 1, false},
    {"token_healing", NEUTRAL_FALSE, 0, false},
    {"low_memory", NEUTRAL_FALSE, 0, false},
    {"num_beam_groups", NEUTRAL_LOW, 1, false},
    {"penalty_alpha", NEUTRAL_LOW, 0, false},
    {"min_p", NEUTRAL_LOW, 0, true},
    {"top_h", NEUTRAL_NONE, 0, true},
    {"typical_p", NEUTRAL_HIGH, 1, true},
    {"epsilon_cutoff", NEUTRAL_LOW, 0, true},
    {"eta_cutoff", NEUTRAL_LOW, 0, true},
};

static bool is_neutral(const json_t *value, size_t i)
{
    double number = json_number_value(value);
    if (!is_set(value))
        return true;
    switch (unknown[i].neutral) {
    case NEUTRAL_FALSE:
        return json_is_false(value);
    case NEUTRAL_EQUAL:
        return json_is_number(value) && !(number < unknown[i].limit || number > unknown[i].limit);
    case NEUTRAL_LOW:
        return json_is_number(value) && number <= unknown[i].limit;
    case NEUTRAL_HIGH:
        return json_is_number(value) && number >= unknown[i].limit;
    case NEUTRAL_NONE:
        break;
    }
    return false;
}

static enum err check_unknown(const struct hf_source *from, struct hf_config *config)
{
    bool draws = json_is_true(json_object_get(from->object, "do_sample"));
    size_t len = 0;
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        const char *name = unknown[i].name;
        if (is_neutral(json_object_get(from->object, name), i))
            continue;
        if (draws || !unknown[i].sampling)
            return err_set(ERR_UNSUPPORTED,
                           "%.300s/%s sets %s, which is not supported: take it out if replies "
                           "without it will do",
                           from->folder, from->file, name);
        if (len < sizeof config->ignored)
            len += (size_t)snprintf(config->ignored + len, sizeof config->ignored - len, "%s%s",
                                    len > 0 ? ", " : "", name);
    }
    return ERR_OK;
}

/* ---- tokens ---- */

/* One id or a list of them.  Outside the vocabulary: refused, or left out. */
static enum err read_ids(const struct hf_source *from, const char *name, uint32_t vocab,
                         bool strict, int32_t *out, size_t cap, size_t *count)
{
    const json_t *value = json_object_get(from->object, name);
    size_t given = json_is_array(value) ? json_array_size(value) : 1, made = 0;
    char what[96];

    if (!is_set(value))
        return ERR_OK;
    snprintf(what, sizeof what, "is no token id below %u, nor a list of at most %zu", vocab, cap);
    if (given > cap)
        return hf_bad_field(from, name, what);
    for (size_t i = 0; i < given; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        bool fits = json_is_integer(id) && json_integer_value(id) >= 0 &&
                    json_integer_value(id) < (json_int_t)vocab;
        if (!json_is_integer(id) || (strict && !fits))
            return hf_bad_field(from, name, what);
        if (fits)
            out[made++] = (int32_t)json_integer_value(id);
    }
    *count = made;
    return ERR_OK;
}

static void write_ids(struct gguf_context *gguf, const char *name, const int32_t *ids, size_t count)
{
    static const int32_t none;
    char key[KEY_SIZE];
    gguf_set_arr_data(gguf, key_of(key, name), GGUF_TYPE_INT32, count > 0 ? ids : &none, count);
}

static enum err read_one(const struct hf_source *from, const char *name, uint32_t vocab,
                         uint32_t *out, bool *found)
{
    int32_t id = 0;
    size_t count = 0;
    if (from == NULL || *found)
        return ERR_OK;
    enum err err = read_ids(from, name, vocab, true, &id, 1, &count);
    if (err == ERR_OK && count > 0) {
        *out = (uint32_t)id;
        *found = true;
    }
    return err;
}

/* Without a start token the begin token starts; where a file has neither, the original refuses to
 * generate: better config.json's, or the class's own. */
static enum err read_start(const struct hf_source *from, const struct hf_source *beside,
                           struct hf_config *config)
{
    bool found = false, bos = false, pad = false;
    uint32_t vocab = config->vocab;
    config->decoder_start = config->bos = 1;
    enum err err = read_one(from, "bos_token_id", vocab, &config->bos, &bos);
    if (err == ERR_OK)
        err = read_one(from, "decoder_start_token_id", vocab, &config->decoder_start, &found);
    if (err == ERR_OK && bos && !found) {
        config->decoder_start = config->bos;
        found = true;
    }
    if (err == ERR_OK)
        err = read_one(beside, "decoder_start_token_id", vocab, &config->decoder_start, &found);
    if (err == ERR_OK)
        err = read_one(beside, "bos_token_id", vocab, &config->bos, &bos);
    if (err == ERR_OK)
        err = read_one(from, "pad_token_id", vocab, &config->pad, &pad);
    if (err == ERR_OK)
        err = read_one(beside, "pad_token_id", vocab, &config->pad, &pad);
    return err;
}

static enum err read_forced(const struct hf_source *from, bool legacy,
                            const struct hf_config *config, struct gguf_context *gguf)
{
    int32_t ids[HF_ENDS_MAX];
    size_t count = 0;
    char key[KEY_SIZE];
    enum err err =
        read_ids(from, "forced_eos_token_id", config->vocab, true, ids, HF_ENDS_MAX, &count);
    if (err != ERR_OK)
        return err;
    if (count == 1)
        gguf_set_val_u32(gguf, key_of(key, "forced_eos_token_id"), (uint32_t)ids[0]);
    else if (count > 1)
        write_ids(gguf, "forced_eos_token_id", ids, count);
    uint32_t first = config->bos;
    bool found =
        legacy && json_is_true(json_object_get(from->object, "force_bos_token_to_be_generated"));
    err = read_one(from, "forced_bos_token_id", config->vocab, &first, &found);
    if (err == ERR_OK && found)
        gguf_set_val_u32(gguf, key_of(key, "forced_bos_token_id"), first);
    return err;
}

static enum err read_suppressed(const struct hf_source *from, const char *name, uint32_t vocab,
                                struct gguf_context *gguf)
{
    size_t cap = json_array_size(json_object_get(from->object, name)) + 1, count = 0;
    if (cap > IDS_MAX)
        return hf_bad_field(from, name, "is too long a list");
    int32_t *ids = calloc(cap, sizeof *ids);
    if (ids == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = read_ids(from, name, vocab, false, ids, cap, &count);
    if (err == ERR_OK && count > 0)
        write_ids(gguf, name, ids, count);
    free(ids);
    return err;
}

static bool is_end(const struct hf_config *config, const int32_t *word, size_t len)
{
    for (size_t i = 0; i < config->end_count; i++) {
        if (len == 1 && word[0] == config->ends[i])
            return true;
    }
    return false;
}

/* Lists of ids, each followed by −1.  An end token alone is none. */
static enum err read_words(const struct hf_source *from, const struct hf_config *config,
                           struct gguf_context *gguf)
{
    const json_t *list = json_object_get(from->object, "bad_words_ids"), *word, *id;
    size_t room = 1, count = 0, i, k;
    if (!is_set(list))
        return ERR_OK;
    json_array_foreach(list, i, word) room += json_array_size(word) + 1;
    if (room > IDS_MAX)
        return hf_bad_field(from, "bad_words_ids", "is too long a list");
    int32_t *ids = calloc(room, sizeof *ids);
    enum err err = ids == NULL ? err_set(ERR_NOMEM, "out of memory") : ERR_OK;
    if (err == ERR_OK && json_array_size(list) == 0)
        err = hf_bad_field(from, "bad_words_ids", "is no list of lists of token ids");
    json_array_foreach(list, i, word)
    {
        size_t start = count;
        if (err == ERR_OK && json_array_size(word) == 0)
            err = hf_bad_field(from, "bad_words_ids", "is no list of lists of token ids");
        json_array_foreach(word, k, id)
        {
            json_int_t number = json_integer_value(id);
            if (err == ERR_OK &&
                (!json_is_integer(id) || number < 0 || number >= (json_int_t)config->vocab))
                err = hf_bad_field(from, "bad_words_ids", "has what is no token id");
            if (err == ERR_OK)
                ids[count++] = (int32_t)number;
        }
        if (err != ERR_OK)
            break;
        if (is_end(config, ids + start, count - start))
            count = start;
        else
            ids[count++] = -1;
    }
    if (err == ERR_OK && count > 0)
        write_ids(gguf, "bad_words_ids", ids, count);
    free(ids);
    return err;
}

/* ---- numbers ---- */

enum setting_kind { SETTING_COUNT, SETTING_NUMBER, SETTING_FLAG, SETTING_STOPPING };

/* low, high: no wider than the engine has them. */
static const struct {
    const char *name;
    enum setting_kind kind;
    double low, high;
} settings[] = {
    {"num_beams", SETTING_COUNT, 1, 64},
    {"no_repeat_ngram_size", SETTING_COUNT, 0, 1 << 14},
    {"encoder_no_repeat_ngram_size", SETTING_COUNT, 0, 1 << 14},
    {"min_length", SETTING_COUNT, 0, INT32_MAX},
    {"min_new_tokens", SETTING_COUNT, 0, INT32_MAX},
    {"max_length", SETTING_COUNT, 1, INT32_MAX},
    {"max_new_tokens", SETTING_COUNT, 1, INT32_MAX},
    {"top_k", SETTING_COUNT, 0, 1 << 20},
    {"num_return_sequences", SETTING_COUNT, 1, 64},
    {"length_penalty", SETTING_NUMBER, -100, 100},
    {"repetition_penalty", SETTING_NUMBER, 1e-3, 1e3},
    {"encoder_repetition_penalty", SETTING_NUMBER, 1e-3, 1e3},
    {"temperature", SETTING_NUMBER, 0, 1e6},
    {"top_p", SETTING_NUMBER, 0, 1},
    {"do_sample", SETTING_FLAG, 0, 0},
    {"remove_invalid_values", SETTING_FLAG, 0, 0},
    {"renormalize_logits", SETTING_FLAG, 0, 0},
    {"early_stopping", SETTING_STOPPING, 0, 0},
};

static enum err write_number(const struct hf_source *from, struct gguf_context *gguf, size_t i,
                             const json_t *value, const char *key)
{
    char bounds[64];
    double number = json_number_value(value);

    snprintf(bounds, sizeof bounds, "is no number from %g to %g", settings[i].low,
             settings[i].high);
    if (!json_is_number(value) || !(number >= settings[i].low && number <= settings[i].high))
        return hf_bad_field(from, settings[i].name, bounds);
    gguf_set_val_f32(gguf, key, (float)number);
    return ERR_OK;
}

static enum err write_setting(const struct hf_source *from, struct gguf_context *gguf, size_t i,
                              const json_t *value)
{
    const char *name = settings[i].name;
    char key[KEY_SIZE];
    uint32_t count = 0;
    enum err err = ERR_OK;

    key_of(key, name);
    switch (settings[i].kind) {
    case SETTING_COUNT:
        err = hf_read_uint(from, name, 0, (uint32_t)settings[i].low, (uint32_t)settings[i].high,
                           &count);
        if (err == ERR_OK)
            gguf_set_val_u32(gguf, key, count);
        return err;
    case SETTING_NUMBER:
        return write_number(from, gguf, i, value, key);
    case SETTING_FLAG:
        if (!json_is_boolean(value))
            return hf_bad_field(from, name, "is neither true nor false");
        gguf_set_val_bool(gguf, key, json_is_true(value));
        return ERR_OK;
    case SETTING_STOPPING:
        if (!json_is_boolean(value) &&
            (!json_is_string(value) || strcmp(json_string_value(value), "never") != 0))
            return hf_bad_field(from, name, "is neither true, false nor \"never\"");
        gguf_set_val_str(gguf, key,
                         json_is_string(value) ? "never"
                         : json_is_true(value) ? "true"
                                               : "false");
        return ERR_OK;
    }
    return ERR_OK;
}

enum err hf_generation_read(struct hf_config *config, struct gguf_context *gguf,
                            const struct hf_source *from, const struct hf_source *beside)
{
    int32_t unused[HF_ENDS_MAX];
    size_t unused_count;
    bool legacy =
        beside == NULL || json_is_true(json_object_get(from->object, "_from_model_config"));
    enum err err = check_unknown(from, config);
    if (err == ERR_OK)
        err = read_start(from, beside, config);
    if (err == ERR_OK)
        err = read_ids(from, "eos_token_id", config->vocab, true, config->ends, HF_ENDS_MAX,
                       &config->end_count);
    if (err == ERR_OK && beside != NULL) /* has no say, but must make sense */
        err = read_ids(beside, "eos_token_id", config->vocab, true, unused, HF_ENDS_MAX,
                       &unused_count);
    if (err == ERR_OK)
        write_ids(gguf, "eos_token_id", config->ends, config->end_count);
    if (err == ERR_OK)
        err = read_forced(from, legacy, config, gguf);
    if (err == ERR_OK)
        err = read_suppressed(from, "suppress_tokens", config->vocab, gguf);
    if (err == ERR_OK)
        err = read_suppressed(from, "begin_suppress_tokens", config->vocab, gguf);
    if (err == ERR_OK)
        err = read_words(from, config, gguf);
    for (size_t i = 0; err == ERR_OK && i < sizeof settings / sizeof *settings; i++) {
        const json_t *value = json_object_get(from->object, settings[i].name);
        if (is_set(value))
            err = write_setting(from, gguf, i, value);
    }
    return err;
}
