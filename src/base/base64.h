/*
 * base64.h - bytes as text (RFC 4648, with padding).  Pure; any thread.
 */
#ifndef WYVERN_BASE_BASE64_H
#define WYVERN_BASE_BASE64_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

/* Characters that len bytes become. */
size_t base64_len(size_t len);

/* Appends the text of len bytes.  ERR_LIMIT, ERR_NOMEM. */
MUST_USE enum err base64_encode(struct buf *out, const void *data, size_t len);

/* Appends the bytes of a text.  ERR_INVALID: it is none; out is as before then. */
MUST_USE enum err base64_decode(struct buf *out, const char *text, size_t len);

#endif
