#include "convert/torch_state.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned size;
    enum dtype dtype;
} types[] = {
    {"FloatStorage", 4, DTYPE_F32},     {"HalfStorage", 2, DTYPE_F16},
    {"BFloat16Storage", 2, DTYPE_BF16}, {"DoubleStorage", 8, DTYPE_OTHER},
    {"LongStorage", 8, DTYPE_OTHER},    {"IntStorage", 4, DTYPE_OTHER},
    {"ShortStorage", 2, DTYPE_OTHER},   {"CharStorage", 1, DTYPE_OTHER},
    {"ByteStorage", 1, DTYPE_OTHER},    {"BoolStorage", 1, DTYPE_OTHER},
};

unsigned storage_element_size(const struct pickle_value *type, enum dtype *dtype)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (type->count == strlen(types[i].name) &&
            memcmp(type->as.text, types[i].name, type->count) == 0) {
            *dtype = types[i].dtype;
            return types[i].size;
        }
    }
    *dtype = DTYPE_OTHER;
    return 0;
}

/* Sizes or strides: non-negative ints. */
static bool read_dims(const struct pickle *pickle, const struct pickle_value *tuple, uint64_t *out)
{
    for (uint32_t i = 0; i < tuple->count; i++) {
        const struct pickle_value *value = pickle_item(pickle, tuple, i);
        if (value->kind != PICKLE_INT || value->as.number < 0)
            return false;
        out[i] = (uint64_t)value->as.number;
    }
    return true;
}

/* Every element of its storage's part once, in whatever order: else a few stored numbers could
 * claim to be any number of them. */
static bool is_dense(const struct tensor *tensor)
{
    uint64_t stride = 1;
    bool used[TENSOR_MAX_DIMS] = {false};

    for (unsigned round = 0; round < tensor->dims; round++) {
        unsigned i = 0;
        while (i < tensor->dims &&
               (used[i] || (tensor->shape[i] > 1 && tensor->stride[i] != stride)))
            i++;
        if (i == tensor->dims)
            return false;
        used[i] = true;
        stride *= tensor->shape[i];
    }
    return true;
}

static enum err add_tensor(const struct pickle *pickle, const struct pickle_value *value,
                           const char *name, struct part *part, unsigned number,
                           storage_find_fn *find, void *arg, struct tensor_list *out)
{
    const struct pickle_value *storage = pickle_item(pickle, value, 0);
    const struct pickle_value *type = pickle_item(pickle, storage, 0);
    const struct pickle_value *key = pickle_item(pickle, storage, 1);
    const struct pickle_value *offset = pickle_item(pickle, value, 1);
    const struct pickle_value *size = pickle_item(pickle, value, 2);
    const struct pickle_value *stride = pickle_item(pickle, value, 3);
    int64_t numel = pickle_item(pickle, storage, 2)->as.number;
    struct tensor tensor = {.part = number};
    struct storage_place place;
    char key_text[STORAGE_MAX_KEY];

    unsigned element = storage_element_size(type, &tensor.dtype);
    if (element == 0)
        return err_set(ERR_UNSUPPORTED, "%s: tensor %s has the unknown storage type %.*s",
                       part->path, name, (int)type->count, type->as.text);
    snprintf(tensor.dtype_name, sizeof tensor.dtype_name, "%.*s", (int)type->count, type->as.text);
    if (numel < 0 || (uint64_t)numel > INT64_MAX / 16 || key->count >= sizeof key_text ||
        memchr(key->as.text, '\0', key->count) != NULL || offset->as.number < 0 ||
        size->count != stride->count || size->count > TENSOR_MAX_DIMS ||
        !read_dims(pickle, size, tensor.shape) || !read_dims(pickle, stride, tensor.stride))
        return err_set(ERR_INVALID, "%s: tensor %s: its size, strides or storage make no sense",
                       part->path, name);
    snprintf(key_text, sizeof key_text, "%.*s", (int)key->count, key->as.text);
    tensor.dims = size->count;
    enum err err = find(arg, key_text, (uint64_t)numel * element, &place);
    if (err != ERR_OK)
        return err_prefix(err, "tensor %s", name);
    if ((uint64_t)offset->as.number > (uint64_t)numel)
        return err_set(ERR_INVALID, "%s: tensor %s begins behind its storage", part->path, name);
    tensor.entry = place.entry;
    tensor.offset = place.offset + (uint64_t)offset->as.number * element;
    err = tensor_list_add(out, &tensor, name, part->path);
    if (err != ERR_OK)
        return err;
    const struct tensor *added = &out->items[out->count - 1];
    if (added->span > (uint64_t)(numel - offset->as.number))
        return err_set(ERR_INVALID, "%s: tensor %s reaches behind its storage", part->path, name);
    if (!added->contiguous && !is_dense(added))
        return err_set(ERR_UNSUPPORTED,
                       "%s: tensor %s lies scattered in its storage, or overlaps itself",
                       part->path, name);
    return ERR_OK;
}

enum err torch_state_list(const struct pickle *pickle, struct part *part, unsigned number,
                          storage_find_fn *find, void *arg, struct tensor_list *out)
{
    const struct pickle_value *root = pickle_at(pickle, pickle->root);

    if (root->kind != PICKLE_DICT)
        return err_set(ERR_INVALID, "%s holds no state dict", part->path);
    for (uint32_t i = 0; i + 1 < root->count; i += 2) {
        const struct pickle_value *key = pickle_item(pickle, root, i);
        const struct pickle_value *value = pickle_item(pickle, root, i + 1);
        char name[TENSOR_MAX_NAME + 1];
        if (key->kind != PICKLE_TEXT || key->count >= sizeof name ||
            memchr(key->as.text, '\0', key->count) != NULL)
            return err_set(ERR_INVALID, "%s: a key of its state dict is no tensor's name",
                           part->path);
        snprintf(name, sizeof name, "%.*s", (int)key->count, key->as.text);
        if (value->kind != PICKLE_TENSOR)
            return err_set(ERR_INVALID, "%s: %s in its state dict is no tensor", part->path, name);
        enum err err = add_tensor(pickle, value, name, part, number, find, arg, out);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}
