#include "wire/prompt.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "wire/json.h"

struct prompt_params prompt_params_default(void)
{
    return (struct prompt_params){
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
        .truncate = -1,
    };
}

static const char *const task_names[] = {"chat",     "text",       "embed",
                                         "tokenize", "detokenize", "template"};
#define TASK_COUNT (sizeof task_names / sizeof *task_names)

const char *prompt_task_name(enum prompt_task task)
{
    return task_names[task];
}

static const char *const truncate_names[] = {"none", "left"};

int prompt_truncate_of(const char *name)
{
    for (int i = 0; i < (int)(sizeof truncate_names / sizeof *truncate_names); i++)
        if (strcmp(name, truncate_names[i]) == 0)
            return i;
    return -1;
}

static void write_search(struct json_out *out, const struct prompt_search *search)
{
    json_out_object(out, "search");
    for (size_t i = 0; i < search_row_count; i++) {
        const struct search_row *row = &search_rows[i];
        if (row->kind == SEARCH_REAL && !isnan(*SEARCH_REAL_AT(search, row)))
            json_out_number(out, row->name, *SEARCH_REAL_AT(search, row));
        if (row->kind != SEARCH_REAL && *SEARCH_INT_AT(search, row) >= 0)
            json_out_int(out, row->name, *SEARCH_INT_AT(search, row));
        if (row->kind == SEARCH_TOKEN && *SEARCH_INT_AT(search, row) == PROMPT_NO_TOKEN)
            json_out_null(out, row->name);
    }
    json_out_object_end(out);
}

static void write_params(struct json_out *out, const struct prompt_params *params)
{
    json_out_object(out, "params");
    if (params->min_tokens >= 0)
        json_out_int(out, "min_tokens", params->min_tokens);
    if (params->max_tokens >= 0)
        json_out_int(out, "max_tokens", params->max_tokens);
    if (!isnan(params->temperature))
        json_out_number(out, "temperature", params->temperature);
    if (!isnan(params->top_p))
        json_out_number(out, "top_p", params->top_p);
    if (params->top_k >= 0)
        json_out_int(out, "top_k", params->top_k);
    if (params->seed >= 0)
        json_out_int(out, "seed", params->seed);
    if (params->stop_count > 0) {
        json_out_array(out, "stop");
        for (size_t i = 0; i < params->stop_count; i++)
            json_out_text(out, NULL, params->stop[i]);
        json_out_array_end(out);
    }
    if (!isnan(params->frequency_penalty))
        json_out_number(out, "frequency_penalty", params->frequency_penalty);
    if (!isnan(params->presence_penalty))
        json_out_number(out, "presence_penalty", params->presence_penalty);
    if (!isnan(params->repeat_penalty))
        json_out_number(out, "repeat_penalty", params->repeat_penalty);
    if (params->logprobs >= 0)
        json_out_int(out, "logprobs", params->logprobs);
    json_out_json(out, "logit_bias", params->logit_bias);
    if (params->grammar != NULL)
        json_out_text(out, "grammar", params->grammar);
    if (params->truncate >= 0)
        json_out_text(out, "truncate", truncate_names[params->truncate]);
    if (params->search.given)
        write_search(out, &params->search);
    json_out_object_end(out);
}

static void write_given(struct json_out *out, const char *key, const char *text)
{
    if (text != NULL && text[0] != '\0')
        json_out_text(out, key, text);
}

static void write_messages(struct json_out *out, const struct prompt *prompt)
{
    json_out_array(out, "messages");
    for (size_t i = 0; i < prompt->message_count; i++) {
        json_out_object(out, NULL);
        json_out_text(out, "role", prompt->messages[i].role);
        json_out_text(out, "content", prompt->messages[i].content);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

/* A worker reads at most JSON_MAX_DEPTH levels; the message is one around it. */
static bool nests_within(const json_t *value, unsigned levels)
{
    json_t *walked = (json_t *)(uintptr_t)value, *item; /* jansson's walks are not const */
    const char *key;
    size_t i;

    if (!json_is_object(value) && !json_is_array(value))
        return true;
    if (levels == 0)
        return false;
    json_object_foreach(walked, key, item)
    {
        if (!nests_within(item, levels - 1))
            return false;
    }
    json_array_foreach(walked, i, item)
    {
        if (!nests_within(item, levels - 1))
            return false;
    }
    return true;
}

enum err prompt_encode(const struct prompt *prompt, struct buf *buf)
{
    struct json_out out;

    if (!nests_within(prompt->request, JSON_MAX_DEPTH - 1))
        return err_set(ERR_LIMIT, "the request nests too deep");
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_int(&out, "v", WIRE_VERSION);
    json_out_text(&out, "id", prompt->id);
    json_out_text(&out, "gateway", prompt->gateway);
    json_out_text(&out, "prompter", prompt->prompter);
    json_out_text(&out, "model", prompt->model);
    json_out_flag(&out, "detached", prompt->detached);
    write_given(&out, "traceparent", prompt->traceparent);
    write_given(&out, "tracestate", prompt->tracestate);
    if (prompt->task != TASK_CHAT)
        json_out_text(&out, "task", prompt_task_name(prompt->task));
    write_given(&out, "owner", prompt->owner);
    write_params(&out, &prompt->params);
    if (prompt->message_count > 0)
        write_messages(&out, prompt);
    json_out_json(&out, "inputs", prompt->inputs);
    json_out_json(&out, "tokens", prompt->tokens);
    json_out_json(&out, "request", prompt->request);
    json_out_object_end(&out);
    return json_out_end(&out);
}

/* An int of the params, or -1; what does not fit an int counts as not given. */
static int param_int(const json_t *object, const char *key)
{
    int64_t value = json_int(object, key, -1);
    return value < -1 || value > INT_MAX ? -1 : (int)value;
}

static void read_search(struct prompt_search *out, const json_t *object)
{
    struct prompt_search search = prompt_search_default();

    for (size_t i = 0; i < search_row_count; i++) {
        const struct search_row *row = &search_rows[i];
        if (row->kind == SEARCH_REAL)
            *SEARCH_REAL_AT(&search, row) = json_number(object, row->name, NAN);
        else
            *SEARCH_INT_AT(&search, row) = param_int(object, row->name);
        if (row->kind == SEARCH_TOKEN && json_is_null(json_object_get(object, row->name)))
            *SEARCH_INT_AT(&search, row) = PROMPT_NO_TOKEN;
    }
    *out = search;
}

static enum err read_params(struct prompt_params *out, const json_t *object)
{
    const json_t *stop = json_object_get(object, "stop");
    struct prompt_params params = prompt_params_default();
    int64_t seed = json_int(object, "seed", -1);

    params.min_tokens = param_int(object, "min_tokens");
    params.max_tokens = param_int(object, "max_tokens");
    params.temperature = json_number(object, "temperature", NAN);
    params.top_p = json_number(object, "top_p", NAN);
    params.top_k = param_int(object, "top_k");
    params.seed = seed >= 0 ? seed : -1;
    params.frequency_penalty = json_number(object, "frequency_penalty", NAN);
    params.presence_penalty = json_number(object, "presence_penalty", NAN);
    params.repeat_penalty = json_number(object, "repeat_penalty", NAN);
    params.logprobs = param_int(object, "logprobs");
    params.logit_bias = json_object_get(object, "logit_bias");
    params.grammar = json_text(object, "grammar", NULL);
    if (params.logprobs > PROMPT_MAX_TOPS || json_object_size(params.logit_bias) > PROMPT_MAX_BIAS)
        return err_set(ERR_INVALID, "prompt message: too many logprobs or biases");
    params.truncate = prompt_truncate_of(json_text(object, "truncate", ""));
    params.stop_count = json_array_size(stop);
    if (params.stop_count > PROMPT_MAX_STOP)
        return err_set(ERR_INVALID, "prompt message: too many stop strings");
    for (size_t i = 0; i < params.stop_count; i++) {
        params.stop[i] = json_string_value(json_array_get(stop, i));
        if (params.stop[i] == NULL || params.stop[i][0] == '\0')
            return err_set(ERR_INVALID, "prompt message: a stop string is none");
    }
    if (json_is_object(json_object_get(object, "search")))
        read_search(&params.search, json_object_get(object, "search"));
    *out = params;
    return ERR_OK;
}

static enum err read_messages(struct prompt *prompt, const json_t *array)
{
    size_t count = json_array_size(array);

    bool wanted = prompt->task == TASK_CHAT || prompt->task == TASK_TEMPLATE;

    if (!wanted && array == NULL)
        return ERR_OK;
    if (count == 0 || count > PROMPT_MAX_MESSAGES)
        return err_set(ERR_INVALID, "prompt message: no messages, or too many");
    prompt->messages = calloc(count, sizeof *prompt->messages);
    if (prompt->messages == NULL)
        return err_set(ERR_NOMEM, "no memory for %zu messages", count);
    prompt->message_count = count;
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(array, i);
        prompt->messages[i].role = json_text(message, "role", NULL);
        prompt->messages[i].content = json_text(message, "content", NULL);
        if (prompt->messages[i].role == NULL || prompt->messages[i].content == NULL)
            return err_set(ERR_INVALID, "prompt message: message %zu lacks role or content", i);
    }
    return ERR_OK;
}

/* What a task works on besides messages. */
static enum err read_task(struct prompt *prompt)
{
    const char *name = json_text(prompt->root, "task", task_names[TASK_CHAT]);
    size_t task = 0;

    while (task < TASK_COUNT && strcmp(name, task_names[task]) != 0)
        task++;
    if (task == TASK_COUNT)
        return err_set(ERR_UNSUPPORTED, "prompt message: task \"%.32s\" is not known here", name);
    prompt->task = (enum prompt_task)task;
    prompt->inputs = json_object_get(prompt->root, "inputs");
    prompt->tokens = json_object_get(prompt->root, "tokens");
    prompt->request = json_object_get(prompt->root, "request");
    size_t count = json_array_size(prompt->inputs);
    for (size_t i = 0; i < count; i++)
        if (!json_is_string(json_array_get(prompt->inputs, i)))
            return err_set(ERR_INVALID, "prompt message: input %zu is no text", i);
    bool one = prompt->task == TASK_TEXT || prompt->task == TASK_TOKENIZE;
    if (count > PROMPT_MAX_INPUTS || (one && count != 1) ||
        (prompt->task == TASK_EMBED && count == 0) ||
        (prompt->task == TASK_DETOKENIZE && !json_is_array(prompt->tokens)))
        return err_set(ERR_INVALID, "prompt message: its inputs do not fit its task");
    return ERR_OK;
}

/* Parses, and reads whose it is. */
static enum err read_head(struct prompt *prompt, const char *data, size_t len)
{
    enum err err = json_parse(&prompt->root, data, len);

    if (err != ERR_OK) {
        err_prefix(err, "prompt message");
        return err == ERR_NOMEM ? err : ERR_INVALID;
    }
    prompt->id = json_text(prompt->root, "id", "");
    prompt->gateway = json_text(prompt->root, "gateway", "");
    prompt->prompter = json_text(prompt->root, "prompter", "");
    prompt->owner = json_text(prompt->root, "owner", "");
    prompt->model = json_text(prompt->root, "model", "");
    prompt->detached = json_flag(prompt->root, "detached", false);
    prompt->traceparent = json_text(prompt->root, "traceparent", "");
    prompt->tracestate = json_text(prompt->root, "tracestate", "");
    if (!id_is_valid(prompt->id, ID_LEN) || !id_is_valid(prompt->gateway, TAG_LEN) ||
        prompt->model[0] == '\0')
        return err_set(ERR_INVALID, "prompt message: id, gateway or model is wrong");
    return ERR_OK;
}

enum err prompt_decode_head(struct prompt *out, const char *data, size_t len)
{
    struct prompt prompt = {.id = NULL};
    enum err err = read_head(&prompt, data, len);

    if (err == ERR_OK)
        *out = prompt;
    else
        prompt_done(&prompt);
    return err;
}

enum err prompt_decode(struct prompt *out, const char *data, size_t len)
{
    struct prompt prompt = {.id = NULL};
    enum err err = read_head(&prompt, data, len);

    if (json_is_object(prompt.root) && json_int(prompt.root, "v", 0) != WIRE_VERSION)
        err = err_set(ERR_UNSUPPORTED, "prompt message: not of version %d", WIRE_VERSION);
    if (err == ERR_OK)
        err = read_task(&prompt);
    if (err == ERR_OK)
        err = read_params(&prompt.params, json_object_get(prompt.root, "params"));
    if (err == ERR_OK)
        err = read_messages(&prompt, json_object_get(prompt.root, "messages"));
    if (err == ERR_OK)
        *out = prompt;
    else
        prompt_done(&prompt);
    return err;
}

void prompt_done(struct prompt *prompt)
{
    if (prompt == NULL)
        return;
    if (prompt->root != NULL)
        free(prompt->messages);
    json_decref(prompt->root);
    *prompt = (struct prompt){.id = NULL};
}
