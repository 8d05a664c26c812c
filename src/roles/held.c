#include "roles/held.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool find(const struct held *held, const char *subject, size_t *at)
{
    for (size_t i = 0; i < held->count; i++) {
        if (strcmp(held->subjects[i], subject) == 0) {
            *at = i;
            return true;
        }
    }
    return false;
}

void held_done(struct held *held)
{
    held_clear(held);
    free(held->subjects);
    *held = (struct held){0};
}

enum err held_add(struct held *held, const char *subject)
{
    size_t at;
    if (find(held, subject, &at))
        return ERR_OK;
    if (held->count == HELD_MAX)
        return err_set(ERR_LIMIT, "a worker holds more than %d prompts", HELD_MAX);
    if (held->count == held->cap) {
        size_t cap = held->cap ? held->cap * 2 : 16;
        char **grown = realloc(held->subjects, cap * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory");
        held->subjects = grown;
        held->cap = cap;
    }
    char *copy = strdup(subject);
    if (!copy)
        return err_set(ERR_NOMEM, "out of memory");
    held->subjects[held->count++] = copy;
    return ERR_OK;
}

void held_remove(struct held *held, const char *subject)
{
    size_t at;
    if (!find(held, subject, &at))
        return;
    free(held->subjects[at]);
    held->subjects[at] = held->subjects[--held->count];
}

void held_clear(struct held *held)
{
    for (size_t i = 0; i < held->count; i++)
        free(held->subjects[i]);
    held->count = 0;
}
