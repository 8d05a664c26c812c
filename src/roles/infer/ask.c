#include "roles/infer/ask.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "wire/utf8.h"

/* ---- asking ---- */

/* Where none is given, the seed comes from the prompt's id, so that a successor draws the same. */
static int64_t seed_of(const struct prompt *prompt)
{
    char digits[16] = "";
    if (prompt->params.seed >= 0)
        return prompt->params.seed;
    memcpy(digits, prompt->id, sizeof digits - 1);
    return (int64_t)strtoull(digits, NULL, 16);
}

static enum err set_messages(struct ask *ask, const struct prompt *prompt)
{
    ask->messages = calloc(prompt->message_count + 1, sizeof *ask->messages);
    if (ask->messages == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < prompt->message_count; i++)
        ask->messages[i] =
            (struct engine_message){prompt->messages[i].role, prompt->messages[i].content};
    ask->request.messages = ask->messages;
    ask->request.message_count = prompt->message_count;
    return ERR_OK;
}

static enum err set_inputs(struct ask *ask, const json_t *inputs)
{
    size_t count = json_array_size(inputs);
    ask->inputs = calloc(count + 1, sizeof *ask->inputs);
    if (ask->inputs == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        ask->inputs[i] = json_string_value(json_array_get(inputs, i));
    ask->request.inputs = ask->inputs;
    ask->request.input_count = count;
    return ERR_OK;
}

static enum err set_tokens(struct ask *ask, const json_t *tokens)
{
    size_t count = json_array_size(tokens);
    ask->tokens = calloc(count + 1, sizeof *ask->tokens);
    if (ask->tokens == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(tokens, i);
        json_int_t token = json_integer_value(item);
        if (!json_is_integer(item) || token < 0 || token > INT32_MAX)
            return err_set(ERR_INVALID, "tokens: number %zu is no token", i);
        ask->tokens[i] = (int32_t)token;
    }
    ask->request.resume_tokens = ask->tokens;
    ask->request.resume_token_count = count;
    return ERR_OK;
}

static enum engine_task engine_task_of(enum prompt_task task)
{
    switch (task) {
    case TASK_EMBED:
        return ENGINE_EMBED;
    case TASK_TOKENIZE:
        return ENGINE_TOKENIZE;
    case TASK_DETOKENIZE:
        return ENGINE_DETOKENIZE;
    case TASK_TEMPLATE:
        return ENGINE_TEMPLATE;
    case TASK_CHAT:
    case TASK_TEXT:
        break;
    }
    return ENGINE_GENERATE;
}

enum err ask_init(struct ask *ask, const struct prompt *prompt)
{
    ask->request = (struct engine_request){.task = engine_task_of(prompt->task),
                                           .truncate_left = prompt->params.truncate == 1};
    ask->messages = NULL;
    ask->inputs = NULL;
    ask->tokens = NULL;
    enum err err = engine_params_of(&ask->request.params, &ask->params, &prompt->params);
    if (err != ERR_OK)
        return err;
    ask->request.params.seed = seed_of(prompt);
    switch (prompt->task) {
    case TASK_CHAT:
    case TASK_TEMPLATE:
        return set_messages(ask, prompt);
    case TASK_TEXT:
    case TASK_TOKENIZE:
        ask->request.raw_prompt = json_string_value(json_array_get(prompt->inputs, 0));
        return ERR_OK;
    case TASK_EMBED:
        return set_inputs(ask, prompt->inputs);
    case TASK_DETOKENIZE:
        return set_tokens(ask, prompt->tokens);
    }
    return ERR_OK;
}

void ask_done(struct ask *ask)
{
    free(ask->messages);
    free(ask->inputs);
    free(ask->tokens);
}

/* ---- results ---- */

bool task_makes_text(enum prompt_task task)
{
    return task == TASK_CHAT || task == TASK_TEXT;
}

/* One vector as base64 of little-endian floats. */
static json_t *vector_text(const float *vector, size_t size)
{
    struct buf text;
    uint32_t *bits = malloc((size + 1) * sizeof *bits);
    json_t *made = NULL;
    if (bits == NULL)
        return NULL;
    for (size_t i = 0; i < size; i++) {
        memcpy(&bits[i], &vector[i], sizeof *bits);
        bits[i] = htole32(bits[i]);
    }
    buf_init(&text, base64_len(size * sizeof *bits));
    if (base64_encode(&text, bits, size * sizeof *bits) == ERR_OK)
        made = json_stringn_nocheck(buf_text(&text), text.len);
    buf_done(&text);
    free(bits);
    return made;
}

/* A text that each reader of JSON takes: NUL and what is no UTF-8 become U+FFFD. */
static json_t *clean_text(const char *text, size_t len)
{
    struct buf clean;
    json_t *made = NULL;
    enum err err = ERR_OK;
    if (len == 0)
        return json_string("");
    if (memchr(text, '\0', len) == NULL && utf8_is_valid(text, len))
        return json_stringn_nocheck(text, len);
    buf_init(&clean, 3 * len);
    for (size_t at = 0; at < len && err == ERR_OK;) {
        size_t step = text[at] != '\0' ? utf8_char_len(text + at, len - at) : 0;
        err = step > 0 ? buf_append(&clean, text + at, step)
                       : buf_append_text(&clean, "\xEF\xBF\xBD");
        at += step > 0 ? step : 1;
    }
    if (err == ERR_OK)
        made = json_stringn_nocheck(buf_text(&clean), clean.len);
    buf_done(&clean);
    return made;
}

/* {"embeddings":[text, …]} */
static int make_embeddings(json_t *result, const struct engine_event *event)
{
    json_t *array = json_array();
    int failed = json_object_set_new(result, "embeddings", array);
    for (size_t i = 0; i < event->vector_count && failed == 0; i++)
        failed = json_array_append_new(
            array, vector_text(event->vectors + i * event->vector_size, event->vector_size));
    return failed;
}

/* A text, or the bytes of a part of a character, as llama-server tells them. */
static json_t *piece_of(const char *text, size_t len)
{
    if (utf8_is_valid(text, len))
        return json_stringn_nocheck(text, len);
    json_t *bytes = json_array();
    for (size_t i = 0; i < len && bytes != NULL; i++) {
        if (json_array_append_new(bytes, json_integer((unsigned char)text[i])) != 0) {
            json_decref(bytes);
            return NULL;
        }
    }
    return bytes;
}

/* {"tokens":[id, …],"pieces":[text or [byte, …], …]} */
static int make_tokens(json_t *result, const struct engine_event *event)
{
    json_t *tokens = json_array(), *pieces = json_array();
    int failed = json_object_set_new(result, "tokens", tokens);
    failed |= json_object_set_new(result, "pieces", pieces);
    for (size_t i = 0; i < event->token_count && failed == 0; i++) {
        const char *text = event->token_texts != NULL ? event->token_texts[i] : "";
        failed = json_array_append_new(tokens, json_integer(event->tokens[i]));
        failed |= json_array_append_new(pieces, piece_of(text, strlen(text)));
    }
    return failed;
}

enum err result_make(json_t **out, enum prompt_task task, const struct engine_event *event)
{
    json_t *result = json_object();
    const char *text = event->text != NULL ? event->text : "";
    int failed = 1;
    if (task == TASK_EMBED && event->vectors == NULL) {
        json_decref(result);
        return err_set(ERR_INTERNAL, "the engine made no embeddings");
    }
    if (task == TASK_EMBED)
        failed = make_embeddings(result, event);
    else if (task == TASK_TOKENIZE)
        failed = make_tokens(result, event);
    else if (task == TASK_DETOKENIZE)
        failed = json_object_set_new(result, "content", clean_text(text, event->text_len));
    else if (task == TASK_TEMPLATE)
        failed = json_object_set_new(result, "prompt", clean_text(text, event->text_len));
    if (failed != 0) {
        json_decref(result);
        return err_set(ERR_NOMEM, "no memory for the result");
    }
    *out = result;
    return ERR_OK;
}
