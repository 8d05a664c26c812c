#include "verbs/apiclient.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/params.h"
#include "base/clock.h"
#include "wire/json.h"

#define CONNECT_MS 5000
#define GET_MS     10000
#define POLL_MS    100
#define BODY_MAX   ((size_t)64 << 20)

/* ---- requests ---- */

enum err api_url(struct buf *out, const struct settings *settings, const char *path)
{
    size_t len = strlen(settings->url);
    while (len > 0 && settings->url[len - 1] == '/')
        len--;
    buf_clear(out);
    return buf_printf(out, "%.*s%s", (int)len, settings->url, path);
}

/* ---- the key ---- */

static enum err key_check(const struct api_key *key, const char *source)
{
    for (const char *at = key->text; *at != '\0'; at++) {
        if (*at <= ' ' || *at > '~') /* nothing that could end a header */
            return err_set(ERR_CONFIG, "%s holds what can be no API key", source);
    }
    return ERR_OK;
}

static enum err key_of_file(struct api_key *out, const char *path)
{
    struct api_key key = {.text = ""};
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "can't open %s: %s", path,
                       strerror(errno));
    size_t len = fread(key.text, 1, sizeof key.text, file);
    bool whole = !ferror(file) && len < sizeof key.text;
    fclose(file);
    if (!whole)
        return err_set(ERR_CONFIG, "%s holds what can be no API key", path);
    key.text[len] = '\0';
    key.text[strcspn(key.text, "\r\n")] = '\0';
    enum err err = key_check(&key, path);
    if (err == ERR_OK && key.text[0] == '\0')
        err = err_set(ERR_CONFIG, "%s holds no API key", path);
    if (err == ERR_OK)
        *out = key;
    explicit_bzero(&key, sizeof key);
    return err;
}

enum err api_key_read(struct api_key *out, const struct settings *settings)
{
    if (settings->key_file != NULL)
        return key_of_file(out, settings->key_file);
    struct api_key key = {.text = ""};
    const char *given = getenv("WYVERN_KEY");
    if (given != NULL && strlen(given) > API_KEY_MAX)
        return err_set(ERR_CONFIG, "$WYVERN_KEY holds what can be no API key");
    if (given != NULL)
        snprintf(key.text, sizeof key.text, "%s", given);
    enum err err = key_check(&key, "$WYVERN_KEY");
    if (err == ERR_OK)
        *out = key;
    return err;
}

const char *api_key_bearer(const struct api_key *key)
{
    return key->text[0] != '\0' ? key->text : NULL;
}

/* ---- what is asked ---- */

static json_t *params_json(const struct settings *settings)
{
    json_t *body = json_object();
    if (body == NULL)
        return NULL;
    const struct {
        const char *name;
        int value;
    } whole[] = {{"min_tokens", settings->min_tokens},
                 {"max_tokens", settings->max_tokens},
                 {"top_k", settings->top_k}};
    int failed = 0;
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        if (whole[i].value >= 0)
            failed |= json_object_set_new(body, whole[i].name, json_integer(whole[i].value));
    }
    if (settings->seed >= 0)
        failed |= json_object_set_new(body, "seed", json_integer(settings->seed));
    if (!isnan(settings->temperature))
        failed |= json_object_set_new(body, "temperature", json_real(settings->temperature));
    if (!isnan(settings->top_p))
        failed |= json_object_set_new(body, "top_p", json_real(settings->top_p));
    if (settings->truncate != NULL)
        failed |= json_object_set_new(body, "truncate", json_string(settings->truncate));
    if (failed != 0) {
        json_decref(body);
        return NULL;
    }
    return body;
}

/* --params over the flags.  A length under another name replaces the flag's as well. */
static enum err params_add(json_t *body, const char *text)
{
    static const char *const lengths[][2] = {
        {"max_tokens", "max_new_tokens"}, {"max_tokens", "max_completion_tokens"},
        {"max_tokens", "max_length"},     {"min_tokens", "min_new_tokens"},
        {"min_tokens", "min_length"},
    };
    struct prompt_params params;
    json_t *root = NULL;
    enum err err = params_parse(&params, &root, text, PARAMS_REQUEST);
    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        if (json_object_get(root, lengths[i][1]) != NULL)
            (void)json_object_del(body, lengths[i][0]);
    if (json_object_update(body, root) != 0)
        err = err_set(ERR_NOMEM, "out of memory");
    json_decref(root);
    return err;
}

enum err api_params(json_t **out, const struct settings *settings)
{
    json_t *body = params_json(settings);
    if (body == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = settings->params != NULL ? params_add(body, settings->params) : ERR_OK;
    if (err == ERR_OK)
        *out = body;
    else
        json_decref(body);
    return err;
}

/* NULL for text that is no valid UTF-8, or without memory. */
static json_t *messages_json(const struct settings *settings, const struct api_message *messages,
                             size_t count)
{
    json_t *list = json_array();
    int failed = list == NULL;
    if (!failed && settings->system != NULL)
        failed = json_array_append_new(
            list, json_pack("{s:s, s:s}", "role", "system", "content", settings->system));
    for (size_t i = 0; i < count && !failed; i++)
        failed = json_array_append_new(list, json_pack("{s:s, s:s}", "role", messages[i].role,
                                                       "content", messages[i].content));
    if (failed) {
        json_decref(list);
        return NULL;
    }
    return list;
}

enum err api_request_write(struct buf *out, const struct settings *settings, const char *user,
                           const struct api_message *messages, size_t count)
{
    const char *model = settings->asked_model != NULL ? settings->asked_model : "default";
    json_t *body = NULL, *list = NULL;
    json_t *stream = json_pack("{s:s, s:b, s:{s:b}}", "model", model, "stream", 1, "stream_options",
                               "include_usage", 1);
    enum err err = api_params(&body, settings);
    if (err == ERR_OK && (stream == NULL || json_object_update_missing(body, stream) != 0))
        err = err_set(ERR_NOMEM, "out of memory");
    if (err != ERR_OK)
        goto out;
    list = messages_json(settings, messages, count);
    if (list == NULL) {
        err = err_set(ERR_INVALID, "the prompt is no valid UTF-8 text");
        goto out;
    }
    if (json_object_set_new(body, "messages", list) != 0) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    if (user != NULL && json_object_set_new(body, "user", json_string(user)) != 0) {
        err = err_set(ERR_INVALID, "the name given with --user is no valid UTF-8 text");
        goto out;
    }
    buf_clear(out);
    err = json_write(body, out);
out:
    json_decref(stream);
    json_decref(body);
    return err;
}

/* ---- replies ---- */

void api_reply_init(struct api_reply *reply, api_text_fn *on_text, void *arg)
{
    memset(reply, 0, sizeof *reply);
    sse_reader_init(&reply->sse, API_EVENT_MAX);
    buf_init(&reply->text, API_TEXT_MAX);
    reply->on_text = on_text;
    reply->arg = arg;
}

void api_reply_done(struct api_reply *reply)
{
    if (reply == NULL)
        return;
    sse_reader_done(&reply->sse);
    buf_done(&reply->text);
    json_decref(reply->wyvern);
    json_decref(reply->usage);
    reply->wyvern = reply->usage = NULL;
}

/* Notes {"error":{"message","code"}}; false when root holds none. */
static bool error_note(struct api_reply *reply, const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    if (!json_is_object(error))
        return false;
    json_text_copy(error, "message", reply->error, sizeof reply->error);
    if (reply->error[0] == '\0')
        snprintf(reply->error, sizeof reply->error, "the service named no reason");
    json_text_copy(error, "code", reply->error_code, sizeof reply->error_code);
    return true;
}

static void object_keep(json_t **place, const json_t *root, const char *key)
{
    json_t *value = json_object_get(root, key);
    if (!json_is_object(value))
        return;
    json_decref(*place);
    *place = json_incref(value);
}

static bool chunk_take(struct api_reply *reply, const json_t *root)
{
    const char *id = json_text(root, "id", "");
    if (reply->response_id[0] == '\0')
        snprintf(reply->response_id, sizeof reply->response_id, "%s", id);
    else if (strcmp(reply->response_id, id) != 0)
        reply->mixed = true;
    object_keep(&reply->wyvern, root, "wyvern");
    object_keep(&reply->usage, root, "usage");
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const char *finish = json_text(choice, "finish_reason", "");
    if (*finish != '\0')
        snprintf(reply->finish_reason, sizeof reply->finish_reason, "%s", finish);
    const char *text = json_text(json_object_get(choice, "delta"), "content", "");
    size_t len = strlen(text);
    if (len == 0)
        return true;
    reply->last_ns = clock_mono_ns();
    if (reply->first_ns == 0)
        reply->first_ns = reply->last_ns;
    if (buf_append(&reply->text, text, len) != ERR_OK) {
        snprintf(reply->error, sizeof reply->error, "the reply is larger than we can hold");
        return false;
    }
    return reply->on_text == NULL || reply->on_text(reply->arg, text, len);
}

static bool event_take(void *arg, const char *event, const char *data, size_t len)
{
    struct api_reply *reply = arg;
    (void)event;
    if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
        reply->done = true;
        return true;
    }
    json_t *root = NULL;
    if (json_parse(&root, data, len) != ERR_OK) {
        snprintf(reply->error, sizeof reply->error, "the service sent what is no JSON: %s",
                 err_text());
        return false;
    }
    bool go_on = !error_note(reply, root) && chunk_take(reply, root);
    json_decref(root);
    return go_on;
}

bool api_reply_feed(void *arg, const char *data, size_t len)
{
    struct api_reply *reply = arg;
    reply->heard_ns = clock_mono_ns();
    enum err err = sse_reader_feed(&reply->sse, data, len, event_take, reply);
    if (err == ERR_LIMIT)
        snprintf(reply->error, sizeof reply->error, "the service sent an event that is too large");
    return err == ERR_OK;
}

enum err api_err_of_status(int status)
{
    switch (status) {
    case 401:
    case 403:
        return ERR_DENIED;
    case 404:
        return ERR_NOT_FOUND;
    case 429:
        return ERR_FULL;
    case 503:
        return ERR_UNAVAILABLE;
    default:
        return status < 500 ? ERR_INVALID : ERR_INTERNAL;
    }
}

/* A refusal, in the service's own words where it has some. */
static enum err refusal_note(struct api_reply *reply, const struct http_result *result)
{
    json_t *root = NULL;
    bool said = json_parse(&root, buf_text(&result->body), result->body.len) == ERR_OK &&
                error_note(reply, root);
    json_decref(root);
    if (!said)
        snprintf(reply->error, sizeof reply->error, "the service answered with status %d",
                 result->status);
    enum err err = api_err_of_status(result->status);
    if (result->status == 401)
        return err_set(err, "%s; pass a key with --key-file FILE or in WYVERN_KEY", reply->error);
    if (result->retry_after_s > 0)
        return err_set(err, "%s (try again in %.0f s)", reply->error, ceil(result->retry_after_s));
    return err_set(err, "%s", reply->error);
}

enum err api_reply_end(struct api_reply *reply, enum err err, const struct http_result *result)
{
    if (result->status >= 400)
        return refusal_note(reply, result);
    if (reply->error[0] != '\0')
        return err_set(ERR_INTERNAL, "%s", reply->error);
    if (err != ERR_OK) {
        snprintf(reply->error, sizeof reply->error, "%s", err_text());
        return err;
    }
    if (result->status == 200 && reply->done && reply->finish_reason[0] != '\0')
        return ERR_OK;
    snprintf(reply->error, sizeof reply->error,
             result->status == 200 ? "the service broke the reply off"
                                   : "the service answered with status %d; is this a wyvern?",
             result->status);
    return err_set(ERR_IO, "%s", reply->error);
}

struct asking {
    struct api_reply *reply;
    enum err err;
};

static void ask_ended(void *arg, enum err err, struct http_result *result)
{
    struct asking *asking = arg;
    asking->err = api_reply_end(asking->reply, err, result);
}

enum err api_ask(struct api_reply *reply, const struct settings *settings,
                 const struct api_message *messages, size_t count,
                 const volatile sig_atomic_t *stop)
{
    struct http_set *set = NULL;
    struct api_key key;
    struct buf url, body;
    buf_init(&url, 4096);
    buf_init(&body, BODY_MAX);
    enum err err = api_key_read(&key, settings);
    if (err == ERR_OK)
        err = api_url(&url, settings, "/v1/chat/completions");
    if (err == ERR_OK)
        err = api_request_write(&body, settings, settings->user, messages, count);
    if (err == ERR_OK)
        err = http_set_new(&set);
    if (err != ERR_OK)
        goto out;
    struct asking asking = {.reply = reply, .err = ERR_OK};
    struct http_call call = {.method = "POST",
                             .url = buf_text(&url),
                             .body = buf_text(&body),
                             .bearer = api_key_bearer(&key),
                             .connect_ms = CONNECT_MS,
                             .on_data = api_reply_feed,
                             .arg = reply};
    reply->sent_ns = clock_mono_ns();
    err = http_set_add(set, &call, ask_ended, &asking);
    if (err != ERR_OK)
        goto out;
    while (http_set_poll(set, POLL_MS) > 0) {
        if (stop != NULL && *stop) {
            err = err_set(ERR_CANCELLED, "stopped");
            goto out;
        }
        if (reply->on_wait != NULL)
            reply->on_wait(reply->arg, reply);
    }
    err = asking.err;
out:
    http_set_free(set); /* leaving is what cancels a reply that still runs */
    buf_done(&url);
    buf_done(&body);
    return err;
}

enum err api_get(json_t **out, const struct settings *settings, const char *path)
{
    struct buf url;
    struct http_result result;
    struct api_key key;
    buf_init(&url, 4096);
    http_result_init(&result);
    enum err err = api_key_read(&key, settings);
    if (err == ERR_OK)
        err = api_url(&url, settings, path);
    if (err != ERR_OK)
        goto out;
    struct http_call call = {.method = "GET",
                             .url = buf_text(&url),
                             .bearer = api_key_bearer(&key),
                             .connect_ms = CONNECT_MS,
                             .total_ms = GET_MS};
    err = http_call_run(&call, &result);
    if (err != ERR_OK)
        goto out;
    if (result.status == 401) {
        err = err_set(ERR_DENIED,
                      "%s asks for an API key that it knows: pass --key-file FILE or set "
                      "WYVERN_KEY",
                      buf_text(&url));
        goto out;
    }
    if (result.status != 200) {
        err = err_set(api_err_of_status(result.status),
                      "%s answered with status %d; is this a wyvern gateway?", buf_text(&url),
                      result.status);
        goto out;
    }
    err = json_parse(out, buf_text(&result.body), result.body.len);
    if (err != ERR_OK)
        err = err_prefix(ERR_INVALID, "%s sent what is no JSON", buf_text(&url));
out:
    http_result_done(&result);
    buf_done(&url);
    return err;
}

const char *api_reply_field(const struct api_reply *reply, const char *key)
{
    return json_text(reply->wyvern, key, "");
}

uint64_t api_reply_tokens(const struct api_reply *reply)
{
    int64_t tokens = json_int(reply->usage, "completion_tokens", 0);
    return tokens > 0 ? (uint64_t)tokens : 0;
}

uint64_t api_reply_truncated(const struct api_reply *reply)
{
    return json_uint(reply->wyvern, "truncated_tokens", 0);
}
