#include "engine/params.h"

#include <errno.h>
#include <stdlib.h>

static struct engine_search search_of(const struct prompt_search *search)
{
    return (struct engine_search){
        .num_beams = search->num_beams,
        .num_return_sequences = search->num_return_sequences,
        .max_length = search->max_length,
        .min_length = search->min_length,
        .no_repeat_ngram_size = search->no_repeat_ngram_size,
        .encoder_no_repeat_ngram_size = search->encoder_no_repeat_ngram_size,
        .repetition_penalty = (float)search->repetition_penalty,
        .length_penalty = (float)search->length_penalty,
        .early_stopping = search->early_stopping,
        .forced_bos_token_id = search->forced_bos_token_id,
        .forced_eos_token_id = search->forced_eos_token_id,
        .do_sample = search->do_sample,
    };
}

_Static_assert(PROMPT_NO_TOKEN == ENGINE_NO_TOKEN, "the wire's and the engine's are one");

static enum err read_bias(struct engine_bias *out, size_t *count, const json_t *biases)
{
    const char *key;
    json_t *value;
    *count = 0;
    json_object_foreach((json_t *)(uintptr_t)biases, key, value)
    {
        char *end;
        errno = 0;
        long long token = key[0] >= '0' && key[0] <= '9' ? strtoll(key, &end, 10) : -1;
        if (token < 0 || *end != '\0' || errno != 0 || token > INT32_MAX)
            return err_set(ERR_INVALID, "logit_bias must have numbers of tokens as its keys");
        if (*count == PROMPT_MAX_BIAS)
            return err_set(ERR_INVALID, "logit_bias must have at most %d tokens", PROMPT_MAX_BIAS);
        out[(*count)++] = (struct engine_bias){(int32_t)token, (float)json_number_value(value)};
    }
    return ERR_OK;
}

enum err engine_params_of(struct engine_params *params, struct engine_params_room *room,
                          const struct prompt_params *from)
{
    size_t bias_count;
    enum err err = read_bias(room->bias, &bias_count, from->logit_bias);
    if (err != ERR_OK)
        return err;
    room->search = search_of(&from->search);
    *params = (struct engine_params){
        .min_tokens = from->min_tokens,
        .max_tokens = from->max_tokens,
        .temperature = (float)from->temperature,
        .top_p = (float)from->top_p,
        .top_k = from->top_k,
        .seed = from->seed,
        .stop = from->stop,
        .stop_count = from->stop_count,
        .frequency_penalty = (float)from->frequency_penalty,
        .presence_penalty = (float)from->presence_penalty,
        .repeat_penalty = (float)from->repeat_penalty,
        .logprobs = from->logprobs,
        .bias = room->bias,
        .bias_count = bias_count,
        .grammar = from->grammar,
        .search = from->search.given ? &room->search : NULL,
    };
    return ERR_OK;
}
