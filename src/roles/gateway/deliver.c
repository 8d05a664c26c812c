#include "roles/gateway/deliver.h"

#include <string.h>

#include "api/chat.h"
#include "base/clock.h"
#include "http/sse.h"
#include "roles/gateway/gateway.h"

#define CHUNK_BYTES_MAX ((size_t)8 << 20)
#define FNV_PRIME       UINT64_C(1099511628211)

void delivery_init(struct delivery *delivery, struct http_exchange *exchange)
{
    *delivery =
        (struct delivery){.exchange = exchange, .sum = DELIVERY_SUM_BASIS, .created = clock_wall()};
    id_random(delivery->id, ID_LEN);
    chat_response_id(delivery->response_id, delivery->id);
}

uint64_t delivery_sum(uint64_t sum, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum = (sum ^ (unsigned char)text[i]) * FNV_PRIME;
    return sum;
}

bool delivery_continues(const struct delivery *delivery, const struct reply *record)
{
    size_t len = record->text != NULL ? strlen(record->text) : 0;
    return delivery->bytes <= len &&
           delivery_sum(DELIVERY_SUM_BASIS, record->text, delivery->bytes) == delivery->sum;
}

void delivery_begin(struct delivery *delivery)
{
    struct http_header headers[GATEWAY_REPLY_HEADERS];
    char parent[TRACE_PARENT_SIZE];
    if (delivery->begun)
        return;
    delivery->begun = true;
    delivery->wrote_ns = clock_mono_ns();
    size_t count = gateway_reply_headers(headers, parent, delivery->id, &delivery->trace);
    sse_begin(delivery->exchange, headers, count);
}

static void send_event(struct delivery *delivery, const struct buf *json)
{
    delivery->wrote_ns = clock_mono_ns();
    /* False means that the reader left: the exchange's close tells the session. */
    (void)!sse_send(delivery->exchange, NULL, buf_text(json), json->len);
}

static void send_done(struct delivery *delivery)
{
    (void)!sse_send(delivery->exchange, NULL, "[DONE]", 6);
    http_stream_end(delivery->exchange);
}

static void send_chunk(struct delivery *delivery, const char *text, size_t len)
{
    struct buf json;
    delivery_begin(delivery);
    buf_init(&json, CHUNK_BYTES_MAX);
    if (chat_chunk_write(delivery->response_id, delivery->model, delivery->created,
                         !delivery->role_sent, text, len, &json) == ERR_OK)
        send_event(delivery, &json);
    buf_done(&json);
    delivery->role_sent = true;
}

static void deliver_text(struct delivery *delivery, const char *text, size_t len)
{
    if (len == 0)
        return;
    delivery->bytes += len;
    delivery->sum = delivery_sum(delivery->sum, text, len);
    if (delivery->exchange != NULL && delivery->stream)
        send_chunk(delivery, text, len);
}

void delivery_pieces(struct delivery *delivery, const struct pieces *pieces, size_t skip)
{
    if (pieces->count - skip == 1) {
        deliver_text(delivery, pieces->items[skip].text, pieces->items[skip].text_len);
        return;
    }
    struct buf text;
    buf_init(&text, CHUNK_BYTES_MAX);
    for (size_t i = skip; i < pieces->count; i++) {
        if (buf_append(&text, pieces->items[i].text, pieces->items[i].text_len) != ERR_OK)
            break; /* the record brings the rest */
    }
    deliver_text(delivery, buf_text(&text), text.len);
    buf_done(&text);
}

static void finish_whole(struct delivery *delivery, const struct reply *record)
{
    struct http_header headers[GATEWAY_REPLY_HEADERS];
    char parent[TRACE_PARENT_SIZE];
    size_t count = gateway_reply_headers(headers, parent, delivery->id, &delivery->trace);
    struct api_error error;
    struct buf json;
    buf_init(&json, CHUNK_BYTES_MAX);
    if (chat_reply_write(record, &json) == ERR_OK) {
        http_reply(delivery->exchange, 200, headers, count, "application/json", buf_text(&json),
                   json.len);
    } else {
        api_error_set(&error, 500, "server_error", NULL, "the reply can't be written");
        delivery_fail(delivery, &error);
    }
    buf_done(&json);
}

void delivery_finish(struct delivery *delivery, const struct reply *record)
{
    struct buf json;
    if (delivery->exchange == NULL)
        return;
    if (!delivery->stream) {
        finish_whole(delivery, record);
        return;
    }
    deliver_text(delivery, record->text + delivery->bytes, strlen(record->text) - delivery->bytes);
    if (!delivery->role_sent)
        send_chunk(delivery, "", 0); /* an empty reply */
    buf_init(&json, CHUNK_BYTES_MAX);
    if (chat_last_chunk_write(record, delivery->created, &json) == ERR_OK)
        send_event(delivery, &json);
    buf_clear(&json);
    if (delivery->include_usage &&
        chat_usage_chunk_write(record, delivery->created, &json) == ERR_OK)
        send_event(delivery, &json);
    buf_done(&json);
    send_done(delivery);
}

void delivery_fail(struct delivery *delivery, const struct api_error *error)
{
    struct buf json;
    if (delivery->exchange == NULL)
        return;
    if (!delivery->begun) {
        gateway_reply_error(delivery->exchange, error, delivery->id, &delivery->trace);
        return;
    }
    buf_init(&json, 4096);
    if (api_error_write(error, &json) == ERR_OK)
        send_event(delivery, &json);
    buf_done(&json);
    send_done(delivery);
}
