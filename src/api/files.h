/*
 * files.h - /v1/files: what is kept of a file beside its bytes, and how clients see it.  Pure.
 *
 * Source: OpenAI API reference, Files.
 */
#ifndef WYVERN_API_FILES_H
#define WYVERN_API_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"
#include "base/buf.h"
#include "base/id.h"
#include "wire/json.h"
#include "wire/prompt.h"

#define FILE_NAME_MAX     255
#define FILE_PUBLIC_SIZE  (5 + ID_SIZE) /* "file-…" */
#define FILE_PURPOSE_SIZE 16
#define FILE_PURPOSE      "batch"
#define FILE_PURPOSE_MADE "batch_output"
#define FILES_LIST_MOST   10000

struct file_meta {
    char id[ID_SIZE];
    char owner[OWNER_LEN + 1]; /* id of the key it was sent with; "": none */
    char name[FILE_NAME_MAX + 1];
    char purpose[FILE_PURPOSE_SIZE];
    uint64_t bytes;
    unsigned chunks; /* objects that hold them */
    double created;  /* Unix seconds */
};

/* "file-…" ↔ id; false: it is none. */
void file_public_id(char out[FILE_PUBLIC_SIZE], const char *id);
bool file_id_parse(char out[ID_SIZE], const char *public_id);

/* As it is stored; nothing (len 0) stands for a file that was deleted: ERR_NOT_FOUND. */
MUST_USE enum err file_meta_encode(const struct file_meta *meta, struct buf *out);
MUST_USE enum err file_meta_decode(struct file_meta *out, const char *data, size_t len);

/* What a form says beside the bytes; the texts need no NUL behind them. */
MUST_USE enum err file_form_check(struct file_meta *out, const char *purpose, size_t purpose_len,
                                  const char *name, struct api_error *error);

/* As clients see it. */
MUST_USE enum err file_write(const struct file_meta *meta, struct buf *out);
MUST_USE enum err file_list_write(const struct file_meta *metas, size_t count, bool more,
                                  struct buf *out);
MUST_USE enum err file_deleted_write(const char *id, struct buf *out);

/* limit, after and order of a list's query; NULL: not given. */
struct list_query {
    unsigned limit;
    bool ascending;
    char after[64]; /* public id; "": from the beginning */
};
MUST_USE enum err list_query_read(struct list_query *out, const char *limit, const char *after,
                                  const char *order, unsigned most, unsigned fallback,
                                  struct api_error *error);
/* Which of count items, oldest first, a list shows: *first is the first that is shown, and further
 * ones follow in the query's direction.  after: index of the item named by query.after, or −1.
 * Returns how many; *more: there are others behind them. */
size_t list_query_cut(const struct list_query *query, size_t count, ptrdiff_t after, size_t *first,
                      bool *more);

#endif
