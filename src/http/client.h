/*
 * client.h - the HTTP client of the terminal verbs (libcurl).
 *
 * A blocking call for one request, and a set that runs many at once on the calling thread (the
 * load generator).  Proxies of the environment are not used for loopback addresses.  Any thread may
 * call; a set belongs to one.
 */
#ifndef WYVERN_HTTP_CLIENT_H
#define WYVERN_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct http_call {
    const char *method; /* "GET", "POST", "DELETE" */
    const char *url;
    const char *body;           /* JSON, sent as application/json; NULL: none */
    const char *bearer;         /* API key; NULL: none */
    const char *const *headers; /* "Name: value", NULL-terminated; or NULL */
    unsigned connect_ms;        /* 0: 5 s */
    unsigned total_ms;          /* 0: no bound */
    /* Called with each part of the body as it comes; false ends the call (ERR_CANCELLED).  NULL:
     * the body is kept in reply.body. */
    bool (*on_data)(void *arg, const char *data, size_t len);
    void *arg;
};

struct http_result {
    int status;      /* 0: no answer */
    struct buf body; /* at most HTTP_CLIENT_BODY_MAX; also holds an error's body (status ≥ 400) when
                        on_data is set: on_data sees bodies of 2xx replies only */
    char request_id[128]; /* x-request-id, "" when absent */
    double retry_after_s; /* Retry-After, 0 when absent */
};
#define HTTP_CLIENT_BODY_MAX ((size_t)64 << 20)

void http_result_init(struct http_result *result);
void http_result_done(struct http_result *result);

/* ERR_UNAVAILABLE (can't connect: err_text has the mend), ERR_TIMEOUT, ERR_CANCELLED, ERR_USAGE
 * (the url), ERR_LIMIT, ERR_IO.  Any answer, also a 500, is ERR_OK: see result->status.  result was
 * initialised, and is set as far as the reply came on failure too. */
MUST_USE enum err http_call_run(const struct http_call *call, struct http_result *result);

/* Many calls at once. */
struct http_set;
typedef void http_set_done_fn(void *arg, enum err err, struct http_result *result);
MUST_USE enum err http_set_new(struct http_set **out);
/* Fields of call (strings too) are copied or borrowed only during this call, except on_data's arg.
 */
MUST_USE enum err http_set_add(struct http_set *set, const struct http_call *call,
                               http_set_done_fn *done, void *arg);
/* Runs what is there for at most timeout_ms, and returns earlier when a call has ended; done
 * callbacks come from inside and may add calls (on_data may not).  The result is the set's: take
 * its body with buf_take to keep it.  Returns calls left. */
size_t http_set_poll(struct http_set *set, unsigned timeout_ms);
void http_set_free(struct http_set *set); /* ends running calls without their callbacks */

#endif
