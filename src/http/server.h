/*
 * server.h - the HTTP/1.1 server of gateways and telemetry workers.
 *
 * Runs on a loop; all calls and callbacks on the loop's thread.  The server parses (llhttp),
 * enforces the limits below, and calls the handler once per request with the whole body.  The
 * handler answers now or later through its exchange: one whole reply, or head + chunks + end.
 * One exchange at a time per connection; pipelined requests wait their turn.
 *
 * An exchange lives until its on_close callback has run, which happens exactly once: after the
 * reply was handed to the kernel, or when the reader left before that.  Reader gone is noticed at
 * once, also while nothing is being written; a reader that closes only its sending side before the
 * reply is whole counts as gone.  on_close never runs inside one of the calls below (except
 * http_server_free), so a handler may go on with its own structures after each of them.  Without
 * an on_close the exchange lives until it has been answered, whether the reader waits or not.
 *
 * Format: RFC 9112.  Refused with the server's own error (see http_error_fn): smuggling (several or
 * odd Content-Length, CL with TE, unknown codings), bare CR/LF, NUL, missing or several Host,
 * HTTP/2 preface (505), oversized heads and bodies (431, 413), slow heads and bodies (408).
 */
#ifndef WYVERN_HTTP_SERVER_H
#define WYVERN_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

struct http_server;
struct http_exchange;

struct http_request {   /* borrowed until the exchange closes */
    const char *method; /* "GET" */
    const char *path;   /* decoded, without query; never holds NUL or ".." segments */
    const char *query;  /* raw, "" when absent */
    const char *body;   /* NUL-terminated for convenience; may hold NULs: use body_len */
    size_t body_len;
    const char *peer;    /* "127.0.0.1:4711" */
    uint64_t connection; /* number of the connection, unique in this process */
};

/* The header's value, or NULL; the first when there are several.  Name in lower case. */
const char *http_request_header(const struct http_request *request, const char *name);
/* The nth (from 0) header of this name, or NULL. */
const char *http_request_header_at(const struct http_request *request, const char *name,
                                   unsigned nth);
/* Frees the request's body before the exchange closes: for streams that live long. */
void http_request_drop_body(struct http_exchange *exchange);

typedef void http_handler_fn(void *arg, struct http_exchange *exchange,
                             const struct http_request *request);
/* complete: the whole reply was written; false: the reader left or was too slow. */
typedef void http_close_fn(void *arg, bool complete);
/* Writes the body of an error that the server itself answers (API's own shape) into out, which is
 * cap bytes; returns the length.  NULL in the config: {"error":{"message":…}}. */
typedef size_t http_error_fn(void *arg, int status, const char *message, char *out, size_t cap);

struct http_limits {          /* 0 anywhere: the default in brackets */
    size_t head_bytes;        /* request line + headers [16 KiB] */
    unsigned header_count;    /* [100] */
    size_t body_bytes;        /* [1 MiB]; see http_config.admit */
    size_t bodies_bytes;      /* of all request bodies together, as far as they have come; beyond
                                 it 503 [256 MiB] */
    unsigned connections;     /* further ones get 503 and are closed [4096] */
    unsigned head_ms;         /* first byte of a request → end of its head [10 s] */
    unsigned body_ms;         /* end of head → end of body [30 s], and a second more for each 64
                                 KB that came */
    unsigned idle_ms;         /* between requests [60 s] */
    size_t write_queue_bytes; /* unsent bytes of a streamed reply: a reader slower than this is
                                 dropped [1 MiB] */
    unsigned write_ms;        /* no byte taken by the reader for this long while some wait [30 s] */
};

/* Asked when a request's head is whole, before its body is taken in: may change how large that may
 * be.  Returns 0, or the status to refuse it with, and *why. */
typedef int http_admit_fn(void *arg, const struct http_request *head, size_t *body_bytes,
                          const char **why);

struct http_config {
    const char *host; /* address to listen on */
    unsigned port;    /* 0: the system picks; see http_server_port */
    struct http_limits limits;
    http_handler_fn *handler;
    http_error_fn *error_body;
    http_admit_fn *admit; /* NULL: everything, with limits.body_bytes */
    void *arg;            /* for all three */
};

struct http_counts { /* plain numbers; the role maps them to its metrics */
    uint64_t connections_total;
    uint64_t connections_now;
    uint64_t requests_total;
    uint64_t responses_by_class[6]; /* [2] counts 2xx … */
    uint64_t refused_total;         /* answered by the server itself with an error */
    uint64_t readers_left_total;    /* went away before their reply was whole */
};

/* ERR_UNAVAILABLE: the address can't be listened on (busy port: err_text says so). */
MUST_USE enum err http_server_new(struct http_server **out, struct loop *loop,
                                  const struct http_config *config);
unsigned http_server_port(const struct http_server *server);
const struct http_counts *http_server_counts(const struct http_server *server);
/* Output of all connections that their readers have not taken yet, in bytes. */
size_t http_server_unsent(const struct http_server *server);
/* Stops listening and closes idle connections; running exchanges go on, their connections close
 * after the reply.  Call before http_server_free for a clean end. */
void http_server_stop_listening(struct http_server *server);
unsigned http_server_exchanges(const struct http_server *server); /* still open */
/* Drops every connection (on_close runs with complete = false for open exchanges; the others must
 * not be used any more).  The memory goes when the loop turns next, or in loop_free.  Takes NULL.
 */
void http_server_free(struct http_server *server);

struct http_header {
    const char *name;
    const char *value; /* without CR, LF, NUL; others are refused by an assertion */
};

/* Called once, when the exchange ends; set it before the handler returns. */
void http_on_close(struct http_exchange *exchange, http_close_fn *fn, void *arg);

/* One more header for whatever reply this exchange gets.  Both are copied; without CR, LF, NUL.
 * False when there is no room for it (HTTP_EXTRA_BYTES for all of them). */
bool http_reply_header_add(struct http_exchange *exchange, const char *name, const char *value);
#define HTTP_EXTRA_BYTES 2048

/* A whole reply.  body is copied.  HEAD is answered without the body. */
void http_reply(struct http_exchange *exchange, int status, const struct http_header *headers,
                size_t header_count, const char *content_type, const void *body, size_t len);

/* A streamed reply (chunked for HTTP/1.1, to the connection's end for 1.0). */
void http_stream_begin(struct http_exchange *exchange, int status,
                       const struct http_header *headers, size_t header_count,
                       const char *content_type);
/* Data is copied.  Writes of one loop turn go out together.  False: the reader is gone or being
 * dropped, and on_close will come.  A reader is dropped when more than write_queue_bytes waited
 * before this write. */
bool http_stream_write(struct http_exchange *exchange, const void *data, size_t len);
void http_stream_end(struct http_exchange *exchange);
/* Bytes that the reader's side of the connection has not taken yet. */
size_t http_stream_unsent(const struct http_exchange *exchange);
/* Breaks a streamed reply off, so that its reader sees that it is not whole; on_close comes. */
void http_stream_abort(struct http_exchange *exchange);
/* Calls fn once, when the kernel has taken all that was written, from the loop; not when the reader
 * leaves before that.  For what is written as fast as it is read.  NULL: not any more. */
typedef void http_drained_fn(void *arg);
void http_on_drained(struct http_exchange *exchange, http_drained_fn *fn, void *arg);

#endif
