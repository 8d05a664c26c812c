#include "roles/gateway/deliver.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "http/sse.h"
#include "roles/gateway/gateway.h"
#include "wire/json.h"

#define EVENT_BYTES_MAX ((size_t)16 << 20)
#define WHOLE_BYTES_MAX ((size_t)64 << 20)
#define FNV_PRIME       UINT64_C(1099511628211)
#define HEADERS_LATE_MS 10000 /* a stream without a first piece begins anyway after this */
#define COMMENT_MS      15000 /* a silent stream's sign of life */
#define UNSENT_MAX      ((size_t)128 << 10) /* of a stream; with more nothing is added */
#define DECODED_COST    15  /* memory of a record's JSON for each byte of it: 7 to 14.5, measured */
#define REST_PIECES     500 /* of a record, written in one turn: some 100 KB of events */

struct outlet {
    struct http_exchange *exchange; /* NULL: a follower's, or it closed */
    outlet_done_fn *done;           /* of a follower, until it was told */
    void *done_arg;
    struct api_request shape; /* scalars only */
    struct trace trace;
    char request_id[ID_SIZE];
    int64_t after; /* number of the last event that needs not be written (again) */
    int64_t wrote_ns;
    bool stream, include_usage;
    size_t *kept_total; /* of all outlets; NULL: nobody asks */
    size_t kept;        /* our part of it, in bytes */
    bool begun;         /* response headers are out */
    bool over;          /* answered, or nobody reads */
    bool held;          /* an event was not written, for want of room */
    bool hurries;       /* what is written now can't be written again: room or not */
    unsigned count, joined, finished;
    struct { /* one for each delivery */
        struct delivery *delivery;
        /* Once it has ended: its record, and the delivery as it stood then, ours from there on */
        struct reply record;
        struct delivery rest;
    } choices[];
};

/* ---- coming and going ---- */

static void outlet_try_free(struct outlet *outlet)
{
    if (outlet->exchange != NULL || outlet->joined > 0 || (outlet->done != NULL && !outlet->over))
        return;
    for (unsigned i = 0; i < outlet->count; i++) {
        reply_done(&outlet->choices[i].record);
        json_decref(outlet->choices[i].rest.request);
        json_decref(outlet->choices[i].rest.echo);
    }
    if (outlet->kept_total != NULL)
        *outlet->kept_total -= outlet->kept;
    free(outlet);
}

static void on_http_closed(void *arg, bool complete)
{
    struct outlet *outlet = arg;
    outlet->exchange = NULL;
    outlet->over = true;
    outlet->joined++; /* it stays while they hear of it */
    for (unsigned i = 0; i < outlet->count; i++) {
        if (outlet->choices[i].delivery != NULL)
            outlet->choices[i].delivery->closed(outlet->choices[i].delivery, complete);
    }
    outlet->joined--;
    outlet_try_free(outlet);
}

enum err outlet_new(struct outlet **out, const struct outlet_spec *spec)
{
    struct outlet *outlet = calloc(1, sizeof *outlet + spec->count * sizeof *outlet->choices);
    if (outlet == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    outlet->exchange = spec->exchange;
    outlet->trace = *spec->trace;
    memcpy(outlet->request_id, spec->request_id, sizeof outlet->request_id);
    outlet->kept_total = spec->kept_total;
    outlet->after = spec->after;
    outlet->stream = spec->stream;
    outlet->include_usage = spec->include_usage;
    outlet->count = spec->count;
    if (spec->request != NULL)
        outlet->shape = (struct api_request){.kind = spec->request->kind,
                                             .echo = spec->request->echo,
                                             .as_base64 = spec->request->as_base64,
                                             .with_pieces = spec->request->with_pieces};
    if (outlet->exchange != NULL)
        http_on_close(outlet->exchange, on_http_closed, outlet);
    *out = outlet;
    return ERR_OK;
}

void outlet_follow(struct outlet *outlet, outlet_done_fn *done, void *arg)
{
    assert(outlet->exchange == NULL && outlet->count == 1);
    outlet->done = done;
    outlet->done_arg = arg;
}

void outlet_forget(struct outlet *outlet)
{
    outlet->over = true;
}

void outlet_join(struct outlet *outlet, struct delivery *delivery, unsigned index)
{
    delivery->outlet = outlet;
    delivery->sum = DELIVERY_SUM_BASIS;
    outlet->choices[index].delivery = delivery;
    outlet->joined++;
}

void outlet_leave(struct delivery *delivery)
{
    struct outlet *outlet = delivery->outlet;
    if (outlet == NULL)
        return;
    for (unsigned i = 0; i < outlet->count; i++) {
        if (outlet->choices[i].delivery == delivery)
            outlet->choices[i].delivery = NULL;
    }
    delivery->outlet = NULL;
    delivery->waits = false;
    outlet->joined--;
    outlet_try_free(outlet);
}

bool outlet_is_streamed(const struct outlet *outlet)
{
    return outlet->stream;
}

bool outlet_is_followed(const struct outlet *outlet)
{
    return outlet->done != NULL;
}

const char *outlet_request_id(const struct outlet *outlet)
{
    return outlet->request_id;
}

/* ---- writing ---- */

static size_t reply_headers(const struct outlet *outlet,
                            struct http_header headers[GATEWAY_REPLY_HEADERS],
                            char parent[TRACE_PARENT_SIZE])
{
    return gateway_reply_headers(headers, parent, outlet->request_id, &outlet->trace);
}

static void outlet_begin(struct outlet *outlet)
{
    struct http_header headers[GATEWAY_REPLY_HEADERS];
    char parent[TRACE_PARENT_SIZE];
    if (outlet->begun)
        return;
    outlet->begun = true;
    outlet->wrote_ns = clock_mono_ns();
    sse_begin(outlet->exchange, headers, reply_headers(outlet, headers, parent));
}

static bool is_full(const struct outlet *outlet)
{
    return outlet->exchange != NULL && outlet->begun &&
           http_stream_unsent(outlet->exchange) > UNSENT_MAX;
}

/* Events with numbers wait for room: they are made again, and those that are out are left out.
 * (The others' makers ask is_full before, and make one that may be large.) */
static void on_event(void *arg, const char *event, int64_t sequence, const struct buf *json)
{
    struct outlet *outlet = arg;
    if (sequence >= 0 && sequence <= outlet->after)
        return;
    outlet->held |= sequence >= 0 && !outlet->hurries && is_full(outlet);
    if (outlet->held && !outlet->hurries)
        return;
    if (sequence >= 0)
        outlet->after = sequence;
    outlet_begin(outlet);
    outlet->wrote_ns = clock_mono_ns();
    /* False means that the reader left: the exchange's close tells. */
    (void)!sse_send(outlet->exchange, event, buf_text(json), json->len);
}

/* The stream is over.  Responses end with their last event, the older ones with a word. */
static void stream_end(struct outlet *outlet)
{
    outlet_begin(outlet);
    if (outlet->shape.kind != API_RESPONSE)
        (void)!sse_send(outlet->exchange, NULL, "[DONE]", 6);
    outlet->over = true;
    http_stream_end(outlet->exchange);
}

static void answer(struct outlet *outlet, const struct buf *json)
{
    struct http_header headers[GATEWAY_REPLY_HEADERS];
    char parent[TRACE_PARENT_SIZE];
    size_t count = reply_headers(outlet, headers, parent);
    outlet->over = true;
    http_reply(outlet->exchange, 200, headers, count, "application/json", buf_text(json),
               json->len);
}

static void answer_error(struct outlet *outlet, const struct api_error *error)
{
    outlet->over = true;
    gateway_reply_error(outlet->exchange, error, outlet->request_id, &outlet->trace);
}

static void tell_follower(struct outlet *outlet, const struct reply *record,
                          const struct api_error *error)
{
    outlet->over = true;
    outlet->done(outlet->done_arg, record, error);
}

/* All texts of a request are there. */
static void answer_whole(struct outlet *outlet)
{
    const struct reply *records[API_TEXTS_MAX];
    struct render renders[API_TEXTS_MAX];
    struct api_error error;
    struct buf json;
    assert(outlet->count <= API_TEXTS_MAX);
    for (unsigned i = 0; i < outlet->count; i++) {
        records[i] = &outlet->choices[i].record;
        renders[i] = outlet->choices[i].rest.render;
    }
    buf_init(&json, WHOLE_BYTES_MAX);
    enum err err = outlet->shape.kind == API_RESPONSE
                       ? render_response(&renders[0], records[0], false, &json)
                       : render_whole(renders, records, outlet->count, &outlet->shape, &json);
    if (err == ERR_OK) {
        answer(outlet, &json);
    } else {
        api_error_set(&error, 500, "server_error", NULL, "the reply can't be written");
        answer_error(outlet, &error);
    }
    buf_done(&json);
}

static void close_stream(struct outlet *outlet)
{
    const struct reply *records[API_TEXTS_MAX];
    for (unsigned i = 0; i < outlet->count; i++)
        records[i] = &outlet->choices[i].record;
    if (outlet->include_usage && outlet->shape.kind != API_RESPONSE &&
        render_usage(&outlet->choices[0].rest.render, records, outlet->count, on_event, outlet) !=
            ERR_OK)
        log_warn("reply.usage_unsaid why=\"%s\"", err_text());
    stream_end(outlet);
}

void outlet_hold(struct outlet *outlet)
{
    outlet->joined++;
}

void outlet_release(struct outlet *outlet)
{
    outlet->joined--;
    outlet_try_free(outlet);
}

void outlet_fail(struct outlet *outlet, int status, const char *code, const char *text)
{
    struct api_error error;
    if (outlet->over)
        return;
    api_error_set(&error, status, code, NULL, "%s", text);
    if (outlet->done != NULL)
        tell_follower(outlet, NULL, &error);
    else if (!outlet->begun)
        answer_error(outlet, &error);
    else
        stream_end(outlet);
}

void outlet_accept(struct outlet *outlet, const struct delivery *delivery)
{
    struct buf json;
    struct api_error error;
    buf_init(&json, WHOLE_BYTES_MAX);
    if (render_response(&delivery->render, NULL, false, &json) == ERR_OK) {
        answer(outlet, &json);
    } else {
        api_error_set(&error, 500, "server_error", NULL, "the reply can't be written");
        answer_error(outlet, &error);
    }
    buf_done(&json);
}

void outlet_tick(struct outlet *outlet, int64_t now_ns, int64_t came_ns)
{
    if (!outlet->stream || outlet->exchange == NULL || outlet->over)
        return;
    if (!outlet->begun && now_ns - came_ns > HEADERS_LATE_MS * NS_PER_MS)
        outlet_begin(outlet);
    if (outlet->begun && now_ns - outlet->wrote_ns > COMMENT_MS * NS_PER_MS && !is_full(outlet)) {
        outlet->wrote_ns = now_ns;
        sse_comment(outlet->exchange, "waiting");
    }
}

/* ---- one reply ---- */

uint64_t delivery_sum(uint64_t sum, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum = (sum ^ (unsigned char)text[i]) * FNV_PRIME;
    return sum;
}

/* A reply that grew too long ends without what was said of it. */
static bool tells_nothing(const struct reply *record)
{
    return record->status == REPLY_FAILED && record->text != NULL && record->text[0] == '\0';
}

bool delivery_continues(const struct delivery *delivery, const struct reply *record)
{
    if (tells_nothing(record))
        return true;
    size_t len = record->text != NULL ? strlen(record->text) : 0;
    return delivery->bytes <= len &&
           delivery_sum(DELIVERY_SUM_BASIS, record->text, delivery->bytes) == delivery->sum;
}

static bool is_streaming(const struct delivery *delivery)
{
    const struct outlet *outlet = delivery->outlet; /* NULL: its reader left, and it goes on */
    return outlet != NULL && outlet->stream && outlet->exchange != NULL && !outlet->over;
}

static void failed_to_write(struct delivery *delivery)
{
    struct api_error error;
    log_error("reply.unwritten prompt=%s why=\"%s\"", delivery->outlet->request_id, err_text());
    api_error_set(&error, 500, "server_error", NULL, "the reply can't be written");
    delivery_fail(delivery, &error);
}

static enum err open_once(struct delivery *delivery)
{
    if (delivery->opened)
        return ERR_OK;
    delivery->outlet->held = false;
    enum err err = render_open(&delivery->render, on_event, delivery->outlet);
    delivery->opened = !delivery->outlet->held;
    return err;
}

void delivery_open(struct delivery *delivery)
{
    if (!is_streaming(delivery))
        return;
    outlet_begin(delivery->outlet);
    if (open_once(delivery) != ERR_OK)
        failed_to_write(delivery);
}

/* False: there is no room for it. */
static bool deliver_piece(struct delivery *delivery, uint64_t number, const struct piece *piece)
{
    if (is_streaming(delivery)) {
        struct outlet *outlet = delivery->outlet;
        if (is_full(outlet))
            return false;
        enum err err = open_once(delivery);
        if (err == ERR_OK && delivery->opened && piece->text_len > 0) {
            outlet->held = false;
            err = render_piece(&delivery->render, number, piece, on_event, outlet);
        }
        if (err != ERR_OK)
            failed_to_write(delivery);
        else if (!delivery->opened || outlet->held)
            return false;
    }
    delivery->bytes += piece->text_len;
    delivery->sum = delivery_sum(delivery->sum, piece->text, piece->text_len);
    delivery->told += piece->token_count;
    return true;
}

/* Chat's and completions' chunks may hold several pieces: what came at once goes at once. */
static bool deliver_joined(struct delivery *delivery, const struct pieces *pieces, size_t skip)
{
    struct buf text, logprobs;
    struct piece joined = {0};
    buf_init(&text, EVENT_BYTES_MAX);
    buf_init(&logprobs, EVENT_BYTES_MAX);
    for (size_t i = skip; i < pieces->count; i++) {
        const struct piece *piece = &pieces->items[i];
        if (buf_append(&text, piece->text, piece->text_len) != ERR_OK)
            break; /* the record brings the rest */
        joined.token_count += piece->token_count;
        if (piece->logprobs == NULL || piece->logprobs_len <= 2)
            continue;
        /* "[a]" and "[b]" become "[a,b]" */
        if (logprobs.len > 0)
            logprobs.data[logprobs.len - 1] = ',';
        size_t from = logprobs.len > 0 ? 1 : 0;
        if (buf_append(&logprobs, piece->logprobs + from, piece->logprobs_len - from) != ERR_OK)
            break;
    }
    joined.text = buf_text(&text);
    joined.text_len = text.len;
    joined.logprobs = logprobs.len > 0 ? logprobs.data : NULL;
    joined.logprobs_len = logprobs.len;
    bool taken = deliver_piece(delivery, pieces->first + skip, &joined);
    buf_done(&text);
    buf_done(&logprobs);
    return taken;
}

static void outlet_wait(struct outlet *outlet);

size_t delivery_pieces(struct delivery *delivery, const struct pieces *pieces, size_t skip)
{
    size_t count = pieces->count - skip, taken = 0;
    if (delivery->render.kind != API_RESPONSE && count > 1) {
        taken = deliver_joined(delivery, pieces, skip) ? count : 0;
    } else {
        while (taken < count &&
               deliver_piece(delivery, pieces->first + skip + taken, &pieces->items[skip + taken]))
            taken++;
    }
    delivery->pieces = pieces->first + skip + taken;
    if (taken < count) {
        delivery->waits = true;
        outlet_wait(delivery->outlet);
    }
    return taken;
}

/* ---- what has ended ---- */

/* Has it a last event that is no error?  A response that was cancelled has. */
static bool ends_well(const struct delivery *delivery, const struct reply *record)
{
    return record->status == REPLY_COMPLETED ||
           (record->status == REPLY_CANCELLED && delivery->render.kind == API_RESPONSE);
}

/* What is left of the record with logprobs, in one piece. */
static bool deliver_rest_with_logprobs(struct delivery *delivery, const struct reply *record)
{
    json_t *left = json_array();
    struct buf text;
    bool taken = true;
    buf_init(&text, EVENT_BYTES_MAX);
    for (size_t i = delivery->told; i < json_array_size(record->logprobs); i++)
        json_array_append(left, json_array_get(record->logprobs, i));
    if (json_write(left, &text) == ERR_OK) {
        const char *rest = record->text + delivery->bytes;
        const struct piece piece = {.text = rest,
                                    .text_len = strlen(rest),
                                    .logprobs = buf_text(&text),
                                    .logprobs_len = text.len};
        taken = deliver_piece(delivery, delivery->pieces, &piece);
    } else {
        failed_to_write(delivery);
    }
    json_decref(left);
    buf_done(&text);
    return taken;
}

/* The next of what the record has beyond what was delivered, cut into the pieces that it was made
 * of.  False: there is no room for it. */
static bool deliver_next(struct delivery *delivery, const struct reply *record)
{
    const char *rest = record->text + delivery->bytes;
    const json_t *cuts = delivery->render.kind == API_RESPONSE ? record->cuts : NULL;
    const json_t *cut = json_array_get(cuts, delivery->pieces);
    json_int_t bytes = json_is_integer(cut) ? json_integer_value(cut) : 0;
    const struct piece piece = {
        .text = rest, .text_len = bytes > 0 ? strnlen(rest, (size_t)bytes) : strlen(rest)};
    bool taken = delivery->render.logprobs && json_array_size(record->logprobs) > delivery->told
                     ? deliver_rest_with_logprobs(delivery, record)
                     : deliver_piece(delivery, delivery->pieces, &piece);
    delivery->pieces += taken;
    return taken;
}

/* A stream's last events.  False: there was no room for all of them. */
static bool end_events(struct delivery *delivery, const struct reply *record)
{
    struct outlet *outlet = delivery->outlet;
    struct reply said = *record;
    struct api_error error;
    if (is_full(outlet))
        return false;
    /* The numbers of the last events follow on what was said.  (A reply that nobody keeps has no
     * cuts, and its rest was one piece.) */
    said.pieces = delivery->pieces;
    enum err err = open_once(delivery);
    if (err == ERR_OK && ends_well(delivery, record)) {
        err = render_close(&delivery->render, &said, on_event, outlet);
    } else if (err == ERR_OK) {
        api_error_of_reply(record, delivery->render.kind, &error);
        err = render_fail(&delivery->render, &error, &said, said.pieces, on_event, outlet);
    }
    if (err != ERR_OK)
        failed_to_write(delivery);
    else if (outlet->held)
        return false;
    delivery->ended = true;
    outlet->finished++;
    return true;
}

/* Writes of a record what there is room for; false: something is left. */
static bool write_rest(struct delivery *delivery, const struct reply *record, unsigned *turn)
{
    while (record->text[delivery->bytes] != '\0' && !delivery->outlet->over) {
        if (*turn == 0 || !deliver_next(delivery, record))
            return false;
        (*turn)--;
    }
    delivery->outlet->held = false;
    return delivery->outlet->over || end_events(delivery, record);
}

/* Goes on with the stream's texts that have ended, and ends it with the last of them. */
static void outlet_go_on(struct outlet *outlet)
{
    unsigned turn = REST_PIECES;
    for (unsigned i = 0; i < outlet->count && !outlet->over; i++) {
        if (outlet->choices[i].record.root == NULL || outlet->choices[i].rest.ended)
            continue;
        if (!write_rest(&outlet->choices[i].rest, &outlet->choices[i].record, &turn)) {
            outlet_wait(outlet);
            return;
        }
    }
    if (!outlet->over && outlet->finished == outlet->count)
        close_stream(outlet);
}

static void on_drained(void *arg)
{
    struct outlet *outlet = arg;
    outlet_hold(outlet);
    outlet_go_on(outlet);
    for (unsigned i = 0; i < outlet->count && !outlet->over; i++) {
        struct delivery *delivery = outlet->choices[i].delivery;
        if (delivery == NULL || !delivery->waits)
            continue;
        delivery->waits = false;
        if (delivery->drained != NULL)
            delivery->drained(delivery);
    }
    outlet_release(outlet);
}

static void outlet_wait(struct outlet *outlet)
{
    if (outlet->exchange != NULL)
        http_on_drained(outlet->exchange, on_drained, outlet);
}

/* Keeps the record, and what was delivered of it. */
static void keep_record(struct delivery *delivery, const struct reply *record)
{
    struct outlet *outlet = delivery->outlet;
    for (unsigned i = 0; i < outlet->count; i++) {
        if (outlet->choices[i].delivery != delivery || outlet->choices[i].record.root != NULL)
            continue;
        outlet->choices[i].record = *record;
        json_incref(record->root);
        if (outlet->kept_total != NULL) {
            outlet->kept += record->bytes * DECODED_COST;
            *outlet->kept_total += record->bytes * DECODED_COST;
        }
        outlet->choices[i].rest = *delivery;
        if (tells_nothing(record)) { /* but the number of its last event is what it would be */
            outlet->choices[i].rest.bytes = 0;
            if (record->pieces > delivery->pieces)
                outlet->choices[i].rest.pieces = record->pieces;
        }
        json_incref(delivery->request);
        json_incref(delivery->echo);
    }
}

void delivery_finish(struct delivery *delivery, const struct reply *record)
{
    struct outlet *outlet = delivery->outlet;
    struct api_error error;
    if (outlet == NULL || outlet->over)
        return;
    if (outlet->done != NULL) {
        tell_follower(outlet, record, NULL);
        return;
    }
    /* The events of a response tell of any end, once it has begun. */
    bool events = outlet->stream && (record->status == REPLY_COMPLETED ||
                                     (outlet->begun && delivery->render.kind == API_RESPONSE));
    if (record->status != REPLY_COMPLETED && !events) {
        api_error_of_reply(record, delivery->render.kind, &error);
        delivery_fail(delivery, &error);
        return;
    }
    keep_record(delivery, record);
    if (outlet->stream)
        outlet_go_on(outlet);
    else if (++outlet->finished == outlet->count)
        answer_whole(outlet);
}

void delivery_fail(struct delivery *delivery, const struct api_error *error)
{
    struct outlet *outlet = delivery->outlet;
    delivery->ended = true;
    if (outlet == NULL || outlet->over)
        return;
    if (outlet->done != NULL) {
        tell_follower(outlet, NULL, error);
    } else if (!outlet->begun) {
        answer_error(outlet, error);
    } else {
        outlet->hurries = true;
        if (render_fail(&delivery->render, error, NULL, delivery->pieces, on_event, outlet) !=
            ERR_OK)
            log_warn("reply.error_unsaid why=\"%s\"", err_text());
        stream_end(outlet);
    }
}
