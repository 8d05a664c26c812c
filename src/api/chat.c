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

#include "wire/json.h"
#include "wire/subject.h"

/* One request while it is read. */
struct reading {
    struct chat_request request;
    struct api_error *error;
};

#define INVALID(code, param, ...) api_error_set(reading->error, 400, code, param, __VA_ARGS__)

/* The field's value; NULL when it is absent or null. */
static json_t *field(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

static enum err wrong_type(struct reading *reading, const char *param, const char *wanted,
                           const json_t *value)
{
    if (value == NULL)
        return INVALID("missing_required_parameter", param, "'%s' is required: %s.", param, wanted);
    return INVALID("invalid_type", param, "Invalid type for '%s': expected %s, but got %s.", param,
                   wanted, type_name(value));
}

static enum err unsupported(struct reading *reading, const char *param)
{
    return INVALID("unsupported_parameter", param, "'%s' is not supported by this service.", param);
}

/* An integer of [min, max]; absent leaves *out. */
static enum err read_integer(struct reading *reading, const char *key, int64_t min, int64_t max,
                             int64_t *out)
{
    json_t *value = field(reading->request.root, key);
    double real;

    if (value == NULL)
        return ERR_OK;
    if (json_is_integer(value)) {
        json_int_t integer = json_integer_value(value);
        if (integer < min)
            return INVALID("integer_below_min_value", key,
                           "'%s' is %lld, below its minimum of %lld.", key, (long long)integer,
                           (long long)min);
        if (integer > max)
            return INVALID("integer_above_max_value", key,
                           "'%s' is %lld, above its maximum of %lld.", key, (long long)integer,
                           (long long)max);
        *out = integer;
        return ERR_OK;
    }
    if (!json_is_real(value) || trunc(json_real_value(value)) != json_real_value(value))
        return wrong_type(reading, key, "an integer", value);
    real = json_real_value(value); /* 5.0, or any integer beside one that needs over 64 bits */
    if (real < (double)min)
        return INVALID("integer_below_min_value", key, "'%s' is below its minimum of %lld.", key,
                       (long long)min);
    if (real > (double)max || real >= 0x1p63)
        return INVALID("integer_above_max_value", key, "'%s' is above its maximum of %lld.", key,
                       (long long)max);
    *out = (int64_t)real;
    return ERR_OK;
}

static enum err read_int(struct reading *reading, const char *key, int min, int max, int *out)
{
    int64_t value = *out;
    enum err err = read_integer(reading, key, min, max, &value);

    if (err == ERR_OK)
        *out = (int)value;
    return err;
}

static enum err read_number(struct reading *reading, const char *key, double min, double max,
                            double *out)
{
    json_t *value = field(reading->request.root, key);
    double number = json_number_value(value);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_number(value))
        return wrong_type(reading, key, "a number", value);
    if (number < min)
        return INVALID("decimal_below_min_value", key, "'%s' is %g, below its minimum of %g.", key,
                       number, min);
    if (number > max)
        return INVALID("decimal_above_max_value", key, "'%s' is %g, above its maximum of %g.", key,
                       number, max);
    *out = number;
    return ERR_OK;
}

static enum err read_flag(struct reading *reading, const json_t *object, const char *key,
                          const char *param, bool *out)
{
    json_t *value = field(object, key);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_boolean(value))
        return wrong_type(reading, param, "a boolean", value);
    *out = json_is_true(value);
    return ERR_OK;
}

static bool has_control_character(const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
        bool c1 = s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0; /* U+0080 … U+009F */
        if (*s < 0x20 || *s == 0x7f || c1)
            return true;
    }
    return false;
}

/* A short text that names something: bounded, without control characters. */
static enum err read_name(struct reading *reading, const char *key, size_t max, const char **out)
{
    json_t *value = field(reading->request.root, key);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_string(value))
        return wrong_type(reading, key, "a string", value);
    if (json_string_length(value) > max)
        return INVALID("string_above_max_length", key, "'%s' is longer than %zu bytes.", key, max);
    if (has_control_character(json_string_value(value)))
        return INVALID("invalid_value", key, "'%s' must not hold control characters.", key);
    *out = json_string_value(value);
    return ERR_OK;
}

static enum err read_model(struct reading *reading)
{
    enum err err = read_name(reading, "model", MODEL_NAME_MAX, &reading->request.prompt.model);

    if (err == ERR_OK && reading->request.prompt.model == NULL)
        return wrong_type(reading, "model", "the name of a model", NULL);
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
        return wrong_type(reading, param, "an object", part);
    type = field(part, "type");
    snprintf(name, sizeof name, "%s.type", param);
    if (!json_is_string(type))
        return wrong_type(reading, name, "a string", type);
    if (strcmp(json_string_value(type), "text") != 0)
        return INVALID("unsupported_content", name,
                       "Content of type '%.32s' is not supported: only 'text' is.",
                       json_string_value(type));
    value = field(part, "text");
    snprintf(name, sizeof name, "%s.text", param);
    if (!json_is_string(value))
        return wrong_type(reading, name, "a string", value);
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
    json_t *role = field(message, "role");

    snprintf(param, sizeof param, "%s.role", at);
    if (!json_is_string(role))
        return wrong_type(reading, param, "a string", role);
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
        return wrong_type(reading, at, "an object", message);
    err = read_role(reading, message, at, out);
    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(param, sizeof param, "%s.%s", at, refused[i]);
        if (field(message, refused[i]) != NULL)
            return unsupported(reading, param);
    }
    content = field(message, "content");
    snprintf(param, sizeof param, "%s.content", at);
    if (json_is_array(content))
        return read_parts(reading, message, content, param, &out->content);
    if (!json_is_string(content))
        return wrong_type(reading, param, "a string or an array of text parts", content);
    out->content = json_string_value(content);
    return ERR_OK;
}

static enum err read_messages(struct reading *reading)
{
    struct prompt *prompt = &reading->request.prompt;
    json_t *messages = field(reading->request.root, "messages");
    size_t count = json_array_size(messages);
    enum err err = ERR_OK;

    if (!json_is_array(messages))
        return wrong_type(reading, "messages", "an array of messages", messages);
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

static enum err read_stop_text(struct reading *reading, const json_t *value, const char *param)
{
    struct prompt_params *params = &reading->request.prompt.params;

    if (!json_is_string(value))
        return wrong_type(reading, param, "a string", value);
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
    json_t *stop = field(reading->request.root, "stop");
    enum err err = ERR_OK;

    if (stop == NULL)
        return ERR_OK;
    if (json_is_string(stop))
        return read_stop_text(reading, stop, "stop");
    if (!json_is_array(stop))
        return wrong_type(reading, "stop", "a string or an array of strings", stop);
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
    enum err err = read_int(reading, "max_new_tokens", 1, CHAT_TOKENS_MAX, &params->max_tokens);

    if (err == ERR_OK)
        err = read_int(reading, "min_new_tokens", 0, CHAT_TOKENS_MAX, &params->min_tokens);
    if (err == ERR_OK)
        err = read_int(reading, "max_tokens", 1, CHAT_TOKENS_MAX, &params->max_tokens);
    if (err == ERR_OK)
        err = read_int(reading, "max_completion_tokens", 1, CHAT_TOKENS_MAX, &completion);
    if (err == ERR_OK)
        err = read_int(reading, "min_tokens", 0, CHAT_TOKENS_MAX, &params->min_tokens);
    if (err != ERR_OK)
        return err;
    if (completion > 0) {
        params->max_tokens = completion;
        max_name = "max_completion_tokens";
    }
    if (params->max_tokens > 0 && params->min_tokens > params->max_tokens)
        return INVALID("invalid_value", "min_tokens", "'min_tokens' is %d, above '%s', %d.",
                       params->min_tokens, max_name, params->max_tokens);
    return ERR_OK;
}

static enum err read_sampling(struct reading *reading)
{
    struct prompt_params *params = &reading->request.prompt.params;
    enum err err = read_number(reading, "temperature", 0, 2, &params->temperature);

    if (err == ERR_OK)
        err = read_number(reading, "top_p", 0, 1, &params->top_p);
    if (err == ERR_OK && params->top_p <= 0) /* false for NAN */
        err = INVALID("decimal_below_min_value", "top_p", "'top_p' must be above 0.");
    if (err == ERR_OK)
        err = read_int(reading, "top_k", -1, CHAT_TOP_K_MAX, &params->top_k);
    if (err == ERR_OK)
        err = read_integer(reading, "seed", -1, INT64_MAX, &params->seed);
    return err;
}

/* true, false or "never". */
static enum err read_early_stopping(struct reading *reading, const json_t *value, int *out)
{
    bool never = json_is_string(value) && strcmp(json_string_value(value), "never") == 0;

    if (!json_is_boolean(value) && !never)
        return wrong_type(reading, "early_stopping", "a boolean or 'never'", value);
    *out = never ? 2 : json_is_true(value);
    return ERR_OK;
}

/* What Hugging Face's generate takes beyond OpenAI's fields. */
static enum err read_search(struct reading *reading)
{
    struct prompt_search search = prompt_search_default();
    const json_t *root = reading->request.root;
    bool any = false, flag = false;
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < search_row_count; i++) {
        const struct search_row *row = &search_rows[i];
        const json_t *value = field(root, row->name);
        if (value == NULL)
            continue;
        any = true;
        if (row->kind == SEARCH_EARLY) {
            err = read_early_stopping(reading, value, SEARCH_INT_AT(&search, row));
        } else if (row->kind == SEARCH_REAL) {
            err = read_number(reading, row->name, row->min, row->max, SEARCH_REAL_AT(&search, row));
        } else if (row->kind == SEARCH_INT) {
            err = read_int(reading, row->name, (int)row->min, (int)row->max,
                           SEARCH_INT_AT(&search, row));
        } else {
            err = read_flag(reading, root, row->name, row->name, &flag);
            *SEARCH_INT_AT(&search, row) = flag;
        }
    }
    if (err == ERR_OK && any)
        reading->request.prompt.params.search = search;
    return err;
}

static enum err read_stream(struct reading *reading)
{
    struct chat_request *request = &reading->request;
    json_t *options = field(request->root, "stream_options");
    enum err err = read_flag(reading, request->root, "stream", "stream", &request->stream);

    if (err != ERR_OK || options == NULL)
        return err;
    if (!json_is_object(options))
        return wrong_type(reading, "stream_options", "an object", options);
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
    json_t *format = field(root, "response_format"), *modalities = field(root, "modalities");
    int n = 1;
    enum err err;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *value = field(root, names[i]);
        if (value != NULL && !is_idle(value))
            return unsupported(reading, names[i]);
    }
    if (format != NULL) {
        if (!json_is_object(format))
            return wrong_type(reading, "response_format", "an object", format);
        if (strcmp(json_text(format, "type", ""), "text") != 0)
            return INVALID("unsupported_value", "response_format",
                           "'response_format' other than {\"type\":\"text\"} is not supported.");
    }
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *name = json_string_value(json_array_get(modalities, i));
        if (name == NULL || strcmp(name, "text") != 0)
            return INVALID("unsupported_value", "modalities", "Only 'text' is supported.");
    }
    err = read_int(reading, "n", 1, 128, &n);
    if (err == ERR_OK && n > 1)
        return INVALID("unsupported_value", "n", "'n' above 1 is not supported by this service.");
    return err;
}

static enum err read_all(struct reading *reading)
{
    static enum err (*const steps[])(struct reading *) = {
        read_model,    read_messages, refuse_unsupported, read_lengths,
        read_sampling, read_search,   read_stop,          read_stream,
    };
    enum err err = ERR_OK;

    if (!json_is_object(reading->request.root))
        return INVALID("invalid_type", NULL, "The body must be a JSON object.");
    for (size_t i = 0; err == ERR_OK && i < sizeof steps / sizeof *steps; i++)
        err = steps[i](reading);
    if (err == ERR_OK)
        err = read_name(reading, "user", PROMPT_MAX_PROMPTER, &reading->request.prompt.prompter);
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
