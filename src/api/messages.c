/*
 * messages.c - the turns of a conversation, as clients write them: roles, and texts in parts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/read.h"
#include "wire/json.h"

/* One of content's parts → its text. */
static enum err read_part(struct reading *reading, const json_t *part, const char *param,
                          const char *const *types, const char **text)
{
    char name[128];
    json_t *type, *value;
    size_t i = 0;

    if (!json_is_object(part))
        return read_wrong_type(reading, param, "an object", part);
    type = read_field(part, "type");
    snprintf(name, sizeof name, "%s.type", param);
    if (!json_is_string(type))
        return read_wrong_type(reading, name, "a string", type);
    while (types[i] != NULL && strcmp(json_string_value(type), types[i]) != 0)
        i++;
    if (types[i] == NULL)
        return INVALID("unsupported_content", name,
                       "Content of type '%.32s' is not supported: only '%s' is.",
                       json_string_value(type), types[0]);
    value = read_field(part, "text");
    snprintf(name, sizeof name, "%s.text", param);
    if (!json_is_string(value))
        return read_wrong_type(reading, name, "a string", value);
    *text = json_string_value(value);
    return ERR_OK;
}

/* content as an array: its texts joined by newlines. */
static enum err read_parts(struct reading *reading, json_t *message, const json_t *parts,
                           const char *param, const char *const *types, const char **content)
{
    char name[96];
    struct buf joined;
    size_t count = json_array_size(parts);
    enum err err = ERR_OK;

    if (count == 0)
        return INVALID("empty_array", param, "'%s' must hold at least one part.", param);
    if (count > API_PARTS_MAX)
        return INVALID("array_above_max_length", param, "'%s' holds more than %d parts.", param,
                       API_PARTS_MAX);
    buf_init(&joined, (size_t)1 << 30); /* bounded by the body that the parts came in */
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        const char *part = "";
        snprintf(name, sizeof name, "%s[%zu]", param, i);
        err = read_part(reading, json_array_get(parts, i), name, types, &part);
        if (err == ERR_OK && i > 0)
            err = buf_append(&joined, "\n", 1);
        if (err == ERR_OK)
            err = buf_append_text(&joined, part);
    }
    if (err == ERR_OK)
        err = read_put(reading, message, "content",
                       json_stringn_nocheck(buf_text(&joined), joined.len));
    if (err == ERR_OK)
        *content = json_text(message, "content", "");
    buf_done(&joined);
    return err;
}

enum err read_content(struct reading *reading, json_t *message, const char *at,
                      const char *const *types, const char **content)
{
    char param[64];
    json_t *value = read_field(message, "content");

    snprintf(param, sizeof param, "%s.content", at);
    if (json_is_array(value))
        return read_parts(reading, message, value, param, types, content);
    if (!json_is_string(value))
        return read_wrong_type(reading, param, "a string or an array of text parts", value);
    *content = json_string_value(value);
    return ERR_OK;
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

enum err read_role(struct reading *reading, const json_t *message, const char *at, const char **out)
{
    char param[64];
    json_t *role = read_field(message, "role");

    snprintf(param, sizeof param, "%s.role", at);
    if (!json_is_string(role))
        return read_wrong_type(reading, param, "a string", role);
    *out = role_of(json_string_value(role));
    if (*out != NULL)
        return ERR_OK;
    if (strcmp(json_string_value(role), "tool") == 0 ||
        strcmp(json_string_value(role), "function") == 0)
        return INVALID("unsupported_value", param,
                       "Messages of the role '%s' are not supported by this service.",
                       json_string_value(role));
    return INVALID("invalid_value", param,
                   "'%s' must be one of 'system', 'developer', 'user', 'assistant'.", param);
}

enum err read_more_messages(struct reading *reading, const char *param, size_t more)
{
    struct prompt *prompt = &reading->request.prompt;
    size_t count = prompt->message_count + more;
    struct prompt_message *messages;

    if (count > PROMPT_MAX_MESSAGES)
        return INVALID("array_above_max_length", param, "'%s' holds more than %d messages.", param,
                       PROMPT_MAX_MESSAGES);
    messages = realloc(prompt->messages, count * sizeof *messages);
    if (messages == NULL)
        return err_set(ERR_NOMEM, "no memory for %zu messages", count);
    memset(messages + prompt->message_count, 0, more * sizeof *messages);
    prompt->messages = messages;
    return ERR_OK;
}

static enum err read_message(struct reading *reading, json_t *message, size_t index,
                             struct prompt_message *out)
{
    static const char *const refused[] = {"tool_calls", "function_call", "audio"};
    static const char *const types[] = {"text", NULL};
    char at[32], param[64];
    enum err err;

    snprintf(at, sizeof at, "messages[%zu]", index);
    if (!json_is_object(message))
        return read_wrong_type(reading, at, "an object", message);
    err = read_role(reading, message, at, &out->role);
    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *value = read_field(message, refused[i]);
        snprintf(param, sizeof param, "%s.%s", at, refused[i]);
        if (value != NULL && !read_is_idle(value))
            return read_unsupported(reading, param);
    }
    return read_content(reading, message, at, types, &out->content);
}

enum err read_messages(struct reading *reading)
{
    struct prompt *prompt = &reading->request.prompt;
    json_t *messages = read_field(reading->request.root, "messages");
    size_t count = json_array_size(messages);
    enum err err;

    if (!json_is_array(messages))
        return read_wrong_type(reading, "messages", "an array of messages", messages);
    if (count == 0)
        return INVALID("empty_array", "messages", "'messages' must hold at least one message.");
    err = read_more_messages(reading, "messages", count);
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        err = read_message(reading, json_array_get(messages, i), i, &prompt->messages[i]);
        prompt->message_count = i + 1;
    }
    return err;
}
