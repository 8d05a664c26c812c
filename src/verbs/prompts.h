/*
 * prompts.h - what the load generator asks: fifteen everyday questions, or a file's lines.
 */
#ifndef WYVERN_VERBS_PROMPTS_H
#define WYVERN_VERBS_PROMPTS_H

#include <stddef.h>

#include "base/err.h"

#define PROMPTS_MAX      100000
#define PROMPTS_FILE_MAX ((size_t)256 << 20)

struct prompts {
    const char *const *items;
    size_t count;
    char **lines; /* owned; NULL for the built-in ones */
    char *text;
};

/* path NULL: the built-in ones; "-": standard input.  Empty lines do not count. */
MUST_USE enum err prompts_read(struct prompts *out, const char *path);
void prompts_done(struct prompts *prompts);

#endif
