/*
 * inputs.c - reading what wants no reply: POST /v1/embeddings, and llama-server's /tokenize,
 * /detokenize and /apply-template.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/read.h"
#include "wire/json.h"

#define TOKEN_ID_MAX 100000000

/* ---- embeddings ---- */

static enum err read_input(struct reading *reading)
{
    struct prompt *prompt = &reading->request.prompt;
    char param[48];
    enum err err = read_texts(reading, "input", PROMPT_MAX_INPUTS, &prompt->inputs);

    for (size_t i = 0; err == ERR_OK && i < json_array_size(prompt->inputs); i++) {
        snprintf(param, sizeof param, "input[%zu]", i);
        if (json_string_length(json_array_get(prompt->inputs, i)) == 0)
            err = INVALID("invalid_value", param, "'%s' must not be empty.", param);
    }
    return err;
}

static enum err read_encoding(struct reading *reading)
{
    json_t *format = read_field(reading->request.root, "encoding_format");
    const char *name = json_string_value(format);

    if (read_field(reading->request.root, "dimensions") != NULL)
        return INVALID("unsupported_parameter", "dimensions",
                       "'dimensions' is not supported: vectors are as long as the model makes "
                       "them.");
    if (format == NULL)
        return ERR_OK;
    if (name == NULL)
        return read_wrong_type(reading, "encoding_format", "'float' or 'base64'", format);
    if (strcmp(name, "float") != 0 && strcmp(name, "base64") != 0)
        return INVALID("invalid_value", "encoding_format",
                       "'encoding_format' must be 'float' or 'base64'.");
    reading->request.as_base64 = name[0] == 'b';
    return ERR_OK;
}

enum err embedding_parse(struct api_request *out, const char *body, size_t len, double now,
                         struct api_error *error)
{
    static read_step *const steps[] = {read_model, read_input, read_encoding, read_user};
    enum err err =
        read_body(out, API_EMBEDDING, steps, sizeof steps / sizeof *steps, body, len, now, error);

    if (err == ERR_OK)
        out->prompt.task = TASK_EMBED;
    return err;
}

/* ---- llama-server's ---- */

/* They name no model: a server of theirs has one. */
static enum err read_any_model(struct reading *reading)
{
    if (read_field(reading->request.root, "model") != NULL)
        return read_model(reading);
    reading->request.prompt.model = "default";
    return ERR_OK;
}

static enum err read_text(struct reading *reading)
{
    json_t *content = read_field(reading->request.root, "content");

    if (!json_is_string(content))
        return read_wrong_type(reading, "content", "a string", content);
    return read_texts(reading, "content", 1, &reading->request.prompt.inputs);
}

static enum err read_tokenize_flags(struct reading *reading)
{
    const json_t *root = reading->request.root;
    bool special = false;
    enum err err =
        read_flag(reading, root, "with_pieces", "with_pieces", &reading->request.with_pieces);

    if (err == ERR_OK)
        err = read_flag(reading, root, "add_special", "add_special", &special);
    if (err == ERR_OK && special)
        err = read_unsupported(reading, "add_special");
    return err;
}

enum err tokenize_parse(struct api_request *out, const char *body, size_t len, double now,
                        struct api_error *error)
{
    static read_step *const steps[] = {read_any_model, read_text, read_tokenize_flags, read_user};
    enum err err =
        read_body(out, API_TOKENIZE, steps, sizeof steps / sizeof *steps, body, len, now, error);

    if (err == ERR_OK)
        out->prompt.task = TASK_TOKENIZE;
    return err;
}

static enum err read_tokens(struct reading *reading)
{
    json_t *tokens = read_field(reading->request.root, "tokens");
    char param[48];

    if (!json_is_array(tokens))
        return read_wrong_type(reading, "tokens", "an array of token ids", tokens);
    if (json_array_size(tokens) > API_TOKENS_MAX)
        return INVALID("array_above_max_length", "tokens", "'tokens' holds more than %d ids.",
                       API_TOKENS_MAX);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *token = json_array_get(tokens, i);
        bool large = json_is_real(token) && fabs(json_real_value(token)) >= 0x1p63; /* see json.h */
        snprintf(param, sizeof param, "tokens[%zu]", i);
        if (!json_is_integer(token) && !large)
            return read_wrong_type(reading, param, "an integer", token);
        if (large || json_integer_value(token) < 0 || json_integer_value(token) > TOKEN_ID_MAX)
            return INVALID("invalid_value", param, "'%s' is no id of a token.", param);
    }
    reading->request.prompt.tokens = tokens;
    return ERR_OK;
}

enum err detokenize_parse(struct api_request *out, const char *body, size_t len, double now,
                          struct api_error *error)
{
    static read_step *const steps[] = {read_any_model, read_tokens, read_user};
    enum err err =
        read_body(out, API_DETOKENIZE, steps, sizeof steps / sizeof *steps, body, len, now, error);

    if (err == ERR_OK)
        out->prompt.task = TASK_DETOKENIZE;
    return err;
}

static enum err refuse_tools(struct reading *reading)
{
    static const char *const names[] = {"tools", "tool_choice"};
    return read_refused(reading, names, sizeof names / sizeof *names);
}

enum err template_parse(struct api_request *out, const char *body, size_t len, double now,
                        struct api_error *error)
{
    static read_step *const steps[] = {read_any_model, read_messages, refuse_tools, read_user};
    enum err err =
        read_body(out, API_TEMPLATE, steps, sizeof steps / sizeof *steps, body, len, now, error);

    if (err == ERR_OK)
        out->prompt.task = TASK_TEMPLATE;
    return err;
}
