/*
 * kept.h - the pieces of one reply, kept until its record exists, so that what a broker's
 * restart lost can be sent again and the ending can carry the whole text.
 */
#ifndef WYVERN_ROLES_INFER_KEPT_H
#define WYVERN_ROLES_INFER_KEPT_H

#include <jansson.h>

#include "base/buf.h"
#include "wire/claim.h"

struct kept_mark {
    size_t text_end, token_end, logprobs_end;
};

struct kept {
    struct buf text;
    struct buf logprobs; /* those of the pieces one after the other; nothing, unless asked for */
    int32_t *tokens;
    struct kept_mark *marks; /* where each piece ends */
    size_t token_count, token_cap, count, cap;
};

/* Each bounds its kind of bytes. */
void kept_init(struct kept *kept, size_t text_limit, size_t logprobs_limit);
void kept_done(struct kept *kept);
void kept_clear(struct kept *kept);
/* ERR_LIMIT, ERR_NOMEM; nothing is added then. */
MUST_USE enum err kept_add(struct kept *kept, const struct piece *piece);
/* Fills items with pieces first … first + count - 1; what they point to is borrowed from kept. */
void kept_slice(const struct kept *kept, size_t first, size_t count, struct piece *items);
/* How many of the pieces from `first` on fit `bytes`: at least one, at most `most`. */
size_t kept_fitting(const struct kept *kept, size_t first, size_t most, size_t bytes);

/* Bytes of each piece's text, as a record has them. */
MUST_USE enum err kept_cuts(const struct kept *kept, json_t **out);
/* The logprobs of all pieces as one array, NULL when there are none.  ERR_INVALID: they are no
 * JSON. */
MUST_USE enum err kept_logprobs(const struct kept *kept, json_t **out);

#endif
