#include "roles/args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(struct args *args, const char *text)
{
    if (args->err != ERR_OK)
        return;
    if (args->count == ARGS_MAX) {
        args->err = err_set(ERR_INTERNAL, "a child's command line is too long");
        return;
    }
    char *copy = strdup(text);
    if (!copy) {
        args->err = err_set(ERR_NOMEM, "out of memory");
        return;
    }
    args->items[args->count++] = copy;
    args->items[args->count] = NULL;
}

void args_init(struct args *args, const char *program, const char *role)
{
    *args = (struct args){.err = ERR_OK};
    add(args, program);
    add(args, role);
}

void args_done(struct args *args)
{
    for (size_t i = 0; i < args->count; i++)
        free(args->items[i]);
    *args = (struct args){.err = ERR_OK};
}

void args_text(struct args *args, const char *name, const char *text)
{
    if (!text)
        return;
    add(args, name);
    add(args, text);
}

void args_number(struct args *args, const char *name, long long value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    args_text(args, name, text);
}

void args_level(struct args *args, enum log_level level)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    args_text(args, "--log-level", names[level]);
}
