#include "convert/checkpoint.h"

#include <ggml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/files.h"

static const char zip_magic[4] = {'P', 'K', 3, 4};

size_t dtype_size(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : dtype == DTYPE_OTHER ? 0 : 2;
}

/* Fills count, span and contiguous; false: they overflow. */
static bool measure_tensor(struct tensor *tensor)
{
    uint64_t dense = 1;

    tensor->span = 1;
    tensor->contiguous = true;
    for (unsigned i = tensor->dims; i-- > 0;) {
        uint64_t size = tensor->shape[i], reach;
        if (size == 0 || __builtin_mul_overflow(size - 1, tensor->stride[i], &reach) ||
            __builtin_add_overflow(tensor->span, reach, &tensor->span))
            return false;
        if (size > 1 && tensor->stride[i] != dense)
            tensor->contiguous = false;
        if (__builtin_mul_overflow(dense, size, &dense))
            return false;
    }
    tensor->count = dense;
    return dense <= INT64_MAX / 16 && tensor->span <= INT64_MAX / 16;
}

enum err tensor_list_add(struct tensor_list *list, const struct tensor *tensor, const char *name,
                         const char *path)
{
    struct tensor added = *tensor;
    size_t len = strlen(name);

    if (len == 0 || len > TENSOR_MAX_NAME)
        return err_set(ERR_INVALID, "%s: a tensor's name has %zu bytes", path, len);
    if (!measure_tensor(&added))
        return err_set(ERR_INVALID, "%s: tensor %s has an impossible shape", path, name);
    if (list->count == CHECKPOINT_TENSORS)
        return err_set(ERR_LIMIT, "%s: more than %d tensors", path, CHECKPOINT_TENSORS);
    if (list->count == list->cap) {
        size_t cap = list->cap > 0 ? list->cap * 2 : 256;
        struct tensor *items = realloc(list->items, cap * sizeof *items);
        if (items == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        list->items = items;
        list->cap = cap;
    }
    added.name = strdup(name);
    if (added.name == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    list->items[list->count++] = added;
    return ERR_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* Opens one file of weights and lists what it holds. */
static enum err add_part(struct checkpoint *checkpoint, const char *folder, const char *name)
{
    char path[PATH_MAX], head[16] = {0};

    if (checkpoint->part_count == CHECKPOINT_PARTS)
        return err_set(ERR_LIMIT, "%.300s: more than %d files of weights", folder,
                       CHECKPOINT_PARTS);
    enum err err = files_path(path, folder, name);
    if (err != ERR_OK)
        return err;
    unsigned number = checkpoint->part_count;
    struct part *part = &checkpoint->parts[number];
    err = files_open(&part->fd, &part->size, path);
    if (err != ERR_OK)
        return err;
    checkpoint->part_count++;
    part->path = strdup(path);
    if (part->path == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    if (part->size < sizeof head)
        return err_set(ERR_INVALID, "%s is cut short", path);
    err = files_read_at(part->fd, 0, head, sizeof head, path);
    if (err != ERR_OK)
        return err;
    if (strstr(name, ".safetensors") != NULL)
        return safetensors_list(part, number, &checkpoint->tensors);
    if (memcmp(head, zip_magic, sizeof zip_magic) == 0)
        return torch_zip_list(part, number, &checkpoint->tensors);
    return torch_legacy_list(part, number, &checkpoint->tensors);
}

/* The files that an index names, each once. */
static enum err add_index(struct checkpoint *checkpoint, const char *folder, const char *name)
{
    json_t *index = NULL, *value;
    const char *key;
    enum err err = files_read_json(&index, folder, name);
    if (err != ERR_OK)
        return err;
    json_t *map = json_object_get(index, "weight_map");
    json_t *seen = json_object();
    if (!json_is_object(map) || json_object_size(map) == 0)
        err = err_set(ERR_INVALID, "%.300s/%s has no weight_map", folder, name);
    else if (seen == NULL)
        err = err_set(ERR_NOMEM, "out of memory");
    if (err != ERR_OK)
        goto out;
    json_object_foreach(map, key, value)
    {
        const char *file = json_string_value(value);
        if (file == NULL)
            err = err_set(ERR_INVALID, "%.300s/%s: weight_map says no file for %.100s", folder,
                          name, key);
        else if (json_object_get(seen, file) == NULL)
            err = json_object_set_new(seen, file, json_true()) == 0
                      ? add_part(checkpoint, folder, file)
                      : err_set(ERR_NOMEM, "out of memory");
        if (err != ERR_OK)
            goto out;
    }
out:
    json_decref(seen);
    json_decref(index);
    return err;
}

enum err checkpoint_open(struct checkpoint **out, const char *folder)
{
    static const char *const places[] = {"model.safetensors", "model.safetensors.index.json",
                                         "pytorch_model.bin", "pytorch_model.bin.index.json"};
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    enum err err = ERR_OK;
    size_t place = 0;

    if (checkpoint == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    while (place < 4 && !files_exists(folder, places[place]))
        place++;
    if (place == 4)
        err = err_set(ERR_NOT_FOUND,
                      "%s holds no weights: neither model.safetensors nor pytorch_model.bin, nor "
                      "an index of either",
                      folder);
    else if (place % 2 == 0)
        err = add_part(checkpoint, folder, places[place]);
    else
        err = add_index(checkpoint, folder, places[place]);
    struct tensor_list *list = &checkpoint->tensors;
    if (err == ERR_OK && list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, by_name);
    for (size_t i = 1; err == ERR_OK && i < list->count; i++) {
        if (strcmp(list->items[i - 1].name, list->items[i].name) == 0)
            err = err_set(ERR_INVALID, "%s: tensor %s is there twice",
                          checkpoint->parts[list->items[i].part].path, list->items[i].name);
    }
    if (err != ERR_OK) {
        checkpoint_free(checkpoint);
        return err;
    }
    *out = checkpoint;
    return ERR_OK;
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (unsigned i = 0; i < checkpoint->part_count; i++) {
        struct part *part = &checkpoint->parts[i];
        torch_zip_close(part);
        close(part->fd);
        free(part->path);
    }
    for (size_t i = 0; i < checkpoint->tensors.count; i++)
        free(checkpoint->tensors.items[i].name);
    free(checkpoint->tensors.items);
    free(checkpoint);
}

const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name)
{
    char copy[TENSOR_MAX_NAME + 1];
    if (checkpoint->tensors.count == 0 || strlen(name) > TENSOR_MAX_NAME)
        return NULL;
    snprintf(copy, sizeof copy, "%s", name);
    struct tensor key = {.name = copy};
    return bsearch(&key, checkpoint->tensors.items, checkpoint->tensors.count, sizeof key, by_name);
}

/* Copies the elements of a tensor that is stored in another order than its own. */
static void gather(const struct tensor *tensor, const char *raw, size_t size, char *out)
{
    uint64_t at[TENSOR_MAX_DIMS] = {0}, from = 0;

    for (uint64_t i = 0; i < tensor->count; i++) {
        memcpy(out + i * size, raw + from * size, size);
        for (unsigned d = tensor->dims; d-- > 0;) {
            from += tensor->stride[d];
            if (++at[d] < tensor->shape[d])
                break;
            from -= tensor->stride[d] * tensor->shape[d];
            at[d] = 0;
        }
    }
}

static enum err read_raw(struct checkpoint *checkpoint, const struct tensor *tensor, uint64_t first,
                         uint64_t count, void *out)
{
    struct part *part = &checkpoint->parts[tensor->part];
    size_t size = dtype_size(tensor->dtype);
    uint64_t offset = tensor->offset + first * size;

    if (part->kind == PART_ZIP)
        return torch_zip_read(part, tensor->entry, offset, out, count * size);
    return files_read_at(part->fd, offset, out, count * size, part->path);
}

enum err checkpoint_read(struct checkpoint *checkpoint, const struct tensor *tensor, uint64_t first,
                         uint64_t count, float *out)
{
    size_t size = dtype_size(tensor->dtype);
    char *raw = malloc(count * size);
    char *stored = tensor->contiguous ? NULL : malloc(tensor->span * size);
    enum err err;

    if (raw == NULL || (stored == NULL && !tensor->contiguous)) {
        err = err_set(ERR_NOMEM, "out of memory for tensor %s", tensor->name);
        goto out;
    }
    if (tensor->contiguous) {
        err = read_raw(checkpoint, tensor, first, count, raw);
    } else {
        err = read_raw(checkpoint, tensor, 0, tensor->span, stored);
        if (err == ERR_OK)
            gather(tensor, stored, size, raw);
    }
    if (err != ERR_OK) {
        err = err_prefix(err, "tensor %s", tensor->name);
        goto out;
    }
    if (tensor->dtype == DTYPE_F16)
        ggml_fp16_to_fp32_row((const ggml_fp16_t *)(void *)raw, out, (int64_t)count);
    else if (tensor->dtype == DTYPE_BF16)
        ggml_bf16_to_fp32_row((const ggml_bf16_t *)(void *)raw, out, (int64_t)count);
    else
        memcpy(out, raw, count * size);
out:
    free(stored);
    free(raw);
    return err;
}
