/*
 * response.c - what handlers call to answer, and the errors that the server itself answers.
 *
 * Everything here only fills the connection's output and marks it dirty.  A stream that fills more
 * than FLUSH_EARLY_BYTES within one turn is sent at once, but nobody is called back from here: a
 * connection that breaks meanwhile is closed by the turn's flush.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "http/internal.h"

static const char *status_name(int status)
{
    static const struct {
        int status;
        const char *name;
    } names[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].status == status) {
            return names[i].name;
        }
    }
    return "Status";
}

static const char *date_line(struct http_server *server)
{
    time_t now = time(NULL);
    if (now != server->date_second || server->date[0] == '\0') {
        struct tm parts;
        gmtime_r(&now, &parts);
        strftime(server->date, sizeof server->date, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts);
        server->date_second = now;
    }
    return server->date;
}

/* Appends, or gives the connection up. */
static void put(struct connection *conn, const void *data, size_t len)
{
    if (conn->dropping) {
        return;
    }
    if (buf_append(&conn->out, data, len) != ERR_OK) {
        conn->dropping = true;
        return;
    }
    conn->unsent_counted += len;
    conn->server->unsent_bytes += len;
}

static void put_text(struct connection *conn, const char *text)
{
    put(conn, text, strlen(text));
}

static bool is_field(const char *name, const char *value)
{
    bool is = strpbrk(name, "\r\n: ") == NULL && strpbrk(value, "\r\n") == NULL;
    assert(is && "a header that would split the reply"); /* and never sent without asserts */
    return is;
}

static void put_field(struct connection *conn, const char *name, const char *value)
{
    if (!is_field(name, value)) {
        return;
    }
    put_text(conn, name);
    put(conn, ": ", 2);
    put_text(conn, value);
    put(conn, "\r\n", 2);
}

enum framing { FRAMING_NONE, FRAMING_LENGTH, FRAMING_CHUNKED };

static void put_head(struct connection *conn, int status, const struct http_header *headers,
                     size_t header_count, const char *content_type, enum framing framing,
                     size_t len)
{
    char line[96];
    assert(status >= 200 && status <= 599);
    if (!conn->server->listening) {
        conn->keep_alive = false;
    }
    conn->server->counts.responses_by_class[status / 100]++;
    snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\n", status, status_name(status));
    put_text(conn, line);
    put_text(conn, date_line(conn->server));
    if (content_type != NULL) {
        put_field(conn, "Content-Type", content_type);
    }
    if (framing == FRAMING_LENGTH) {
        snprintf(line, sizeof line, "Content-Length: %zu\r\n", len);
        put_text(conn, line);
    } else if (framing == FRAMING_CHUNKED) {
        put_text(conn, "Transfer-Encoding: chunked\r\n");
    }
    if (!conn->keep_alive) {
        put_text(conn, "Connection: close\r\n");
    } else if (conn->is_http10) {
        put_text(conn, "Connection: keep-alive\r\n");
    }
    for (size_t i = 0; i < header_count; i++) {
        put_field(conn, headers[i].name, headers[i].value);
    }
    put(conn, buf_text(&conn->extra), conn->extra.len);
    buf_done(&conn->extra);
    put(conn, "\r\n", 2);
}

static bool has_no_body(int status)
{
    return status == 204 || status == 304;
}

void http_on_close(struct http_exchange *exchange, http_close_fn *fn, void *arg)
{
    exchange->on_close = fn;
    exchange->close_arg = arg;
}

bool http_reply_header_add(struct http_exchange *exchange, const char *name, const char *value)
{
    struct connection *conn = connection_of(exchange);
    assert(exchange->open && exchange->reply == REPLY_NONE);
    return is_field(name, value) && buf_printf(&conn->extra, "%s: %s\r\n", name, value) == ERR_OK;
}

void http_on_drained(struct http_exchange *exchange, http_drained_fn *fn, void *arg)
{
    struct connection *conn = connection_of(exchange);
    exchange->on_drained = fn;
    exchange->drained_arg = arg;
    if (fn != NULL) {
        server_mark_dirty(conn);
    }
}

void http_request_drop_body(struct http_exchange *exchange)
{
    struct connection *conn = connection_of(exchange);
    parse_drop_body(conn);
    exchange->request.body = "";
    exchange->request.body_len = 0;
}

void http_reply(struct http_exchange *exchange, int status, const struct http_header *headers,
                size_t header_count, const char *content_type, const void *body, size_t len)
{
    struct connection *conn = connection_of(exchange);
    assert(exchange->open && exchange->reply == REPLY_NONE);
    exchange->reply = REPLY_WHOLE;
    if (conn->phase == PHASE_CLOSED) {
        connection_end_orphan(conn);
        return;
    }
    bool is_bare = has_no_body(status);
    put_head(conn, status, headers, header_count, is_bare ? NULL : content_type,
             is_bare ? FRAMING_NONE : FRAMING_LENGTH, len);
    if (!is_bare && !exchange->head_only) {
        put(conn, body, len);
    }
    server_mark_dirty(conn);
}

void http_stream_begin(struct http_exchange *exchange, int status,
                       const struct http_header *headers, size_t header_count,
                       const char *content_type)
{
    struct connection *conn = connection_of(exchange);
    assert(exchange->open && exchange->reply == REPLY_NONE && !has_no_body(status));
    exchange->reply = REPLY_STREAMING;
    if (conn->phase == PHASE_CLOSED) {
        return;
    }
    if (!exchange->chunked && !exchange->head_only) {
        conn->keep_alive = false; /* the body ends where the connection ends */
    }
    put_head(conn, status, headers, header_count, content_type,
             exchange->chunked ? FRAMING_CHUNKED : FRAMING_NONE, 0);
    server_mark_dirty(conn);
}

bool response_write_parts(struct http_exchange *exchange, const struct part *parts, size_t count)
{
    struct connection *conn = connection_of(exchange);
    assert(exchange->reply == REPLY_STREAMING);
    if (conn->phase == PHASE_CLOSED || conn->dropping) {
        return false;
    }
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        len += parts[i].len;
    }
    if (len == 0 || exchange->head_only) {
        return true;
    }
    /* What waits may exceed the limit by the last write alone: one large write is no slowness. */
    if (connection_unsent(conn) > conn->server->limits.write_queue_bytes) {
        conn->dropping = true;
        server_mark_dirty(conn);
        return false;
    }
    char size_line[24];
    if (exchange->chunked) {
        int size_len = snprintf(size_line, sizeof size_line, "%zx\r\n", len);
        put(conn, size_line, (size_t)size_len);
    }
    for (size_t i = 0; i < count; i++) {
        put(conn, parts[i].data, parts[i].len);
    }
    if (exchange->chunked) {
        put(conn, "\r\n", 2);
    }
    if (conn->out.len > FLUSH_EARLY_BYTES) {
        connection_send(conn);
    }
    server_mark_dirty(conn);
    return !conn->dropping;
}

bool http_stream_write(struct http_exchange *exchange, const void *data, size_t len)
{
    const struct part part = {data, len};
    return response_write_parts(exchange, &part, 1);
}

size_t http_stream_unsent(const struct http_exchange *exchange)
{
    const char *conn = (const char *)exchange - offsetof(struct connection, exchange);
    return connection_unsent((const struct connection *)(const void *)conn);
}

void http_stream_end(struct http_exchange *exchange)
{
    struct connection *conn = connection_of(exchange);
    assert(exchange->open && exchange->reply == REPLY_STREAMING);
    exchange->reply = REPLY_WHOLE;
    if (conn->phase == PHASE_CLOSED) {
        connection_end_orphan(conn);
        return;
    }
    if (exchange->chunked && !exchange->head_only) {
        put(conn, "0\r\n\r\n", 5);
    }
    server_mark_dirty(conn);
}

void http_stream_abort(struct http_exchange *exchange)
{
    struct connection *conn = connection_of(exchange);
    assert(exchange->open && exchange->reply == REPLY_STREAMING);
    if (conn->phase == PHASE_CLOSED) { /* nobody is told: this ends it */
        exchange->reply = REPLY_WHOLE;
        connection_end_orphan(conn);
        return;
    }
    conn->dropping = true;
    server_mark_dirty(conn);
}

/* {"error":{"message":…}} when the role has no shape of its own. */
static size_t error_body(const struct http_server *server, int status, const char *message,
                         char *out, size_t cap)
{
    if (server->error_body != NULL) {
        size_t len = server->error_body(server->arg, status, message, out, cap);
        return len < cap ? len : cap;
    }
    int len = snprintf(out, cap, "{\"error\":{\"message\":\"%s\"}}", message);
    return (size_t)len < cap ? (size_t)len : cap;
}

void response_refuse(struct connection *conn, int status, const char *message)
{
    char body[2048];
    size_t len = error_body(conn->server, status, message, body, sizeof body);
    const struct http_header retry = {"Retry-After", "1"}, who = {"WWW-Authenticate", "Bearer"};
    conn->keep_alive = false;
    parse_drop_body(conn);
    conn->server->counts.refused_total++;
    put_head(conn, status, status == 401 ? &who : &retry, status == 503 || status == 401 ? 1 : 0,
             "application/json", FRAMING_LENGTH, len);
    if (conn->parser.method != HTTP_HEAD) {
        put(conn, body, len);
    }
    conn->extra_bytes = 0;
    connection_set_phase(conn, PHASE_LINGER);
    server_mark_dirty(conn);
}
