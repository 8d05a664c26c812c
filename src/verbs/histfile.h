/*
 * histfile.h - what was asked before, in a file: one entry a line, "\n" and "\\" escaped, for its
 * owner alone (0600).  Entries are appended one by one, so that several chats share the file; one
 * that has grown too large is cut down when it is read.  One thread.
 */
#ifndef WYVERN_VERBS_HISTFILE_H
#define WYVERN_VERBS_HISTFILE_H

#include <stddef.h>

#include "base/err.h"

#define HISTFILE_ENTRIES   500
#define HISTFILE_ENTRY_MAX ((size_t)16 << 10)
#define HISTFILE_BYTES_MAX ((size_t)1 << 20)

/* Gives the last entries, the oldest first.  No file: no entries. */
MUST_USE enum err histfile_read(const char *path, void (*entry)(void *arg, const char *text),
                                void *arg);
/* One that is larger than HISTFILE_ENTRY_MAX is not kept. */
MUST_USE enum err histfile_add(const char *path, const char *text);

#endif
