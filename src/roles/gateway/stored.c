/*
 * A visit (visit.h) finds its reply (find.h), sees that it belongs to who asks, and then
 *
 *   GET      writes the record, or its state; as a stream, follows it (session.h) from any event on
 *   cancel   ends what is on its way as any cancellation, then writes the record
 *   DELETE   the same, and puts the record again without all but ids and usage
 *   items    what was said to it
 *
 * What is another's does not exist: 404.
 */
#include "roles/gateway/stored.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/render.h"
#include "base/log.h"
#include "bus/replies.h"
#include "bus/tokens.h"
#include "roles/gateway/find.h"
#include "roles/gateway/session.h"
#include "roles/gateway/visit.h"
#include "wire/json.h"

#define WHOLE_BYTES ((size_t)64 << 20)
#define TRIES_MAX   4 /* a record that changes under our hands is looked at again */
#define ITEMS_LIMIT 100

enum visit_verb { VERB_GET, VERB_CANCEL, VERB_DELETE, VERB_ITEMS };

struct stored_visit {
    struct visit base;
    enum visit_verb verb;
    enum api_kind kind;
    char id[ID_SIZE];
    struct trace trace;
    bool stream;
    int64_t after;
    unsigned tries;
    /* of what is on its way, while it is asked whether anybody works on it */
    json_t *request;
    double created;
    /* of the items */
    int limit;
    bool ascending;
    char from[96];
};

static void on_done(struct visit *base)
{
    struct stored_visit *visit = (struct stored_visit *)base;
    json_decref(visit->request);
}

/* ---- writing ---- */

static struct render render_of(const struct stored_visit *visit, const json_t *request,
                               double created)
{
    struct render render = {
        .kind = visit->kind,
        .model = visit->base.gateway->join.model,
        .created = json_number(request, "created", created),
        .request = request,
    };
    render_id(render.id, visit->kind, visit->id);
    return render;
}

static void write_record(struct stored_visit *visit, const struct reply *record)
{
    const struct api_request shape = {.kind = visit->kind, .n = 1};
    struct render render = render_of(visit, record->request, record->accepted_at);
    struct api_error error;
    struct buf json;
    buf_init(&json, WHOLE_BYTES);
    if (visit->kind != API_RESPONSE && record->status != REPLY_COMPLETED) {
        api_error_of_reply(record, visit->kind, &error);
        visit_fail(&visit->base, error.status, error.code, error.param, error.message);
    } else if (visit->kind == API_RESPONSE) {
        visit_answer(&visit->base, render_response(&render, record, false, &json), &json);
    } else {
        render.logprobs = record->logprobs != NULL;
        visit_answer(&visit->base, render_whole(&render, &record, 1, &shape, &json), &json);
    }
    buf_done(&json);
}

static void write_deleted(struct stored_visit *visit)
{
    char id[64];
    struct buf json;
    struct json_out out;
    render_id(id, visit->kind, visit->id);
    buf_init(&json, 1024);
    json_out_begin(&out, &json);
    json_out_object(&out, NULL);
    json_out_text(&out, "id", id);
    json_out_text(&out, "object",
                  visit->kind == API_RESPONSE ? "response" : "chat.completion.deleted");
    json_out_flag(&out, "deleted", true);
    json_out_object_end(&out);
    visit_answer(&visit->base, json_out_end(&out), &json);
    buf_done(&json);
}

static void write_item(struct json_out *out, const char *id, const json_t *message)
{
    const char *role = json_text(message, "role", "user");
    bool said = strcmp(role, "assistant") == 0;
    json_out_object(out, NULL);
    json_out_text(out, "id", id);
    json_out_text(out, "type", "message");
    json_out_text(out, "status", "completed");
    json_out_text(out, "role", role);
    json_out_array(out, "content");
    json_out_object(out, NULL);
    json_out_text(out, "type", said ? "output_text" : "input_text");
    json_out_text(out, "text", json_text(message, "content", ""));
    if (said) {
        json_out_array(out, "annotations");
        json_out_array_end(out);
    }
    json_out_object_end(out);
    json_out_array_end(out);
    json_out_object_end(out);
}

static void item_id(char out[64], const struct stored_visit *visit, size_t index)
{
    snprintf(out, 64, "msg_%s_%zu", visit->id, index);
}

/* What was said to it, without its instructions; the newest first unless asked otherwise. */
static void write_items(struct stored_visit *visit, const json_t *request, const json_t *messages)
{
    char id[64], first[64] = "", last[64] = "";
    size_t count = json_array_size(messages);
    size_t skip = json_is_string(json_object_get(request, "instructions")) ? 1 : 0, written = 0;
    bool seen = visit->from[0] == '\0', more = false;
    struct buf json;
    struct json_out out;
    buf_init(&json, WHOLE_BYTES);
    json_out_begin(&out, &json);
    json_out_object(&out, NULL);
    json_out_text(&out, "object", "list");
    json_out_array(&out, "data");
    for (size_t i = skip; i < count; i++) {
        size_t index = visit->ascending ? i : count - 1 - (i - skip);
        item_id(id, visit, index);
        if (!seen) {
            seen = strcmp(id, visit->from) == 0;
            continue;
        }
        more = written == (size_t)visit->limit;
        if (more)
            break;
        write_item(&out, id, json_array_get(messages, index));
        snprintf(written == 0 ? first : last, sizeof first, "%s", id);
        written++;
    }
    json_out_array_end(&out);
    json_out_text(&out, "first_id", written > 0 ? first : NULL);
    json_out_text(&out, "last_id", written > 1 ? last : written > 0 ? first : NULL);
    json_out_flag(&out, "has_more", more);
    json_out_object_end(&out);
    visit_answer(&visit->base, json_out_end(&out), &json);
    buf_done(&json);
}

/* ---- streams ---- */

/* The visit's exchange goes to an outlet; NULL: nobody waits, or was told that it can't. */
static struct outlet *visit_outlet(struct stored_visit *visit)
{
    const struct api_request shape = {.kind = visit->kind, .n = 1};
    const struct outlet_spec spec = {
        .exchange = visit->base.exchange,
        .count = 1,
        .stream = true,
        .after = visit->after,
        .trace = &visit->trace,
        .request_id = visit->id,
        .request = &shape,
        .kept_total = &visit->base.gateway->held_bytes,
    };
    struct outlet *outlet = NULL;
    if (visit->base.exchange == NULL)
        return NULL;
    if (outlet_new(&outlet, &spec) != ERR_OK) {
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
        return NULL;
    }
    visit_give(&visit->base);
    outlet_hold(outlet);
    return outlet;
}

static void nobody_waits(struct delivery *delivery, bool complete)
{
    (void)complete;
    outlet_leave(delivery);
}

static void stream_record(struct stored_visit *visit, const struct reply *record)
{
    struct delivery out = {
        .render = render_of(visit, record->request, record->accepted_at),
        .closed = nobody_waits,
    };
    struct outlet *outlet = visit_outlet(visit);
    if (outlet == NULL)
        return;
    outlet_join(outlet, &out, 0);
    delivery_open(&out);
    delivery_finish(&out, record);
    outlet_leave(&out); /* the outlet has it all */
    outlet_release(outlet);
}

static void stream_running(struct stored_visit *visit, const struct prompt *prompt,
                           double accepted_at)
{
    struct outlet *outlet = visit_outlet(visit);
    if (outlet == NULL)
        return;
    if (session_attach(visit->base.gateway, prompt,
                       json_number(prompt->request, "created", accepted_at), visit->kind, outlet,
                       0) != ERR_OK)
        outlet_fail(outlet, 503, "unavailable", "out of memory; try again");
    outlet_release(outlet);
}

/* ---- what is on its way ---- */

static void on_claim(void *arg, enum err err, uint64_t sequence, const struct claim *claim)
{
    struct stored_visit *visit = arg;
    struct render render = render_of(visit, visit->request, visit->created);
    struct buf json;
    (void)sequence;
    visit_back(&visit->base);
    buf_init(&json, WHOLE_BYTES);
    if (err != ERR_OK && err != ERR_NOT_FOUND)
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    else
        visit_answer(&visit->base, render_response(&render, NULL, claim != NULL, &json), &json);
    buf_done(&json);
    visit_settle(&visit->base);
}

/* Does somebody work on it? */
static void write_running(struct stored_visit *visit, const struct prompt *prompt,
                          double accepted_at)
{
    if (visit->kind != API_RESPONSE) {
        visit_fail(&visit->base, 404, "not_found", NULL, "this reply is not whole yet");
        return;
    }
    visit->request = json_deep_copy(prompt->request);
    visit->created = accepted_at;
    visit_asked(&visit->base, tokens_last_claim(visit->base.gateway->bus, prompt->gateway,
                                                visit->id, on_claim, visit));
}

static void look(struct stored_visit *visit);

static void on_cancelled(void *arg, enum err err, uint64_t sequence)
{
    struct stored_visit *visit = arg;
    (void)sequence;
    visit_back(&visit->base);
    if (err != ERR_OK)
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    else
        look(visit); /* its record stands now, whoever made it */
    visit_settle(&visit->base);
}

static void cancel(struct stored_visit *visit, const struct prompt *prompt, double accepted_at)
{
    char trace_id[ID_SIZE];
    const struct cancel_spec spec = cancel_spec_of(prompt, "cancelled", accepted_at, trace_id);
    log_info("reply.cancelled prompt=%s trace_id=%s", prompt->id, trace_id);
    visit_asked(&visit->base,
                endings_cancel(visit->base.gateway->endings, &spec, on_cancelled, visit));
}

static void on_deleted(void *arg, enum err err, uint64_t sequence)
{
    struct stored_visit *visit = arg;
    (void)sequence;
    visit_back(&visit->base);
    if (err == ERR_OK)
        write_deleted(visit);
    else if (err == ERR_EXISTS)
        look(visit); /* it changed under our hands */
    else
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    visit_settle(&visit->base);
}

/* ---- finding it ---- */

static bool is_theirs(const struct stored_visit *visit, const char *owner, const json_t *request)
{
    const char *api = json_text(request, "api", "");
    return strcmp(owner, visit->base.owner) == 0 &&
           strcmp(api, visit->kind == API_RESPONSE ? "response" : "chat") == 0;
}

static void with_record(struct stored_visit *visit, const struct found *found)
{
    const struct reply *record = found->record;
    if (record->deleted || record->text == NULL ||
        !is_theirs(visit, record->owner, record->request)) {
        visit_fail_as(&visit->base, ERR_NOT_FOUND);
        return;
    }
    if (visit->verb != VERB_DELETE && visit_is_clogged(&visit->base))
        return;
    switch (visit->verb) {
    case VERB_GET:
        if (visit->stream)
            stream_record(visit, record);
        else
            write_record(visit, record);
        break;
    case VERB_CANCEL:
        write_record(visit, record);
        break;
    case VERB_DELETE:
        visit_asked(&visit->base, replies_delete(visit->base.gateway->bus, record, found->sequence,
                                                 on_deleted, visit));
        break;
    case VERB_ITEMS:
        write_items(visit, record->request, record->messages);
        break;
    }
}

static void with_prompt(struct stored_visit *visit, const struct prompt *prompt, double accepted_at)
{
    if (!is_theirs(visit, prompt->owner, prompt->request)) {
        visit_fail_as(&visit->base, ERR_NOT_FOUND);
        return;
    }
    switch (visit->verb) {
    case VERB_GET:
        if (visit->stream)
            stream_running(visit, prompt, accepted_at);
        else
            write_running(visit, prompt, accepted_at);
        break;
    case VERB_CANCEL:
    case VERB_DELETE:
        cancel(visit, prompt, accepted_at);
        break;
    case VERB_ITEMS:
        write_items(visit, prompt->request, json_object_get(prompt->root, "messages"));
        break;
    }
}

static void on_found(void *arg, enum err err, const struct found *found)
{
    struct stored_visit *visit = arg;
    visit_back(&visit->base);
    if (err != ERR_OK)
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    else if (found->record != NULL)
        with_record(visit, found);
    else if (found->prompt != NULL)
        with_prompt(visit, found->prompt, found->accepted_at);
    else
        visit_fail_as(&visit->base, ERR_NOT_FOUND);
    visit_settle(&visit->base);
}

static void look(struct stored_visit *visit)
{
    if (++visit->tries > TRIES_MAX)
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    else
        visit_asked(&visit->base, find_reply(visit->base.gateway->bus, visit->id, on_found, visit));
}

/* ---- requests ---- */

static struct stored_visit *begin(struct gateway *gateway, struct http_exchange *exchange,
                                  const struct http_request *request, const struct key *caller,
                                  enum api_kind kind, enum visit_verb verb)
{
    static const char *const suffixes[] = {[VERB_GET] = "",
                                           [VERB_CANCEL] = "/cancel",
                                           [VERB_DELETE] = "",
                                           [VERB_ITEMS] = "/input_items"};
    static const struct visit_kind replies = {
        .missing = "there is no such reply; what was not stored, was deleted, or is older than the "
                   "service keeps replies is gone",
        .done = on_done,
    };
    const char *prefix = kind == API_RESPONSE ? "/v1/responses/" : "/v1/chat/completions/";
    char id[128];
    struct stored_visit *visit = visit_new(sizeof *visit, &replies, gateway, exchange, caller);
    if (visit == NULL)
        return NULL;
    visit->verb = verb;
    visit->kind = kind;
    visit->after = -1;
    visit->limit = 20;
    gateway_trace(&visit->trace, request);
    visit->base.request_id = visit->id;
    visit->base.trace = &visit->trace;
    if (!gateway_path_id(request, prefix, suffixes[verb], id, sizeof id) ||
        !render_prompt_id(visit->id, kind, id)) {
        visit_fail_as(&visit->base, ERR_NOT_FOUND);
        return NULL;
    }
    return visit;
}

/* A whole number in the query; false: it is there and is none in the range. */
static bool query_number(const struct http_request *request, const char *name, int64_t min,
                         int64_t max, int64_t *out)
{
    char text[32], *end;
    if (!gateway_query(request, name, text, sizeof text))
        return true;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (strchr("-0123456789", text[0]) == NULL || end == text || *end != '\0' || errno != 0 ||
        value < min || value > max)
        return false;
    *out = value;
    return true;
}

/* One of two words in the query; false: it is there and is neither. */
static bool query_word(const struct http_request *request, const char *name, const char *no,
                       const char *yes, bool *out)
{
    char text[16];
    if (!gateway_query(request, name, text, sizeof text))
        return true;
    *out = strcmp(text, yes) == 0;
    return *out || strcmp(text, no) == 0;
}

void stored_response_get(struct gateway *gateway, struct http_exchange *exchange,
                         const struct http_request *request, const struct key *caller)
{
    struct stored_visit *visit = begin(gateway, exchange, request, caller, API_RESPONSE, VERB_GET);
    if (visit == NULL)
        return;
    if (!query_word(request, "stream", "false", "true", &visit->stream))
        visit_fail(&visit->base, 400, "invalid_value", "stream", "'stream' is true or false.");
    else if (!query_number(request, "starting_after", -1, INT64_MAX, &visit->after))
        visit_fail(&visit->base, 400, "invalid_value", "starting_after",
                   "'starting_after' is the sequence number of an event.");
    else
        look(visit);
}

void stored_response_cancel(struct gateway *gateway, struct http_exchange *exchange,
                            const struct http_request *request, const struct key *caller)
{
    struct stored_visit *visit =
        begin(gateway, exchange, request, caller, API_RESPONSE, VERB_CANCEL);
    if (visit != NULL)
        look(visit);
}

void stored_response_delete(struct gateway *gateway, struct http_exchange *exchange,
                            const struct http_request *request, const struct key *caller)
{
    struct stored_visit *visit =
        begin(gateway, exchange, request, caller, API_RESPONSE, VERB_DELETE);
    if (visit != NULL)
        look(visit);
}

void stored_response_items(struct gateway *gateway, struct http_exchange *exchange,
                           const struct http_request *request, const struct key *caller)
{
    int64_t limit = 20;
    struct stored_visit *visit =
        begin(gateway, exchange, request, caller, API_RESPONSE, VERB_ITEMS);
    if (visit == NULL)
        return;
    if (!query_word(request, "order", "desc", "asc", &visit->ascending)) {
        visit_fail(&visit->base, 400, "invalid_value", "order", "'order' is asc or desc.");
    } else if (gateway_query(request, "after", visit->from, sizeof visit->from) &&
               visit->from[0] == '\0') {
        visit_fail(&visit->base, 400, "invalid_value", "after", "'after' is the id of an item.");
    } else if (!query_number(request, "limit", 1, ITEMS_LIMIT, &limit)) {
        visit_fail(&visit->base, 400, "invalid_value", "limit",
                   "'limit' is a number from 1 to 100.");
    } else {
        visit->limit = (int)limit;
        look(visit);
    }
}

void stored_chat_get(struct gateway *gateway, struct http_exchange *exchange,
                     const struct http_request *request, const struct key *caller)
{
    struct stored_visit *visit = begin(gateway, exchange, request, caller, API_CHAT, VERB_GET);
    if (visit != NULL)
        look(visit);
}

void stored_chat_delete(struct gateway *gateway, struct http_exchange *exchange,
                        const struct http_request *request, const struct key *caller)
{
    struct stored_visit *visit = begin(gateway, exchange, request, caller, API_CHAT, VERB_DELETE);
    if (visit != NULL)
        look(visit);
}
