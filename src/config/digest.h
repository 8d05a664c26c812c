/*
 * digest.h - SHA-256 of texts, in hex.  Any thread.
 */
#ifndef WYVERN_CONFIG_DIGEST_H
#define WYVERN_CONFIG_DIGEST_H

#include <stddef.h>

#include "base/err.h"

#define DIGEST_LEN  64 /* hex digits */
#define DIGEST_SIZE (DIGEST_LEN + 1)

struct digest_part {
    const void *data;
    size_t len;
};

/* Of the parts one after the other, each behind its length, so that no other parts give the same.
 * ERR_NOMEM. */
MUST_USE enum err digest_parts(char out[DIGEST_SIZE], const struct digest_part *parts,
                               size_t count);

#endif
