/*
 * kept.h - the pieces of one reply, kept until its record exists, so that what a broker's
 * restart lost can be sent again and the ending can carry the whole text.
 */
#ifndef WYVERN_ROLES_INFER_KEPT_H
#define WYVERN_ROLES_INFER_KEPT_H

#include "base/buf.h"
#include "wire/claim.h"

struct kept_mark {
    size_t text_end, token_end;
};

struct kept {
    struct buf text;
    int32_t *tokens;
    struct kept_mark *marks; /* where each piece ends */
    size_t token_count, token_cap, count, cap;
};

void kept_init(struct kept *kept, size_t limit);
void kept_done(struct kept *kept);
void kept_clear(struct kept *kept);
MUST_USE enum err kept_add(struct kept *kept, const struct piece *piece);
/* Fills items with pieces first … first + count - 1; texts and tokens are borrowed from kept. */
void kept_slice(const struct kept *kept, size_t first, size_t count, struct piece *items);

#endif
