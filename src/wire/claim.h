/*
 * claim.h - who generates a reply now (tok.<gw>.<id>.c), and the pieces it stores (….p).
 *
 * A claim's stream sequence is the fence of every append after it; its nonce marks the pieces that
 * belong to it, because a sequence lost by a broker's crash can be used again.
 */
#ifndef WYVERN_WIRE_CLAIM_H
#define WYVERN_WIRE_CLAIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"

enum claim_kind {
    CLAIM_HELD,      /* a worker generates the reply */
    CLAIM_TOMBSTONE, /* nobody shall: cancelled, its owner gone, or expired */
};

struct claim {
    enum claim_kind kind;
    char nonce[TAG_SIZE];
    char previous[TAG_SIZE]; /* the same worker's earlier nonce, after a broker's restart; or "" */
    char worker[64], node[64], device[256];
    char boot[TAG_SIZE]; /* of the worker's process: is it still there? */
    unsigned deaths;     /* workers that died with it before */
    unsigned attempt;    /* 1 for the first claim */
    double started_at;   /* Unix seconds: when the first worker began with it */
    char reason[16];     /* tombstone: "cancelled", "owner_gone", "expired" */
};

const char *claim_kind_name(enum claim_kind kind); /* "held", "tombstone" */

MUST_USE enum err claim_encode(const struct claim *claim, struct buf *out);
MUST_USE enum err claim_decode(struct claim *out, const char *data, size_t len);

struct piece { /* one part of a reply; text never splits a UTF-8 character */
    const char *text;
    size_t text_len;
    const int32_t *tokens;
    size_t token_count;
    const char *logprobs; /* JSON: array of one object for each token, in OpenAI's form (reply.h);
                             NULL: not asked for */
    size_t logprobs_len;
};

#define PIECES_MAX 512 /* in one message */

struct pieces {
    char nonce[TAG_SIZE]; /* of the claim they belong to */
    uint64_t first;       /* number of the first piece; a reply's pieces count from 0 */
    struct piece *items;
    size_t count; /* at most PIECES_MAX */
    bool done;    /* the reply is whole: nothing follows */
    void *store;  /* of decoded pieces: owns items, their texts and tokens; else NULL */
};

/* On the hot path of every token, so both go without a JSON tree; the text is JSON all the same, of
 * exactly this form: {"v":1,"nonce":"…","first":N,"pieces":[["text",[id,…]],…],"done":false}; a
 * piece with logprobs has their JSON as a third element, a string. */
MUST_USE enum err pieces_encode(const struct pieces *pieces, struct buf *out);
MUST_USE enum err pieces_decode(struct pieces *out, const char *data, size_t len);
void pieces_done(struct pieces *pieces); /* of decoded pieces; safe on zeroed memory */

#endif
