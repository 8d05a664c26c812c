#include "verbs/histfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/outfile.h"

#define OWNER_ONLY 0600

static enum err cannot(const char *what, const char *path)
{
    return err_set(ERR_IO, "can't %s the history %s: %s", what, path, strerror(errno));
}

/* Opens a plain file that nobody else may read. */
static enum err file_open(int *out, const char *path, int flags)
{
    struct stat about;
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, OWNER_ONLY);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOT_FOUND : cannot("open", path);
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
        close(fd);
        return err_set(ERR_IO, "the history %s is no plain file", path);
    }
    if ((about.st_mode & 077) != 0)
        (void)fchmod(fd, OWNER_ONLY); /* somebody else's: they keep it as they like */
    *out = fd;
    return ERR_OK;
}

/* The file's end; *cut: there is more before it. */
static enum err tail_read(int fd, const char *path, struct buf *out, bool *cut)
{
    char part[65536];
    off_t size = lseek(fd, 0, SEEK_END);
    *cut = size > (off_t)HISTFILE_BYTES_MAX;
    if (size < 0 || lseek(fd, *cut ? size - (off_t)HISTFILE_BYTES_MAX : 0, SEEK_SET) < 0)
        return cannot("read", path);
    for (ssize_t len; (len = read(fd, part, sizeof part)) != 0;) {
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            return cannot("read", path);
        if (buf_append(out, part, (size_t)len) != ERR_OK)
            break; /* it grows while we read */
    }
    char *newline = *cut ? memchr(out->data, '\n', out->len) : NULL;
    if (newline != NULL)
        buf_consume(out, (size_t)(newline + 1 - out->data));
    return ERR_OK;
}

/* In place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '\\' && (at[1] == 'n' || at[1] == '\\'))
            *to++ = *++at == 'n' ? '\n' : '\\';
        else
            *to++ = *at;
    }
    *to = '\0';
}

/* Where the last HISTFILE_ENTRIES lines begin. */
static char *lines_last(struct buf *text)
{
    size_t count = 0;
    for (size_t at = text->len; at > 0; at--) {
        if (text->data[at - 1] == '\n' && at < text->len && ++count == HISTFILE_ENTRIES)
            return text->data + at;
    }
    return text->data;
}

static void file_shorten(const char *path, const char *text)
{
    struct outfile out;
    if (outfile_open(&out, path) != ERR_OK)
        return; /* next time */
    size_t len = strlen(text);
    if (fchmod(out.fd, OWNER_ONLY) == 0 && write(out.fd, text, len) == (ssize_t)len)
        (void)!outfile_publish(&out);
    else
        outfile_discard(&out);
}

enum err histfile_read(const char *path, void (*entry)(void *arg, const char *text), void *arg)
{
    int fd = -1;
    bool cut = false;
    struct buf text;
    enum err err = file_open(&fd, path, O_RDONLY);
    if (err == ERR_NOT_FOUND)
        return ERR_OK;
    if (err != ERR_OK)
        return err;
    buf_init(&text, HISTFILE_BYTES_MAX * 2);
    err = tail_read(fd, path, &text, &cut);
    close(fd);
    if (err == ERR_OK && text.len > 0) {
        char *from = lines_last(&text);
        if (cut)
            file_shorten(path, from);
        char *state = NULL;
        for (char *line = strtok_r(from, "\n", &state); line != NULL;
             line = strtok_r(NULL, "\n", &state)) {
            unescape(line);
            entry(arg, line);
        }
    }
    buf_done(&text);
    return err;
}

enum err histfile_add(const char *path, const char *text)
{
    struct buf line;
    int fd = -1;
    if (strlen(text) > HISTFILE_ENTRY_MAX)
        return ERR_OK;
    buf_init(&line, HISTFILE_ENTRY_MAX * 2 + 2);
    enum err err = ERR_OK;
    for (const char *at = text; *at != '\0' && err == ERR_OK; at++) {
        if (*at == '\n' || *at == '\\')
            err = buf_append_text(&line, *at == '\n' ? "\\n" : "\\\\");
        else if ((unsigned char)*at >= ' ' || *at == '\t')
            err = buf_append(&line, at, 1);
    }
    if (err == ERR_OK)
        err = buf_append_text(&line, "\n");
    if (err == ERR_OK)
        err = file_open(&fd, path, O_WRONLY | O_APPEND | O_CREAT);
    if (err == ERR_NOT_FOUND)
        err = cannot("write", path);
    if (err == ERR_OK && write(fd, line.data, line.len) != (ssize_t)line.len)
        err = cannot("write", path);
    if (fd >= 0)
        close(fd);
    buf_done(&line);
    return err;
}
