/*
 * held.h - which prompts an inference worker has in hand, by the subjects that acknowledge them.
 */
#ifndef WYVERN_ROLES_HELD_H
#define WYVERN_ROLES_HELD_H

#include <stddef.h>

#include "base/err.h"

#define HELD_MAX 4096 /* far above any worker's slots */

struct held { /* zeroed: empty */
    char **subjects;
    size_t count, cap;
};

void held_done(struct held *held);
/* ERR_LIMIT, ERR_NOMEM.  One that is there already stays once. */
MUST_USE enum err held_add(struct held *held, const char *subject);
void held_remove(struct held *held, const char *subject);
void held_clear(struct held *held);

#endif
