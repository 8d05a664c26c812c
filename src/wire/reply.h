/*
 * reply.h - how a prompt ended.
 *
 * A worker (or whoever cancels) puts an ending on the response queue; a response worker makes the
 * record of it in REPLIES, which alone decides: created once, read by everybody.
 */
#ifndef WYVERN_WIRE_REPLY_H
#define WYVERN_WIRE_REPLY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum reply_status { REPLY_COMPLETED, REPLY_FAILED, REPLY_CANCELLED, REPLY_EXPIRED };
/* "completed", "failed", "cancelled", "expired" */
const char *reply_status_name(enum reply_status status);

struct reply { /* texts: borrowed from root when decoded, from the maker otherwise; "" if none */
    const char *id, *gateway, *prompter, *model;
    const char *response_id;
    enum reply_status status;
    const char *finish_reason; /* "stop", "length"; "" unless completed */
    const char *text;          /* the whole reply so far; NULL: erased after delivery */
    const json_t
        *choices;    /* of several texts all: [{"text","finish_reason","tokens"}]; else NULL */
    uint64_t pieces; /* how many pieces make up the text */
    const char *error_code; /* "context_length_exceeded", "worker_died", "engine_error", … */
    const char *error_text;
    int error_status; /* HTTP status that fits, 0 unless failed */
    uint64_t prompt_tokens, reply_tokens, cached_tokens;
    uint64_t truncated_tokens; /* of the prompt, left out because it was too long */
    const char *worker, *node, *device, *responder; /* responder: set by the response worker */
    unsigned attempt;
    double accepted_at, started_at, finished_at; /* Unix seconds */
    double prompt_ms, decode_ms;
    bool detached;
    const char *owner;      /* id of the key that it was asked with; "": none */
    const json_t *logprobs; /* of a reply asked for them: one entry a token, as OpenAI's
                               choices[].logprobs.content has them; else NULL */
    const json_t *result;   /* of a task that makes no text (enum prompt_task); else NULL */
    /* of a detached reply, so that the record answers for it; else NULL: */
    const json_t *request;  /* the prompt's */
    const json_t *messages; /* the prompt's */
    const json_t *cuts;     /* bytes of each piece's text */
    bool deleted;           /* asked to be forgotten: only ids and usage are left */
    const char *trace_id;   /* of the client's request, or made for it (wire/trace.h) */
    const char *answer_to;  /* ending: subject that wants to know; the record does not keep it */
    size_t bytes;           /* of the message that it was decoded from */
    json_t *root;
};

/* Adds the logprobs of a piece (a JSON array of one object a token, claim.h) to *array, which is
 * made when it is NULL.  ERR_INVALID: they are none. */
MUST_USE enum err reply_logprobs_add(json_t **array, const char *json, size_t len);

MUST_USE enum err reply_encode(const struct reply *reply, struct buf *out);
MUST_USE enum err reply_decode(struct reply *out, const char *data, size_t len);
void reply_done(struct reply *reply);

#endif
