/*
 * files.h - small files of a checkpoint, read whole and bounded.  Private to src/convert/.
 */
#ifndef WYVERN_CONVERT_FILES_H
#define WYVERN_CONVERT_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/json.h"

#define FILES_JSON_LIMIT (64u << 20) /* largest JSON file of a checkpoint */

/* folder/name; ERR_LIMIT: too long, ERR_INVALID: name is no plain file name. */
MUST_USE enum err files_path(char out[PATH_MAX], const char *folder, const char *name);
bool files_exists(const char *folder, const char *name);

/* A regular file, open for reading, and its size. */
MUST_USE enum err files_open(int *fd, uint64_t *size, const char *path);
/* Exactly len bytes; ERR_INVALID when the file ends before. */
MUST_USE enum err files_read_at(int fd, uint64_t offset, void *out, size_t len, const char *path);

/* Appends the whole file. */
MUST_USE enum err files_read(struct buf *out, const char *folder, const char *name, size_t limit);
/* An object; json_decref it. */
MUST_USE enum err files_read_json(json_t **out, const char *folder, const char *name);

#endif
