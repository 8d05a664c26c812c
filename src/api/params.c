/*
 * params.c - what may be asked of a reply: one reading for the bodies of requests and for --params.
 */
#include "api/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/read.h"
#include "wire/json.h"

#define PENALTY_MAX         2
#define REPEAT_PENALTY_MAX  100
#define BIAS_MAX            100
#define TOKEN_DIGITS_MAX    9
#define OWN_TEMPERATURE_MAX 1000 /* clients: 2, as OpenAI has it */

static enum err read_stop_text(struct reading *reading, const json_t *value, const char *param)
{
    struct prompt_params *params = &reading->request.prompt.params;

    if (!json_is_string(value))
        return read_wrong_type(reading, param, "a string", value);
    if (json_string_length(value) == 0)
        return INVALID("invalid_value", param, "'%s' must not be empty.", param);
    if (json_string_length(value) > PROMPT_MAX_STOP_LEN)
        return INVALID("string_above_max_length", param, "'%s' is longer than %d bytes.", param,
                       PROMPT_MAX_STOP_LEN);
    params->stop[params->stop_count++] = json_string_value(value);
    return ERR_OK;
}

static enum err read_stop(struct reading *reading)
{
    char param[32];
    json_t *stop = read_field(reading->request.root, "stop");
    enum err err = ERR_OK;

    if (stop == NULL)
        return ERR_OK;
    if (json_is_string(stop))
        return read_stop_text(reading, stop, "stop");
    if (!json_is_array(stop))
        return read_wrong_type(reading, "stop", "a string or an array of strings", stop);
    if (json_array_size(stop) > PROMPT_MAX_STOP)
        return INVALID("array_above_max_length", "stop", "'stop' holds more than %d strings.",
                       PROMPT_MAX_STOP);
    for (size_t i = 0; err == ERR_OK && i < json_array_size(stop); i++) {
        snprintf(param, sizeof param, "stop[%zu]", i);
        err = read_stop_text(reading, json_array_get(stop, i), param);
    }
    return err;
}

static enum err read_lengths(struct reading *reading)
{
    struct prompt_params *params = &reading->request.prompt.params;
    const char *max_name = "max_tokens";
    int completion = -1;
    /* Hugging Face's names for the same, which OpenAI's go before. */
    enum err err = read_int(reading, "max_new_tokens", 1, API_TOKENS_MAX, &params->max_tokens);

    if (err == ERR_OK)
        err = read_int(reading, "min_new_tokens", 0, API_TOKENS_MAX, &params->min_tokens);
    if (err == ERR_OK)
        err = read_int(reading, "max_tokens", 1, API_TOKENS_MAX, &params->max_tokens);
    if (err == ERR_OK)
        err = read_int(reading, "max_completion_tokens", 1, API_TOKENS_MAX, &completion);
    if (err == ERR_OK)
        err = read_int(reading, "min_tokens", 0, API_TOKENS_MAX, &params->min_tokens);
    if (err != ERR_OK)
        return err;
    if (completion > 0) {
        params->max_tokens = completion;
        max_name = "max_completion_tokens";
    }
    /* generate() of the original takes it, and the longest counts. */
    if (!reading->own && params->max_tokens > 0 && params->min_tokens > params->max_tokens)
        return INVALID("invalid_value", "min_tokens", "'min_tokens' is %d, above '%s', %d.",
                       params->min_tokens, max_name, params->max_tokens);
    return ERR_OK;
}

static enum err read_sampling(struct reading *reading)
{
    struct prompt_params *params = &reading->request.prompt.params;
    enum err err = read_number(reading, "temperature", 0, reading->own ? OWN_TEMPERATURE_MAX : 2,
                               &params->temperature);

    if (err == ERR_OK)
        err = read_number(reading, "top_p", 0, 1, &params->top_p);
    if (err == ERR_OK && params->top_p <= 0) /* false for NAN */
        err = INVALID("decimal_below_min_value", "top_p", "'top_p' must be above 0.");
    if (err == ERR_OK)
        err = read_int(reading, "top_k", -1, API_TOP_K_MAX, &params->top_k);
    if (err == ERR_OK)
        err = read_integer(reading, "seed", -1, INT64_MAX, &params->seed);
    return err;
}

static enum err read_penalties(struct reading *reading)
{
    struct prompt_params *params = &reading->request.prompt.params;
    enum err err = read_number(reading, "frequency_penalty", -PENALTY_MAX, PENALTY_MAX,
                               &params->frequency_penalty);

    if (err == ERR_OK)
        err = read_number(reading, "presence_penalty", -PENALTY_MAX, PENALTY_MAX,
                          &params->presence_penalty);
    if (err == ERR_OK)
        err =
            read_number(reading, "repeat_penalty", 0, REPEAT_PENALTY_MAX, &params->repeat_penalty);
    if (err == ERR_OK && params->repeat_penalty <= 0) /* false for NAN */
        err = INVALID("decimal_below_min_value", "repeat_penalty",
                      "'repeat_penalty' must be above 0.");
    return err;
}

static bool is_token_id(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && digits <= TOKEN_DIGITS_MAX && text[digits] == '\0' &&
           (text[0] != '0' || digits == 1);
}

enum err read_logit_bias(struct reading *reading)
{
    json_t *bias = read_field(reading->request.root, "logit_bias"), *value;
    char param[48];
    const char *key;

    if (bias == NULL)
        return ERR_OK;
    if (!json_is_object(bias))
        return read_wrong_type(reading, "logit_bias", "an object", bias);
    if (json_object_size(bias) > PROMPT_MAX_BIAS)
        return INVALID("object_above_max_properties", "logit_bias",
                       "'logit_bias' holds more than %d tokens.", PROMPT_MAX_BIAS);
    json_object_foreach(bias, key, value)
    {
        if (!is_token_id(key))
            return INVALID("invalid_value", "logit_bias",
                           "'%.24s' in 'logit_bias' is no id of a token.", key);
        snprintf(param, sizeof param, "logit_bias.%s", key);
        if (!json_is_number(value))
            return read_wrong_type(reading, param, "a number", value);
        if (!(json_number_value(value) >= -BIAS_MAX && json_number_value(value) <= BIAS_MAX))
            return INVALID("invalid_value", param, "'%s' must be from %d to %d.", param, -BIAS_MAX,
                           BIAS_MAX);
    }
    if (json_object_size(bias) > 0)
        reading->request.prompt.params.logit_bias = bias;
    return ERR_OK;
}

/* true, false or "never". */
static enum err read_early_stopping(struct reading *reading, const json_t *value, int *out)
{
    bool never = json_is_string(value) && strcmp(json_string_value(value), "never") == 0;

    if (!json_is_boolean(value) && !never)
        return read_wrong_type(reading, "early_stopping", "a boolean or 'never'", value);
    *out = never ? 2 : json_is_true(value);
    return ERR_OK;
}

/* What Hugging Face's generate takes beyond OpenAI's fields. */
static enum err read_search_row(struct reading *reading, const struct search_row *row,
                                const json_t *value, struct prompt_search *search)
{
    const json_t *root = reading->request.root;
    bool flag = false;
    enum err err;

    switch (row->kind) {
    case SEARCH_EARLY:
        return read_early_stopping(reading, value, SEARCH_INT_AT(search, row));
    case SEARCH_REAL:
        return read_number(reading, row->name, row->min, row->max, SEARCH_REAL_AT(search, row));
    case SEARCH_FLAG:
        err = read_flag(reading, root, row->name, row->name, &flag);
        *SEARCH_INT_AT(search, row) = flag;
        return err;
    case SEARCH_TOKEN:
        if (json_is_null(value)) {
            *SEARCH_INT_AT(search, row) = PROMPT_NO_TOKEN;
            return ERR_OK;
        }
        break;
    case SEARCH_INT:
        break;
    }
    return read_int(reading, row->name, (int)row->min, (int)row->max, SEARCH_INT_AT(search, row));
}

static enum err read_search(struct reading *reading)
{
    struct prompt_search search = prompt_search_default();
    bool any = false;
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < search_row_count; i++) {
        const struct search_row *row = &search_rows[i];
        const json_t *value = json_object_get(reading->request.root, row->name);
        if (value == NULL || (json_is_null(value) && row->kind != SEARCH_TOKEN))
            continue;
        any = true;
        err = read_search_row(reading, row, value, &search);
    }
    if (err == ERR_OK && any)
        reading->request.prompt.params.search = search;
    return err;
}

static enum err read_truncate(struct reading *reading)
{
    json_t *value = read_field(reading->request.root, "truncate");
    const char *text = json_string_value(value);

    if (value == NULL)
        return ERR_OK;
    if (text == NULL)
        return read_wrong_type(reading, "truncate", "'left' or 'none'", value);
    reading->request.prompt.params.truncate = prompt_truncate_of(text);
    if (reading->request.prompt.params.truncate < 0)
        return INVALID("invalid_value", "truncate", "'truncate' must be 'left' or 'none'.");
    return ERR_OK;
}

enum err read_params(struct reading *reading)
{
    static enum err (*const steps[])(struct reading *) = {
        read_lengths, read_sampling, read_penalties, read_search, read_stop, read_truncate};
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < sizeof steps / sizeof *steps; i++)
        err = steps[i](reading);
    return err;
}

/* ---- by themselves ---- */

bool params_know(const char *name)
{
    static const char *const names[] = {
        "max_tokens",
        "max_completion_tokens",
        "max_new_tokens",
        "min_tokens",
        "min_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "truncate",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    for (size_t i = 0; i < search_row_count; i++)
        if (strcmp(name, search_rows[i].name) == 0)
            return true;
    return false;
}

/* What is asked of one reply, and can't be a service's default. */
static bool is_of_one_reply(const char *name)
{
    static const char *const names[] = {"logit_bias", "logprobs", "grammar", "response_format"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static enum err read_one_reply(struct reading *reading)
{
    const json_t *format = read_field(reading->request.root, "response_format");
    enum err err = read_logit_bias(reading);

    if (err == ERR_OK)
        err = read_int(reading, "logprobs", 0, PROMPT_MAX_TOPS,
                       &reading->request.prompt.params.logprobs);
    if (err == ERR_OK)
        err = read_format(reading, format, "response_format", "json_schema");
    return err;
}

static enum err refuse_unknown(json_t *root, bool defaults)
{
    const char *key;
    json_t *value;

    json_object_foreach(root, key, value)
    {
        if (!params_know(key) && (defaults || !is_of_one_reply(key)))
            return err_set(ERR_USAGE,
                           "--params: \"%.40s\" is none of max_tokens, min_tokens, temperature, "
                           "top_p, top_k, seed, stop, truncate, frequency_penalty, "
                           "presence_penalty, repeat_penalty (for one reply also logit_bias, "
                           "logprobs, grammar, response_format), and for blenderbot num_beams, "
                           "num_return_sequences, max_length, min_length, no_repeat_ngram_size, "
                           "encoder_no_repeat_ngram_size, repetition_penalty, length_penalty, "
                           "early_stopping, forced_bos_token_id, forced_eos_token_id, do_sample",
                           key);
    }
    return ERR_OK;
}

enum err params_parse(struct prompt_params *out, json_t **root, const char *text, enum params_of of)
{
    struct api_error error;
    struct reading reading = {.error = &error, .own = of == PARAMS_OWN};
    enum err err = json_parse(&reading.request.root, text, strlen(text));

    if (err != ERR_OK)
        return err_prefix(err == ERR_NOMEM ? err : ERR_USAGE, "--params");
    reading.request.prompt.params = prompt_params_default();
    if (!json_is_object(reading.request.root))
        err = err_set(ERR_USAGE, "--params must be a JSON object");
    else
        err = refuse_unknown(reading.request.root, of == PARAMS_DEFAULTS);
    if (err == ERR_OK && (read_params(&reading) != ERR_OK || read_one_reply(&reading) != ERR_OK))
        err = err_set(ERR_USAGE, "--params: %s", error.message);
    if (err == ERR_OK) {
        *out = reading.request.prompt.params;
        *root = reading.request.root;
    } else {
        json_decref(reading.request.root);
    }
    return err;
}

/* ---- one over the other ---- */

static void merge_int(int *value, int fallback)
{
    if (*value == -1)
        *value = fallback;
}

static void merge_real(double *value, double fallback)
{
    if (isnan(*value))
        *value = fallback;
}

static void merge_search(struct prompt_search *search, const struct prompt_search *defaults)
{
    if (!defaults->given)
        return;
    if (!search->given)
        *search = prompt_search_default();
    for (size_t i = 0; i < search_row_count; i++) {
        const struct search_row *row = &search_rows[i];
        struct prompt_search from = *defaults;
        if (row->kind == SEARCH_REAL)
            merge_real(SEARCH_REAL_AT(search, row), *SEARCH_REAL_AT(&from, row));
        else
            merge_int(SEARCH_INT_AT(search, row), *SEARCH_INT_AT(&from, row));
    }
}

void params_merge(struct prompt_params *params, const struct prompt_params *defaults)
{
    struct prompt_params from = *defaults;
    const struct prompt_search *asked = &params->search;

    /* A limit of one kind replaces the default's of the other kind. */
    if (asked->given && asked->max_length >= 0)
        from.max_tokens = -1;
    if (asked->given && asked->min_length >= 0)
        from.min_tokens = -1;
    /* Who asks for a temperature alone wants to draw, not to search. */
    if (params->temperature > 0 && /* false for NAN */
        (!asked->given || (asked->num_beams < 0 && asked->do_sample < 0)) && from.search.given)
        from.search.num_beams = from.search.num_return_sequences = from.search.do_sample = -1;
    merge_int(&params->max_tokens, from.max_tokens);
    if (params->min_tokens < 0 && params->max_tokens >= 0 && from.min_tokens > params->max_tokens)
        from.min_tokens = params->max_tokens;
    merge_int(&params->min_tokens, from.min_tokens);
    merge_real(&params->temperature, from.temperature);
    merge_real(&params->top_p, from.top_p);
    merge_int(&params->top_k, from.top_k);
    if (params->seed < 0)
        params->seed = from.seed;
    merge_real(&params->frequency_penalty, from.frequency_penalty);
    merge_real(&params->presence_penalty, from.presence_penalty);
    merge_real(&params->repeat_penalty, from.repeat_penalty);
    merge_int(&params->truncate, from.truncate);
    if (params->stop_count == 0) {
        memcpy(params->stop, from.stop, sizeof params->stop);
        params->stop_count = from.stop_count;
    }
    merge_search(&params->search, &from.search);
}
