/*
 * render_response.c - response objects and their typed, numbered events.
 */
#include <stdio.h>
#include <string.h>

#include "api/write.h"

static bool in_background(const struct render *render)
{
    return json_flag(render->request, "background", false);
}

unsigned render_base(const struct render *render)
{
    return in_background(render) ? 5 : 4;
}

/* ---- the object ---- */

/* "queued", "in_progress", or how it ended. */
static const char *status_of(const struct reply *record, bool running)
{
    if (record == NULL)
        return running ? "in_progress" : "queued";
    switch (record->status) {
    case REPLY_COMPLETED:
        return text_given(record->finish_reason) != NULL &&
                       strcmp(record->finish_reason, "length") == 0
                   ? "incomplete"
                   : "completed";
    case REPLY_CANCELLED:
        return "cancelled";
    default:
        return "failed";
    }
}

/* A message that did not come to its end is incomplete, whoever ended it. */
static const char *item_status_of(const struct reply *record)
{
    if (record == NULL)
        return "in_progress";
    return strcmp(status_of(record, false), "completed") == 0 ? "completed" : "incomplete";
}

static void write_part(struct json_out *out, const char *key, const char *text)
{
    json_out_object(out, key);
    json_out_text(out, "type", "output_text");
    json_out_text(out, "text", text);
    json_out_array(out, "annotations");
    json_out_array_end(out);
    json_out_array(out, "logprobs");
    json_out_array_end(out);
    json_out_object_end(out);
}

/* Of the one item that a response has. */
static void write_item_id(struct json_out *out, const char *key, const struct render *render)
{
    char id[64];

    snprintf(id, sizeof id, "msg_%.32s", render->id + strlen("resp_"));
    json_out_text(out, key, id);
}

/* record NULL: it begins, without content. */
static void write_item(struct json_out *out, const char *key, const struct render *render,
                       const struct reply *record)
{
    json_out_object(out, key);
    write_item_id(out, "id", render);
    json_out_text(out, "type", "message");
    json_out_text(out, "status", item_status_of(record));
    json_out_text(out, "role", "assistant");
    json_out_array(out, "content");
    if (record != NULL)
        write_part(out, NULL, record->text != NULL ? record->text : "");
    json_out_array_end(out);
    json_out_object_end(out);
}

static void write_response_usage(struct json_out *out, const struct reply *record)
{
    json_out_object(out, "usage");
    json_out_uint(out, "input_tokens", record->prompt_tokens);
    json_out_object(out, "input_tokens_details");
    json_out_uint(out, "cached_tokens", record->cached_tokens);
    json_out_uint(out, "cache_write_tokens", 0);
    json_out_object_end(out);
    json_out_uint(out, "output_tokens", record->reply_tokens);
    json_out_object(out, "output_tokens_details");
    json_out_uint(out, "reasoning_tokens", 0);
    json_out_object_end(out);
    json_out_uint(out, "total_tokens", record->prompt_tokens + record->reply_tokens);
    json_out_object_end(out);
}

/* OpenAI names few codes, and its client knows no others; ours stands in the wyvern object. */
static void write_response_error(struct json_out *out, const struct api_error *error)
{
    const char *code = "server_error";

    if (error == NULL) {
        json_out_null(out, "error");
        return;
    }
    if (error->status == 429)
        code = "rate_limit_exceeded";
    else if (error->status >= 400 && error->status < 499)
        code = "invalid_prompt";
    json_out_object(out, "error");
    json_out_text(out, "code", code);
    json_out_text(out, "message", error->message);
    json_out_object_end(out);
}

/* What was asked, as it was asked; null where it was not. */
static void write_asked(struct json_out *out, const struct render *render)
{
    static const char *const names[] = {
        "instructions", "max_output_tokens", "previous_response_id", "temperature", "top_p",
        "user",         "safety_identifier",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *value = json_object_get(render->request, names[i]);
        if (value == NULL)
            json_out_null(out, names[i]);
        else if (json_is_real(value))
            json_out_number(out, names[i], json_real_value(value));
        else
            json_out_json(out, names[i], value);
    }
}

static void write_format(struct json_out *out, const struct render *render)
{
    const json_t *format = json_object_get(json_object_get(render->request, "text"), "format");

    json_out_object(out, "text");
    if (json_is_object(format)) {
        json_out_json(out, "format", format);
    } else {
        json_out_object(out, "format");
        json_out_text(out, "type", "text");
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

/* What is the same for every response of ours. */
static void write_constants(struct json_out *out, const struct render *render)
{
    const json_t *metadata = json_object_get(render->request, "metadata");

    json_out_object(out, "reasoning");
    json_out_null(out, "effort");
    json_out_null(out, "summary");
    json_out_object_end(out);
    json_out_text(out, "tool_choice", "auto");
    json_out_array(out, "tools");
    json_out_array_end(out);
    json_out_flag(out, "parallel_tool_calls",
                  json_flag(render->request, "parallel_tool_calls", true));
    json_out_text(out, "truncation", json_text(render->request, "truncation", "disabled"));
    if (metadata != NULL) {
        json_out_json(out, "metadata", metadata);
    } else {
        json_out_object(out, "metadata");
        json_out_object_end(out);
    }
}

static void write_ending(struct json_out *out, const struct render *render,
                         const struct reply *record)
{
    bool cut = record != NULL && record->status == REPLY_COMPLETED &&
               strcmp(status_of(record, false), "incomplete") == 0;

    if (cut) {
        json_out_object(out, "incomplete_details");
        json_out_text(out, "reason", "max_output_tokens");
        json_out_object_end(out);
    } else {
        json_out_null(out, "incomplete_details");
    }
    json_out_array(out, "output");
    if (record != NULL && record->text != NULL &&
        (record->status == REPLY_COMPLETED || record->text[0] != '\0'))
        write_item(out, NULL, render, record);
    json_out_array_end(out);
    if (record != NULL && (record->status == REPLY_COMPLETED || record->prompt_tokens > 0))
        write_response_usage(out, record);
    else
        json_out_null(out, "usage");
    if (record != NULL)
        write_wyvern(out, &record, 1, render->id);
}

/* error: why it failed, else NULL. */
static void write_response(struct json_out *out, const char *key, const struct render *render,
                           const struct reply *record, const char *status,
                           const struct api_error *error)
{
    bool completed = strcmp(status, "completed") == 0;

    json_out_object(out, key);
    json_out_text(out, "id", render->id);
    json_out_text(out, "object", "response");
    json_out_int(out, "created_at", write_seconds(render->created));
    json_out_text(out, "status", status);
    json_out_flag(out, "background", in_background(render));
    if (completed)
        json_out_int(out, "completed_at", write_seconds(record->finished_at));
    else
        json_out_null(out, "completed_at");
    write_response_error(out, error);
    json_out_text(out, "model", render->model);
    write_asked(out, render);
    write_constants(out, render);
    json_out_flag(out, "store", json_flag(render->request, "store", true));
    write_format(out, render);
    write_ending(out, render, record);
    json_out_object_end(out);
}

enum err render_response(const struct render *render, const struct reply *record, bool running,
                         struct buf *buf)
{
    const char *status = status_of(record, running);
    struct api_error error;
    struct json_out out;

    if (strcmp(status, "failed") == 0)
        api_error_of_reply(record, API_RESPONSE, &error);
    json_out_begin(&out, buf);
    write_response(&out, NULL, render, record, status,
                   strcmp(status, "failed") == 0 ? &error : NULL);
    return json_out_end(&out);
}

/* ---- events ---- */

struct event { /* one, while it is written */
    const char *type;
    int64_t sequence;
    struct json_out out;
    struct buf json;
};

static void event_begin(struct event *event, const char *type, uint64_t sequence)
{
    event->type = type;
    event->sequence = (int64_t)sequence;
    buf_init(&event->json, RENDER_BYTES_MAX);
    json_out_begin(&event->out, &event->json);
    json_out_object(&event->out, NULL);
    json_out_text(&event->out, "type", type);
    json_out_int(&event->out, "sequence_number", event->sequence);
}

static enum err event_send(struct event *event, render_event_fn *fn, void *arg)
{
    enum err err;

    json_out_object_end(&event->out);
    err = json_out_end(&event->out);
    if (err == ERR_OK)
        fn(arg, event->type, event->sequence, &event->json);
    buf_done(&event->json);
    return err;
}

/* An event that carries the response. */
static enum err send_state(const struct render *render, const char *type, uint64_t sequence,
                           const struct reply *record, const char *status,
                           const struct api_error *error, render_event_fn *fn, void *arg)
{
    struct event event;

    event_begin(&event, type, sequence);
    write_response(&event.out, "response", render, record, status, error);
    return event_send(&event, fn, arg);
}

static enum err send_item(const struct render *render, const char *type, uint64_t sequence,
                          const struct reply *record, render_event_fn *fn, void *arg)
{
    struct event event;

    event_begin(&event, type, sequence);
    json_out_int(&event.out, "output_index", 0);
    write_item(&event.out, "item", render, record);
    return event_send(&event, fn, arg);
}

/* The beginning of all events about the one part of the one item. */
static void part_begin(struct event *event, const struct render *render, const char *type,
                       uint64_t sequence)
{
    event_begin(event, type, sequence);
    write_item_id(&event->out, "item_id", render);
    json_out_int(&event->out, "output_index", 0);
    json_out_int(&event->out, "content_index", 0);
}

static enum err send_part(const struct render *render, const char *type, uint64_t sequence,
                          const char *text, render_event_fn *fn, void *arg)
{
    struct event event;

    part_begin(&event, render, type, sequence);
    write_part(&event.out, "part", text);
    return event_send(&event, fn, arg);
}

static enum err send_text(const struct render *render, const char *type, const char *key,
                          uint64_t sequence, const char *text, size_t len, render_event_fn *fn,
                          void *arg)
{
    struct event event;

    part_begin(&event, render, type, sequence);
    json_out_text_len(&event.out, key, text, len);
    json_out_array(&event.out, "logprobs");
    json_out_array_end(&event.out);
    return event_send(&event, fn, arg);
}

enum err response_open(struct render *render, render_event_fn *fn, void *arg)
{
    const char *first = in_background(render) ? "queued" : "in_progress";
    uint64_t at = 0;
    enum err err = send_state(render, "response.created", at++, NULL, first, NULL, fn, arg);

    if (err == ERR_OK && in_background(render))
        err = send_state(render, "response.queued", at++, NULL, first, NULL, fn, arg);
    if (err == ERR_OK)
        err = send_state(render, "response.in_progress", at++, NULL, "in_progress", NULL, fn, arg);
    if (err == ERR_OK)
        err = send_item(render, "response.output_item.added", at++, NULL, fn, arg);
    if (err == ERR_OK)
        err = send_part(render, "response.content_part.added", at, "", fn, arg);
    render->opened = err == ERR_OK;
    return err;
}

enum err response_piece(struct render *render, uint64_t number, const struct piece *piece,
                        render_event_fn *fn, void *arg)
{
    return send_text(render, "response.output_text.delta", "delta", render_base(render) + number,
                     piece->text, piece->text_len, fn, arg);
}

enum err response_close(struct render *render, const struct reply *record, render_event_fn *fn,
                        void *arg)
{
    const char *text = record->text != NULL ? record->text : "";
    const char *status = status_of(record, false);
    uint64_t at = render_base(render) + record->pieces;
    enum err err =
        send_text(render, "response.output_text.done", "text", at++, text, strlen(text), fn, arg);

    if (err == ERR_OK)
        err = send_part(render, "response.content_part.done", at++, text, fn, arg);
    if (err == ERR_OK)
        err = send_item(render, "response.output_item.done", at++, record, fn, arg);
    if (err == ERR_OK)
        err = send_state(
            render, strcmp(status, "completed") == 0 ? "response.completed" : "response.incomplete",
            at, record, status, NULL, fn, arg);
    return err;
}

enum err response_fail(struct render *render, const struct api_error *error,
                       const struct reply *record, uint64_t pieces, render_event_fn *fn, void *arg)
{
    uint64_t at = render_base(render) + (record != NULL ? record->pieces : pieces);
    return send_state(render, "response.failed", at, record, "failed", error, fn, arg);
}
