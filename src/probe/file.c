#include "probe/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum err file_path(char out[PATH_MAX], const char *format, ...)
{
    va_list args;
    int len;

    va_start(args, format);
    len = vsnprintf(out, PATH_MAX, format, args);
    va_end(args);
    return len >= 0 && len < PATH_MAX ? ERR_OK : err_set(ERR_LIMIT, "a path is too long");
}

enum err file_read_text(const char *path, char *out, size_t cap)
{
    size_t len = 0;
    ssize_t got = 1;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't read %s: %s", path,
                       strerror(errno));
    while (got > 0 && len < cap - 1) {
        got = read(fd, out + len, cap - 1 - len);
        if (got > 0)
            len += (size_t)got;
        else if (got < 0 && errno == EINTR)
            got = 1;
    }
    out[len] = '\0';
    if (got < 0) /* the device behind it went away, or does not tell */
        err_set(ERR_OS, "can't read %s: %s", path, strerror(errno));
    close(fd);
    return got < 0 ? ERR_OS : ERR_OK;
}

enum err file_read_number(const char *path, int64_t *out)
{
    char text[32], *end;
    long long number;
    enum err err = file_read_text(path, text, sizeof text);

    if (err != ERR_OK)
        return err;
    errno = 0;
    number = strtoll(text, &end, 10);
    if (end == text || errno != 0 || (*end != '\0' && strcmp(end, "\n") != 0))
        return err_set(ERR_INVALID, "%s holds no number", path);
    *out = number;
    return ERR_OK;
}
