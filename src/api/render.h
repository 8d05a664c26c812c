/*
 * render.h - a reply as its client wants it: whole, or event by event.  Pure.
 *
 * A stream is: render_open, render_piece for each piece, render_close (or render_fail).  The events
 * of a response (API_RESPONSE) carry sequence numbers that are a fixed function of the pieces'
 * numbers, the same at every gateway and every time:
 *
 *     0 response.created, 1 response.queued (background only), then response.in_progress,
 *     response.output_item.added, response.content_part.added: B events in all (render_base);
 *     B + k: response.output_text.delta of piece k;
 *     with P pieces: B + P output_text.done, then content_part.done, output_item.done, and
 *     response.completed or response.incomplete (max tokens; also a cancelled one, whose status
 *     says so); of a reply that failed, B + P response.failed alone.
 *
 * Chat and completions have no names and no numbers (-1).
 */
#ifndef WYVERN_API_RENDER_H
#define WYVERN_API_RENDER_H

#include "api/error.h"
#include "api/request.h"
#include "base/buf.h"
#include "wire/claim.h"
#include "wire/reply.h"

struct render { /* one choice of one reply; texts borrowed */
    enum api_kind kind;
    char id[64]; /* "chatcmpl-…", "cmpl-…", "resp_…" of the (first) prompt's id: render_id */
    const char *model;
    double created;        /* Unix seconds; the same in all events */
    unsigned index;        /* of this choice */
    unsigned n;            /* texts of each prompt, as asked for; 0: all are of one prompt */
    const char *echo;      /* completions: text before the reply's; NULL: none */
    bool logprobs;         /* were asked for */
    const json_t *request; /* prompt.request, from which a response (or a stored chat completion)
                              repeats; API_RESPONSE: needed in all its events */
    /* kept by the functions below, zero at first */
    bool opened;        /* chat: the role is out; completions: the echo */
    size_t text_offset; /* completions' logprobs: characters said before */
};

void render_id(char out[64], enum api_kind kind, const char *prompt_id);
/* The prompt id in a public id of this kind; false when it is none.  out: ID_SIZE bytes. */
bool render_prompt_id(char *out, enum api_kind kind, const char *public_id);

/* event: name of the SSE event, NULL for none; sequence: -1 for none. */
typedef void render_event_fn(void *arg, const char *event, int64_t sequence,
                             const struct buf *json);

unsigned render_base(const struct render *render);
MUST_USE enum err render_open(struct render *render, render_event_fn *fn, void *arg);
/* Of chat and completions, several pieces may be joined into one: number then does not matter. */
MUST_USE enum err render_piece(struct render *render, uint64_t number, const struct piece *piece,
                               render_event_fn *fn, void *arg);
/* How it ended: record is completed, or (API_RESPONSE) any ending but a failure. */
MUST_USE enum err render_close(struct render *render, const struct reply *record,
                               render_event_fn *fn, void *arg);
/* Chat and completions: one more event, with the usage of all choices; to be sent when
 * include_usage was asked for. */
MUST_USE enum err render_usage(const struct render *render, const struct reply *const *records,
                               size_t count, render_event_fn *fn, void *arg);
/* An error in mid-stream; record NULL when there is none (pieces: how many were said). */
MUST_USE enum err render_fail(struct render *render, const struct api_error *error,
                              const struct reply *record, uint64_t pieces, render_event_fn *fn,
                              void *arg);

/* The whole body of a completed reply; of several choices their records in order (all of a prompt
 * together), render[i] for record[i].  request: as it was asked, NULL for a stored chat completion.
 */
MUST_USE enum err render_whole(const struct render *render, const struct reply *const *records,
                               size_t count, const struct api_request *request, struct buf *out);
/* A response object.  record NULL: still queued (running false) or in progress. */
MUST_USE enum err render_response(const struct render *render, const struct reply *record,
                                  bool running, struct buf *out);

/* How a reply that did not complete looks to a client: failed with the status and code it carries,
 * cancelled as 499 (which clients do not retry), expired as 503.  What it names is called as the
 * kind calls it.  code is borrowed from reply. */
void api_error_of_reply(const struct reply *reply, enum api_kind kind, struct api_error *error);

/* GET /v1/models, /v1/models/{model} */
MUST_USE enum err models_write(const char *const *names, size_t count, double created,
                               struct buf *out);
MUST_USE enum err model_write(const char *name, double created, struct buf *out);

#endif
