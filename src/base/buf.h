/*
 * buf.h - a growing byte buffer with a mandatory limit (after curl's dynbuf).
 *
 * Embedded in its owner; not thread-safe.  Always NUL-terminated once anything was appended, so
 * buf->data may be read as a C string (NULL only while empty and never written: use buf_text()).
 */
#ifndef WYVERN_BASE_BUF_H
#define WYVERN_BASE_BUF_H

#include <stddef.h>

#include "base/err.h"

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t limit; /* most bytes of content, without the NUL */
};

void buf_init(struct buf *buf, size_t limit);
void buf_done(struct buf *buf);

/* ERR_LIMIT when the content would exceed the limit, ERR_NOMEM; content unchanged then. */
MUST_USE enum err buf_append(struct buf *buf, const void *data, size_t len);
MUST_USE enum err buf_append_text(struct buf *buf, const char *text);
MUST_USE enum err buf_printf(struct buf *buf, const char *format, ...) PRINTF_LIKE(2, 3);

/* Forgets the content and keeps the memory. */
void buf_clear(struct buf *buf);
/* Drops the first n (≤ len) bytes. */
void buf_consume(struct buf *buf, size_t n);
/* Drops what is behind the first len (≤ its length) bytes. */
void buf_truncate(struct buf *buf, size_t len);
/* Gives the content away (free() it); the buffer is empty again.  NULL when it was empty. */
char *buf_take(struct buf *buf, size_t *len);
/* Content as text, "" when empty. */
const char *buf_text(const struct buf *buf);

#endif
