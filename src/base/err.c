#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_SIZE 512

static _Thread_local char last_text[TEXT_SIZE];

enum err err_set(enum err code, const char *format, ...)
{
    /* Formatted aside first: an argument may be err_text() itself. */
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(last_text, text, sizeof last_text);
    return code;
}

enum err err_prefix(enum err code, const char *format, ...)
{
    char head[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(head, sizeof head, format, args);
    va_end(args);
    return err_set(code, "%s: %s", head, last_text);
}

const char *err_text(void)
{
    return last_text;
}

static const struct {
    const char *name;
    int exit_status;
} table[ERR_COUNT] = {
#define ERR_ROW(code, status, text) [code] = {text, status},
    ERR_LIST(ERR_ROW)
#undef ERR_ROW
};

const char *err_name(enum err code)
{
    return (unsigned)code < ERR_COUNT ? table[code].name : "unknown";
}

int err_exit_status(enum err code)
{
    return (unsigned)code < ERR_COUNT ? table[code].exit_status : EX_SOFTWARE;
}
