#include "engine/model_file.h"

#include <errno.h>
#include <gguf.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gguf_head.h"
#include "engine/ops.h"
#include "engine/runtime_log.h"

/* Sizes in the header that the runtime takes on trust. */
static const struct bound {
    const char *key; /* behind the architecture's name and a dot */
    uint64_t min, max;
    bool needed;
} bounds[] = {
    {"block_count", 1, 512, true},
    {"context_length", 1, 1u << 30, true},
    {"embedding_length", 1, 1u << 20, true},
    {"feed_forward_length", 1, 1u << 24, false},
    {"attention.head_count", 1, 1u << 16, false},
    {"attention.head_count_kv", 0, 1u << 16, false},
    {"attention.key_length", 1, 1u << 16, false},
    {"attention.value_length", 1, 1u << 16, false},
    {"rope.dimension_count", 0, 1u << 16, false},
    {"expert_count", 0, 1u << 12, false},
    {"expert_used_count", 0, 1u << 12, false},
    {"vocab_size", 1, 1u << 24, false},
};

/* One unsigned number; false when the value is negative or of another kind. */
static bool read_number(const struct gguf_context *gguf, int64_t id, uint64_t *out)
{
    int64_t number;
    switch (gguf_get_kv_type(gguf, id)) {
    case GGUF_TYPE_UINT8:
        number = gguf_get_val_u8(gguf, id);
        break;
    case GGUF_TYPE_UINT16:
        number = gguf_get_val_u16(gguf, id);
        break;
    case GGUF_TYPE_UINT32:
        number = gguf_get_val_u32(gguf, id);
        break;
    case GGUF_TYPE_INT32:
        number = gguf_get_val_i32(gguf, id);
        break;
    case GGUF_TYPE_UINT64:
        number = (int64_t)gguf_get_val_u64(gguf, id);
        break;
    case GGUF_TYPE_INT64:
        number = gguf_get_val_i64(gguf, id);
        break;
    default:
        return false;
    }
    *out = (uint64_t)number;
    return number >= 0;
}

static enum err check_bound(const struct gguf_context *gguf, const char *arch,
                            const struct bound *bound)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, bound->key);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return bound->needed ? err_set(ERR_INVALID, "its header lacks %s", key) : ERR_OK;
    if (gguf_get_kv_type(gguf, id) == GGUF_TYPE_ARRAY)
        return ERR_OK; /* one for each layer: the runtime compares their number */
    uint64_t number;
    if (!read_number(gguf, id, &number) || number < bound->min || number > bound->max)
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    return ERR_OK;
}

/* What else a vocabulary has for each token: the runtime reads as many as there are tokens, without
 * asking how many there are (count 0: any number, of either type). */
static enum err check_array(const struct gguf_context *gguf, const char *key, enum gguf_type type,
                            enum gguf_type other, size_t count)
{
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY ||
        (gguf_get_arr_type(gguf, id) != type && gguf_get_arr_type(gguf, id) != other) ||
        (count > 0 && gguf_get_arr_n(gguf, id) != count))
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    return ERR_OK;
}

static enum err check_arrays(const struct gguf_context *gguf, size_t tokens)
{
    enum err err =
        check_array(gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, GGUF_TYPE_FLOAT32, tokens);
    if (err == ERR_OK)
        err = check_array(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, GGUF_TYPE_UINT32,
                          tokens);
    if (err == ERR_OK)
        err = check_array(gguf, "tokenizer.ggml.merges", GGUF_TYPE_STRING, GGUF_TYPE_STRING, 0);
    if (err == ERR_OK)
        err = check_array(gguf, "tokenizer.ggml.precompiled_charsmap", GGUF_TYPE_INT8,
                          GGUF_TYPE_UINT8, 0);
    return err;
}

/* The ids of special tokens must be tokens. */
static enum err check_tokens(const struct gguf_context *gguf)
{
    static const char *const names[] = {"bos", "eos", "eot", "unknown", "padding"};
    int64_t id = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf, id) != GGUF_TYPE_STRING)
        return err_set(ERR_INVALID, "it has no vocabulary");
    size_t count = gguf_get_arr_n(gguf, id);
    if (count < 2 || count > (1u << 24))
        return err_set(ERR_INVALID, "its vocabulary has %zu tokens", count);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char key[64];
        uint64_t number;
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", names[i]);
        id = gguf_find_key(gguf, key);
        if (id < 0 || !read_number(gguf, id, &number) || number == UINT32_MAX)
            continue;
        if (number >= count)
            return err_set(ERR_INVALID, "its header has a senseless %s", key);
    }
    return check_arrays(gguf, count);
}

static enum err check_tensors(const struct gguf_context *gguf, uint64_t file_size,
                              struct model_file *out)
{
    uint64_t data = gguf_get_data_offset(gguf);
    int64_t count = gguf_get_n_tensors(gguf);
    if (count == 0)
        return err_set(ERR_INVALID, "it holds no weights");
    for (int64_t i = 0; i < count; i++) {
        uint64_t offset = gguf_get_tensor_offset(gguf, i), size = gguf_get_tensor_size(gguf, i);
        if (data > file_size || offset > file_size - data || size > file_size - data - offset)
            return err_set(ERR_INVALID, "it is cut short: copy or download it again");
        const int64_t *ne = gguf_get_tensor_ne(gguf, i);
        out->weights += (uint64_t)ne[0] * (uint64_t)ne[1] * (uint64_t)ne[2] * (uint64_t)ne[3];
    }
    out->tensors = (uint64_t)count;
    out->meta_bytes = data;
    return ERR_OK;
}

static enum err check_header(const struct gguf_context *gguf, uint64_t file_size,
                             struct model_file *out)
{
    int64_t id = gguf_find_key(gguf, "general.architecture");
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_STRING)
        return err_set(ERR_INVALID, "its header names no architecture");
    const char *arch = gguf_get_val_str(gguf, id);
    size_t len = strlen(arch);
    if (len == 0 || len >= sizeof out->arch ||
        strspn(arch, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != len)
        return err_set(ERR_INVALID, "its header has a senseless general.architecture");
    memcpy(out->arch, arch, len + 1);
    enum err err = check_tensors(gguf, file_size, out);
    if (strcmp(arch, BLENDERBOT_ARCH) == 0)
        return err; /* its loader is ours and takes nothing on trust */
    for (size_t i = 0; err == ERR_OK && i < sizeof bounds / sizeof *bounds; i++)
        err = check_bound(gguf, arch, &bounds[i]);
    return err == ERR_OK ? check_tokens(gguf) : err;
}

/* That it is a file, a GGUF, and that its header claims nothing that the runtime must not hear. */
static enum err check_claims(const char *path, uint64_t *size)
{
    struct stat info;
    char magic[4] = {0};
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return err_set(errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                       "can't read the model %s: %s", path, strerror(errno));
    enum err err = ERR_OK;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
        err = err_set(ERR_INVALID, "the model %s is not a file", path);
    else if (fread(magic, 1, sizeof magic, file) != sizeof magic || memcmp(magic, "GGUF", 4) != 0)
        err = err_set(ERR_INVALID, "%s is not a GGUF model", path);
    else if ((err = gguf_head_check(file, (uint64_t)info.st_size)) != ERR_OK)
        err = err_prefix(ERR_INVALID, "the model %s is broken", path);
    fclose(file);
    if (err == ERR_OK)
        *size = (uint64_t)info.st_size;
    return err;
}

enum err model_file_check(struct model_file *out, const char *path)
{
    uint64_t size = 0;
    enum err err = check_claims(path, &size);
    if (err != ERR_OK)
        return err;
    struct runtime_facts facts;
    runtime_log_collect(&facts);
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    struct gguf_context *gguf = gguf_init_from_file(path, params);
    runtime_log_release();
    if (gguf == NULL)
        return err_set(ERR_INVALID, "the model %s is broken: %s", path,
                       facts.complaint[0] != '\0' ? facts.complaint : "its header can't be read");
    struct model_file found = {0};
    err = check_header(gguf, size, &found);
    gguf_free(gguf);
    if (err != ERR_OK)
        return err_prefix(err, "the model %s is broken", path);
    *out = found;
    return ERR_OK;
}
