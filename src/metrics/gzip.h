/*
 * gzip.h - a scrape's text packed, for those who take it so.
 */
#ifndef WYVERN_METRICS_GZIP_H
#define WYVERN_METRICS_GZIP_H

#include <stdbool.h>

#include "base/buf.h"

/* Does an Accept-Encoding header (RFC 9110, 12.5.3) ask for gzip?  NULL: no. */
bool metrics_gzip_welcome(const char *accept_encoding);
/* Replaces text by its packed form (RFC 1952). */
MUST_USE enum err metrics_gzip(struct buf *text);

#endif
