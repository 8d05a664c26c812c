/*
 * chat_write.c - what a chat completion looks like to its client, whole and in chunks.
 */
#include <stdio.h>
#include <string.h>

#include "api/chat.h"
#include "api/params.h"
#include "wire/json.h"

#define FINGERPRINT "wyvern-" WYVERN_VERSION
#define OWNED_BY    "wyvern"

void chat_response_id(char out[48], const char *prompt_id)
{
    snprintf(out, 48, "chatcmpl-%.32s", prompt_id);
}

static int64_t whole_seconds(double seconds)
{
    return seconds > 0 && seconds < 1e15 ? (int64_t)seconds : 0;
}

/* {"id":…,"object":…,"created":…,"model":…,"system_fingerprint":… */
static void write_head(struct json_out *out, const char *id, const char *object, double created,
                       const char *model)
{
    json_out_object(out, NULL);
    json_out_text(out, "id", id);
    json_out_text(out, "object", object);
    json_out_int(out, "created", whole_seconds(created));
    json_out_text(out, "model", model);
    json_out_text(out, "system_fingerprint", FINGERPRINT);
}

static void write_usage(struct json_out *out, const struct reply *reply)
{
    uint64_t made = reply->reply_tokens;

    for (size_t i = 1; i < json_array_size(reply->choices); i++)
        made += json_uint(json_array_get(reply->choices, i), "tokens", 0);
    json_out_object(out, "usage");
    json_out_uint(out, "prompt_tokens", reply->prompt_tokens);
    json_out_uint(out, "completion_tokens", made);
    json_out_uint(out, "total_tokens", reply->prompt_tokens + made);
    json_out_object(out, "prompt_tokens_details");
    json_out_uint(out, "cached_tokens", reply->cached_tokens);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void write_wyvern(struct json_out *out, const struct reply *reply, const char *id)
{
    bool has_response_id = reply->response_id != NULL && reply->response_id[0] != '\0';

    json_out_object(out, "wyvern");
    json_out_text(out, "prompter", reply->prompter);
    json_out_text(out, "prompt_id", reply->id);
    json_out_text(out, "response_id", has_response_id ? reply->response_id : id);
    json_out_text(out, "inference_worker", reply->worker);
    json_out_text(out, "response_worker", reply->responder);
    json_out_text(out, "node", reply->node);
    json_out_text(out, "device", reply->device);
    json_out_uint(out, "attempt", reply->attempt);
    json_out_uint(out, "truncated_tokens", reply->truncated_tokens);
    json_out_time(out, "accepted_at", reply->accepted_at);
    json_out_time(out, "started_at", reply->started_at);
    json_out_time(out, "finished_at", reply->finished_at);
    if (reply->trace_id != NULL && reply->trace_id[0] != '\0')
        json_out_text(out, "trace_id", reply->trace_id);
    json_out_object_end(out);
}

/* NULL stands for null. */
static const char *finish_of(const struct reply *reply)
{
    bool known = reply->finish_reason != NULL && reply->finish_reason[0] != '\0';
    return known ? reply->finish_reason : NULL;
}

static void write_choice(struct json_out *out, size_t index, const char *text, const char *finish)
{
    json_out_object(out, NULL);
    json_out_uint(out, "index", index);
    json_out_object(out, "message");
    json_out_text(out, "role", "assistant");
    json_out_text(out, "content", text);
    json_out_null(out, "refusal");
    json_out_object_end(out);
    json_out_null(out, "logprobs");
    json_out_text(out, "finish_reason", finish);
    json_out_object_end(out);
}

enum err chat_reply_write(const struct reply *reply, struct buf *buf)
{
    char id[48];
    struct json_out out;

    chat_response_id(id, reply->id);
    json_out_begin(&out, buf);
    write_head(&out, id, "chat.completion", reply->accepted_at, reply->model);
    json_out_array(&out, "choices");
    write_choice(&out, 0, reply->text != NULL ? reply->text : "", finish_of(reply));
    for (size_t i = 1; i < json_array_size(reply->choices); i++) {
        const json_t *choice = json_array_get(reply->choices, i);
        write_choice(&out, i, json_text(choice, "text", ""),
                     json_text(choice, "finish_reason", NULL));
    }
    json_out_array_end(&out);
    write_usage(&out, reply);
    write_wyvern(&out, reply, id);
    json_out_object_end(&out);
    return json_out_end(&out);
}

enum err chat_chunk_write(const char *response_id, const char *model, double created, bool first,
                          const char *text, size_t len, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    write_head(&out, response_id, "chat.completion.chunk", created, model);
    json_out_array(&out, "choices");
    json_out_object(&out, NULL);
    json_out_int(&out, "index", 0);
    json_out_object(&out, "delta");
    if (first)
        json_out_text(&out, "role", "assistant");
    json_out_text_len(&out, "content", text, len);
    json_out_object_end(&out);
    json_out_null(&out, "logprobs");
    json_out_null(&out, "finish_reason");
    json_out_object_end(&out);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return json_out_end(&out);
}

enum err chat_last_chunk_write(const struct reply *reply, double created, struct buf *buf)
{
    char id[48];
    struct json_out out;

    chat_response_id(id, reply->id);
    json_out_begin(&out, buf);
    write_head(&out, id, "chat.completion.chunk", created, reply->model);
    json_out_array(&out, "choices");
    json_out_object(&out, NULL);
    json_out_int(&out, "index", 0);
    json_out_object(&out, "delta");
    json_out_object_end(&out);
    json_out_null(&out, "logprobs");
    json_out_text(&out, "finish_reason", finish_of(reply));
    json_out_object_end(&out);
    json_out_array_end(&out);
    write_wyvern(&out, reply, id);
    json_out_object_end(&out);
    return json_out_end(&out);
}

enum err chat_usage_chunk_write(const struct reply *reply, double created, struct buf *buf)
{
    char id[48];
    struct json_out out;

    chat_response_id(id, reply->id);
    json_out_begin(&out, buf);
    write_head(&out, id, "chat.completion.chunk", created, reply->model);
    json_out_array(&out, "choices");
    json_out_array_end(&out);
    write_usage(&out, reply);
    json_out_object_end(&out);
    return json_out_end(&out);
}

/* NULL for "" and NULL. */
static const char *given(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

/* The field that a failed prompt's sentence is about: "messages" when they are too long, else the
 * parameter that it begins with. */
static void param_of(char out[64], const char *code, const char *text)
{
    size_t len = strcspn(text, " ");

    out[0] = '\0';
    if (strcmp(code, "context_length_exceeded") == 0) {
        snprintf(out, 64, "messages");
    } else if (strcmp(code, "invalid_prompt") == 0 && len < 64) {
        snprintf(out, 64, "%.*s", (int)len, text);
        if (!params_know(out) && strcmp(out, "n") != 0)
            out[0] = '\0';
    }
}

void chat_error_of_reply(const struct reply *reply, struct api_error *error)
{
    const char *code = given(reply->error_code), *text = given(reply->error_text);
    bool fits = reply->error_status >= 400 && reply->error_status <= 599;
    char param[64];

    switch (reply->status) {
    case REPLY_EXPIRED:
        api_error_set(error, 503, "expired", NULL,
                      "The prompt waited too long for a worker and was taken from the queue.");
        break;
    case REPLY_CANCELLED:
        api_error_set(error, 499, code != NULL ? code : "cancelled", NULL, "%s",
                      text != NULL ? text : "The reply was cancelled.");
        break;
    default:
        code = code != NULL ? code : "internal_error";
        text = text != NULL ? text : "The reply failed.";
        param_of(param, code, text);
        api_error_set(error, fits ? reply->error_status : 500, code, param, "%s", text);
        break;
    }
}

enum err models_write(const char *const *names, size_t count, double created, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "object", "list");
    json_out_array(&out, "data");
    for (size_t i = 0; i < count; i++) {
        json_out_object(&out, NULL);
        json_out_text(&out, "id", names[i]);
        json_out_text(&out, "object", "model");
        json_out_int(&out, "created", whole_seconds(created));
        json_out_text(&out, "owned_by", OWNED_BY);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
    return json_out_end(&out);
}
