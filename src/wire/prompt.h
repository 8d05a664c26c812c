/*
 * prompt.h - a prompt on its way through the prompt queue.
 */
#ifndef WYVERN_WIRE_PROMPT_H
#define WYVERN_WIRE_PROMPT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/search.h"

#define WIRE_VERSION 1

#define PROMPT_MAX_MESSAGES 1024
#define PROMPT_MAX_STOP     16  /* stop strings */
#define PROMPT_MAX_STOP_LEN 256 /* bytes of one */
#define PROMPT_MAX_PROMPTER 64  /* bytes of the "user" field */

struct prompt_message {
    const char *role, *content;
};

struct prompt_params { /* as engine_params: -1, NAN: not given */
    int min_tokens, max_tokens;
    double temperature, top_p;
    int top_k;
    int64_t seed;
    const char *stop[PROMPT_MAX_STOP];
    size_t stop_count;
    int truncate; /* 1: a prompt that is too long is cut from the left; 0: it is refused */
    struct prompt_search search;
};
struct prompt_params prompt_params_default(void);
/* 0, 1 for "none", "left"; -1 for another text. */
int prompt_truncate_of(const char *name);

struct prompt {          /* texts are borrowed from `root` when decoded, from the maker otherwise */
    const char *id;      /* ID_LEN hex digits */
    const char *gateway; /* tag of the gateway that owns it */
    const char *prompter;    /* who asked */
    const char *model;       /* resolved name, never "default" */
    const char *traceparent; /* W3C Trace Context; NULL or "": from an older gateway */
    const char *tracestate;
    bool detached;                   /* goes on without its owner */
    struct prompt_message *messages; /* owned when decoded */
    size_t message_count;
    struct prompt_params params;
    json_t *root; /* owned when decoded, else NULL */
};

MUST_USE enum err prompt_encode(const struct prompt *prompt, struct buf *out);
/* ERR_INVALID, ERR_UNSUPPORTED (another WIRE_VERSION), ERR_NOMEM. */
MUST_USE enum err prompt_decode(struct prompt *out, const char *data, size_t len);
void prompt_done(struct prompt *prompt); /* of a decoded prompt; safe on zeroed memory */

#endif
