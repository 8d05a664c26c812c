/*
 * internal.h - what the server's files share; nothing outside src/http includes it.
 *
 *   server.c      the listener, the turn's flush, the deadline sweep, the life of the whole
 *   connection.c  one socket: reading, writing, phases, closing
 *   parse.c       bytes → request (llhttp, and the checks that are ours)
 *   response.c    what handlers call to answer, and the server's own errors
 *
 * A connection owns one exchange, embedded, and walks IDLE → HEAD → BODY → BUSY → IDLE …, ending
 * in LINGER (last words are being sent, input is thrown away) and CLOSED (libuv still holds the
 * handle).  Handlers' writes only fill conn->out and put the connection on the server's dirty
 * list; the flush before the loop sleeps sends each in one system call.  on_close is called from
 * the flush or from socket events, never from inside a handler's own http_ call.
 *
 * Memory: input goes through one buffer of the server; a connection keeps its request's text and
 * body while its exchange is open, and nothing that is empty.
 */
#ifndef WYVERN_HTTP_INTERNAL_H
#define WYVERN_HTTP_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <time.h>

#include <llhttp.h>
#include <uv.h>

#include "base/buf.h"
#include "http/server.h"

#define READ_BUFFER_BYTES ((size_t)64 << 10)
#define PENDING_BYTES     ((size_t)64 << 10) /* pipelined input kept; more stays in the kernel */
#define REPLY_BYTES_MAX   ((size_t)1 << 30)  /* of one connection's unsent output */
#define FLUSH_EARLY_BYTES ((size_t)64 << 10) /* output of one turn that is sent without waiting */
#define KEEP_BYTES        ((size_t)2 << 10)  /* buffers up to this size stay between requests */
#define BODY_BYTES_PER_MS 64   /* a body that comes faster than this may take its time */
#define LINGER_MS         5000 /* a client may stand still while it sends what is refused */
#define LINGER_BYTES      ((size_t)64 << 20)
#define REFUSED_MAX       64 /* connections over the limit that are told so, at a time */

enum phase {
    PHASE_IDLE,   /* no byte of a request yet */
    PHASE_HEAD,   /* in request line and headers */
    PHASE_BODY,   /* head accepted, body coming */
    PHASE_BUSY,   /* the exchange is open */
    PHASE_LINGER, /* last reply queued or sent: drain and throw away, then close */
    PHASE_CLOSED, /* handle closing or closed; memory waits for libuv or an unanswered exchange */
};

enum reply_state { REPLY_NONE, REPLY_STREAMING, REPLY_WHOLE };

struct header_ref { /* offsets into conn->text */
    size_t name;
    size_t value;
};

struct http_exchange {
    struct http_request request;
    http_close_fn *on_close;
    void *close_arg;
    http_drained_fn *on_drained;
    void *drained_arg;
    enum reply_state reply;
    bool open;
    bool head_only; /* HEAD: a head without its body */
    bool chunked;
};

struct connection {
    uv_tcp_t tcp;
    struct http_server *server;
    TAILQ_ENTRY(connection) all;
    TAILQ_ENTRY(connection) dirty;
    uint64_t number;
    char peer[64];

    enum phase phase;
    uint64_t phase_ms; /* uv_now when the phase began */
    bool is_dirty;     /* on the server's dirty list */
    bool is_http10;
    bool keep_alive;
    bool dropping; /* to be closed by the next flush: broken, or too slow */
    bool saw_eof;
    bool read_paused; /* enough pipelined input is waiting */
    bool shutdown_sent;
    bool handle_closed; /* libuv has let go of tcp */
    bool over_limit;    /* one of server->refusing */

    llhttp_t parser;
    bool request_complete;
    bool in_name;
    bool in_trailers;
    int refuse_status; /* set by parse.c: answer this and close */
    const char *refuse_text;
    size_t head_bytes;  /* fed while in HEAD */
    size_t extra_bytes; /* chunk extensions and trailers; when lingering: bytes thrown away */
    struct buf text;    /* target, then names and values, each NUL-terminated */
    struct header_ref *headers;
    unsigned header_count;
    unsigned header_cap;
    struct buf body;    /* its length is part of server->bodies_bytes */
    struct buf extra;   /* header lines for the reply */
    struct buf pending; /* input behind the present request; only while BUSY */
    size_t pending_at;  /* first byte not yet parsed */

    struct buf out;     /* written by handlers, not yet given to the kernel */
    struct buf sending; /* owned by write_req while writing */
    uv_write_t write_req;
    uv_shutdown_t shutdown_req;
    bool writing;
    size_t unsent_counted; /* its part of server->unsent_bytes */
    size_t unsent_mark;    /* libuv's write queue when progress was last seen */
    uint64_t progress_ms;  /* when that was */

    struct http_exchange exchange;
};

TAILQ_HEAD(connection_list, connection);

struct http_server {
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_prepare_t prepare; /* flushes before the loop sleeps */
    uv_idle_t idle;       /* active while dirty connections remain: the loop may not sleep */
    uv_timer_t sweep;     /* deadlines; runs while there are connections */
    unsigned handles;     /* of the four above: not yet closed */
    bool listening;
    bool accept_waits; /* no memory for a connection that libuv holds for us */
    bool freed;
    struct http_limits limits;
    http_handler_fn *handler;
    http_error_fn *error_body;
    http_admit_fn *admit;
    void *arg;
    size_t bodies_bytes; /* of all connections */
    size_t unsent_bytes; /* likewise */
    unsigned port;
    unsigned sweep_ms;
    unsigned exchanges;
    unsigned refusing; /* connections over the limit, being told so */
    struct http_counts counts;
    struct connection_list all;
    struct connection_list dirty;
    size_t dirty_count;
    time_t date_second;
    char date[48]; /* "Date: …\r\n" of that second */
    char *read_buffer;
};

/* server.c */
void server_mark_dirty(struct connection *conn);
void server_unmark_dirty(struct connection *conn);
/* A connection or handle is gone: frees the server after http_server_free and the last of them. */
void server_release(struct http_server *server);

/* connection.c */
void connection_accept(struct http_server *server);
/* Sends what is queued as far as the kernel takes it; calls nobody back. */
void connection_send(struct connection *conn);
/* Sends, and goes on to what follows: next request, lingering, close. */
void connection_flush(struct connection *conn);
void connection_set_phase(struct connection *conn, enum phase phase);
/* Closes at once; an open exchange hears on_close(false).  reset: throw away what is unsent. */
void connection_close(struct connection *conn, bool reset);
/* Deadlines: closes or refuses what is too slow. */
void connection_sweep(struct connection *conn, uint64_t now_ms);
/* Bytes that the kernel has not taken. */
size_t connection_unsent(const struct connection *conn);
/* Ends an exchange whose connection is gone and whose handler set no on_close. */
void connection_end_orphan(struct connection *conn);
struct connection *connection_of(struct http_exchange *exchange);

/* parse.c */
void parse_reset(struct connection *conn);
/* Feeds input; returns how much of it was taken.  All of it, unless conn->request_complete (the
 * rest belongs to later requests) or conn->refuse_status was set. */
size_t parse_feed(struct connection *conn, const char *data, size_t len);
/* Lets go of the body, and of its part of the server's bound. */
void parse_drop_body(struct connection *conn);
/* Fills exchange.request of a complete request. */
void parse_fill_request(struct connection *conn);

/* response.c */
/* Answers with an error of the server's own and lets the connection linger. */
void response_refuse(struct connection *conn, int status, const char *message);

struct part {
    const void *data;
    size_t len;
};
/* http_stream_write of several parts as one chunk. */
bool response_write_parts(struct http_exchange *exchange, const struct part *parts, size_t count);

#endif
