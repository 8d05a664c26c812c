/*
 * args.h - the command line of a child that runs one of our own roles.
 */
#ifndef WYVERN_ROLES_ARGS_H
#define WYVERN_ROLES_ARGS_H

#include <stddef.h>

#include "base/err.h"
#include "base/log.h"

#define ARGS_MAX 64

struct args {
    char *items[ARGS_MAX + 1]; /* NULL-terminated, owned */
    size_t count;
    enum err err; /* of the first call that failed; the others then do nothing */
};

/* program role */
void args_init(struct args *args, const char *program, const char *role);
void args_done(struct args *args);
/* --name VALUE; nothing when text is NULL. */
void args_text(struct args *args, const char *name, const char *text);
void args_number(struct args *args, const char *name, long long value);
void args_level(struct args *args, enum log_level level); /* --log-level */

#endif
