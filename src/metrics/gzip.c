#include "metrics/gzip.h"

#include <limits.h>
#include <zlib.h>

/* The fastest level: names that repeat pack to a tenth even so, and a scrape should cost little. */
#define LEVEL       1
#define WINDOW_BITS (15 + 16) /* zlib's way to ask for gzip's frame */
#define MEMORY      8         /* zlib's default */

enum err metrics_gzip(struct buf *text)
{
    z_stream stream = {0};
    struct buf packed;
    char chunk[16 << 10];
    enum err err = ERR_OK;
    int code;

    if (text->len > UINT_MAX)
        return err_set(ERR_LIMIT, "the text is too long to pack");
    if (deflateInit2(&stream, LEVEL, Z_DEFLATED, WINDOW_BITS, MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(ERR_NOMEM, "no memory to pack a scrape");
    buf_init(&packed, text->limit);
    stream.next_in = (unsigned char *)text->data;
    stream.avail_in = (unsigned)text->len;
    do {
        stream.next_out = (unsigned char *)chunk;
        stream.avail_out = sizeof chunk;
        code = deflate(&stream, Z_FINISH);
        err = buf_append(&packed, chunk, sizeof chunk - stream.avail_out);
    } while (err == ERR_OK && code == Z_OK);
    deflateEnd(&stream);
    if (err == ERR_OK && code != Z_STREAM_END)
        err = err_set(ERR_INTERNAL, "the text can't be packed (%d)", code);
    if (err != ERR_OK) {
        buf_done(&packed);
        return err;
    }
    buf_done(text);
    *text = packed;
    return ERR_OK;
}
