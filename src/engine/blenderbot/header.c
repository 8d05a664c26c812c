#include "engine/blenderbot/header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err bb_read_u32(const struct gguf_context *gguf, const char *name, uint32_t min, uint32_t max,
                     uint32_t *out)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_UINT32)
        return err_set(ERR_INVALID, "its header lacks %s", key);
    uint32_t value = gguf_get_val_u32(gguf, id);
    if (value < min || value > max)
        return err_set(ERR_INVALID, "its header has a senseless %s (%u)", key, value);
    *out = value;
    return ERR_OK;
}

enum err bb_read_size(const struct gguf_context *gguf, const char *name, uint32_t min, uint32_t max,
                      size_t *out)
{
    uint32_t value = 0;
    enum err err = bb_read_u32(gguf, name, min, max, &value);
    if (err == ERR_OK)
        *out = value;
    return err;
}

bool bb_has_key(const struct gguf_context *gguf, const char *name)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    return gguf_find_key(gguf, key) >= 0;
}

enum err bb_read_default_size(const struct gguf_context *gguf, const char *name, uint32_t min,
                              uint32_t max, size_t *out)
{
    return bb_has_key(gguf, name) ? bb_read_size(gguf, name, min, max, out) : ERR_OK;
}

enum err bb_read_default_float(const struct gguf_context *gguf, const char *name, float min,
                               float max, float *out)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_FLOAT32)
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    float value = gguf_get_val_f32(gguf, id);
    if (!(value >= min && value <= max))
        return err_set(ERR_INVALID, "its header has a senseless %s (%g)", key, (double)value);
    *out = value;
    return ERR_OK;
}

enum err bb_read_default_bool(const struct gguf_context *gguf, const char *name, bool *out)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_BOOL)
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    *out = gguf_get_val_bool(gguf, id);
    return ERR_OK;
}

/* A text out of a list; *index is left alone where the key is absent. */
enum err bb_read_choice(const struct gguf_context *gguf, const char *name,
                        const char *const *choices, size_t count, int *index)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    const char *text =
        gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf, id) : "";
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *index = (int)i;
            return ERR_OK;
        }
    }
    return err_set(ERR_UNSUPPORTED, "its %s is none that is known: \"%.40s\"", key, text);
}

enum err bb_read_ids(const struct gguf_context *gguf, const char *name, int32_t min,
                     size_t vocab_size, int32_t **out, size_t *count)
{
    char key[96];
    snprintf(key, sizeof key, BB_PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf, id) != GGUF_TYPE_INT32 || gguf_get_arr_n(gguf, id) > BB_IDS_MAX)
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    size_t found = gguf_get_arr_n(gguf, id);
    const int32_t *ids = found > 0 ? gguf_get_arr_data(gguf, id) : NULL;
    for (size_t i = 0; i < found; i++) {
        if (ids[i] < min || ids[i] >= (int32_t)vocab_size)
            return err_set(ERR_INVALID, "its header has a senseless %s (%d)", key, ids[i]);
    }
    int32_t *copy = malloc((found + 1) * sizeof *copy);
    if (copy == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    if (found > 0)
        memcpy(copy, ids, found * sizeof *copy);
    *out = copy;
    *count = found;
    return ERR_OK;
}
