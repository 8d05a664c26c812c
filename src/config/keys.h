/*
 * keys.h - the file of API keys: who may ask, by the hashes of what they know.
 *
 * A key is "wv-" and 43 characters of base64url: 256 random bits.  The file holds one line for
 * each, `name sha256-hex created`, beside blank lines and lines that begin with '#'; a key itself
 * stands nowhere.  It is written anew and put in its place whole; writers take turns (flock),
 * readers need no lock.  A ring is what was read; one thread.
 */
#ifndef WYVERN_CONFIG_KEYS_H
#define WYVERN_CONFIG_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define KEY_NAME_MAX     32
#define KEY_HASH_LEN     32
#define KEY_ID_LEN       16 /* hex digits */
#define KEY_TEXT_LEN     46
#define KEY_TEXT_SIZE    (KEY_TEXT_LEN + 1)
#define KEY_CREATED_SIZE 21 /* 2026-11-28T13:00:00Z */
#define KEYS_MAX         4096

struct key {
    char name[KEY_NAME_MAX + 1];
    char
        id[KEY_ID_LEN + 1]; /* the hash's first digits: names the owner of what was asked with it */
    unsigned char hash[KEY_HASH_LEN];
    char created[KEY_CREATED_SIZE];
};

struct key_ring {
    struct key *keys; /* owned */
    size_t count;
};

/* A name: letters, digits, '.', '_', '-', at most KEY_NAME_MAX. */
bool key_name_is_valid(const char *name);

/* ERR_NOT_FOUND, ERR_IO; ERR_CONFIG names the line that is wrong, or says that others may write the
 * file. */
MUST_USE enum err key_ring_load(struct key_ring *out, const char *path);
/* The same from memory; source names it in sentences. */
MUST_USE enum err key_ring_parse(struct key_ring *out, const char *text, size_t len,
                                 const char *source);
void key_ring_done(struct key_ring *ring); /* safe on zeroed memory */

/* The key that this text is, or NULL.  Takes the same time for every key and every text of its
 * length. */
const struct key *key_ring_find(const struct key_ring *ring, const char *text);

/* Makes a key of a name that no key has (ERR_EXISTS), and the file where there is none. */
MUST_USE enum err key_file_add(const char *path, const char *name, char text[KEY_TEXT_SIZE]);
/* ERR_NOT_FOUND: no key has the name. */
MUST_USE enum err key_file_revoke(const char *path, const char *name);

#endif
