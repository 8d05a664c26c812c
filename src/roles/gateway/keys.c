#include "roles/gateway/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/log.h"
#include "wire/prompt.h"

_Static_assert(KEY_ID_LEN == OWNER_LEN, "a key's id is the owner of its prompts");

#define KEY_CODE "invalid_api_key"

struct stamp { /* differs when the file does */
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec written, changed;
    bool there;
};

struct keys {
    char *path;
    struct stamp stamp; /* of what was read */
    struct key_ring ring;
    bool bad; /* the file can't be used: nobody gets in */
};

static struct stamp stamp_of(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return (struct stamp){.there = false};
    return (struct stamp){.device = info.st_dev,
                          .inode = info.st_ino,
                          .size = info.st_size,
                          .written = info.st_mtim,
                          .changed = info.st_ctim,
                          .there = true};
}

static bool time_is(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool stamp_is(const struct stamp *a, const struct stamp *b)
{
    return a->there == b->there && a->device == b->device && a->inode == b->inode &&
           a->size == b->size && time_is(&a->written, &b->written) &&
           time_is(&a->changed, &b->changed);
}

/* The stamp is taken first: what is written while we read shows at the next look. */
static enum err reload(struct keys *keys)
{
    struct key_ring ring;
    keys->stamp = stamp_of(keys->path);
    enum err err = key_ring_load(&ring, keys->path);
    keys->bad = err != ERR_OK;
    if (err != ERR_OK)
        return err;
    key_ring_done(&keys->ring);
    keys->ring = ring;
    return ERR_OK;
}

enum err keys_new(struct keys **out, const char *path)
{
    if (path == NULL) {
        *out = NULL;
        return ERR_OK;
    }
    struct keys *keys = calloc(1, sizeof *keys);
    if (keys == NULL || (keys->path = strdup(path)) == NULL) {
        free(keys);
        return err_set(ERR_NOMEM, "out of memory");
    }
    enum err err = reload(keys);
    if (err != ERR_OK) {
        keys_free(keys);
        return err;
    }
    *out = keys;
    return ERR_OK;
}

void keys_free(struct keys *keys)
{
    if (keys == NULL)
        return;
    key_ring_done(&keys->ring);
    free(keys->path);
    free(keys);
}

void keys_tick(struct keys *keys)
{
    if (keys == NULL)
        return;
    struct stamp now = stamp_of(keys->path);
    if (stamp_is(&now, &keys->stamp))
        return;
    if (reload(keys) == ERR_OK)
        log_info("keys.loaded count=%zu", keys->ring.count);
    else
        log_error("keys.refused why=\"%s\" what=\"nobody is let in until the file is good\"",
                  err_text());
}

/* What stands behind "Bearer ", or NULL. */
static const char *bearer_of(const char *value)
{
    static const char scheme[] = "Bearer";
    size_t len = sizeof scheme - 1;
    if (strncasecmp(value, scheme, len) != 0 || value[len] != ' ')
        return NULL;
    value += len;
    return value + strspn(value, " ");
}

/* The one key that was presented; NULL with *error filled for none, several, or another scheme. */
static const char *presented(const struct http_request *request, struct api_error *error)
{
    static const char *const names[] = {"authorization", "api-key", "x-api-key"};
    const char *value = NULL;
    bool bearer = false;
    unsigned found = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (unsigned nth = 0; nth < 2; nth++) {
            const char *one = http_request_header_at(request, names[i], nth);
            if (one == NULL)
                break;
            found++;
            value = one;
            bearer = i == 0;
        }
    }
    if (found > 1) {
        api_error_set(error, 401, KEY_CODE, NULL, "the request carries more than one API key");
        return NULL;
    }
    if (bearer)
        value = bearer_of(value);
    if (value == NULL)
        api_error_set(error, 401, KEY_CODE, NULL,
                      "this service wants an API key: send it as Authorization: Bearer KEY");
    return value;
}

const struct key *keys_check(const struct keys *keys, const struct http_request *request,
                             struct api_error *error)
{
    static const struct key nobody;
    if (keys == NULL)
        return &nobody;
    const char *text = presented(request, error);
    if (text == NULL)
        return NULL;
    if (keys->bad) {
        api_error_set(error, 503, "unavailable", NULL, "API keys can't be checked at present");
        return NULL;
    }
    const struct key *key = key_ring_find(&keys->ring, text);
    if (key == NULL)
        api_error_set(error, 401, KEY_CODE, NULL, "this API key is not known here");
    return key;
}
