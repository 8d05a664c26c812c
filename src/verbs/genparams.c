#include "verbs/genparams.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "wire/json.h"

/* Keys with a number; the search's are Hugging Face's names. */
enum place { IN_PARAMS, IN_SEARCH };
enum kind { KIND_COUNT, KIND_REAL, KIND_SEED, KIND_TOKEN, KIND_BOOL };

#define PARAM(key, kind, field)                                                                    \
    {                                                                                              \
        key, kind, IN_PARAMS, offsetof(struct engine_params, field)                                \
    }
#define SEARCH(key, kind, field)                                                                   \
    {                                                                                              \
        key, kind, IN_SEARCH, offsetof(struct engine_search, field)                                \
    }

static const struct row {
    const char *key;
    enum kind kind;
    enum place place;
    size_t offset;
} rows[] = {
    PARAM("max_tokens", KIND_COUNT, max_tokens),
    PARAM("min_tokens", KIND_COUNT, min_tokens),
    PARAM("max_new_tokens", KIND_COUNT, max_tokens),
    PARAM("min_new_tokens", KIND_COUNT, min_tokens),
    PARAM("temperature", KIND_REAL, temperature),
    PARAM("top_p", KIND_REAL, top_p),
    PARAM("top_k", KIND_COUNT, top_k),
    PARAM("seed", KIND_SEED, seed),
    SEARCH("num_beams", KIND_COUNT, num_beams),
    SEARCH("num_return_sequences", KIND_COUNT, num_return_sequences),
    SEARCH("max_length", KIND_COUNT, max_length),
    SEARCH("min_length", KIND_COUNT, min_length),
    SEARCH("no_repeat_ngram_size", KIND_COUNT, no_repeat_ngram_size),
    SEARCH("encoder_no_repeat_ngram_size", KIND_COUNT, encoder_no_repeat_ngram_size),
    SEARCH("repetition_penalty", KIND_REAL, repetition_penalty),
    SEARCH("length_penalty", KIND_REAL, length_penalty),
    SEARCH("forced_bos_token_id", KIND_TOKEN, forced_bos_token_id),
    SEARCH("forced_eos_token_id", KIND_TOKEN, forced_eos_token_id),
    SEARCH("do_sample", KIND_BOOL, do_sample),
};

static enum err read_stop(struct genparams *out, const json_t *value)
{
    bool one = json_is_string(value);
    size_t count = one ? 1 : json_array_size(value);
    if ((!one && !json_is_array(value)) || count > GENPARAMS_STOP_MAX)
        return err_set(ERR_USAGE, "--params: stop must be a text or at most %d texts",
                       GENPARAMS_STOP_MAX);
    for (size_t i = 0; i < count; i++) {
        out->stop[i] = json_string_value(one ? value : json_array_get(value, i));
        if (out->stop[i] == NULL)
            return err_set(ERR_USAGE, "--params: stop must be a text or a list of texts");
    }
    out->params.stop = out->stop;
    out->params.stop_count = count;
    return ERR_OK;
}

static enum err read_early(struct genparams *out, const json_t *value)
{
    const char *text = json_string_value(value);
    if (json_is_boolean(value))
        out->search.early_stopping = json_is_true(value) ? ENGINE_EARLY_TRUE : ENGINE_EARLY_FALSE;
    else if (text != NULL && strcmp(text, "never") == 0)
        out->search.early_stopping = ENGINE_EARLY_NEVER;
    else
        return err_set(ERR_USAGE, "--params: early_stopping must be true, false or \"never\"");
    out->params.search = &out->search;
    return ERR_OK;
}

static enum err read_row(const struct row *row, const json_t *value, void *field)
{
    json_int_t most = row->kind == KIND_SEED ? INT64_MAX : INT_MAX;
    if (row->kind == KIND_REAL) {
        if (!json_is_number(value))
            return err_set(ERR_USAGE, "--params: %s must be a number", row->key);
        *(float *)field = (float)json_number_value(value);
        return ERR_OK;
    }
    if (row->kind == KIND_BOOL) {
        if (!json_is_boolean(value))
            return err_set(ERR_USAGE, "--params: %s must be true or false", row->key);
        *(int *)field = json_is_true(value);
        return ERR_OK;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || number > most)
        return err_set(ERR_USAGE, "--params: %s must be a whole number, not negative", row->key);
    if (row->kind == KIND_SEED)
        *(int64_t *)field = number;
    else
        *(int *)field = (int)number;
    return ERR_OK;
}

static enum err read_key(struct genparams *out, const char *key, const json_t *value)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *row = &rows[i];
        if (strcmp(key, row->key) != 0)
            continue;
        char *base = row->place == IN_PARAMS ? (char *)&out->params : (char *)&out->search;
        if (json_is_null(value) && row->kind != KIND_TOKEN)
            return ERR_OK; /* like absent */
        if (row->place == IN_SEARCH)
            out->params.search = &out->search;
        if (json_is_null(value)) {
            *(int *)(void *)(base + row->offset) = ENGINE_NO_TOKEN;
            return ERR_OK;
        }
        return read_row(row, value, base + row->offset);
    }
    if (strcmp(key, "stop") == 0)
        return json_is_null(value) ? ERR_OK : read_stop(out, value);
    if (strcmp(key, "early_stopping") == 0)
        return json_is_null(value) ? ERR_OK : read_early(out, value);
    return err_set(ERR_USAGE,
                   "--params: \"%.40s\" is none of max_tokens, min_tokens, temperature, top_p, "
                   "top_k, seed, stop, and for blenderbot num_beams, num_return_sequences, "
                   "max_length, min_length, no_repeat_ngram_size, encoder_no_repeat_ngram_size, "
                   "repetition_penalty, length_penalty, early_stopping, forced_bos_token_id, "
                   "forced_eos_token_id, do_sample",
                   key);
}

enum err genparams_read(struct genparams *out, const struct settings *settings)
{
    *out = (struct genparams){.params = engine_params_default(), .search = engine_search_default()};
    out->params.min_tokens = settings->min_tokens;
    out->params.max_tokens = settings->max_tokens;
    out->params.temperature = (float)settings->temperature;
    out->params.top_p = (float)settings->top_p;
    out->params.top_k = settings->top_k;
    out->params.seed = settings->seed;
    if (settings->params == NULL)
        return ERR_OK;
    enum err err = json_parse(&out->root, settings->params, strlen(settings->params));
    if (err != ERR_OK)
        return err_prefix(ERR_USAGE, "--params");
    if (!json_is_object(out->root))
        return err_set(ERR_USAGE, "--params must be a JSON object");
    const char *key;
    json_t *value;
    json_object_foreach(out->root, key, value)
    {
        err = read_key(out, key, value);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

void genparams_done(struct genparams *params)
{
    json_decref(params->root);
    *params = (struct genparams){0};
}
