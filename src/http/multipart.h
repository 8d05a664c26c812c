/*
 * multipart.h - the parts of a multipart/form-data body (RFC 7578, RFC 2046 5.1).
 *
 * Pure, over a whole body in memory, which the parts point into.  Strict: the body begins with its
 * boundary, every part has one Content-Disposition that names it, and the last boundary is there.
 * A line that only begins like a boundary is data.  Nested multiparts are data too.
 */
#ifndef WYVERN_HTTP_MULTIPART_H
#define WYVERN_HTTP_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define MULTIPART_PARTS_MAX    16
#define MULTIPART_HEADERS_MAX  8    /* of one part */
#define MULTIPART_HEAD_BYTES   2048 /* all headers of one part */
#define MULTIPART_NAME_MAX     64
#define MULTIPART_FILENAME_MAX 255
#define MULTIPART_BOUNDARY_MAX 70

struct multipart_part {
    char name[MULTIPART_NAME_MAX + 1];
    char filename[MULTIPART_FILENAME_MAX + 1]; /* as sent: any bytes but controls; "" if none */
    bool has_filename;
    const char *data; /* in the body; not NUL-terminated */
    size_t len;
};

struct multipart {
    struct multipart_part parts[MULTIPART_PARTS_MAX];
    size_t count;
};

/* content_type: the request's header, NULL if none.  ERR_UNSUPPORTED: it is no multipart/form-data;
 * ERR_LIMIT: more than one of the bounds; ERR_INVALID: what is wrong. */
MUST_USE enum err multipart_parse(struct multipart *out, const char *content_type, const char *body,
                                  size_t len);

/* The part of this name, or NULL; *times (may be NULL): how many there are. */
const struct multipart_part *multipart_find(const struct multipart *multipart, const char *name,
                                            unsigned *times);

#endif
