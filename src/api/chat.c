/*
 * chat.c - reading POST /v1/chat/completions.
 */
#include <string.h>

#include "api/read.h"

static enum err refuse_unsupported(struct reading *reading)
{
    static const char *const names[] = {
        "tools",      "tool_choice",        "functions",        "function_call", "audio",
        "prediction", "web_search_options", "reasoning_effort", "moderation",    "json_schema",
    };
    json_t *modalities = read_field(reading->request.root, "modalities");
    enum err err = read_refused(reading, names, sizeof names / sizeof *names);

    if (err != ERR_OK)
        return err;
    if (modalities != NULL && !json_is_array(modalities))
        return read_wrong_type(reading, "modalities", "an array", modalities);
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *name = json_string_value(json_array_get(modalities, i));
        if (name == NULL || strcmp(name, "text") != 0)
            return INVALID("unsupported_value", "modalities", "Only 'text' is supported.");
    }
    return ERR_OK;
}

static enum err read_response_format(struct reading *reading)
{
    const json_t *format = read_field(reading->request.root, "response_format");
    return read_format(reading, format, "response_format", "json_schema");
}

/* logprobs says whether, top_logprobs how many others beside each token. */
static enum err read_logprobs(struct reading *reading)
{
    bool wanted = false;
    int tops = -1;
    enum err err = read_flag(reading, reading->request.root, "logprobs", "logprobs", &wanted);

    if (err == ERR_OK)
        err = read_int(reading, "top_logprobs", 0, PROMPT_MAX_TOPS, &tops);
    if (err == ERR_OK && tops > 0 && !wanted)
        err = INVALID("invalid_value", "top_logprobs",
                      "'top_logprobs' goes only with 'logprobs': true.");
    if (err == ERR_OK && wanted)
        reading->request.prompt.params.logprobs = tops > 0 ? tops : 0;
    return err;
}

/* Several texts: "n", or Hugging Face's name for it, which is a search's own. */
static enum err read_several(struct reading *reading)
{
    const struct prompt_search *search = &reading->request.prompt.params.search;
    int n = 1;
    enum err err = read_int(reading, "n", 1, API_CHOICES_MAX, &n);

    if (err != ERR_OK)
        return err;
    reading->request.n = (unsigned)n;
    if (search->num_return_sequences > 1 && reading->request.stream)
        return INVALID("unsupported_value", "num_return_sequences",
                       "'num_return_sequences' above 1 goes only without 'stream': the texts come "
                       "together.");
    return ERR_OK;
}

static enum err read_store(struct reading *reading)
{
    static const char *const kept[] = {
        "metadata",         "temperature",       "top_p",    "seed",
        "presence_penalty", "frequency_penalty", "logprobs", "response_format",
    };
    struct api_request *request = &reading->request;
    enum err err = read_flag(reading, request->root, "store", "store", &request->store);

    if (err != ERR_OK || !request->store)
        return err;
    if (request->n > 1 || request->prompt.params.search.num_return_sequences > 1)
        return INVALID("unsupported_value", request->n > 1 ? "n" : "num_return_sequences",
                       "One reply alone can be stored: 'store' goes only with 'n' 1.");
    err = read_keep(reading, "chat", kept, sizeof kept / sizeof *kept);
    request->prompt.request = request->kept;
    return err;
}

enum err chat_parse(struct api_request *out, const char *body, size_t len, double now,
                    struct api_error *error)
{
    static read_step *const steps[] = {
        read_model,      read_messages,        refuse_unsupported, read_params,
        read_logit_bias, read_response_format, read_logprobs,      read_stream,
        read_user,       read_several,         read_metadata,      read_store,
    };
    return read_body(out, API_CHAT, steps, sizeof steps / sizeof *steps, body, len, now, error);
}
