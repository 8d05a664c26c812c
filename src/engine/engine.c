/*
 * engine.c - picks the kind of engine, and checks what comes from outside once for all of them.
 */
#include "engine/engine.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "engine/logprobs.h"
#include "engine/model_file.h"
#include "engine/ops.h"
#include "wire/utf8.h"

#define MAX_CONTEXT 1048576
#define MAX_PENALTY 2.0f /* OpenAI's range */

struct engine_params engine_params_default(void)
{
    return (struct engine_params){
        .min_tokens = -1,
        .max_tokens = -1,
        .temperature = NAN,
        .top_p = NAN,
        .top_k = -1,
        .seed = -1,
        .frequency_penalty = NAN,
        .presence_penalty = NAN,
        .repeat_penalty = NAN,
        .logprobs = -1,
    };
}

struct engine_search engine_search_default(void)
{
    return (struct engine_search){
        .num_beams = -1,
        .num_return_sequences = -1,
        .max_length = -1,
        .min_length = -1,
        .no_repeat_ngram_size = -1,
        .encoder_no_repeat_ngram_size = -1,
        .repetition_penalty = NAN,
        .length_penalty = NAN,
        .early_stopping = -1,
        .forced_bos_token_id = -1,
        .forced_eos_token_id = -1,
        .do_sample = -1,
    };
}

const char *engine_finish_name(enum engine_finish finish)
{
    switch (finish) {
    case ENGINE_FINISH_STOP:
        return "stop";
    case ENGINE_FINISH_LENGTH:
        return "length";
    case ENGINE_FINISH_NONE:
        break;
    }
    return NULL;
}

enum err engine_open(struct engine **out, const struct engine_config *config)
{
    if (config->model == NULL || config->model[0] == '\0')
        return err_set(ERR_USAGE, "no model is given");
    if (config->slots < 1 || config->slots > ENGINE_MAX_SLOTS)
        return err_set(ERR_USAGE, "slots must be 1 to %d, not %u", ENGINE_MAX_SLOTS, config->slots);
    if (config->context > MAX_CONTEXT)
        return err_set(ERR_USAGE, "context must be at most %d, not %u", MAX_CONTEXT,
                       config->context);
    if (strncmp(config->model, FAKE_PREFIX, strlen(FAKE_PREFIX)) == 0)
        return fake_ops.open(out, config);
    engine_log_init();
    struct model_file file;
    enum err err = model_file_check(&file, config->model);
    if (err != ERR_OK)
        return err;
    bool blenderbot = strcmp(file.arch, BLENDERBOT_ARCH) == 0;
    return (blenderbot ? &blenderbot_ops : &llama_ops)->open(out, config);
}

void engine_close(struct engine *engine)
{
    if (engine != NULL)
        engine->ops->close(engine);
}

const struct engine_info *engine_info(const struct engine *engine)
{
    return &engine->info;
}

static enum err check_penalty(const char *name, float penalty)
{
    if (isnan(penalty) || (penalty >= -MAX_PENALTY && penalty <= MAX_PENALTY))
        return ERR_OK;
    return err_set(ERR_INVALID, "%s must be from -2 to 2", name);
}

/* What changes or tells scores. */
static enum err check_shaping(const struct engine_params *params)
{
    enum err err = check_penalty("frequency_penalty", params->frequency_penalty);
    if (err == ERR_OK)
        err = check_penalty("presence_penalty", params->presence_penalty);
    if (err != ERR_OK)
        return err;
    if (!isnan(params->repeat_penalty) &&
        !(params->repeat_penalty > 0 && isfinite(params->repeat_penalty)))
        return err_set(ERR_INVALID, "repeat_penalty must be more than 0");
    if (params->logprobs < -1 || params->logprobs > LOGPROBS_MAX)
        return err_set(ERR_INVALID, "logprobs must be from 0 to %d", LOGPROBS_MAX);
    for (size_t i = 0; i < params->bias_count; i++) {
        if (params->bias[i].token < 0 || !isfinite(params->bias[i].bias))
            return err_set(ERR_INVALID, "logit_bias must have tokens and numbers");
    }
    return ERR_OK;
}

static enum err check_params(const struct engine *engine, const struct engine_params *params)
{
    if (params->max_tokens < -1 || params->max_tokens == 0)
        return err_set(ERR_INVALID, "max_tokens must be at least 1");
    if (params->min_tokens < -1)
        return err_set(ERR_INVALID, "min_tokens must not be negative");
    bool search = engine->ops == &blenderbot_ops; /* as the original: the longest counts */
    if (!search && params->max_tokens > 0 && params->min_tokens > params->max_tokens)
        return err_set(ERR_INVALID, "min_tokens (%d) is more than max_tokens (%d)",
                       params->min_tokens, params->max_tokens);
    if (!isnan(params->temperature) && (params->temperature < 0 || !isfinite(params->temperature)))
        return err_set(ERR_INVALID, "temperature must be 0 or more");
    if (!isnan(params->top_p) && (params->top_p < 0 || params->top_p > 1))
        return err_set(ERR_INVALID, "top_p must be from 0 to 1");
    if (params->top_k < -1)
        return err_set(ERR_INVALID, "top_k must not be negative");
    for (size_t i = 0; i < params->stop_count; i++) {
        const char *stop = params->stop[i];
        if (stop[0] == '\0' || !utf8_is_valid(stop, strlen(stop)))
            return err_set(ERR_INVALID, "stop string %zu is empty or no UTF-8", i);
    }
    return check_shaping(params);
}

static bool is_role(const char *role)
{
    return strcmp(role, "system") == 0 || strcmp(role, "user") == 0 ||
           strcmp(role, "assistant") == 0;
}

static enum err check_messages(const struct engine_request *request)
{
    if (request->messages == NULL || request->message_count == 0)
        return err_set(ERR_INVALID, "there is no message");
    for (size_t i = 0; i < request->message_count; i++) {
        const struct engine_message *message = &request->messages[i];
        if (!is_role(message->role))
            return err_set(ERR_INVALID, "messages[%zu].role is none of system, user, assistant", i);
        if (!utf8_is_valid(message->content, strlen(message->content)))
            return err_set(ERR_INVALID, "messages[%zu].content is not valid UTF-8", i);
    }
    return ERR_OK;
}

static enum err check_prompt(const struct engine_request *request)
{
    if (request->messages != NULL || request->raw_prompt == NULL)
        return check_messages(request);
    if (request->raw_prompt[0] == '\0')
        return err_set(ERR_INVALID, "prompt must not be empty");
    if (!utf8_is_valid(request->raw_prompt, strlen(request->raw_prompt)))
        return err_set(ERR_INVALID, "prompt is not valid UTF-8");
    return ERR_OK;
}

static enum err check_inputs(const struct engine_request *request)
{
    if (request->inputs == NULL || request->input_count == 0 ||
        request->input_count > ENGINE_MAX_INPUTS)
        return err_set(ERR_INVALID, "input must have 1 to %d texts", ENGINE_MAX_INPUTS);
    for (size_t i = 0; i < request->input_count; i++) {
        const char *input = request->inputs[i];
        if (input[0] == '\0')
            return err_set(ERR_INVALID, "input[%zu] is empty", i);
        if (!utf8_is_valid(input, strlen(input)))
            return err_set(ERR_INVALID, "input[%zu] is not valid UTF-8", i);
    }
    return ERR_OK;
}

static enum err check_request(const struct engine *engine, const struct engine_request *request)
{
    enum err err;
    switch (request->task) {
    case ENGINE_EMBED:
        return check_inputs(request);
    case ENGINE_TOKENIZE:
        if (request->raw_prompt == NULL ||
            !utf8_is_valid(request->raw_prompt, strlen(request->raw_prompt)))
            return err_set(ERR_INVALID, "content is missing or not valid UTF-8");
        return ERR_OK;
    case ENGINE_DETOKENIZE:
        if (request->resume_token_count > ENGINE_MAX_TOKENS)
            return err_set(ERR_INVALID, "tokens must be at most %d", ENGINE_MAX_TOKENS);
        return ERR_OK;
    case ENGINE_TEMPLATE:
        return check_messages(request);
    case ENGINE_GENERATE:
        break;
    }
    err = check_prompt(request);
    return err == ERR_OK ? check_params(engine, &request->params) : err;
}

/* The first that is given of what only a model that searches takes. */
static const char *search_given(const struct engine_search *search)
{
    const struct {
        const char *name;
        bool given;
    } fields[] = {
        {"num_beams", search->num_beams != -1},
        {"num_return_sequences", search->num_return_sequences != -1},
        {"max_length", search->max_length != -1},
        {"min_length", search->min_length != -1},
        {"no_repeat_ngram_size", search->no_repeat_ngram_size != -1},
        {"encoder_no_repeat_ngram_size", search->encoder_no_repeat_ngram_size != -1},
        {"length_penalty", !isnan(search->length_penalty)},
        {"early_stopping", search->early_stopping != -1},
        {"forced_bos_token_id", search->forced_bos_token_id != -1},
        {"forced_eos_token_id", search->forced_eos_token_id != -1},
        {"do_sample", search->do_sample != -1},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].given)
            return fields[i].name;
    }
    return NULL;
}

static enum err check_search(const struct engine *engine, const struct engine_request *request)
{
    if (request->task != ENGINE_GENERATE || request->params.search == NULL ||
        engine->ops == &blenderbot_ops)
        return ERR_OK;
    if (request->params.search->num_return_sequences > 1)
        return err_set(ERR_INVALID, "n above 1 is not for a model of this kind");
    const char *name = search_given(request->params.search);
    if (name == NULL)
        return err_set(ERR_INVALID, "repetition_penalty is not for a model of this kind: say "
                                    "repeat_penalty");
    return err_set(ERR_INVALID, "%s is not for a model of this kind: leave it out", name);
}

enum err engine_start(struct engine *engine, const struct engine_request *request)
{
    enum err err = check_request(engine, request);
    if (err == ERR_OK)
        err = check_search(engine, request);
    return err == ERR_OK ? engine->ops->start(engine, request) : err;
}

void engine_cancel(struct engine *engine, const void *user)
{
    engine->ops->cancel(engine, user);
}

unsigned engine_active(const struct engine *engine)
{
    return engine->ops->active(engine);
}

struct engine_figures engine_figures(const struct engine *engine)
{
    struct engine_figures figures = {.prefill_s = engine->prefill_s, .decode_s = engine->decode_s};
    if (engine->kv_positions > 0)
        figures.kv_used = (double)engine->ops->kv_held(engine) / (double)engine->kv_positions;
    return figures;
}

void engine_spent(struct engine *engine, int64_t ns, size_t prefill, size_t decode)
{
    double seconds = (double)ns / (double)NS_PER_S;
    if (ns <= 0 || prefill + decode == 0)
        return;
    double share = (double)prefill / (double)(prefill + decode);
    engine->prefill_s += seconds * share;
    engine->decode_s += seconds * (1 - share);
}

int64_t engine_due_ns(const struct engine *engine)
{
    return engine->ops->due_ns(engine);
}

enum err engine_step(struct engine *engine, struct engine_event *events, size_t *count)
{
    return engine->ops->step(engine, events, count);
}

enum err engine_tokenize(struct engine *engine, const struct engine_request *request, int32_t **ids,
                         size_t *count)
{
    enum err err = check_request(engine, request);
    return err == ERR_OK ? engine->ops->tokenize(engine, request, ids, count) : err;
}
