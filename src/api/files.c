#include "api/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/utf8.h"

static const char prefix[] = "file-";

void file_public_id(char out[FILE_PUBLIC_SIZE], const char *id)
{
    snprintf(out, FILE_PUBLIC_SIZE, "%s%.*s", prefix, ID_LEN, id);
}

bool file_id_parse(char out[ID_SIZE], const char *public_id)
{
    size_t len = sizeof prefix - 1;
    if (strncmp(public_id, prefix, len) != 0 || !id_is_valid(public_id + len, ID_LEN))
        return false;
    memcpy(out, public_id + len, ID_SIZE);
    return true;
}

enum err file_meta_encode(const struct file_meta *meta, struct buf *buf)
{
    struct json_out out;
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "id", meta->id);
    json_out_text(&out, "owner", meta->owner);
    json_out_text(&out, "name", meta->name);
    json_out_text(&out, "purpose", meta->purpose);
    json_out_uint(&out, "bytes", meta->bytes);
    json_out_uint(&out, "chunks", meta->chunks);
    json_out_time(&out, "created", meta->created);
    json_out_object_end(&out);
    return json_out_end(&out);
}

enum err file_meta_decode(struct file_meta *out, const char *data, size_t len)
{
    struct file_meta meta = {.bytes = 0};
    json_t *root = NULL;
    if (len == 0)
        return err_set(ERR_NOT_FOUND, "the file was deleted");
    enum err err = json_parse(&root, data, len);
    if (err != ERR_OK)
        return err;
    uint64_t chunks = json_uint(root, "chunks", 0);
    json_text_copy(root, "id", meta.id, sizeof meta.id);
    json_text_copy(root, "owner", meta.owner, sizeof meta.owner);
    json_text_copy(root, "name", meta.name, sizeof meta.name);
    json_text_copy(root, "purpose", meta.purpose, sizeof meta.purpose);
    meta.bytes = json_uint(root, "bytes", 0);
    meta.chunks = chunks < UINT32_MAX ? (unsigned)chunks : 0;
    meta.created = json_number(root, "created", 0);
    json_decref(root);
    if (!id_is_valid(meta.id, ID_LEN))
        return err_set(ERR_INVALID, "a stored file has no id");
    *out = meta;
    return ERR_OK;
}

enum err file_form_check(struct file_meta *out, const char *purpose, size_t purpose_len,
                         const char *name, struct api_error *error)
{
    if (purpose == NULL)
        return api_error_set(error, 400, "missing_required_parameter", "purpose",
                             "The form lacks 'purpose'.");
    if (purpose_len != strlen(FILE_PURPOSE) || memcmp(purpose, FILE_PURPOSE, purpose_len) != 0)
        return api_error_set(error, 400, "unsupported_value", "purpose",
                             "Files are kept here for 'purpose': 'batch' alone.");
    if (strlen(name) > FILE_NAME_MAX || !utf8_is_valid(name, strlen(name)))
        return api_error_set(error, 400, "invalid_value", "file",
                             "The file's name is not UTF-8 text of at most %d bytes.",
                             FILE_NAME_MAX);
    snprintf(out->name, sizeof out->name, "%s", name[0] != '\0' ? name : "file");
    snprintf(out->purpose, sizeof out->purpose, "%s", FILE_PURPOSE);
    return ERR_OK;
}

static void put_file(struct json_out *out, const struct file_meta *meta)
{
    char id[FILE_PUBLIC_SIZE];
    file_public_id(id, meta->id);
    json_out_object(out, NULL);
    json_out_text(out, "id", id);
    json_out_text(out, "object", "file");
    json_out_uint(out, "bytes", meta->bytes);
    json_out_int(out, "created_at", (int64_t)meta->created);
    json_out_null(out, "expires_at");
    json_out_text(out, "filename", meta->name);
    json_out_text(out, "purpose", meta->purpose);
    json_out_text(out, "status", "processed");
    json_out_null(out, "status_details");
    json_out_object_end(out);
}

enum err file_write(const struct file_meta *meta, struct buf *buf)
{
    struct json_out out;
    json_out_begin(&out, buf);
    put_file(&out, meta);
    return json_out_end(&out);
}

static void put_id(struct json_out *out, const char *key, const struct file_meta *meta)
{
    char id[FILE_PUBLIC_SIZE];
    if (meta != NULL)
        file_public_id(id, meta->id);
    json_out_text(out, key, meta != NULL ? id : NULL);
}

enum err file_list_write(const struct file_meta *metas, size_t count, bool more, struct buf *buf)
{
    struct json_out out;
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "object", "list");
    json_out_array(&out, "data");
    for (size_t i = 0; i < count; i++)
        put_file(&out, &metas[i]);
    json_out_array_end(&out);
    put_id(&out, "first_id", count > 0 ? &metas[0] : NULL);
    put_id(&out, "last_id", count > 0 ? &metas[count - 1] : NULL);
    json_out_flag(&out, "has_more", more);
    json_out_object_end(&out);
    return json_out_end(&out);
}

enum err file_deleted_write(const char *id, struct buf *buf)
{
    char public_id[FILE_PUBLIC_SIZE];
    struct json_out out;
    file_public_id(public_id, id);
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "id", public_id);
    json_out_text(&out, "object", "file");
    json_out_flag(&out, "deleted", true);
    json_out_object_end(&out);
    return json_out_end(&out);
}

/* ---- lists ---- */

enum err list_query_read(struct list_query *out, const char *limit, const char *after,
                         const char *order, unsigned most, unsigned fallback,
                         struct api_error *error)
{
    struct list_query query = {.limit = fallback};
    if (limit != NULL) {
        char *end = NULL;
        long value = strtol(limit, &end, 10);
        if (limit[0] < '0' || limit[0] > '9' || *end != '\0' || value < 1 || value > (long)most)
            return api_error_set(error, 400, "invalid_value", "limit",
                                 "'limit' must be a number from 1 to %u.", most);
        query.limit = (unsigned)value;
    }
    if (order != NULL && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return api_error_set(error, 400, "invalid_value", "order",
                             "'order' must be 'asc' or 'desc'.");
    query.ascending = order != NULL && strcmp(order, "asc") == 0;
    if (after != NULL && (after[0] == '\0' || strlen(after) >= sizeof query.after))
        return api_error_set(error, 400, "invalid_value", "after", "'after' is no id.");
    snprintf(query.after, sizeof query.after, "%s", after != NULL ? after : "");
    *out = query;
    return ERR_OK;
}

size_t list_query_cut(const struct list_query *query, size_t count, ptrdiff_t after, size_t *first,
                      bool *more)
{
    size_t at, left;
    if (query->ascending) {
        at = after < 0 ? 0 : (size_t)after + 1;
        left = count - at;
    } else {
        left = after < 0 ? count : (size_t)after;
        at = left > 0 ? left - 1 : 0;
    }
    *first = at;
    *more = left > query->limit;
    return *more ? query->limit : left;
}
