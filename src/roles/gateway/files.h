/*
 * files.h - /v1/files: files that clients send, and those that batches make.
 *
 * A file is objects "file.<id>.0" … of at most OBJECT_BYTES_MAX, and "file.<id>.meta", which is put
 * last: a file that was written by half does not exist.  Nothing of a file stays in memory.
 * Loop's thread only.
 */
#ifndef WYVERN_ROLES_GATEWAY_FILES_H
#define WYVERN_ROLES_GATEWAY_FILES_H

#include "api/files.h"
#include "roles/gateway/gateway.h"

route_fn files_post, files_list, files_get, files_content, files_delete;

/* A form with a file may be larger than other bodies (--file-limit), of those who have a key; arg:
 * the gateway. */
http_admit_fn files_admit;

#define FILE_OBJECT_SIZE 64
void file_chunk_name(char out[FILE_OBJECT_SIZE], const char *id, unsigned chunk);
void file_meta_name(char out[FILE_OBJECT_SIZE], const char *id);

#endif
