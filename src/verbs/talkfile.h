/*
 * talkfile.h - a conversation in a file: {"wyvern_chat": 1, "system": …, "messages": [{"role",
 * "content"}, …]}, as the API takes messages.  What is read is checked like any input.
 */
#ifndef WYVERN_VERBS_TALKFILE_H
#define WYVERN_VERBS_TALKFILE_H

#include <stdbool.h>

#include "verbs/talk.h"

/* The whole file or nothing of it, for its owner alone.  replace: there may be one.  ERR_EXISTS. */
MUST_USE enum err talkfile_write(const char *path, const struct talk *talk, const char *system,
                                 bool replace);
/* On success talk holds the file's messages and nothing else; *system is its system message, or
 * NULL (free() it). */
MUST_USE enum err talkfile_read(const char *path, struct talk *talk, char **system);

#endif
