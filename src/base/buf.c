#include "base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 64

void buf_init(struct buf *buf, size_t limit)
{
    *buf = (struct buf){.limit = limit};
}

void buf_done(struct buf *buf)
{
    if (buf == NULL)
        return;
    free(buf->data);
    *buf = (struct buf){.limit = buf->limit};
}

/* Makes room for `more` bytes of content and the NUL. */
static enum err reserve(struct buf *buf, size_t more)
{
    if (more > buf->limit - buf->len)
        return err_set(ERR_LIMIT, "more than the limit of %zu bytes", buf->limit);
    size_t need = buf->len + more + 1;
    if (need <= buf->cap)
        return ERR_OK;
    size_t cap = buf->cap ? buf->cap : FIRST_CAP;
    while (cap < need)
        cap *= 2;
    char *data = realloc(buf->data, cap);
    if (data == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    buf->data = data;
    buf->cap = cap;
    return ERR_OK;
}

enum err buf_append(struct buf *buf, const void *data, size_t len)
{
    enum err err = reserve(buf, len);
    if (err != ERR_OK)
        return err;
    if (len > 0)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return ERR_OK;
}

enum err buf_append_text(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

enum err buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    enum err err = len < 0 ? err_set(ERR_INTERNAL, "bad format") : reserve(buf, (size_t)len);
    if (err == ERR_OK) {
        vsnprintf(buf->data + buf->len, (size_t)len + 1, format, again);
        buf->len += (size_t)len;
    }
    va_end(again);
    return err;
}

void buf_clear(struct buf *buf)
{
    buf->len = 0;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

void buf_consume(struct buf *buf, size_t n)
{
    assert(n <= buf->len);
    if (n == 0)
        return;
    memmove(buf->data, buf->data + n, buf->len - n);
    buf->len -= n;
    buf->data[buf->len] = '\0';
}

void buf_truncate(struct buf *buf, size_t len)
{
    assert(len <= buf->len);
    buf->len = len;
    if (buf->data != NULL)
        buf->data[len] = '\0';
}

char *buf_take(struct buf *buf, size_t *len)
{
    char *data = buf->data;
    if (len != NULL)
        *len = buf->len;
    *buf = (struct buf){.limit = buf->limit};
    return data;
}

const char *buf_text(const struct buf *buf)
{
    return buf->data != NULL ? buf->data : "";
}
