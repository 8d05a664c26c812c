#include "convert/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum err files_path(char out[PATH_MAX], const char *folder, const char *name)
{
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
        return err_set(ERR_INVALID, "%.200s: \"%.100s\" is not a file name", folder, name);
    int len = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    if (len < 0 || len >= PATH_MAX)
        return err_set(ERR_LIMIT, "the path %.100s…/%.100s is too long", folder, name);
    return ERR_OK;
}

bool files_exists(const char *folder, const char *name)
{
    char path[PATH_MAX];
    return files_path(path, folder, name) == ERR_OK && access(path, F_OK) == 0;
}

enum err files_open(int *fd, uint64_t *size, const char *path)
{
    /* non-blocking: a pipe of that name must not hold us */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;

    if (file < 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "can't read %s: %s", path,
                       strerror(errno));
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(file);
        return err_set(ERR_INVALID, "%s is not a file", path);
    }
    *fd = file;
    *size = (uint64_t)info.st_size;
    return ERR_OK;
}

enum err files_read_at(int fd, uint64_t offset, void *out, size_t len, const char *path)
{
    char *to = out;

    while (len > 0) {
        ssize_t got = pread(fd, to, len, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
        if (got == 0)
            return err_set(ERR_INVALID, "%s is cut short", path);
        to += got;
        offset += (uint64_t)got;
        len -= (size_t)got;
    }
    return ERR_OK;
}

enum err files_read(struct buf *out, const char *folder, const char *name, size_t limit)
{
    char path[PATH_MAX], chunk[16384];
    uint64_t size;
    int fd;
    enum err err = files_path(path, folder, name);
    if (err == ERR_OK)
        err = files_open(&fd, &size, path);
    if (err != ERR_OK)
        return err;
    if (size > limit)
        err = err_set(ERR_LIMIT, "%s is larger than %zu MiB", path, limit >> 20);
    for (uint64_t at = 0; err == ERR_OK && at < size;) {
        size_t part = size - at < sizeof chunk ? (size_t)(size - at) : sizeof chunk;
        err = files_read_at(fd, at, chunk, part, path);
        if (err == ERR_OK)
            err = buf_append(out, chunk, part);
        at += part;
    }
    close(fd);
    return err;
}

enum err files_read_json(json_t **out, const char *folder, const char *name)
{
    struct buf text;
    json_t *value = NULL;

    buf_init(&text, FILES_JSON_LIMIT);
    enum err err = files_read(&text, folder, name, FILES_JSON_LIMIT);
    if (err == ERR_OK) {
        err = json_parse(&value, buf_text(&text), text.len);
        if (err == ERR_OK && !json_is_object(value))
            err = err_set(ERR_INVALID, "not a JSON object");
        if (err != ERR_OK)
            err = err_prefix(err, "%.300s/%.100s", folder, name);
    }
    buf_done(&text);
    if (err != ERR_OK) {
        json_decref(value);
        return err;
    }
    *out = value;
    return ERR_OK;
}
