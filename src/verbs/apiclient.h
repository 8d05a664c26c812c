/*
 * apiclient.h - the gateway's API as a verb uses it: builds requests, reads streamed replies.
 *
 * One thread.  A reply is always asked for as a stream, so that words show as they are made.
 */
#ifndef WYVERN_VERBS_APICLIENT_H
#define WYVERN_VERBS_APICLIENT_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "config/options.h"
#include "http/client.h"
#include "http/sse.h"

#define API_EVENT_MAX ((size_t)1 << 20)
#define API_TEXT_MAX  ((size_t)64 << 20)

struct api_message {
    const char *role, *content;
};

/* The body of POST /v1/chat/completions, with what the flags and over them --params say.  A
 * "system" message comes first when settings.system is set.  ERR_USAGE: --params.  user: the
 * prompter's name, or NULL. */
MUST_USE enum err api_request_write(struct buf *out, const struct settings *settings,
                                    const char *user, const struct api_message *messages,
                                    size_t count);
/* What the flags and over them --params say, as a JSON object (json_decref it). */
MUST_USE enum err api_params(json_t **out, const struct settings *settings);
/* settings.url + path, without doubled slashes. */
MUST_USE enum err api_url(struct buf *out, const struct settings *settings, const char *path);

/* The key to ask with: what --key-file holds, else $WYVERN_KEY, else none (""). */
#define API_KEY_MAX 512
struct api_key {
    char text[API_KEY_MAX + 1];
};
MUST_USE enum err api_key_read(struct api_key *out, const struct settings *settings);
/* As http_call.bearer wants it; NULL: none. */
const char *api_key_bearer(const struct api_key *key);

/* Called with each part of the text; false: no more of it, please. */
typedef bool api_text_fn(void *arg, const char *text, size_t len);

/* A reply as it comes in.  Zeroed memory is not enough: api_reply_init. */
struct api_reply {
    struct sse_reader sse;
    struct buf text;
    json_t *wyvern; /* the reply's "wyvern" object; NULL before the last chunk */
    json_t *usage;
    char response_id[128];
    char finish_reason[32]; /* "": not whole */
    char error[512];        /* what went wrong, said by the service; "": nothing */
    char error_code[64];
    bool mixed;                         /* chunks of another reply came */
    bool done;                          /* [DONE] was seen */
    int64_t sent_ns, first_ns, last_ns; /* clock_mono_ns(); 0: not yet */
    int64_t heard_ns;                   /* the service said anything, if only that it is there */
    api_text_fn *on_text;
    void (*on_wait)(void *arg,
                    const struct api_reply *reply); /* api_ask: while it waits; or NULL */
    void *arg;
};
void api_reply_init(struct api_reply *reply, api_text_fn *on_text, void *arg);
void api_reply_done(struct api_reply *reply);
/* Fits http_call.on_data; arg is the reply. */
bool api_reply_feed(void *arg, const char *data, size_t len);
/* How the call ended → ERR_OK when the reply is whole, else the error with its sentence.  result is
 * that of http_call_run() or of the set's callback. */
MUST_USE enum err api_reply_end(struct api_reply *reply, enum err err,
                                const struct http_result *result);

/* Asks and waits.  *stop becoming non-zero ends it with ERR_CANCELLED (may be NULL). */
MUST_USE enum err api_ask(struct api_reply *reply, const struct settings *settings,
                          const struct api_message *messages, size_t count,
                          const volatile sig_atomic_t *stop);

/* The code of an answer's status (≥ 400). */
enum err api_err_of_status(int status);

/* GET path → JSON (json_decref it). */
MUST_USE enum err api_get(json_t **out, const struct settings *settings, const char *path);

/* A whole text of the reply's wyvern object, "" when it lacks it. */
const char *api_reply_field(const struct api_reply *reply, const char *key);
uint64_t api_reply_tokens(const struct api_reply *reply);
/* Tokens of the prompt that were left out because it was too long. */
uint64_t api_reply_truncated(const struct api_reply *reply);

#endif
