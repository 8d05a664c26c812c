/*
 * cors.h - which web pages may ask, and read our replies (Fetch standard, CORS protocol).
 *
 * Off unless origins are named.  Credentials are never allowed: a page sends its key itself.
 * Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_CORS_H
#define WYVERN_ROLES_GATEWAY_CORS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "http/server.h"

struct cors;

#define CORS_ORIGINS_MAX 64

/* origins: with commas, scheme://host[:port] each, or "*" alone; NULL: *out is NULL, CORS is off.
 * ERR_USAGE says which is none. */
MUST_USE enum err cors_new(struct cors **out, const char *origins);
void cors_free(struct cors *cors);

#define CORS_HEADERS 3
/* What a reply to this request tells browsers; returns how many headers.  Values are borrowed from
 * cors and request.  cors may be NULL. */
size_t cors_headers(const struct cors *cors, const struct http_request *request,
                    struct http_header out[CORS_HEADERS]);

/* Before anything else is done with a request: adds the headers to whatever will be replied, and
 * answers a preflight (true: answered).  cors may be NULL. */
bool cors_enter(const struct cors *cors, struct http_exchange *exchange,
                const struct http_request *request);

/* Does it come from a page of another origin that is not allowed, and would it do something?  Such
 * a page can't read the reply, but browsers let it send a body as text/plain without asking first.
 * Told by Sec-Fetch-Site (Fetch Metadata), which pages can't set; other clients don't send it. */
bool cors_is_foreign(const struct cors *cors, const struct http_request *request);

/* The request headers that a page may send, of those that a preflight asks for, into out; cap
 * bytes. */
void cors_allowed_headers(char *out, size_t cap, const char *asked);

#endif
