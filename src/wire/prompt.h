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
#define PROMPT_MAX_STOP     16                 /* stop strings */
#define PROMPT_MAX_STOP_LEN 256                /* bytes of one */
#define PROMPT_MAX_USER     64                 /* bytes of the "user" field */
#define PROMPT_MAX_PROMPTER 128                /* bytes: name of the key, '/', "user" field */
#define PROMPT_MAX_BIAS     1024               /* tokens whose scores are shifted */
#define PROMPT_MAX_GRAMMAR  ((size_t)64 << 10) /* bytes of a grammar */
#define PROMPT_MAX_INPUTS   256                /* texts of one embedding request */
#define PROMPT_MAX_TOPS     20                 /* alternatives told beside each token */
#define OWNER_LEN           16                 /* hex digits of a key's id */

/* What is to be done with it. */
enum prompt_task {
    TASK_CHAT,       /* messages → reply, by the model's chat template */
    TASK_TEXT,       /* inputs[0] as it is → its continuation */
    TASK_EMBED,      /* inputs → result {"embeddings":[base64 of little-endian floats, …]} */
    TASK_TOKENIZE,   /* inputs[0] → result {"tokens":[id, …],"pieces":[text, …]} */
    TASK_DETOKENIZE, /* tokens → result {"content":text} */
    TASK_TEMPLATE,   /* messages → result {"prompt":text} */
};
const char *prompt_task_name(enum prompt_task task); /* "chat", "text", "embed" … */

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
    double frequency_penalty, presence_penalty; /* OpenAI's: NAN: not given */
    double repeat_penalty;                      /* llama.cpp's; NAN: not given, 1: off */
    int logprobs;             /* alternatives told beside each token's own; -1: none of it */
    const json_t *logit_bias; /* {"token id": shift, …}, NULL: none; borrowed */
    const char *grammar;      /* GBNF that the reply obeys; NULL: none */
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
    bool detached; /* goes on without its owner */
    enum prompt_task task;
    const char *lane;      /* of the queue; NULL: LANE_MAIN */
    const char *owner;     /* id of the key it was asked with; NULL or "": none */
    const json_t *inputs;  /* array of texts, see enum prompt_task; else NULL */
    const json_t *tokens;  /* TASK_DETOKENIZE: array of ids; else NULL */
    const json_t *request; /* what src/api/ wants to find in the record again; opaque; NULL: none */
    struct prompt_message *messages; /* owned when decoded */
    size_t message_count;
    struct prompt_params params;
    json_t *root; /* owned when decoded, else NULL */
};

MUST_USE enum err prompt_encode(const struct prompt *prompt, struct buf *out);
/* ERR_INVALID, ERR_UNSUPPORTED (another WIRE_VERSION), ERR_NOMEM. */
MUST_USE enum err prompt_decode(struct prompt *out, const char *data, size_t len);
/* Of a message that prompt_decode refuses, of a newer kind perhaps: only whose it is (id, gateway,
 * prompter, owner, model, detached, the trace), so that its asker can be told. */
MUST_USE enum err prompt_decode_head(struct prompt *out, const char *data, size_t len);
void prompt_done(struct prompt *prompt); /* of a decoded prompt; safe on zeroed memory */

#endif
