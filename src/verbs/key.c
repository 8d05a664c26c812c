/*
 * key.c - makes, lists and takes back the API keys of a service.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "config/keys.h"
#include "config/settings.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define LIST_BYTES ((size_t)1 << 20)

/* --keys, else "keys" in the state directory. */
static enum err keys_path(char out[PATH_MAX], const struct settings *settings, bool make)
{
    char folder[PATH_MAX];
    if (settings->keys != NULL) {
        if (snprintf(out, PATH_MAX, "%s", settings->keys) >= PATH_MAX)
            return err_set(ERR_LIMIT, "the path of --keys is too long");
        return ERR_OK;
    }
    enum err err = make ? state_dir_prepare(folder, settings->state_dir)
                        : state_dir_name(folder, settings->state_dir);
    if (err == ERR_OK && snprintf(out, PATH_MAX, "%s/keys", folder) >= PATH_MAX)
        err = err_set(ERR_LIMIT, "the state directory's path is too long");
    return err;
}

static enum err add(const struct settings *settings, const char *path, const char *name)
{
    char text[KEY_TEXT_SIZE];
    enum err err = key_file_add(path, name, text);
    if (err != ERR_OK)
        return err;
    if (puts(text) == EOF || fflush(stdout) != 0) {
        /* Nobody has seen it, and nobody will. */
        if (key_file_revoke(path, name) != ERR_OK)
            return err_prefix(ERR_IO, "the key %s could not be printed, nor taken back: ", name);
        return err_set(ERR_IO, "the key could not be printed, so there is none");
    }
    explicit_bzero(text, sizeof text);
    if (!settings->quiet)
        fprintf(stderr, "the key of %s, shown this once; its hash is in %s\n", name, path);
    return ERR_OK;
}

static enum err list(const struct settings *settings, const char *path)
{
    struct key_ring ring;
    struct json_out out;
    struct buf json;
    enum err err = key_ring_load(&ring, path);
    if (err != ERR_OK)
        return err;
    if (!settings->json) {
        for (size_t i = 0; i < ring.count; i++)
            printf("%-*s  %s  %s\n", KEY_NAME_MAX, ring.keys[i].name, ring.keys[i].id,
                   ring.keys[i].created);
        key_ring_done(&ring);
        return ERR_OK;
    }
    buf_init(&json, LIST_BYTES);
    json_out_begin(&out, &json);
    json_out_array(&out, NULL);
    for (size_t i = 0; i < ring.count; i++) {
        json_out_object(&out, NULL);
        json_out_text(&out, "name", ring.keys[i].name);
        json_out_text(&out, "id", ring.keys[i].id);
        json_out_text(&out, "created", ring.keys[i].created);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    err = json_out_end(&out);
    if (err == ERR_OK)
        puts(buf_text(&json));
    buf_done(&json);
    key_ring_done(&ring);
    return err;
}

static enum err revoke(const struct settings *settings, const char *path, const char *name)
{
    enum err err = key_file_revoke(path, name);
    if (err == ERR_OK && !settings->quiet)
        fprintf(stderr, "%s has no key any more; gateways see it within a second\n", name);
    return err;
}

int verb_key(const struct settings *settings, int argc, char **argv)
{
    char path[PATH_MAX];
    const char *what = argv[0], *name = argc > 1 ? argv[1] : NULL;
    bool adds = strcmp(what, "add") == 0, revokes = strcmp(what, "revoke") == 0;
    bool lists = strcmp(what, "list") == 0;
    if ((!adds && !revokes && !lists) || lists != (name == NULL))
        return term_fail(
            err_set(ERR_USAGE, "usage: wyvern key [OPTION]… add NAME | list | revoke NAME"));
    enum err err = keys_path(path, settings, adds);
    if (err == ERR_OK && adds)
        err = add(settings, path, name);
    else if (err == ERR_OK && revokes)
        err = revoke(settings, path, name);
    else if (err == ERR_OK)
        err = list(settings, path);
    return err == ERR_OK ? term_finish(EX_OK) : term_fail(err);
}
