/*
 * params.c - how one reply is searched: the checkpoint's defaults, and over them what is asked.
 */
#include <math.h>
#include <stdlib.h>

#include "base/id.h"
#include "engine/blenderbot/blenderbot_engine.h"

static enum err take_count(const char *name, int given, size_t min, size_t max, size_t *out)
{
    if (given < 0)
        return ERR_OK;
    if ((size_t)given < min || (size_t)given > max)
        return err_set(ERR_INVALID, "%s must be from %zu to %zu", name, min, max);
    *out = (size_t)given;
    return ERR_OK;
}

static enum err take_token(const char *name, int given, size_t vocab_size, int32_t *out)
{
    if (given == ENGINE_NO_TOKEN)
        *out = BB_NO_TOKEN;
    else if (given >= 0 && (size_t)given >= vocab_size)
        return err_set(ERR_INVALID, "%s is no token of this model", name);
    else if (given >= 0)
        *out = given;
    return ERR_OK;
}

static enum err take_search(const struct bb_engine *engine, const struct engine_search *search,
                            struct bb_search_params *out)
{
    const struct bb_model *model = &engine->model;
    enum err err = take_count("num_beams", search->num_beams, 1, engine->beams, &out->beams);
    if (err == ERR_OK)
        err = take_count("num_return_sequences", search->num_return_sequences, 1, engine->beams,
                         &out->returned);
    if (err == ERR_OK && !model->max_is_new)
        err = take_count("max_length", search->max_length, 2, SIZE_MAX, &out->max_length);
    if (err == ERR_OK && !model->min_is_new)
        err = take_count("min_length", search->min_length, 0, SIZE_MAX, &out->min_length);
    if (err == ERR_OK)
        err = take_count("no_repeat_ngram_size", search->no_repeat_ngram_size, 0, SIZE_MAX,
                         &out->no_repeat);
    if (err == ERR_OK)
        err = take_count("encoder_no_repeat_ngram_size", search->encoder_no_repeat_ngram_size, 0,
                         SIZE_MAX, &out->prompt_repeat);
    if (err == ERR_OK)
        err = take_token("forced_bos_token_id", search->forced_bos_token_id, model->vocab_size,
                         &out->forced_first);
    int32_t last = BB_NO_TOKEN;
    if (err == ERR_OK)
        err = take_token("forced_eos_token_id", search->forced_eos_token_id, model->vocab_size,
                         &last);
    if (search->forced_eos_token_id >= 0)
        out->forced_last = (struct bb_token_set){{last}, 1};
    else if (search->forced_eos_token_id == ENGINE_NO_TOKEN)
        out->forced_last = (struct bb_token_set){0};
    if (!isnan(search->repetition_penalty)) {
        if (err == ERR_OK &&
            !(search->repetition_penalty > 0 && isfinite(search->repetition_penalty)))
            err = err_set(ERR_INVALID, "repetition_penalty must be more than 0");
        out->repetition_penalty = search->repetition_penalty;
    }
    if (!isnan(search->length_penalty)) {
        if (err == ERR_OK && !isfinite(search->length_penalty))
            err = err_set(ERR_INVALID, "length_penalty must be a number");
        out->length_penalty = search->length_penalty;
    }
    if (search->early_stopping >= 0)
        out->early_stop = (enum bb_early_stop)search->early_stopping;
    return err;
}

/* Whether tokens are drawn, and how. */
static void take_sampling(const struct engine_params *params, struct bb_search_params *out)
{
    bool warm = !isnan(params->temperature) && params->temperature > 0;
    const struct engine_search *search = params->search;
    if (search != NULL && search->do_sample >= 0) {
        out->sample = search->do_sample == 1;
    } else if (!isnan(params->temperature)) {
        out->sample = warm;
        if (warm && (search == NULL || search->num_beams < 0)) {
            out->beams = 1;
            if (search == NULL || search->num_return_sequences < 0)
                out->returned = 1;
        }
    }
    if (!isnan(params->temperature))
        out->draw.temperature = params->temperature;
    if (out->draw.temperature <= 0)
        out->sample = false;
    if (!isnan(params->top_p))
        out->draw.top_p = params->top_p;
    if (params->top_k >= 0)
        out->draw.top_k = params->top_k;
    if (params->seed >= 0) {
        out->draw.seed = (uint64_t)params->seed;
    } else {
        char digits[TAG_SIZE];
        id_random(digits, TAG_LEN);
        out->draw.seed = strtoull(digits, NULL, 16);
    }
}

static enum err refuse(const char *name)
{
    return err_set(ERR_UNSUPPORTED, "%s is not supported by a model of this kind", name);
}

/* What a search over whole replies has no place for. */
static enum err refuse_shaping(const struct engine_params *params)
{
    if (!isnan(params->frequency_penalty) && fabsf(params->frequency_penalty) > 0)
        return refuse("frequency_penalty");
    if (!isnan(params->presence_penalty) && fabsf(params->presence_penalty) > 0)
        return refuse("presence_penalty");
    if (!isnan(params->repeat_penalty) && fabsf(params->repeat_penalty - 1) > 0)
        return refuse("repeat_penalty");
    if (params->logprobs >= 0)
        return refuse("logprobs");
    if (params->bias_count > 0)
        return refuse("logit_bias");
    if (params->grammar != NULL)
        return refuse("grammar");
    return ERR_OK;
}

enum err bb_params_resolve(const struct bb_engine *engine, const struct engine_params *params,
                           struct bb_search_params *out)
{
    struct bb_search_params resolved = engine->model.defaults;
    enum err err = refuse_shaping(params);
    if (err != ERR_OK)
        return err;
    if (params->search != NULL) {
        err = take_search(engine, params->search, &resolved);
        if (err != ERR_OK)
            return err;
    }
    take_sampling(params, &resolved);
    if (params->max_tokens > 0)
        resolved.max_length = (size_t)params->max_tokens + 1; /* behind the start token */
    if (params->min_tokens >= 0)
        resolved.min_length = (size_t)params->min_tokens + 1;
    if (resolved.max_length > engine->base.info.context)
        resolved.max_length = engine->base.info.context;
    if (resolved.max_length < 2)
        resolved.max_length = 2;
    if (resolved.returned > resolved.beams)
        return err_set(ERR_INVALID, "num_return_sequences (%zu) is more than num_beams (%zu)",
                       resolved.returned, resolved.beams);
    *out = resolved;
    return ERR_OK;
}
