#include "config/settings.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/ini.h"

/* ---- join files ---- */

struct join_reading {
    struct join join;
    const char *role;
};

static enum err join_value(void *arg, const char *section, const char *name, const char *value)
{
    struct join_reading *reading = arg;
    const struct {
        const char *section, *name;
        char **place;
    } known[] = {
        {"broker", "url", &reading->join.url},
        {"model", "name", &reading->join.model},
        {"model", "file", &reading->join.model_file},
        {"model", "sha256", &reading->join.model_sha256},
        {reading->role, "user", &reading->join.user},
        {reading->role, "password", &reading->join.password},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(section, known[i].section) != 0 || strcmp(name, known[i].name) != 0)
            continue;
        char *copy = strdup(value);
        if (copy == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        free(*known[i].place);
        *known[i].place = copy;
    }
    return ERR_OK; /* other roles' sections, and what later versions add */
}

static enum err join_check(struct join_reading *reading, const char *path)
{
    struct join *join = &reading->join;
    const struct {
        const char *section, *name;
        const char *value;
    } needed[] = {
        {"broker", "url", join->url},
        {"model", "name", join->model},
        {"model", "file", join->model_file},
        {reading->role, "user", join->user},
        {reading->role, "password", join->password},
    };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (needed[i].value == NULL || *needed[i].value == '\0')
            return err_set(ERR_CONFIG,
                           "%s lacks '%s' in its section [%s]: take the join file that wyvern up "
                           "wrote",
                           path, needed[i].name, needed[i].section);
    }
    if (join->model_sha256 == NULL)
        join->model_sha256 = strdup("");
    return join->model_sha256 == NULL ? err_set(ERR_NOMEM, "out of memory") : ERR_OK;
}

enum err join_read(struct join *out, const char *path, const char *role)
{
    if (path == NULL)
        return err_set(ERR_USAGE, "no join file given: pass --join FILE");
    struct join_reading reading = {.role = role};
    enum err err = ini_read(path, join_value, &reading);
    if (err == ERR_OK)
        err = join_check(&reading, path);
    if (err != ERR_OK) {
        join_done(&reading.join);
        return err;
    }
    *out = reading.join;
    return ERR_OK;
}

void join_done(struct join *join)
{
    if (join == NULL)
        return;
    free(join->url);
    free(join->user);
    if (join->password != NULL)
        explicit_bzero(join->password, strlen(join->password));
    free(join->password);
    free(join->model);
    free(join->model_file);
    free(join->model_sha256);
    memset(join, 0, sizeof *join);
}

/* ---- directories ---- */

MUST_USE static enum err path_join(char out[PATH_MAX], const char *folder, const char *name)
{
    int len = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    if (len < 0 || len >= PATH_MAX)
        return err_set(ERR_LIMIT, "the path %.60s…/%.60s is too long", folder, name);
    return ERR_OK;
}

/* $VARIABLE/wyvern, or ~/FALLBACK/wyvern; relative values do not count (XDG). */
MUST_USE static enum err xdg_folder(char out[PATH_MAX], const char *variable, const char *fallback)
{
    const char *base = getenv(variable);
    if (base != NULL && base[0] == '/')
        return path_join(out, base, "wyvern");
    const char *home = getenv("HOME");
    if (home == NULL || home[0] != '/')
        return err_set(ERR_CONFIG, "neither $%s nor $HOME names a directory: pass --state-dir DIR",
                       variable);
    char folder[PATH_MAX];
    enum err err = path_join(folder, home, fallback);
    return err != ERR_OK ? err : path_join(out, folder, "wyvern");
}

static enum err folders_make(const char *path)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= PATH_MAX)
        return err_set(ERR_LIMIT, "the state directory's path is too long");
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char end = part[i];
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST && errno != EISDIR)
            return err_set(errno == EACCES || errno == EPERM || errno == EROFS ? ERR_DENIED
                                                                               : ERR_IO,
                           "can't make the directory %s: %s; choose another with --state-dir", part,
                           strerror(errno));
        part[i] = end;
    }
    return ERR_OK;
}

enum err state_dir_name(char out[PATH_MAX], const char *state_dir)
{
    if (state_dir == NULL || *state_dir == '\0')
        return xdg_folder(out, "XDG_STATE_HOME", ".local/state");
    size_t len = strlen(state_dir);
    if (len >= PATH_MAX)
        return err_set(ERR_LIMIT, "the state directory's path is too long");
    memcpy(out, state_dir, len + 1);
    return ERR_OK;
}

enum err state_dir_prepare(char out[PATH_MAX], const char *state_dir)
{
    char path[PATH_MAX];
    enum err err = state_dir_name(path, state_dir);
    state_dir = path;
    if (err == ERR_OK)
        err = folders_make(state_dir);
    if (err != ERR_OK)
        return err;
    char absolute[PATH_MAX];
    struct stat info;
    if (realpath(state_dir, absolute) == NULL || stat(absolute, &info) != 0)
        return err_set(ERR_IO, "can't find %s: %s", state_dir, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return err_set(ERR_EXISTS, "%s is no directory; choose another with --state-dir", absolute);
    if (access(absolute, R_OK | W_OK | X_OK) != 0)
        return err_set(ERR_DENIED,
                       "the directory %s can't be written: %s; choose another with "
                       "--state-dir",
                       absolute, strerror(errno));
    memcpy(out, absolute, strlen(absolute) + 1);
    return ERR_OK;
}

enum err program_path(char out[PATH_MAX])
{
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
    if (len < 0)
        return err_set(ERR_OS, "can't find the program's own file: %s", strerror(errno));
    path[len] = '\0';
    memcpy(out, path, (size_t)len + 1);
    return ERR_OK;
}

/* ---- models ---- */

enum err file_sha256(char out[65], const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "can't open %s: %s", path,
                       strerror(errno));
    enum err err = ERR_OK;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    size_t part_size = (size_t)1 << 18;
    unsigned char *part = malloc(part_size);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (part == NULL || context == NULL || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    size_t len;
    while ((len = fread(part, 1, part_size, file)) > 0) {
        if (EVP_DigestUpdate(context, part, len) != 1) {
            err = err_set(ERR_INTERNAL, "SHA-256 failed");
            goto out;
        }
    }
    if (ferror(file)) {
        err = err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
        goto out;
    }
    if (EVP_DigestFinal_ex(context, digest, &digest_len) != 1 || digest_len != 32) {
        err = err_set(ERR_INTERNAL, "SHA-256 failed");
        goto out;
    }
    for (size_t i = 0; i < digest_len; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
out:
    EVP_MD_CTX_free(context);
    free(part);
    fclose(file);
    return err;
}

static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

#define MODEL_FOLDERS_MAX 4

/* Where models lie, in the order in which they are looked for. */
static size_t model_folders(char folders[MODEL_FOLDERS_MAX][PATH_MAX])
{
    size_t count = 0;
    const char *named = getenv("WYVERN_MODELS");
    if (named != NULL && *named != '\0' && strlen(named) < PATH_MAX)
        memcpy(folders[count++], named, strlen(named) + 1);
    char program[PATH_MAX];
    if (program_path(program) == ERR_OK && strrchr(program, '/') != NULL) {
        *strrchr(program, '/') = '\0';
        if (path_join(folders[count], program, "models") == ERR_OK)
            count++;
        if (path_join(folders[count], program, "../share/wyvern/models") == ERR_OK)
            count++;
    }
    char cache[PATH_MAX];
    if (xdg_folder(cache, "XDG_CACHE_HOME", ".cache") == ERR_OK &&
        path_join(folders[count], cache, "models") == ERR_OK)
        count++;
    return count;
}

/* Leaves the sentence of a mismatch behind, for when no other file fits. */
static enum err model_try(char out[PATH_MAX], const char *path, const char *sha256)
{
    if (!is_file(path))
        return ERR_NOT_FOUND;
    if (sha256 != NULL && *sha256 != '\0') {
        char found[65];
        enum err err = file_sha256(found, path);
        if (err != ERR_OK)
            return err;
        if (strcasecmp(found, sha256) != 0)
            return err_set(ERR_INVALID,
                           "%s is another file than the service's: its SHA-256 is %s, not %s; "
                           "copy the service's file here",
                           path, found, sha256);
    }
    char absolute[PATH_MAX];
    if (realpath(path, absolute) == NULL)
        return err_set(ERR_IO, "can't find %s: %s", path, strerror(errno));
    memcpy(out, absolute, strlen(absolute) + 1);
    return ERR_OK;
}

static enum err model_find_by_name(char out[PATH_MAX], const char *name, const char *sha256)
{
    char folders[MODEL_FOLDERS_MAX][PATH_MAX];
    size_t count = model_folders(folders);
    enum err worst = ERR_NOT_FOUND;
    for (size_t i = 0; i < count; i++) {
        char path[PATH_MAX];
        if (path_join(path, folders[i], name) != ERR_OK)
            continue;
        enum err err = model_try(out, path, sha256);
        if (err == ERR_OK)
            return ERR_OK;
        if (err != ERR_NOT_FOUND)
            worst = err;
    }
    return worst;
}

enum err model_find(char out[PATH_MAX], const char *model, const char *sha256)
{
    bool is_default = model == NULL || *model == '\0';
    if (is_default)
        model = MODEL_DEFAULT_FILE;
    size_t len = strlen(model);
    if (len >= PATH_MAX)
        return err_set(ERR_LIMIT, "the model's path is too long");
    if (strncmp(model, "fake:", 5) == 0) {
        memcpy(out, model, len + 1);
        return ERR_OK;
    }
    enum err err = is_default ? ERR_NOT_FOUND : model_try(out, model, sha256);
    if (err == ERR_NOT_FOUND && strchr(model, '/') == NULL)
        err = model_find_by_name(out, model, sha256);
    if (err == ERR_NOT_FOUND && is_default)
        return err_set(ERR_NOT_FOUND,
                       "the default model %s is not here: run make model, or pass "
                       "--model FILE",
                       model);
    if (err == ERR_NOT_FOUND)
        return err_set(ERR_NOT_FOUND,
                       "there is no model %s, neither as a file nor in $WYVERN_MODELS, the models "
                       "folder beside the program or ~/.cache/wyvern/models: pass --model FILE",
                       model);
    return err;
}
