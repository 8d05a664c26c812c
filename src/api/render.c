/*
 * render.c - which kind of reply is written how, and what all have in common.
 */
#include "api/render.h"

#include <stdio.h>
#include <string.h>

#include "api/params.h"
#include "api/write.h"

/* ---- ids ---- */

static const char *prefix_of(enum api_kind kind)
{
    switch (kind) {
    case API_CHAT:
        return "chatcmpl-";
    case API_COMPLETION:
        return "cmpl-";
    case API_RESPONSE:
        return "resp_";
    case API_EMBEDDING:
        return "embd-";
    default:
        return "";
    }
}

void render_id(char out[64], enum api_kind kind, const char *prompt_id)
{
    snprintf(out, 64, "%s%.32s", prefix_of(kind), prompt_id);
}

bool render_prompt_id(char *out, enum api_kind kind, const char *public_id)
{
    const char *prefix = prefix_of(kind);

    if (strncmp(public_id, prefix, strlen(prefix)) != 0 ||
        !id_is_valid(public_id + strlen(prefix), ID_LEN))
        return false;
    memcpy(out, public_id + strlen(prefix), ID_SIZE);
    return true;
}

/* ---- parts ---- */

int64_t write_seconds(double seconds)
{
    return seconds > 0 && seconds < 1e15 ? (int64_t)seconds : 0;
}

const char *text_given(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

uint64_t reply_tokens_all(const struct reply *reply)
{
    uint64_t made = reply->reply_tokens;

    for (size_t i = 1; i < json_array_size(reply->choices); i++)
        made += json_uint(json_array_get(reply->choices, i), "tokens", 0);
    return made;
}

void write_usage(struct json_out *out, const struct reply *const *records, size_t count, unsigned n)
{
    uint64_t asked = 0, cached = 0, made = 0;

    for (size_t i = 0; i < count; i++) {
        bool counts = n == 0 ? i == 0 : i % n == 0;
        asked += counts ? records[i]->prompt_tokens : 0;
        cached += counts ? records[i]->cached_tokens : 0;
        made += reply_tokens_all(records[i]);
    }
    json_out_object(out, "usage");
    json_out_uint(out, "prompt_tokens", asked);
    json_out_uint(out, "completion_tokens", made);
    json_out_uint(out, "total_tokens", asked + made);
    json_out_object(out, "prompt_tokens_details");
    json_out_uint(out, "cached_tokens", cached);
    json_out_object_end(out);
    json_out_object_end(out);
}

void write_wyvern(struct json_out *out, const struct reply *const *records, size_t count,
                  const char *public_id)
{
    const struct reply *reply = records[0];

    json_out_object(out, "wyvern");
    json_out_text(out, "prompter", reply->prompter);
    json_out_text(out, "prompt_id", reply->id);
    json_out_text(out, "response_id", public_id);
    json_out_text(out, "inference_worker", reply->worker);
    json_out_text(out, "response_worker", reply->responder);
    json_out_text(out, "node", reply->node);
    json_out_text(out, "device", reply->device);
    json_out_uint(out, "attempt", reply->attempt);
    json_out_uint(out, "truncated_tokens", reply->truncated_tokens);
    json_out_time(out, "accepted_at", reply->accepted_at);
    json_out_time(out, "started_at", reply->started_at);
    json_out_time(out, "finished_at", reply->finished_at);
    if (text_given(reply->error_code) != NULL)
        json_out_text(out, "error_code", reply->error_code);
    if (text_given(reply->trace_id) != NULL)
        json_out_text(out, "trace_id", reply->trace_id);
    if (count > 1) {
        json_out_array(out, "prompt_ids");
        for (size_t i = 0; i < count; i++)
            json_out_text(out, NULL, records[i]->id);
        json_out_array_end(out);
    }
    json_out_object_end(out);
}

static void write_rate(struct json_out *out, const char *const names[4], uint64_t tokens, double ms)
{
    json_out_uint(out, names[0], tokens);
    json_out_number(out, names[1], ms);
    json_out_number(out, names[2], tokens > 0 ? ms / (double)tokens : 0);
    json_out_number(out, names[3], ms > 0 ? (double)tokens * 1000 / ms : 0);
}

void write_timings(struct json_out *out, const struct reply *const *records, size_t count)
{
    static const char *const prompt[] = {"prompt_n", "prompt_ms", "prompt_per_token_ms",
                                         "prompt_per_second"};
    static const char *const predicted[] = {"predicted_n", "predicted_ms", "predicted_per_token_ms",
                                            "predicted_per_second"};
    uint64_t cached = 0, asked = 0, made = 0;
    double prompt_ms = 0, decode_ms = 0;

    for (size_t i = 0; i < count; i++) {
        const struct reply *reply = records[i];
        cached += reply->cached_tokens;
        asked += reply->prompt_tokens;
        made += reply_tokens_all(reply);
        prompt_ms += reply->prompt_ms;
        decode_ms += reply->decode_ms;
    }
    json_out_object(out, "timings");
    json_out_uint(out, "cache_n", cached);
    write_rate(out, prompt, asked > cached ? asked - cached : 0, prompt_ms);
    write_rate(out, predicted, made, decode_ms);
    json_out_object_end(out);
}

/* ---- streams ---- */

enum err render_open(struct render *render, render_event_fn *fn, void *arg)
{
    return render->kind == API_RESPONSE ? response_open(render, fn, arg) : ERR_OK;
}

enum err render_piece(struct render *render, uint64_t number, const struct piece *piece,
                      render_event_fn *fn, void *arg)
{
    if (render->kind == API_RESPONSE)
        return response_piece(render, number, piece, fn, arg);
    return choice_piece(render, piece, fn, arg);
}

enum err render_close(struct render *render, const struct reply *record, render_event_fn *fn,
                      void *arg)
{
    if (render->kind == API_RESPONSE)
        return response_close(render, record, fn, arg);
    return choice_close(render, record, fn, arg);
}

enum err render_fail(struct render *render, const struct api_error *error,
                     const struct reply *record, uint64_t pieces, render_event_fn *fn, void *arg)
{
    struct buf json;
    enum err err;

    if (render->kind == API_RESPONSE)
        return response_fail(render, error, record, pieces, fn, arg);
    buf_init(&json, RENDER_BYTES_MAX);
    err = api_error_write(error, &json);
    if (err == ERR_OK)
        fn(arg, NULL, -1, &json);
    buf_done(&json);
    return err;
}

enum err render_whole(const struct render *render, const struct reply *const *records, size_t count,
                      const struct api_request *request, struct buf *out)
{
    switch (render->kind) {
    case API_CHAT:
    case API_COMPLETION:
        return choice_whole(render, records, count, request != NULL ? request->n : render->n, out);
    case API_RESPONSE:
        return render_response(render, records[0], false, out);
    default:
        return result_whole(render, records[0], request, out);
    }
}

/* ---- errors ---- */

/* What the prompt is called in a request. */
static const char *prompt_field(enum api_kind kind)
{
    switch (kind) {
    case API_COMPLETION:
        return "prompt";
    case API_RESPONSE:
    case API_EMBEDDING:
        return "input";
    case API_TOKENIZE:
        return "content";
    case API_DETOKENIZE:
        return "tokens";
    default:
        return "messages";
    }
}

/* The field that a failed prompt's sentence is about: the prompt itself when it is too long, else
 * the parameter that it begins with. */
static void param_of(char out[64], const char *code, const char *text, enum api_kind kind)
{
    static const char *const others[] = {"n",     "grammar", "logit_bias", "logprobs", "tokens",
                                         "input", "prompt",  "content",    "model"};
    size_t len = strcspn(text, " ["), whole = strcspn(text, " ");
    bool known = false;

    out[0] = '\0';
    if (strcmp(code, "context_length_exceeded") == 0) {
        snprintf(out, 64, "%s", prompt_field(kind));
    } else if (strcmp(code, "invalid_prompt") == 0 && len < 64) {
        snprintf(out, 64, "%.*s", (int)len, text);
        known = params_know(out);
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            known = known || strcmp(out, others[i]) == 0;
        if (!known)
            out[0] = '\0';
        else if (whole < 64)
            snprintf(out, 64, "%.*s", (int)whole, text); /* "input[2]" */
    }
}

void api_error_of_reply(const struct reply *reply, enum api_kind kind, struct api_error *error)
{
    const char *code = text_given(reply->error_code), *text = text_given(reply->error_text);
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
        param_of(param, code, text, kind);
        api_error_set(error, fits ? reply->error_status : 500, code, param, "%s", text);
        break;
    }
}

/* ---- models ---- */

static void write_model(struct json_out *out, const char *name, double created)
{
    json_out_object(out, NULL);
    json_out_text(out, "id", name);
    json_out_text(out, "object", "model");
    json_out_int(out, "created", write_seconds(created));
    json_out_text(out, "owned_by", OWNED_BY);
    json_out_object_end(out);
}

enum err model_write(const char *name, double created, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    write_model(&out, name, created);
    return json_out_end(&out);
}

enum err models_write(const char *const *names, size_t count, double created, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "object", "list");
    json_out_array(&out, "data");
    for (size_t i = 0; i < count; i++)
        write_model(&out, names[i], created);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return json_out_end(&out);
}
