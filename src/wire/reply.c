#include "wire/reply.h"

#include <string.h>

#include "base/id.h"
#include "wire/json.h"
#include "wire/prompt.h"

static const char *const status_names[] = {"completed", "failed", "cancelled", "expired"};
#define STATUS_COUNT (sizeof status_names / sizeof *status_names)

const char *reply_status_name(enum reply_status status)
{
    return status_names[status];
}

/* "" for what the maker left out. */
static const char *text_of(const char *text)
{
    return text != NULL ? text : "";
}

static void write_choices(struct json_out *out, const json_t *choices)
{
    json_out_array(out, "choices");
    for (size_t i = 0; i < json_array_size(choices); i++) {
        const json_t *choice = json_array_get(choices, i);
        json_out_object(out, NULL);
        json_out_text(out, "text", json_text(choice, "text", ""));
        json_out_text(out, "finish_reason", json_text(choice, "finish_reason", ""));
        json_out_uint(out, "tokens", json_uint(choice, "tokens", 0));
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

enum err reply_encode(const struct reply *reply, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_int(&out, "v", WIRE_VERSION);
    json_out_text(&out, "id", text_of(reply->id));
    json_out_text(&out, "gateway", text_of(reply->gateway));
    json_out_text(&out, "prompter", text_of(reply->prompter));
    json_out_text(&out, "model", text_of(reply->model));
    json_out_text(&out, "response_id", text_of(reply->response_id));
    json_out_text(&out, "status", reply_status_name(reply->status));
    json_out_text(&out, "finish_reason", text_of(reply->finish_reason));
    json_out_text(&out, "text", reply->text);
    if (reply->text != NULL && json_array_size(reply->choices) > 0)
        write_choices(&out, reply->choices);
    json_out_uint(&out, "pieces", reply->pieces);
    json_out_text(&out, "error_code", text_of(reply->error_code));
    json_out_text(&out, "error_text", text_of(reply->error_text));
    json_out_int(&out, "error_status", reply->error_status);
    json_out_uint(&out, "prompt_tokens", reply->prompt_tokens);
    json_out_uint(&out, "reply_tokens", reply->reply_tokens);
    json_out_uint(&out, "cached_tokens", reply->cached_tokens);
    json_out_uint(&out, "truncated_tokens", reply->truncated_tokens);
    json_out_text(&out, "worker", text_of(reply->worker));
    json_out_text(&out, "node", text_of(reply->node));
    json_out_text(&out, "device", text_of(reply->device));
    json_out_text(&out, "responder", text_of(reply->responder));
    json_out_uint(&out, "attempt", reply->attempt);
    json_out_time(&out, "accepted_at", reply->accepted_at);
    json_out_time(&out, "started_at", reply->started_at);
    json_out_time(&out, "finished_at", reply->finished_at);
    json_out_number(&out, "prompt_ms", reply->prompt_ms);
    json_out_number(&out, "decode_ms", reply->decode_ms);
    json_out_flag(&out, "detached", reply->detached);
    if (reply->owner != NULL && reply->owner[0] != '\0')
        json_out_text(&out, "owner", reply->owner);
    if (reply->text != NULL) {
        json_out_json(&out, "logprobs", reply->logprobs);
        json_out_json(&out, "result", reply->result);
        json_out_json(&out, "request", reply->request);
        json_out_json(&out, "messages", reply->messages);
        json_out_json(&out, "cuts", reply->cuts);
    }
    if (reply->deleted)
        json_out_flag(&out, "deleted", true);
    json_out_text(&out, "trace_id", text_of(reply->trace_id));
    json_out_text(&out, "answer_to", text_of(reply->answer_to));
    json_out_object_end(&out);
    return json_out_end(&out);
}

enum err reply_logprobs_add(json_t **array, const char *json, size_t len)
{
    json_t *more = NULL;
    enum err err = json_parse(&more, json, len);

    if (err != ERR_OK)
        return err_prefix(err == ERR_NOMEM ? err : ERR_INVALID, "logprobs of a piece");
    if (!json_is_array(more))
        err = err_set(ERR_INVALID, "logprobs of a piece are no array");
    if (err == ERR_OK && *array == NULL)
        *array = json_array();
    if (err == ERR_OK && json_array_extend(*array, more) != 0)
        err = err_set(ERR_NOMEM, "no memory for logprobs");
    json_decref(more);
    return err;
}

#define ATTEMPT_MAX 1000000

/* Fills everything but root.  False when something that must be right is not. */
static bool read_reply(struct reply *reply, const json_t *root)
{
    const char *status = json_text(root, "status", "");
    int64_t error_status = json_int(root, "error_status", 0);
    uint64_t attempt = json_uint(root, "attempt", 0);
    size_t i = 0;

    while (i < STATUS_COUNT && strcmp(status, status_names[i]) != 0)
        i++;
    reply->status = (enum reply_status)i;
    reply->id = json_text(root, "id", "");
    reply->gateway = json_text(root, "gateway", "");
    reply->prompter = json_text(root, "prompter", "");
    reply->model = json_text(root, "model", "");
    reply->response_id = json_text(root, "response_id", "");
    reply->finish_reason = json_text(root, "finish_reason", "");
    reply->text = json_text(root, "text", NULL);
    reply->choices = json_object_get(root, "choices");
    reply->pieces = json_uint(root, "pieces", 0);
    reply->error_code = json_text(root, "error_code", "");
    reply->error_text = json_text(root, "error_text", "");
    reply->prompt_tokens = json_uint(root, "prompt_tokens", 0);
    reply->reply_tokens = json_uint(root, "reply_tokens", 0);
    reply->cached_tokens = json_uint(root, "cached_tokens", 0);
    reply->truncated_tokens = json_uint(root, "truncated_tokens", 0);
    reply->worker = json_text(root, "worker", "");
    reply->node = json_text(root, "node", "");
    reply->device = json_text(root, "device", "");
    reply->responder = json_text(root, "responder", "");
    reply->accepted_at = json_number(root, "accepted_at", 0);
    reply->started_at = json_number(root, "started_at", 0);
    reply->finished_at = json_number(root, "finished_at", 0);
    reply->prompt_ms = json_number(root, "prompt_ms", 0);
    reply->decode_ms = json_number(root, "decode_ms", 0);
    reply->detached = json_flag(root, "detached", false);
    reply->owner = json_text(root, "owner", "");
    reply->logprobs = json_object_get(root, "logprobs");
    reply->result = json_object_get(root, "result");
    reply->request = json_object_get(root, "request");
    reply->messages = json_object_get(root, "messages");
    reply->cuts = json_object_get(root, "cuts");
    reply->deleted = json_flag(root, "deleted", false);
    reply->trace_id = json_text(root, "trace_id", "");
    if (!id_is_valid(reply->trace_id, ID_LEN))
        reply->trace_id = ""; /* from an older process, or nonsense */
    reply->answer_to = json_text(root, "answer_to", "");
    if (i == STATUS_COUNT || error_status < 0 || error_status > 599 || attempt > ATTEMPT_MAX)
        return false;
    reply->error_status = (int)error_status;
    reply->attempt = (unsigned)attempt;
    return id_is_valid(reply->id, ID_LEN) && id_is_valid(reply->gateway, TAG_LEN);
}

enum err reply_decode(struct reply *out, const char *data, size_t len)
{
    struct reply reply = {.bytes = len};
    enum err err = json_parse(&reply.root, data, len);

    if (err != ERR_OK) {
        err_prefix(err, "reply message");
        return err == ERR_NOMEM ? err : ERR_INVALID;
    }
    if (json_int(reply.root, "v", 0) != WIRE_VERSION)
        err = err_set(json_is_object(reply.root) ? ERR_UNSUPPORTED : ERR_INVALID,
                      "reply message: not of version %d", WIRE_VERSION);
    else if (!read_reply(&reply, reply.root))
        err = err_set(ERR_INVALID, "reply message: id, gateway, status or a number is wrong");
    if (err == ERR_OK)
        *out = reply;
    else
        reply_done(&reply);
    return err;
}

void reply_done(struct reply *reply)
{
    if (reply == NULL)
        return;
    json_decref(reply->root);
    *reply = (struct reply){.id = NULL};
}
