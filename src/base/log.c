#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static char role_name[64] = "wyvern";
static _Atomic int threshold = LOG_LEVEL_INFO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_init(const char *role, enum log_level level)
{
    snprintf(role_name, sizeof role_name, "%s", role);
    atomic_store(&threshold, level);
}

enum err log_level_parse(const char *text, enum log_level *level)
{
    for (size_t i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return ERR_OK;
        }
    }
    return err_set(ERR_USAGE, "log level \"%s\" is none of error, warn, info, debug", text);
}

static int write_stamp(char *out, size_t cap)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t len = strftime(out, cap, "%Y-%m-%dT%H:%M:%S", &utc);
    return (int)len + snprintf(out + len, cap - len, ".%03ldZ", now.tv_nsec / 1000000);
}

void log_at(enum log_level level, const char *format, ...)
{
    if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed))
        return;
    char line[LINE_MAX_BYTES];
    const size_t cap = sizeof line - 1; /* room for the newline */
    size_t len = (size_t)write_stamp(line, cap);
    len += (size_t)snprintf(line + len, cap - len, " %s %s ", level_names[level], role_name);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + len, cap - len, format, args);
    va_end(args);
    if (more > 0)
        len += (size_t)more < cap - len ? (size_t)more : cap - len - 1;
    /* What came from outside must not end the line or drive the terminal. */
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* a log that can't be written has nobody to tell */
}
