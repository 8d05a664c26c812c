#include "engine/params.h"

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

void engine_params_of(struct engine_params *params, struct engine_search *search,
                      const struct prompt_params *from)
{
    *search = search_of(&from->search);
    *params = (struct engine_params){
        .min_tokens = from->min_tokens,
        .max_tokens = from->max_tokens,
        .temperature = (float)from->temperature,
        .top_p = (float)from->top_p,
        .top_k = from->top_k,
        .seed = from->seed,
        .stop = from->stop,
        .stop_count = from->stop_count,
        .search = from->search.given ? search : NULL,
    };
}
