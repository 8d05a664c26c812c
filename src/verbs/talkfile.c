#include "verbs/talkfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/outfile.h"
#include "wire/json.h"

#define FILE_MAX ((size_t)64 << 20)
#define VERSION  1

static json_t *talk_json(const struct talk *talk, const char *system)
{
    json_t *list = json_array();
    int failed = list == NULL;
    for (size_t i = 0; i < talk->count && !failed; i++)
        failed = json_array_append_new(list, json_pack("{s:s, s:s}", "role", talk->messages[i].role,
                                                       "content", talk->messages[i].content));
    json_t *root = failed ? NULL
                          : json_pack("{s:i, s:s*, s:O}", "wyvern_chat", VERSION, "system", system,
                                      "messages", list);
    json_decref(list);
    return root;
}

static enum err text_write(const char *path, const char *text)
{
    struct outfile out;
    enum err err = outfile_open(&out, path);
    if (err != ERR_OK)
        return err;
    (void)fchmod(out.fd, 0600);
    size_t len = strlen(text), at = 0;
    while (at < len) {
        ssize_t wrote = write(out.fd, text + at, len - at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            err = err_set(ERR_IO, "can't write %s: %s", path, strerror(errno));
            outfile_discard(&out);
            return err;
        }
        at += (size_t)wrote;
    }
    return outfile_publish(&out);
}

enum err talkfile_write(const char *path, const struct talk *talk, const char *system, bool replace)
{
    if (!replace && access(path, F_OK) == 0)
        return err_set(ERR_EXISTS, "%s is there already; /save! writes over it", path);
    json_t *root = talk_json(talk, system);
    if (root == NULL)
        return err_set(ERR_INVALID, "the conversation is no valid UTF-8 text, or memory is out");
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (text == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = text_write(path, text);
    free(text);
    return err;
}

/* ---- reading ---- */

static enum err file_read(const char *path, struct buf *out)
{
    char part[65536];
    size_t len;
    struct stat about;
    if (stat(path, &about) == 0 && !S_ISREG(about.st_mode))
        return err_set(ERR_INVALID, "%s is no plain file", path);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "can't open %s: %s", path,
                       strerror(errno));
    enum err err = ERR_OK;
    while (err == ERR_OK && (len = fread(part, 1, sizeof part, file)) > 0)
        err = buf_append(out, part, len);
    if (err != ERR_OK)
        err = err_set(ERR_LIMIT, "%s is larger than %zu MiB", path, FILE_MAX >> 20);
    else if (ferror(file))
        err = err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
    fclose(file);
    return err;
}

/* Our own literal of a role, NULL for others. */
static const char *role_of(const char *text)
{
    static const char *const roles[] = {"user", "assistant", "system"};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(text, roles[i]) == 0)
            return roles[i];
    }
    return NULL;
}

static enum err messages_take(const char *path, const json_t *root, struct talk *talk)
{
    const json_t *list = json_object_get(root, "messages");
    if (!json_is_array(list))
        return err_set(ERR_INVALID, "%s is no conversation that /save wrote: it has no messages",
                       path);
    if (json_array_size(list) > TALK_MESSAGES_MAX)
        return err_set(ERR_LIMIT, "%s holds more than %d messages", path, TALK_MESSAGES_MAX);
    enum err err = ERR_OK;
    for (size_t i = 0; i < json_array_size(list) && err == ERR_OK; i++) {
        const json_t *message = json_array_get(list, i);
        const char *role = role_of(json_text(message, "role", ""));
        const json_t *content = json_object_get(message, "content");
        if (role == NULL || !json_is_string(content))
            return err_set(ERR_INVALID,
                           "message %zu of %s has no role user, assistant or system, or no text",
                           i + 1, path);
        err = talk_add(talk, role, json_string_value(content));
    }
    return err;
}

enum err talkfile_read(const char *path, struct talk *talk, char **system)
{
    json_t *root = NULL;
    struct buf text;
    struct talk *found = calloc(1, sizeof *found);
    char *found_system = NULL;
    buf_init(&text, FILE_MAX);
    enum err err = found != NULL ? file_read(path, &text) : err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK && json_parse(&root, buf_text(&text), text.len) != ERR_OK)
        err = err_prefix(ERR_INVALID, "%s is no conversation that /save wrote", path);
    if (err == ERR_OK)
        err = messages_take(path, root, found);
    const char *given = err == ERR_OK ? json_text(root, "system", "") : "";
    if (*given != '\0' && (found_system = strdup(given)) == NULL)
        err = err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK) {
        talk_clear(talk);
        *talk = *found;
        found->count = 0;
        *system = found_system;
        found_system = NULL;
    }
    if (found != NULL)
        talk_clear(found);
    free(found);
    free(found_system);
    json_decref(root);
    buf_done(&text);
    return err;
}
