/*
 * chat.c - reading POST /v1/chat/completions.
 *
 * One function a field or a group of fields; each fills the error itself and stops the reading.
 * What replies look like is in chat_write.c.
 */
#include "api/chat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/read.h"
#include "wire/json.h"
#include "wire/subject.h"

static enum err read_model(struct reading *reading)
{
    enum err err = read_name(reading, "model", MODEL_NAME_MAX, &reading->request.prompt.model);

    if (err == ERR_OK && reading->request.prompt.model == NULL)
        return read_wrong_type(reading, "model", "the name of a model", NULL);
    if (err == ERR_OK && reading->request.prompt.model[0] == '\0')
        return INVALID("invalid_value", "model", "'model' must not be empty.");
    return err;
}

/* One of content's parts → its text. */
static enum err read_part(struct reading *reading, const json_t *part, const char *param,
                          const char **text)
{
    char name[128];
    json_t *type, *value;

    if (!json_is_object(part))
        return read_wrong_type(reading, param, "an object", part);
    type = read_field(part, "type");
    snprintf(name, sizeof name, "%s.type", param);
    if (!json_is_string(type))
        return read_wrong_type(reading, name, "a string", type);
    if (strcmp(json_string_value(type), "text") != 0)
        return INVALID("unsupported_content", name,
                       "Content of type '%.32s' is not supported: only 'text' is.",
                       json_string_value(type));
    value = read_field(part, "text");
    snprintf(name, sizeof name, "%s.text", param);
    if (!json_is_string(value))
        return read_wrong_type(reading, name, "a string", value);
    *text = json_string_value(value);
    return ERR_OK;
}

/* content as an array: its texts joined by newlines, owned by `message` from then on. */
static enum err read_parts(struct reading *reading, json_t *message, const json_t *parts,
                           const char *param, const char **content)
{
    char name[96];
    struct buf joined;
    json_t *text;
    size_t count = json_array_size(parts);
    enum err err = ERR_OK;

    if (count == 0)
        return INVALID("empty_array", param, "'%s' must hold at least one part.", param);
    if (count > CHAT_PARTS_MAX)
        return INVALID("array_above_max_length", param, "'%s' holds more than %d parts.", param,
                       CHAT_PARTS_MAX);
    buf_init(&joined, (size_t)1 << 30); /* bounded by the body that the parts came in */
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        const char *part = "";
        snprintf(name, sizeof name, "%s[%zu]", param, i);
        err = read_part(reading, json_array_get(parts, i), name, &part);
        if (err == ERR_OK && i > 0)
            err = buf_append(&joined, "\n", 1);
        if (err == ERR_OK)
            err = buf_append_text(&joined, part);
    }
    if (err == ERR_OK) {
        text = json_stringn_nocheck(buf_text(&joined), joined.len);
        if (json_object_set_new_nocheck(message, "content", text) != 0)
            err = ERR_NOMEM;
        else
            *content = json_string_value(text);
    }
    buf_done(&joined);
    return err;
}

/* The role as our models know it, NULL for one that is none. */
static const char *role_of(const char *name)
{
    static const char *const roles[] = {"system", "user", "assistant"};

    if (strcmp(name, "developer") == 0)
        return "system";
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(name, roles[i]) == 0)
            return roles[i];
    return NULL;
}

static enum err read_role(struct reading *reading, const json_t *message, const char *at,
                          struct prompt_message *out)
{
    char param[48];
    json_t *role = read_field(message, "role");

    snprintf(param, sizeof param, "%s.role", at);
    if (!json_is_string(role))
        return read_wrong_type(reading, param, "a string", role);
    out->role = role_of(json_string_value(role));
    if (out->role != NULL)
        return ERR_OK;
    if (strcmp(json_string_value(role), "tool") == 0 ||
        strcmp(json_string_value(role), "function") == 0)
        return INVALID("unsupported_value", param,
                       "Messages of the role '%s' are not supported by this service.",
                       json_string_value(role));
    return INVALID("invalid_value", param,
                   "'%s' must be one of 'system', 'developer', 'user', 'assistant'.", param);
}

static enum err read_message(struct reading *reading, json_t *message, size_t index,
                             struct prompt_message *out)
{
    static const char *const refused[] = {"tool_calls", "function_call", "audio"};
    char at[32], param[64];
    json_t *content;
    enum err err;

    snprintf(at, sizeof at, "messages[%zu]", index);
    if (!json_is_object(message))
        return read_wrong_type(reading, at, "an object", message);
    err = read_role(reading, message, at, out);
    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(param, sizeof param, "%s.%s", at, refused[i]);
        if (read_field(message, refused[i]) != NULL)
            return read_unsupported(reading, param);
    }
    content = read_field(message, "content");
    snprintf(param, sizeof param, "%s.content", at);
    if (json_is_array(content))
        return read_parts(reading, message, content, param, &out->content);
    if (!json_is_string(content))
        return read_wrong_type(reading, param, "a string or an array of text parts", content);
    out->content = json_string_value(content);
    return ERR_OK;
}

static enum err read_messages(struct reading *reading)
{
    struct prompt *prompt = &reading->request.prompt;
    json_t *messages = read_field(reading->request.root, "messages");
    size_t count = json_array_size(messages);
    enum err err = ERR_OK;

    if (!json_is_array(messages))
        return read_wrong_type(reading, "messages", "an array of messages", messages);
    if (count == 0)
        return INVALID("empty_array", "messages", "'messages' must hold at least one message.");
    if (count > PROMPT_MAX_MESSAGES)
        return INVALID("array_above_max_length", "messages",
                       "'messages' holds more than %d messages.", PROMPT_MAX_MESSAGES);
    prompt->messages = calloc(count, sizeof *prompt->messages);
    if (prompt->messages == NULL)
        return ERR_NOMEM;
    prompt->message_count = count;
    for (size_t i = 0; err == ERR_OK && i < count; i++)
        err = read_message(reading, json_array_get(messages, i), i, &prompt->messages[i]);
    return err;
}

static enum err read_stream(struct reading *reading)
{
    struct chat_request *request = &reading->request;
    json_t *options = read_field(request->root, "stream_options");
    enum err err = read_flag(reading, request->root, "stream", "stream", &request->stream);

    if (err != ERR_OK || options == NULL)
        return err;
    if (!json_is_object(options))
        return read_wrong_type(reading, "stream_options", "an object", options);
    if (!request->stream)
        return INVALID("invalid_value", "stream_options",
                       "'stream_options' goes only with 'stream': true.");
    return read_flag(reading, options, "include_usage", "stream_options.include_usage",
                     &request->include_usage);
}

/* Does the value ask for nothing beyond what we do anyway? */
static bool is_idle(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_STRING:
        return strcmp(json_string_value(value), "none") == 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return fpclassify(json_number_value(value)) == FP_ZERO;
    default:
        return !json_is_true(value);
    }
}

/* Fields that change what a reply is, in ways that we can't. */
static enum err refuse_unsupported(struct reading *reading)
{
    static const char *const names[] = {
        "logprobs",    "top_logprobs",       "tools",
        "tool_choice", "functions",          "function_call",
        "audio",       "web_search_options", "presence_penalty",
        "logit_bias",  "frequency_penalty",
    };
    const json_t *root = reading->request.root;
    json_t *format = read_field(root, "response_format"),
           *modalities = read_field(root, "modalities");

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *value = read_field(root, names[i]);
        if (value != NULL && !is_idle(value))
            return read_unsupported(reading, names[i]);
    }
    if (format != NULL) {
        if (!json_is_object(format))
            return read_wrong_type(reading, "response_format", "an object", format);
        if (strcmp(json_text(format, "type", ""), "text") != 0)
            return INVALID("unsupported_value", "response_format",
                           "'response_format' other than {\"type\":\"text\"} is not supported.");
    }
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *name = json_string_value(json_array_get(modalities, i));
        if (name == NULL || strcmp(name, "text") != 0)
            return INVALID("unsupported_value", "modalities", "Only 'text' is supported.");
    }
    return ERR_OK;
}

/* Several texts: "n" is OpenAI's name for num_return_sequences, which goes before it. */
static enum err read_several(struct reading *reading)
{
    struct prompt_search *search = &reading->request.prompt.params.search;
    const char *name = "num_return_sequences";
    int n = 1;
    enum err err = read_int(reading, "n", 1, CHAT_CHOICES_MAX, &n);

    if (err != ERR_OK)
        return err;
    if (n > 1 && !search->given)
        *search = prompt_search_default();
    if (n > 1 && search->num_return_sequences < 0) {
        search->num_return_sequences = n;
        name = "n";
    }
    if (search->num_return_sequences > 1 && reading->request.stream)
        return INVALID("unsupported_value", name,
                       "'%s' above 1 goes only without 'stream': the texts come together.", name);
    return ERR_OK;
}

static enum err read_all(struct reading *reading)
{
    static enum err (*const steps[])(struct reading *) = {
        read_model, read_messages, refuse_unsupported, read_params, read_stream, read_several,
    };
    enum err err = ERR_OK;

    if (!json_is_object(reading->request.root))
        return INVALID("invalid_type", NULL, "The body must be a JSON object.");
    for (size_t i = 0; err == ERR_OK && i < sizeof steps / sizeof *steps; i++)
        err = steps[i](reading);
    if (err == ERR_OK)
        err = read_name(reading, "user", PROMPT_MAX_USER, &reading->request.prompt.prompter);
    return err;
}

enum err chat_request_parse(struct chat_request *out, const char *body, size_t len,
                            struct api_error *error)
{
    char param[64] = "";
    struct reading at = {.error = error}, *reading = &at;
    struct prompt *prompt = &reading->request.prompt;
    enum err err;

    prompt->prompter = "";
    prompt->params = prompt_params_default();
    err = json_parse_naming(&reading->request.root, body, len, param, sizeof param);
    if (err == ERR_LIMIT || err == ERR_INVALID)
        return INVALID("invalid_json", param, "The body can't be read: %s.", err_text());
    if (err == ERR_OK)
        err = read_all(reading);
    if (err == ERR_OK)
        *out = reading->request;
    else
        chat_request_done(&reading->request);
    return err;
}

void chat_request_done(struct chat_request *request)
{
    if (request == NULL)
        return;
    free(request->prompt.messages);
    json_decref(request->root);
    *request = (struct chat_request){.root = NULL};
}
