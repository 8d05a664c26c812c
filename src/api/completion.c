/*
 * completion.c - reading POST /v1/completions.
 */
#include "api/read.h"

#define DEFAULT_TOKENS 16 /* OpenAI's */
#define LOGPROBS_MAX   5

static enum err read_prompts(struct reading *reading)
{
    return read_texts(reading, "prompt", API_TEXTS_MAX, &reading->request.texts);
}

static enum err refuse_unsupported(struct reading *reading)
{
    static const char *const names[] = {"tools", "json_schema"};
    const json_t *suffix = read_field(reading->request.root, "suffix");

    if (suffix != NULL && json_string_length(suffix) > 0)
        return read_unsupported(reading, "suffix");
    if (suffix != NULL && !json_is_string(suffix))
        return read_wrong_type(reading, "suffix", "a string", suffix);
    return read_refused(reading, names, sizeof names / sizeof *names);
}

static enum err read_response_format(struct reading *reading)
{
    const json_t *format = read_field(reading->request.root, "response_format");
    return read_format(reading, format, "response_format", "json_schema");
}

static enum err read_length(struct reading *reading)
{
    struct prompt_params *params = &reading->request.prompt.params;

    if (params->max_tokens < 0)
        params->max_tokens =
            params->min_tokens > DEFAULT_TOKENS ? params->min_tokens : DEFAULT_TOKENS;
    return ERR_OK;
}

static enum err read_counts(struct reading *reading)
{
    struct api_request *request = &reading->request;
    size_t texts = json_array_size(request->texts);
    int n = 1, best_of;
    enum err err = read_int(reading, "n", 1, API_CHOICES_MAX, &n);

    best_of = n;
    if (err == ERR_OK)
        err = read_int(reading, "best_of", 1, API_CHOICES_MAX, &best_of);
    if (err == ERR_OK && best_of != n)
        err = INVALID("unsupported_parameter", "best_of",
                      "'best_of' other than 'n' is not supported by this service.");
    if (err == ERR_OK && (size_t)n * texts > API_TEXTS_MAX)
        err = INVALID("integer_above_max_value", "n",
                      "'n' times the number of prompts is %zu, above its maximum of %d.",
                      (size_t)n * texts, API_TEXTS_MAX);
    if (err == ERR_OK)
        request->n = (unsigned)n;
    return err;
}

static enum err read_echo(struct reading *reading)
{
    struct api_request *request = &reading->request;
    enum err err = read_flag(reading, request->root, "echo", "echo", &request->echo);

    if (err == ERR_OK)
        err = read_int(reading, "logprobs", 0, LOGPROBS_MAX, &request->prompt.params.logprobs);
    if (err == ERR_OK && request->echo && request->prompt.params.logprobs >= 0)
        err = INVALID("unsupported_parameter", "logprobs",
                      "'logprobs' goes only without 'echo': of the prompt none are known.");
    return err;
}

enum err completion_parse(struct api_request *out, const char *body, size_t len, double now,
                          struct api_error *error)
{
    static read_step *const steps[] = {
        read_model,      read_prompts,         refuse_unsupported, read_params, read_length,
        read_logit_bias, read_response_format, read_counts,        read_echo,   read_stream,
        read_user,
    };
    enum err err =
        read_body(out, API_COMPLETION, steps, sizeof steps / sizeof *steps, body, len, now, error);

    if (err == ERR_OK)
        out->prompt.task = TASK_TEXT;
    return err;
}
