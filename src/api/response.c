/*
 * response.c - reading POST /v1/responses, and putting the turns of an earlier one before it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/read.h"
#include "api/render.h"
#include "wire/json.h"

#define TURNS_BYTES_MAX                                                                            \
    ((size_t)4 << 20) /* of all messages, so that the queue takes the prompt                       \
                       */

static enum err refuse_unsupported(struct reading *reading)
{
    /* response_format is text.format here: a reply that is no JSON would be a surprise. */
    static const char *const names[] = {
        "tools",          "tool_choice",        "include",    "prompt",       "conversation",
        "max_tool_calls", "context_management", "moderation", "top_logprobs", "response_format",
    };
    json_t *reasoning = read_field(reading->request.root, "reasoning"), *value;
    const char *key;
    enum err err = read_refused(reading, names, sizeof names / sizeof *names);

    if (err != ERR_OK || reasoning == NULL)
        return err;
    if (!json_is_object(reasoning))
        return read_wrong_type(reading, "reasoning", "an object", reasoning);
    json_object_foreach(reasoning, key, value)
    {
        if (!json_is_null(value) && !read_is_idle(value))
            return read_unsupported(reading, "reasoning");
    }
    return ERR_OK;
}

static enum err add_message(struct reading *reading, const char *param, const char *role,
                            const char *content)
{
    struct prompt *prompt = &reading->request.prompt;
    enum err err = read_more_messages(reading, param, 1);

    if (err == ERR_OK)
        prompt->messages[prompt->message_count++] =
            (struct prompt_message){.role = role, .content = content};
    return err;
}

static enum err read_instructions(struct reading *reading)
{
    json_t *value = read_field(reading->request.root, "instructions");

    if (value == NULL)
        return ERR_OK;
    if (!json_is_string(value))
        return read_wrong_type(reading, "instructions", "a string", value);
    return add_message(reading, "instructions", "system", json_string_value(value));
}

/* {"role","content"}, with "type":"message" or without. */
static enum err read_item(struct reading *reading, json_t *item, size_t index,
                          struct prompt_message *out)
{
    static const char *const types[] = {"input_text", "output_text", "text", NULL};
    char at[32], param[64];
    const json_t *type;
    enum err err;

    snprintf(at, sizeof at, "input[%zu]", index);
    if (!json_is_object(item))
        return read_wrong_type(reading, at, "an object", item);
    type = read_field(item, "type");
    snprintf(param, sizeof param, "%s.type", at);
    if (type != NULL && !json_is_string(type))
        return read_wrong_type(reading, param, "a string", type);
    if (type != NULL && strcmp(json_string_value(type), "message") != 0)
        return INVALID("unsupported_content", param,
                       "Items of type '%.32s' are not supported: only 'message' is.",
                       json_string_value(type));
    err = read_role(reading, item, at, &out->role);
    return err == ERR_OK ? read_content(reading, item, at, types, &out->content) : err;
}

static enum err read_input(struct reading *reading)
{
    struct prompt *prompt = &reading->request.prompt;
    json_t *input = read_field(reading->request.root, "input");
    size_t count = json_array_size(input);
    enum err err;

    if (json_is_string(input))
        return add_message(reading, "input", "user", json_string_value(input));
    if (!json_is_array(input))
        return read_wrong_type(reading, "input", "a string or an array of messages", input);
    if (count == 0)
        return INVALID("empty_array", "input", "'input' must hold at least one message.");
    err = read_more_messages(reading, "input", count);
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        err = read_item(reading, json_array_get(input, i), i,
                        &prompt->messages[prompt->message_count]);
        prompt->message_count++;
    }
    return err;
}

static enum err read_length(struct reading *reading)
{
    return read_int(reading, "max_output_tokens", 1, API_TOKENS_MAX,
                    &reading->request.prompt.params.max_tokens);
}

static enum err read_text(struct reading *reading)
{
    json_t *text = read_field(reading->request.root, "text");

    if (text != NULL && !json_is_object(text))
        return read_wrong_type(reading, "text", "an object", text);
    return read_format(reading, read_field(text, "format"), "text.format", NULL);
}

/* auto: a prompt that is too long loses its beginning. */
static enum err read_truncation(struct reading *reading)
{
    json_t *value = read_field(reading->request.root, "truncation");
    const char *name = json_string_value(value);

    if (value == NULL)
        return ERR_OK;
    if (name == NULL)
        return read_wrong_type(reading, "truncation", "'auto' or 'disabled'", value);
    if (strcmp(name, "auto") != 0 && strcmp(name, "disabled") != 0)
        return INVALID("invalid_value", "truncation", "'truncation' must be 'auto' or 'disabled'.");
    reading->request.prompt.params.truncate = name[0] == 'a';
    return ERR_OK;
}

/* safety_identifier is the newer name of user. */
static enum err read_prompter(struct reading *reading)
{
    enum err err =
        read_name(reading, "safety_identifier", PROMPT_MAX_USER, &reading->request.prompt.prompter);
    return err == ERR_OK ? read_user(reading) : err;
}

static enum err read_previous(struct reading *reading)
{
    char id[ID_SIZE];
    json_t *value = read_field(reading->request.root, "previous_response_id");

    if (value == NULL)
        return ERR_OK;
    if (!json_is_string(value))
        return read_wrong_type(reading, "previous_response_id", "a string", value);
    if (!render_prompt_id(id, API_RESPONSE, json_string_value(value)))
        return INVALID("previous_response_not_found", "previous_response_id",
                       "'%.64s' is no id of a response.", json_string_value(value));
    reading->request.previous = json_string_value(value) + strlen("resp_");
    return ERR_OK;
}

static enum err read_keeping(struct reading *reading)
{
    static const char *const kept[] = {
        "instructions",
        "max_output_tokens",
        "metadata",
        "temperature",
        "top_p",
        "text",
        "truncation",
        "user",
        "previous_response_id",
        "safety_identifier",
        "parallel_tool_calls",
        "service_tier",
        "prompt_cache_key",
    };
    struct api_request *request = &reading->request;
    enum err err;

    request->store = true; /* OpenAI's default */
    err = read_flag(reading, request->root, "store", "store", &request->store);
    if (err == ERR_OK)
        err = read_flag(reading, request->root, "background", "background", &request->background);
    if (err == ERR_OK && request->background && !request->store)
        err = INVALID("invalid_value", "background",
                      "'background' goes only with 'store': its reply is kept to be fetched.");
    if (err == ERR_OK)
        err = read_keep(reading, "response", kept, sizeof kept / sizeof *kept);
    if (err == ERR_OK)
        err = read_put(reading, request->kept, "store", json_boolean(request->store));
    if (err == ERR_OK)
        err = read_put(reading, request->kept, "background", json_boolean(request->background));
    request->prompt.request = request->kept;
    return err;
}

enum err response_parse(struct api_request *out, const char *body, size_t len, double now,
                        struct api_error *error)
{
    static read_step *const steps[] = {
        read_model,    read_instructions, read_input,    refuse_unsupported, read_params,
        read_length,   read_logit_bias,   read_text,     read_truncation,    read_stream,
        read_prompter, read_previous,     read_metadata, read_keeping,
    };
    return read_body(out, API_RESPONSE, steps, sizeof steps / sizeof *steps, body, len, now, error);
}

/* ---- after an earlier one ---- */

/* Its own turns begin behind its instructions, which do not go over. */
static size_t first_turn(const struct reply *previous)
{
    return read_field(previous->request, "instructions") != NULL ? 1 : 0;
}

static bool can_be_followed(const struct reply *previous)
{
    size_t count = json_array_size(previous->messages);

    if (previous->status != REPLY_COMPLETED || previous->text == NULL || previous->deleted ||
        strcmp(json_text(previous->request, "api", ""), "response") != 0 ||
        count < first_turn(previous) || count > PROMPT_MAX_MESSAGES)
        return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(previous->messages, i);
        if (json_text(message, "role", NULL) == NULL || json_text(message, "content", NULL) == NULL)
            return false;
    }
    return true;
}

enum err response_follow(struct api_request *request, const struct reply *previous,
                         struct api_error *error)
{
    struct reading at = {.error = error}, *reading = &at;
    struct prompt *prompt = &request->prompt;
    size_t own = first_turn(&(struct reply){.request = request->kept}), bytes = 0;
    size_t old = json_array_size(previous->messages), count, to = 0;
    struct prompt_message *all;

    if (!can_be_followed(previous))
        return INVALID("previous_response_not_found", "previous_response_id",
                       "The previous response did not complete, or was not stored.");
    old -= first_turn(previous);
    count = prompt->message_count + old + 1;
    if (count > PROMPT_MAX_MESSAGES)
        return INVALID("array_above_max_length", "previous_response_id",
                       "With the turns before there are more than %d messages.",
                       PROMPT_MAX_MESSAGES);
    all = calloc(count, sizeof *all);
    if (all == NULL)
        return err_set(ERR_NOMEM, "no memory for %zu messages", count);
    for (; to < own && to < prompt->message_count; to++)
        all[to] = prompt->messages[to];
    own = to;
    for (size_t i = 0; i < old; i++) {
        const json_t *message = json_array_get(previous->messages, i + first_turn(previous));
        all[to++] = (struct prompt_message){.role = json_text(message, "role", ""),
                                            .content = json_text(message, "content", "")};
    }
    all[to++] = (struct prompt_message){.role = "assistant", .content = previous->text};
    for (size_t i = own; i < prompt->message_count; i++)
        all[to++] = prompt->messages[i];
    for (size_t i = 0; i < to; i++)
        bytes += strlen(all[i].content);
    if (bytes > TURNS_BYTES_MAX) {
        free(all);
        return INVALID("string_above_max_length", "previous_response_id",
                       "With the turns before the conversation is longer than %zu bytes.",
                       TURNS_BYTES_MAX);
    }
    free(prompt->messages);
    prompt->messages = all;
    prompt->message_count = to;
    return ERR_OK;
}
