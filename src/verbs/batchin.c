#include "verbs/batchin.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire/json.h"

#define BLOCK ((size_t)256 << 10)

/* ---- lines ---- */

enum err batch_in_open(struct batch_in *lines, const char *path)
{
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0)
        return err_set(errno == EACCES ? ERR_DENIED : ERR_NOT_FOUND, "can't open %s: %s", path,
                       strerror(errno));
    char *block = malloc(BLOCK);
    enum err err = block != NULL ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK && fstat(fd, &about) == 0 && S_ISDIR(about.st_mode))
        err = err_set(ERR_INVALID, "%s is a folder; a batch is a file of lines", path);
    if (err != ERR_OK) {
        free(block);
        if (!is_stdin)
            close(fd);
        return err;
    }
    *lines = (struct batch_in){.fd = fd, .owned = !is_stdin, .block = block};
    buf_init(&lines->line, BATCH_LINE_MAX);
    return ERR_OK;
}

void batch_in_done(struct batch_in *lines)
{
    if (lines == NULL || lines->block == NULL)
        return;
    if (lines->owned)
        close(lines->fd);
    free(lines->block);
    buf_done(&lines->line);
    lines->block = NULL;
}

/* More bytes; *waits: none came in time. */
static enum err block_fill(struct batch_in *lines, int wait_ms, bool *waits)
{
    struct pollfd input = {.fd = lines->fd, .events = POLLIN};
    int ready = poll(&input, 1, wait_ms);
    *waits = ready == 0 || (ready < 0 && errno == EINTR);
    if (*waits)
        return ERR_OK;
    ssize_t len = read(lines->fd, lines->block, BLOCK);
    if (len < 0 && (errno == EINTR || errno == EAGAIN)) {
        *waits = true;
        return ERR_OK;
    }
    if (len < 0)
        return err_set(ERR_IO, "can't read the batch: %s", strerror(errno));
    lines->at = 0;
    lines->len = (size_t)len;
    lines->ended = len == 0;
    return ERR_OK;
}

static bool is_blank(const struct buf *line)
{
    return line->len == 0 || strspn(line->data, " \t\r") == line->len;
}

/* Takes what the block holds of the line; true: the line is whole. */
static bool line_take(struct batch_in *lines)
{
    const char *from = lines->block + lines->at;
    size_t left = lines->len - lines->at;
    const char *newline = memchr(from, '\n', left);
    size_t len = newline != NULL ? (size_t)(newline - from) : left;
    size_t room = BATCH_LINE_MAX - lines->line.len;
    if (len > room || buf_append(&lines->line, from, len) != ERR_OK) {
        lines->too_long = true; /* its beginning tells it from others */
    }
    lines->at += len + (newline != NULL);
    return newline != NULL;
}

enum err batch_in_next(struct batch_in *lines, int wait_ms, enum batch_line *what)
{
    if (!lines->begun) { /* else it was not whole when we waited last */
        buf_clear(&lines->line);
        lines->too_long = false;
        lines->number += 1;
        lines->begun = true;
    }
    for (;;) {
        bool whole = lines->at < lines->len && line_take(lines);
        if (!whole && !lines->ended) {
            bool waits = false;
            enum err err = block_fill(lines, wait_ms, &waits);
            *what = BATCH_LINES_WAIT;
            if (err != ERR_OK || waits)
                return err;
            continue;
        }
        if (!whole && is_blank(&lines->line) && !lines->too_long) {
            *what = BATCH_LINES_END;
            return ERR_OK;
        }
        if (!is_blank(&lines->line) || lines->too_long)
            break;
        buf_clear(&lines->line);
        lines->number++;
    }
    if (lines->number > BATCH_LINES_MAX)
        return err_set(ERR_LIMIT, "a batch of more than %u lines; split it", BATCH_LINES_MAX);
    *what = BATCH_LINE;
    lines->begun = false;
    return ERR_OK;
}

uint64_t batch_in_count(const struct batch_in *lines)
{
    struct stat about;
    char *block = malloc(BLOCK);
    uint64_t count = 0;
    bool blank = true;
    if (block == NULL || fstat(lines->fd, &about) != 0 || !S_ISREG(about.st_mode)) {
        free(block);
        return 0;
    }
    off_t from = lseek(lines->fd, 0, SEEK_CUR);
    for (ssize_t len; (len = pread(lines->fd, block, BLOCK, from)) > 0; from += len) {
        for (ssize_t i = 0; i < len; i++) {
            if (block[i] == '\n') {
                count += !blank;
                blank = true;
            } else if (blank && strchr(" \t\r", block[i]) == NULL) {
                blank = false;
            }
        }
    }
    free(block);
    return count + !blank;
}

/* ---- requests ---- */

static enum err system_add(json_t *messages, const char *system)
{
    const char *first = json_text(json_array_get(messages, 0), "role", "");
    if (system == NULL || strcmp(first, "system") == 0)
        return ERR_OK;
    if (json_array_insert_new(messages, 0,
                              json_pack("{s:s, s:s}", "role", "system", "content", system)) != 0)
        return err_set(ERR_INVALID, "the text of --system is no valid UTF-8");
    return ERR_OK;
}

/* {"prompt": …} or {"messages": …}: the line itself is the body. */
static enum err short_form(json_t *root, const struct settings *settings, json_t **body)
{
    const json_t *prompt = json_object_get(root, "prompt");
    json_t *messages = json_object_get(root, "messages");
    if (prompt != NULL && messages != NULL)
        return err_set(ERR_INVALID, "it has a prompt and messages; one of them, please");
    if (prompt == NULL && messages == NULL)
        return err_set(ERR_INVALID, "it has no \"prompt\", no \"messages\" and no \"body\"");
    if (prompt != NULL && !json_is_string(prompt))
        return err_set(ERR_INVALID, "its prompt is no text");
    if (messages != NULL && !json_is_array(messages))
        return err_set(ERR_INVALID, "its messages are no array");
    if (prompt != NULL) {
        messages = json_pack("[{s:s, s:O}]", "role", "user", "content", prompt);
        if (messages == NULL || json_object_set_new(root, "messages", messages) != 0)
            return err_set(ERR_NOMEM, "out of memory");
        json_object_del(root, "prompt");
    }
    json_object_del(root, "custom_id");
    *body = json_incref(root);
    return system_add(messages, settings->system);
}

/* OpenAI's. */
static enum err long_form(json_t *root, struct batch_request *request, json_t **body)
{
    static const char *const paths[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings",
                                        "/v1/responses"};
    const char *method = json_text(root, "method", "POST"), *url = json_text(root, "url", paths[0]);
    json_t *given = json_object_get(root, "body");
    if (strcmp(method, "POST") != 0)
        return err_set(ERR_INVALID, "its method is %.20s; it can be POST alone", method);
    if (!json_is_object(given))
        return err_set(ERR_INVALID, "its body is no object");
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (strcmp(url, paths[i]) == 0) {
            snprintf(request->path, sizeof request->path, "%s", paths[i]);
            *body = json_incref(given);
            return ERR_OK;
        }
    }
    return err_set(ERR_INVALID,
                   "its url is %.60s; it can be /v1/chat/completions, /v1/completions, "
                   "/v1/embeddings or /v1/responses",
                   url);
}

static enum err custom_id_read(const json_t *root, struct batch_request *request)
{
    const json_t *id = json_object_get(root, "custom_id");
    if (id == NULL)
        return ERR_OK;
    if (!json_is_string(id) || json_string_length(id) == 0 || json_string_length(id) > BATCH_ID_MAX)
        return err_set(ERR_INVALID, "its custom_id is no text of 1 to %d bytes", BATCH_ID_MAX);
    snprintf(request->custom_id, sizeof request->custom_id, "%s", json_string_value(id));
    return ERR_OK;
}

static enum err body_finish(struct batch_request *request, json_t *body, const json_t *defaults,
                            const struct settings *settings)
{
    bool chats = strcmp(request->path, "/v1/chat/completions") == 0;
    int failed = 0;
    json_object_del(body, "stream");
    json_object_del(body, "stream_options");
    if (chats)
        failed |= json_object_update_missing(body, (json_t *)(uintptr_t)defaults);
    if (json_object_get(body, "model") == NULL)
        failed |= json_object_set_new(body, "model", json_string("default"));
    if (settings->user != NULL && json_object_get(body, "user") == NULL)
        failed |= json_object_set_new(body, "user", json_string(settings->user));
    if (failed != 0)
        return err_set(ERR_NOMEM, "out of memory");
    return json_write(body, &request->body);
}

enum err batch_request_read(struct batch_request *request, const char *line, size_t len,
                            const json_t *defaults, const struct settings *settings)
{
    json_t *root = NULL, *body = NULL;
    *request = (struct batch_request){.path = "/v1/chat/completions"};
    buf_init(&request->body, BATCH_LINE_MAX * 2);
    enum err err = json_parse(&root, line, len);
    if (err != ERR_OK)
        return err_prefix(ERR_INVALID, "no JSON");
    if (!json_is_object(root))
        err = err_set(ERR_INVALID, "it is no JSON object");
    if (err == ERR_OK) {
        request->whole =
            json_object_get(root, "body") != NULL || json_object_get(root, "url") != NULL;
        err = custom_id_read(root, request);
    }
    if (err == ERR_OK)
        err = request->whole ? long_form(root, request, &body) : short_form(root, settings, &body);
    if (err == ERR_OK)
        err = body_finish(request, body, defaults, settings);
    json_decref(body);
    json_decref(root);
    return err;
}

void batch_request_done(struct batch_request *request)
{
    if (request != NULL)
        buf_done(&request->body);
}

/* FNV-1a: for telling a wrong file, not an enemy's. */
uint64_t batch_check(const char *line, size_t len)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)line[i]) * 0x100000001b3u;
    return hash != 0 ? hash : 1;
}
