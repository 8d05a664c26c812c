/*
 * keys.h - who may ask: the keys of --keys, as they stand in the file now.
 *
 * Loop's thread only.  A file that went bad or missing lets nobody in until it is good again.
 */
#ifndef WYVERN_ROLES_GATEWAY_KEYS_H
#define WYVERN_ROLES_GATEWAY_KEYS_H

#include "api/error.h"
#include "config/keys.h"
#include "http/server.h"

struct keys;

/* path NULL: *out is NULL and everything is open.  Fails when the file can't be read or is wrong.
 */
MUST_USE enum err keys_new(struct keys **out, const char *path);
void keys_free(struct keys *keys); /* takes NULL */

/* Looks whether the file has changed, and reads it again then.  Takes NULL. */
void keys_tick(struct keys *keys);

/* The key that a request was made with, good until the next keys_tick: copy id and name.  Without
 * keys (NULL) a key with an empty name and id.  NULL: refused, with *error filled. */
const struct key *keys_check(const struct keys *keys, const struct http_request *request,
                             struct api_error *error);

#endif
