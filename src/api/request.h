/*
 * request.h - what clients ask for, whichever endpoint they ask at: OpenAI's (and llama-server's)
 * JSON → one struct.  Pure: no sockets, no broker.
 *
 * Each parser checks strictly what it knows, refuses by name what it can't do, ignores unknown
 * fields; null is like absent.  ERR_INVALID with *error filled (a 4xx that names the field),
 * ERR_NOMEM.  Sources: OpenAI API reference, llama-server's README; field by field in docs/API.md.
 */
#ifndef WYVERN_API_REQUEST_H
#define WYVERN_API_REQUEST_H

#include <stdbool.h>

#include "api/error.h"
#include "wire/prompt.h"
#include "wire/reply.h"

enum api_kind { /* how the reply is written: render.h */
                API_CHAT,
                API_COMPLETION,
                API_RESPONSE,
                API_EMBEDDING,
                API_TOKENIZE,
                API_DETOKENIZE,
                API_TEMPLATE,
};

struct api_request {
    enum api_kind kind;
    struct prompt prompt; /* model as the client wrote it ("default" where llama-server's endpoints
                             need none); prompter "" when there is no "user" field; id, gateway,
                             owner and detached are the caller's to set; borrowed from root */
    bool stream, include_usage;
    bool store, background; /* either: the reply goes on without its reader, and is kept */
    bool echo;              /* completions: the prompt before its text */
    unsigned n;             /* texts wanted of each prompt, 1 … API_CHOICES_MAX */
    const json_t *texts;    /* completions: array of prompts, 1 … API_TEXTS_MAX; prompt.inputs is
                               the caller's to set, to one of them at a time */
    const char *previous;   /* responses: prompt id in previous_response_id; NULL: none */
    bool as_base64;         /* embeddings */
    bool with_pieces;       /* tokenize: texts beside ids */
    json_t *root;           /* owned: the request as it came */
    json_t *kept;           /* owned: what prompt.request points to; NULL: nothing is kept */
};

#define API_CHOICES_MAX 64 /* texts of one prompt */
#define API_TEXTS_MAX   64 /* prompts of one completion request; n × prompts ≤ this too */
#define API_TOKENS_MAX  1000000
#define API_TOP_K_MAX   1000000
#define API_PARTS_MAX   256 /* text parts of one message */

/* now: Unix seconds, the created of the reply (kept with it where it is kept). */
typedef enum err api_parse_fn(struct api_request *out, const char *body, size_t len, double now,
                              struct api_error *error);
api_parse_fn chat_parse;       /* POST /v1/chat/completions */
api_parse_fn completion_parse; /* POST /v1/completions */
api_parse_fn response_parse;   /* POST /v1/responses */
api_parse_fn embedding_parse;  /* POST /v1/embeddings */
api_parse_fn tokenize_parse;   /* POST /tokenize */
api_parse_fn detokenize_parse; /* POST /detokenize */
api_parse_fn template_parse;   /* POST /apply-template */

/* The turns of the response before it (its record: detached, with text and messages), put before
 * the request's own, without its instructions.  previous must stay until the prompt was encoded.
 * ERR_INVALID: it did not end well, or was not kept, or all is too much. */
MUST_USE enum err response_follow(struct api_request *request, const struct reply *previous,
                                  struct api_error *error);

void api_request_done(struct api_request *request); /* safe on zeroed memory */

#endif
