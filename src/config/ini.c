#include "config/ini.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"

struct reading {
    ini_value_fn *fn;
    void *arg;
    enum err err;
};

static enum err file_read(const char *path, struct buf *out)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        enum err code = errno == ENOENT ? ERR_NOT_FOUND : errno == EACCES ? ERR_DENIED : ERR_IO;
        return err_set(code, "can't open %s: %s", path, strerror(errno));
    }
    enum err err = ERR_OK;
    char part[4096];
    size_t len;
    while (err == ERR_OK && (len = fread(part, 1, sizeof part, file)) > 0) {
        if (buf_append(out, part, len) != ERR_OK)
            err = err_set(ERR_CONFIG, "%s is larger than %zu bytes", path, INI_FILE_MAX);
    }
    if (err == ERR_OK && ferror(file))
        err = err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
    fclose(file);
    return err;
}

/* libinih cuts longer lines silently, and stops at a NUL. */
static enum err lines_check(const char *path, const struct buf *text)
{
    if (text->len > 0 && memchr(text->data, '\0', text->len) != NULL)
        return err_set(ERR_CONFIG, "%s is not a text file", path);
    size_t line = 1, start = 0;
    for (size_t at = 0; at <= text->len; at++) {
        if (at < text->len && text->data[at] != '\n')
            continue;
        if (at - start > INI_LINE_MAX)
            return err_set(ERR_CONFIG, "%s: line %zu is longer than %d bytes", path, line,
                           INI_LINE_MAX);
        start = at + 1;
        line++;
    }
    return ERR_OK;
}

static int value_found(void *user, const char *section, const char *name, const char *value)
{
    struct reading *reading = user;
    if (reading->err == ERR_OK)
        reading->err = reading->fn(reading->arg, section, name, value);
    return reading->err == ERR_OK;
}

enum err ini_read(const char *path, ini_value_fn *fn, void *arg)
{
    struct reading reading = {.fn = fn, .arg = arg, .err = ERR_OK};
    struct buf text;
    buf_init(&text, INI_FILE_MAX);
    enum err err = file_read(path, &text);
    if (err == ERR_OK)
        err = lines_check(path, &text);
    if (err != ERR_OK)
        goto out;
    int line = ini_parse_string(buf_text(&text), value_found, &reading);
    if (reading.err != ERR_OK)
        err = err_prefix(reading.err, "%s: line %d", path, line);
    else if (line != 0)
        err = err_set(ERR_CONFIG, "%s: line %d is neither [section] nor name = value", path, line);
out:
    buf_done(&text);
    return err;
}
