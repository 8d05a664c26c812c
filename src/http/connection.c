/*
 * connection.c - one socket: reading, writing, phases, closing.
 *
 * Reading never stops while an exchange is open, so that the reader's leaving shows at once; bytes
 * of pipelined requests wait in conn->pending.  When too many wait, reading pauses and the sweep
 * asks the kernel whether the peer is still there (it can't tell before the peer's last byte fits
 * into the socket's buffer, or something is written).
 *
 * A peer that closes (or half-closes) before its reply is whole has left.  Once the reply is whole
 * it is still sent.
 */
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/internal.h"

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);

struct connection *connection_of(struct http_exchange *exchange)
{
    return (void *)((char *)exchange - offsetof(struct connection, exchange));
}

void connection_set_phase(struct connection *conn, enum phase phase)
{
    conn->phase = phase;
    conn->phase_ms = uv_now(conn->server->loop);
}

size_t connection_unsent(const struct connection *conn)
{
    return conn->out.len + uv_stream_get_write_queue_size((const uv_stream_t *)&conn->tcp);
}

static void count_unsent(struct connection *conn, size_t unsent)
{
    conn->server->unsent_bytes += unsent - conn->unsent_counted;
    conn->unsent_counted = unsent;
}

/* ---- closing ---- */

static void connection_free(struct connection *conn)
{
    struct http_server *server = conn->server;
    TAILQ_REMOVE(&server->all, conn, all);
    count_unsent(conn, 0);
    buf_done(&conn->text);
    parse_drop_body(conn);
    buf_done(&conn->extra);
    buf_done(&conn->pending);
    buf_done(&conn->out);
    buf_done(&conn->sending);
    free(conn->headers);
    free(conn);
    server_release(server);
}

static void close_exchange(struct connection *conn, bool complete)
{
    struct http_exchange *exchange = &conn->exchange;
    exchange->open = false;
    conn->server->exchanges--;
    if (!complete && !conn->server->freed) {
        conn->server->counts.readers_left_total++;
    }
    if (exchange->on_close != NULL) {
        exchange->on_close(exchange->close_arg, complete);
    }
}

void connection_end_orphan(struct connection *conn)
{
    assert(conn->phase == PHASE_CLOSED && conn->exchange.open);
    close_exchange(conn, false);
    if (conn->handle_closed) {
        connection_free(conn);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *conn = handle->data;
    conn->handle_closed = true;
    conn->server->counts.connections_now--;
    if (!conn->exchange.open) {
        connection_free(conn);
    }
}

void connection_close(struct connection *conn, bool reset)
{
    if (conn->phase == PHASE_CLOSED) {
        return;
    }
    if (conn->phase == PHASE_LINGER && conn->over_limit) {
        conn->server->refusing--;
    }
    connection_set_phase(conn, PHASE_CLOSED);
    server_unmark_dirty(conn);
    /* A reset also frees what the kernel would keep on offering to a peer that takes nothing. */
    if (!reset || uv_tcp_close_reset(&conn->tcp, on_closed) != 0) {
        uv_close((uv_handle_t *)&conn->tcp, on_closed);
    }
    /* Without on_close nobody can be told: the exchange stays until its handler has answered. */
    if (conn->exchange.open && (conn->exchange.on_close != NULL || conn->server->freed)) {
        close_exchange(conn, false);
    }
}

/* ---- writing ---- */

static void on_written(uv_write_t *req, int status)
{
    struct connection *conn = req->data;
    conn->writing = false;
    if (conn->phase == PHASE_CLOSED) {
        return;
    }
    if (status != 0) {
        connection_close(conn, false);
        return;
    }
    if (conn->sending.cap > KEEP_BYTES) {
        buf_done(&conn->sending);
    }
    count_unsent(conn, connection_unsent(conn));
    connection_flush(conn);
}

/* The kernel took part of out: the rest goes to libuv, which waits until the socket takes it. */
static void queue_rest(struct connection *conn)
{
    struct buf free_buf = conn->sending;
    conn->sending = conn->out;
    conn->out = free_buf;
    buf_clear(&conn->out);
    uv_buf_t part = uv_buf_init(conn->sending.data, 0);
    part.len = conn->sending.len;
    conn->write_req.data = conn;
    conn->progress_ms = uv_now(conn->server->loop);
    if (uv_write(&conn->write_req, (uv_stream_t *)&conn->tcp, &part, 1, on_written) != 0) {
        conn->dropping = true;
        return;
    }
    conn->writing = true;
    conn->unsent_mark = uv_stream_get_write_queue_size((uv_stream_t *)&conn->tcp);
}

void connection_send(struct connection *conn)
{
    if (conn->writing || conn->out.len == 0 || conn->dropping) {
        return;
    }
    uv_buf_t part = uv_buf_init(conn->out.data, 0);
    part.len = conn->out.len;
    int taken = uv_try_write((uv_stream_t *)&conn->tcp, &part, 1);
    if (taken < 0 && taken != UV_EAGAIN) {
        conn->dropping = true;
        return;
    }
    if (taken > 0) {
        buf_consume(&conn->out, (size_t)taken);
    }
    if (conn->out.len > 0) {
        queue_rest(conn);
    } else if (conn->out.cap > KEEP_BYTES) {
        buf_done(&conn->out);
    }
    count_unsent(conn, connection_unsent(conn));
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct connection *conn = req->data;
    if (conn->phase != PHASE_CLOSED && (status != 0 || conn->saw_eof)) {
        connection_close(conn, false);
    }
}

/* Everything is sent and the connection ends: says so, then waits for the peer to say so too,
 * because closing on unread input makes the kernel reset, which can destroy the reply. */
static void send_shutdown(struct connection *conn)
{
    if (conn->shutdown_sent) {
        return;
    }
    conn->shutdown_sent = true;
    conn->shutdown_req.data = conn;
    if (uv_shutdown(&conn->shutdown_req, (uv_stream_t *)&conn->tcp, on_shutdown) != 0) {
        connection_close(conn, false);
    }
}

/* ---- requests ---- */

static void begin_exchange(struct connection *conn)
{
    struct http_server *server = conn->server;
    struct http_exchange *exchange = &conn->exchange;
    struct http_request request = exchange->request; /* the parser has set path and query */
    *exchange = (struct http_exchange){.request = request, .open = true};
    exchange->head_only = conn->parser.method == HTTP_HEAD;
    exchange->chunked = !conn->is_http10;
    parse_fill_request(conn);
    connection_set_phase(conn, PHASE_BUSY);
    server->exchanges++;
    server->counts.requests_total++;
    server->handler(server->arg, exchange, &exchange->request);
}

static void keep_pending(struct connection *conn, const char *data, size_t len)
{
    if (conn->pending_at > 0) {
        buf_consume(&conn->pending, conn->pending_at);
        conn->pending_at = 0;
    }
    if (buf_append(&conn->pending, data, len) != ERR_OK) {
        conn->dropping = true;
        server_mark_dirty(conn);
        return;
    }
    if (conn->pending.len >= PENDING_BYTES && !conn->read_paused) {
        uv_read_stop((uv_stream_t *)&conn->tcp);
        conn->read_paused = true;
    }
}

/* After parse_feed: goes on to what it found. */
static void follow_parser(struct connection *conn)
{
    if (conn->refuse_status != 0) {
        response_refuse(conn, conn->refuse_status, conn->refuse_text);
    } else if (conn->request_complete) {
        begin_exchange(conn);
    }
}

static void take_input(struct connection *conn, const char *data, size_t len)
{
    switch (conn->phase) {
    case PHASE_IDLE:
    case PHASE_HEAD:
    case PHASE_BODY: {
        size_t taken = parse_feed(conn, data, len);
        if (taken < len && conn->refuse_status == 0) {
            keep_pending(conn, data + taken, len - taken);
        }
        follow_parser(conn);
        break;
    }
    case PHASE_BUSY:
        keep_pending(conn, data, len);
        break;
    case PHASE_LINGER:
        conn->extra_bytes += len;
        if (conn->extra_bytes > LINGER_BYTES) {
            connection_close(conn, false);
        }
        break;
    case PHASE_CLOSED:
        break;
    }
}

static void read_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    const struct connection *conn = handle->data;
    /* One buffer for all: libuv reads and calls on_read before it asks again. */
    *buf = uv_buf_init(conn->server->read_buffer, (unsigned)READ_BUFFER_BYTES);
}

static void on_eof(struct connection *conn)
{
    conn->saw_eof = true;
    bool is_answered = conn->phase == PHASE_BUSY && conn->exchange.reply == REPLY_WHOLE;
    bool is_saying = conn->phase == PHASE_LINGER && !conn->shutdown_sent;
    if (!is_answered && !is_saying) {
        connection_close(conn, false);
    }
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    struct connection *conn = stream->data;
    if (len > 0) {
        take_input(conn, buf->base, (size_t)len);
    } else if (len == UV_EOF) {
        on_eof(conn);
    } else if (len < 0) {
        connection_close(conn, false);
    }
}

static void resume_reading(struct connection *conn)
{
    if (conn->read_paused && !conn->saw_eof) {
        conn->read_paused = false;
        if (uv_read_start((uv_stream_t *)&conn->tcp, read_alloc, on_read) != 0) {
            conn->dropping = true;
            server_mark_dirty(conn);
        }
    }
}

/* The next request may be waiting already. */
static void take_pending(struct connection *conn)
{
    if (conn->pending.len == 0) {
        return;
    }
    size_t waiting = conn->pending.len - conn->pending_at;
    size_t taken = parse_feed(conn, conn->pending.data + conn->pending_at, waiting);
    conn->pending_at += taken;
    if (taken == waiting) {
        buf_done(&conn->pending);
        conn->pending_at = 0;
        resume_reading(conn);
    }
    follow_parser(conn);
    /* A peer that has closed its side already is a reader that left, unless all is said. */
    bool is_answered = conn->phase == PHASE_BUSY && conn->exchange.reply == REPLY_WHOLE;
    if (conn->saw_eof && !is_answered && conn->phase != PHASE_LINGER) {
        connection_close(conn, false);
    }
}

/* The reply is with the kernel: closes the exchange, and on to the next request or the end. */
static void finish_exchange(struct connection *conn)
{
    bool goes_on = conn->keep_alive && conn->server->listening;
    close_exchange(conn, true);
    if (conn->phase == PHASE_CLOSED) { /* the callback freed the server */
        return;
    }
    parse_reset(conn);
    if (goes_on && (!conn->saw_eof || conn->pending.len > 0)) {
        connection_set_phase(conn, PHASE_IDLE);
        take_pending(conn);
        return;
    }
    if (conn->saw_eof) {
        connection_close(conn, false);
        return;
    }
    buf_done(&conn->pending);
    conn->pending_at = 0;
    connection_set_phase(conn, PHASE_LINGER);
    resume_reading(conn);
    send_shutdown(conn);
}

static void tell_drained(struct connection *conn)
{
    struct http_exchange *exchange = &conn->exchange;
    http_drained_fn *fn = exchange->on_drained;
    exchange->on_drained = NULL;
    fn(exchange->drained_arg);
}

void connection_flush(struct connection *conn)
{
    if (conn->phase == PHASE_CLOSED) {
        return;
    }
    connection_send(conn);
    if (conn->dropping) {
        connection_close(conn, true);
        return;
    }
    if (conn->writing || conn->out.len > 0) {
        return;
    }
    if (conn->phase == PHASE_BUSY && conn->exchange.reply == REPLY_WHOLE) {
        finish_exchange(conn);
    } else if (conn->phase == PHASE_BUSY && conn->exchange.on_drained != NULL) {
        tell_drained(conn); /* what it writes makes the connection dirty again */
    } else if (conn->phase == PHASE_LINGER) {
        send_shutdown(conn);
    }
}

/* ---- deadlines ---- */

/* Input is paused, so libuv does not watch: has the peer gone all the same? */
static bool peer_has_left(struct connection *conn)
{
    uv_os_fd_t fd;
    if (!conn->read_paused || uv_fileno((uv_handle_t *)&conn->tcp, &fd) != 0) {
        return false;
    }
    struct pollfd watch = {.fd = fd, .events = POLLRDHUP};
    return poll(&watch, 1, 0) > 0;
}

/* Has the reader taken nothing for write_ms while something waits? */
static bool is_stuck(struct connection *conn, uint64_t now_ms)
{
    if (!conn->writing) {
        return false;
    }
    size_t unsent = uv_stream_get_write_queue_size((uv_stream_t *)&conn->tcp);
    if (unsent != conn->unsent_mark) {
        conn->unsent_mark = unsent;
        conn->progress_ms = now_ms;
    }
    return now_ms - conn->progress_ms > conn->server->limits.write_ms;
}

void connection_sweep(struct connection *conn, uint64_t now_ms)
{
    const struct http_limits *limits = &conn->server->limits;
    uint64_t age_ms = now_ms - conn->phase_ms;
    switch (conn->phase) {
    case PHASE_IDLE:
        if (age_ms > limits->idle_ms) {
            connection_close(conn, false);
        }
        break;
    case PHASE_HEAD:
        if (age_ms > limits->head_ms) {
            response_refuse(conn, 408, "the request's head took too long");
        }
        break;
    case PHASE_BODY:
        if (age_ms > limits->body_ms + conn->body.len / BODY_BYTES_PER_MS) {
            response_refuse(conn, 408, "the request's body took too long");
        }
        break;
    case PHASE_BUSY:
        if (is_stuck(conn, now_ms)) {
            connection_close(conn, true);
        } else if (conn->exchange.reply != REPLY_WHOLE && peer_has_left(conn)) {
            connection_close(conn, false);
        }
        break;
    case PHASE_LINGER:
        if (age_ms > LINGER_MS) {
            connection_close(conn, false);
        }
        break;
    case PHASE_CLOSED:
        break;
    }
}

/* ---- accepting ---- */

static void name_peer(struct connection *conn)
{
    struct sockaddr_storage address;
    int size = sizeof address;
    char host[46] = "?";
    conn->peer[0] = '\0';
    if (uv_tcp_getpeername(&conn->tcp, (struct sockaddr *)&address, &size) != 0) {
        return;
    }
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)&address;
        uv_ip4_name(in, host, sizeof host);
        snprintf(conn->peer, sizeof conn->peer, "%s:%u", host, ntohs(in->sin_port));
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)&address;
        uv_ip6_name(in6, host, sizeof host);
        snprintf(conn->peer, sizeof conn->peer, "[%s]:%u", host, ntohs(in6->sin6_port));
    }
}

static struct connection *connection_new(struct http_server *server)
{
    static uint64_t last_number; /* servers of one process share it; one thread runs them */
    struct connection *conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        return NULL;
    }
    conn->server = server;
    conn->number = __atomic_add_fetch(&last_number, 1, __ATOMIC_RELAXED);
    buf_init(&conn->text, server->limits.head_bytes);
    buf_init(&conn->body, server->limits.body_bytes);
    buf_init(&conn->extra, HTTP_EXTRA_BYTES);
    buf_init(&conn->pending, PENDING_BYTES + READ_BUFFER_BYTES);
    buf_init(&conn->out, REPLY_BYTES_MAX);
    buf_init(&conn->sending, REPLY_BYTES_MAX);
    if (uv_tcp_init(server->loop, &conn->tcp) != 0) {
        free(conn);
        return NULL;
    }
    conn->tcp.data = conn;
    TAILQ_INSERT_TAIL(&server->all, conn, all);
    server->counts.connections_now++;
    server->counts.connections_total++;
    return conn;
}

void connection_accept(struct http_server *server)
{
    struct connection *conn = connection_new(server);
    server->accept_waits = conn == NULL;
    if (conn == NULL) {
        return; /* libuv is silent until this one is accepted: the sweep tries again */
    }
    connection_set_phase(conn, PHASE_IDLE);
    parse_reset(conn);
    bool is_over = server->counts.connections_now - server->refusing > server->limits.connections;
    if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&conn->tcp) != 0 ||
        (is_over && server->refusing >= REFUSED_MAX)) {
        connection_close(conn, true);
        return;
    }
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, 60); /* a peer that vanished without a word */
    name_peer(conn);
    if (uv_read_start((uv_stream_t *)&conn->tcp, read_alloc, on_read) != 0) {
        connection_close(conn, true);
        return;
    }
    if (is_over) {
        conn->over_limit = true;
        server->refusing++;
        response_refuse(conn, 503, "too many connections");
    }
}
