/*
 * file.h - small files of /proc, /sys and the like, read whole and at once.  Any thread.
 */
#ifndef WYVERN_PROBE_FILE_H
#define WYVERN_PROBE_FILE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Builds a path; ERR_LIMIT when it would be cut. */
MUST_USE enum err file_path(char out[PATH_MAX], const char *format, ...) PRINTF_LIKE(2, 3);

/* At most cap - 1 bytes from the start, and a NUL.  Never waits for a pipe's other end. */
MUST_USE enum err file_read_text(const char *path, char *out, size_t cap);
/* A file that holds one whole number, in decimal, and a newline or nothing behind it. */
MUST_USE enum err file_read_number(const char *path, int64_t *out);

#endif
