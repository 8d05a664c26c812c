/*
 * chat.h - POST /v1/chat/completions: OpenAI's JSON ↔ our structs.  Pure: no sockets, no broker.
 *
 * Sources: OpenAI API reference, Chat; field lists in docs/API.md.
 */
#ifndef WYVERN_API_CHAT_H
#define WYVERN_API_CHAT_H

#include <stdbool.h>

#include "api/error.h"
#include "base/buf.h"
#include "wire/prompt.h"
#include "wire/reply.h"

struct chat_request {
    struct prompt prompt; /* model as the client wrote it; prompter "" when there is no "user"
                             field; id and gateway are the caller's to set; borrowed from root */
    bool stream;
    bool include_usage; /* stream_options.include_usage */
    json_t *root;
};

/* Checks strictly what it knows, refuses by name what it can't do, ignores unknown fields; null is
 * like absent.  max_completion_tokens goes before max_tokens; developer messages become system
 * ones; the text parts of a message are joined by newlines. ERR_INVALID with *error filled (a 4xx
 * that names the field), ERR_NOMEM. */
MUST_USE enum err chat_request_parse(struct chat_request *out, const char *body, size_t len,
                                     struct api_error *error);
void chat_request_done(struct chat_request *request);

/* {"id":…,"object":"chat.completion",…,"wyvern":{…}} of a completed reply; created is its
 * acceptance. */
MUST_USE enum err chat_reply_write(const struct reply *reply, struct buf *out);

/* Streamed chunks ("chat.completion.chunk"), each one JSON text without the SSE framing.
 * created: Unix seconds, the same in all chunks of a reply (its acceptance).  first: carries the
 * role. */
MUST_USE enum err chat_chunk_write(const char *response_id, const char *model, double created,
                                   bool first, const char *text, size_t len, struct buf *out);
/* The last one with a choice: finish_reason and the wyvern object. */
MUST_USE enum err chat_last_chunk_write(const struct reply *reply, double created, struct buf *out);
/* When include_usage was asked for, one more behind it: no choices, and the usage. */
MUST_USE enum err chat_usage_chunk_write(const struct reply *reply, double created,
                                         struct buf *out);

/* How a reply that did not complete looks to a client: failed with the status and code it carries,
 * cancelled as 499 (which clients do not retry), expired as 503.  code is borrowed from reply. */
void chat_error_of_reply(const struct reply *reply, struct api_error *error);

/* The id that clients see: "chatcmpl-" + prompt id. */
void chat_response_id(char out[48], const char *prompt_id);

/* GET /v1/models */
MUST_USE enum err models_write(const char *const *names, size_t count, double created,
                               struct buf *out);

#endif
