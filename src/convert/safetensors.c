/*
 * safetensors.c - an 8-byte length, a JSON header, and the bytes of all tensors without holes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/checkpoint.h"
#include "convert/files.h"

static const struct {
    const char *name;
    unsigned bits;
    enum dtype dtype;
} dtypes[] = {
    {"F32", 32, DTYPE_F32},   {"F16", 16, DTYPE_F16},      {"BF16", 16, DTYPE_BF16},
    {"F64", 64, DTYPE_OTHER}, {"I64", 64, DTYPE_OTHER},    {"I32", 32, DTYPE_OTHER},
    {"I16", 16, DTYPE_OTHER}, {"I8", 8, DTYPE_OTHER},      {"U64", 64, DTYPE_OTHER},
    {"U32", 32, DTYPE_OTHER}, {"U16", 16, DTYPE_OTHER},    {"U8", 8, DTYPE_OTHER},
    {"BOOL", 8, DTYPE_OTHER}, {"F8_E4M3", 8, DTYPE_OTHER}, {"F8_E5M2", 8, DTYPE_OTHER},
    {"C64", 64, DTYPE_OTHER},
};

/* Where a tensor's bytes lie, to look for holes and overlaps. */
struct extent {
    uint64_t begin, end;
    const char *name;
};

static int by_begin(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static bool read_size(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* One row of the header; its bytes lie in extent.  False: it makes no sense. */
static bool read_row(const json_t *row, struct tensor *tensor, struct extent *extent)
{
    const char *dtype = json_text(row, "dtype", "");
    const json_t *shape = json_object_get(row, "shape");
    const json_t *offsets = json_object_get(row, "data_offsets");
    size_t kind = 0, kinds = sizeof dtypes / sizeof *dtypes;
    uint64_t bits;

    while (kind < kinds && strcmp(dtypes[kind].name, dtype) != 0)
        kind++;
    if (kind == kinds || !json_is_array(shape) || json_array_size(shape) > TENSOR_MAX_DIMS ||
        json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &extent->begin) ||
        !read_size(json_array_get(offsets, 1), &extent->end) || extent->end < extent->begin)
        return false;
    tensor->dtype = dtypes[kind].dtype;
    snprintf(tensor->dtype_name, sizeof tensor->dtype_name, "%s", dtype);
    tensor->dims = (unsigned)json_array_size(shape);
    bits = dtypes[kind].bits;
    uint64_t stride = 1;
    for (unsigned i = tensor->dims; i-- > 0;) {
        tensor->stride[i] = stride;
        if (!read_size(json_array_get(shape, i), &tensor->shape[i]) ||
            __builtin_mul_overflow(bits, tensor->shape[i], &bits) ||
            __builtin_mul_overflow(stride, tensor->shape[i], &stride))
            return false;
    }
    return bits / 8 == extent->end - extent->begin;
}

static enum err check_extents(struct extent *extents, size_t count, uint64_t data, const char *path)
{
    uint64_t end = 0;

    for (size_t i = 0; i < count; i++) {
        if (extents[i].end > data)
            return err_set(ERR_INVALID, "%s: tensor %s lies behind the file's end (cut short?)",
                           path, extents[i].name);
    }
    if (count > 0)
        qsort(extents, count, sizeof *extents, by_begin);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].begin < end)
            return err_set(ERR_INVALID, "%s: tensor %s overlaps another", path, extents[i].name);
        if (extents[i].begin > end)
            return err_set(ERR_INVALID, "%s: there is a hole before tensor %s", path,
                           extents[i].name);
        end = extents[i].end;
    }
    if (end != data)
        return err_set(ERR_INVALID, "%s: %llu bytes belong to no tensor", path,
                       (unsigned long long)(data - end));
    return ERR_OK;
}

static enum err read_header(json_t **out, const struct part *part, uint64_t *data)
{
    unsigned char head[8];
    uint64_t len = 0;
    enum err err = files_read_at(part->fd, 0, head, sizeof head, part->path);
    if (err != ERR_OK)
        return err;
    for (int i = 7; i >= 0; i--)
        len = len << 8 | head[i];
    if (len > part->size - 8)
        return err_set(ERR_INVALID, "%s: its header claims %llu bytes, the file has %llu",
                       part->path, (unsigned long long)len, (unsigned long long)part->size);
    if (len > CHECKPOINT_HEADER)
        return err_set(ERR_LIMIT, "%s: its header is larger than %u MiB", part->path,
                       CHECKPOINT_HEADER >> 20);
    char *text = malloc(len + 1);
    json_t *header = NULL;
    if (text == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    err = files_read_at(part->fd, 8, text, len, part->path);
    if (err == ERR_OK) {
        err = json_parse(&header, text, len);
        if (err == ERR_OK && !json_is_object(header))
            err = err_set(ERR_INVALID, "not an object");
        if (err != ERR_OK)
            err = err_prefix(err, "%s: its header", part->path);
    }
    free(text);
    if (err != ERR_OK) {
        json_decref(header);
        return err;
    }
    *out = header;
    *data = 8 + len;
    return ERR_OK;
}

enum err safetensors_list(struct part *part, unsigned number, struct tensor_list *out)
{
    json_t *header = NULL, *row;
    const char *name;
    uint64_t data = 0;
    size_t count = 0;
    enum err err = read_header(&header, part, &data);
    if (err != ERR_OK)
        return err;
    struct extent *extents = calloc(json_object_size(header) + 1, sizeof *extents);
    if (extents == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    json_object_foreach(header, name, row)
    {
        struct tensor tensor = {.part = number};
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (!read_row(row, &tensor, &extents[count])) {
            err = err_set(ERR_INVALID, "%s: tensor %.255s: dtype, shape and offsets do not agree",
                          part->path, name);
            goto out;
        }
        extents[count].name = name;
        tensor.offset = data + extents[count++].begin;
        err = tensor_list_add(out, &tensor, name, part->path);
        if (err != ERR_OK)
            goto out;
    }
    err = check_extents(extents, count, part->size - data, part->path);
out:
    free(extents);
    json_decref(header);
    return err;
}
