#include "engine/gguf_head.h"

#include <ggml.h>
#include <gguf.h>
#include <stdbool.h>
#include <string.h>

#define MAX_KEYS      4096  /* the runtime compares each key with all before it, */
#define MAX_TENSORS   20000 /* and each tensor's name */
#define MAX_KEY_BYTES 1024
#define MAX_ALIGNMENT 65536
#define TEXT_SIZE     80

struct head {
    FILE *file;
    uint64_t size, at;
    uint64_t data; /* bytes of all tensors so far */
};

static enum err cut_short(void)
{
    return err_set(ERR_INVALID, "its header is cut short, or claims more than the file holds");
}

static enum err take(struct head *head, void *out, size_t len)
{
    if (len > head->size - head->at || fread(out, 1, len, head->file) != len)
        return cut_short();
    head->at += len;
    return ERR_OK;
}

static enum err take_u32(struct head *head, uint32_t *out)
{
    return take(head, out, sizeof *out); /* GGUF is little-endian, as all that runs this */
}

static enum err take_u64(struct head *head, uint64_t *out)
{
    return take(head, out, sizeof *out);
}

static enum err skip(struct head *head, uint64_t len)
{
    if (len > head->size - head->at || fseeko(head->file, (off_t)len, SEEK_CUR) != 0)
        return cut_short();
    head->at += len;
    return ERR_OK;
}

/* A text of at most `most` bytes; as much of it as fits into text. */
static enum err take_text(struct head *head, char text[TEXT_SIZE], uint64_t most, const char *what)
{
    uint64_t len = 0;
    enum err err = take_u64(head, &len);
    if (err != ERR_OK)
        return err;
    if (len == 0 || len > most)
        return err_set(ERR_INVALID, "its header has %s of %llu bytes", what,
                       (unsigned long long)len);
    size_t kept = len < TEXT_SIZE ? (size_t)len : TEXT_SIZE - 1;
    err = take(head, text, kept);
    if (err != ERR_OK)
        return err;
    text[kept] = '\0';
    for (size_t i = 0; i < kept; i++) {
        if ((unsigned char)text[i] < ' ') /* it goes into sentences */
            return err_set(ERR_INVALID, "its header has %s that is no text", what);
    }
    return skip(head, len - kept);
}

/* ---- keys ---- */

/* Bytes of a value; 0: its length is its own (a text), or there is no such type. */
static uint32_t value_size(uint32_t type)
{
    switch (type) {
    case GGUF_TYPE_UINT8:
    case GGUF_TYPE_INT8:
    case GGUF_TYPE_BOOL:
        return 1;
    case GGUF_TYPE_UINT16:
    case GGUF_TYPE_INT16:
        return 2;
    case GGUF_TYPE_UINT32:
    case GGUF_TYPE_INT32:
    case GGUF_TYPE_FLOAT32:
        return 4;
    case GGUF_TYPE_UINT64:
    case GGUF_TYPE_INT64:
    case GGUF_TYPE_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static enum err skip_values(struct head *head, uint32_t type, uint64_t count, const char *key)
{
    uint32_t size = value_size(type);
    if (size == 0 && type != GGUF_TYPE_STRING)
        return err_set(ERR_INVALID, "its header's %s has the unknown type %u", key, type);
    uint64_t least = size > 0 ? size : sizeof(uint64_t); /* a text's length */
    if (count > (head->size - head->at) / least)
        return err_set(ERR_INVALID, "its header's %s claims %llu values, more than the file holds",
                       key, (unsigned long long)count);
    if (size > 0)
        return skip(head, count * size);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t len = 0;
        enum err err = take_u64(head, &len);
        if (err == ERR_OK)
            err = skip(head, len);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err check_alignment(struct head *head, uint32_t type)
{
    uint32_t value = 0;
    enum err err = type == GGUF_TYPE_UINT32 ? take_u32(head, &value) : ERR_OK;
    if (err == ERR_OK && (value == 0 || value > MAX_ALIGNMENT || (value & (value - 1)) != 0))
        err = err_set(ERR_INVALID, "its header has a senseless general.alignment");
    return err;
}

static enum err check_key(struct head *head)
{
    char key[TEXT_SIZE];
    uint32_t type = 0;
    uint64_t count = 1;
    enum err err = take_text(head, key, MAX_KEY_BYTES, "a key");
    if (err == ERR_OK)
        err = take_u32(head, &type);
    if (err == ERR_OK && strcmp(key, "general.alignment") == 0)
        return check_alignment(head, type);
    if (err == ERR_OK && type == GGUF_TYPE_ARRAY) {
        err = take_u32(head, &type);
        if (err == ERR_OK)
            err = take_u64(head, &count);
    }
    return err == ERR_OK ? skip_values(head, type, count, key) : err;
}

/* ---- tensors ---- */

static bool multiply(uint64_t *product, uint64_t factor)
{
    return !__builtin_mul_overflow(*product, factor, product) && *product <= INT64_MAX / 16;
}

static enum err check_tensor(struct head *head)
{
    char name[TEXT_SIZE];
    uint32_t dims = 0, type = 0;
    uint64_t width = 1, count = 1, offset = 0;
    enum err err = take_text(head, name, GGML_MAX_NAME - 1, "a tensor's name");
    if (err == ERR_OK)
        err = take_u32(head, &dims);
    if (err == ERR_OK && dims > GGML_MAX_DIMS)
        err = err_set(ERR_INVALID, "its tensor %s has %u dimensions", name, dims);
    for (uint32_t i = 0; err == ERR_OK && i < dims; i++) {
        uint64_t size = 0;
        err = take_u64(head, &size);
        if (err == ERR_OK && (size == 0 || !multiply(&count, size)))
            err = err_set(ERR_INVALID, "its tensor %s has an impossible shape", name);
        if (i == 0)
            width = size;
    }
    if (err == ERR_OK)
        err = take_u32(head, &type);
    if (err == ERR_OK)
        err = take_u64(head, &offset);
    if (err != ERR_OK)
        return err;
    if (type >= GGML_TYPE_COUNT || ggml_type_size((enum ggml_type)type) == 0)
        return err_set(ERR_INVALID, "its tensor %s has the unknown type %u", name, type);
    uint64_t block = (uint64_t)ggml_blck_size((enum ggml_type)type);
    if (width % block != 0)
        return err_set(ERR_INVALID, "its tensor %s has rows that its type can't hold", name);
    uint64_t bytes = count / block;
    if (!multiply(&bytes, ggml_type_size((enum ggml_type)type)) || bytes > head->size - head->data)
        return err_set(ERR_INVALID, "it is cut short at the tensor %s: copy or download it again",
                       name);
    head->data += bytes;
    return ERR_OK;
}

enum err gguf_head_check(FILE *file, uint64_t size)
{
    struct head head = {.file = file, .size = size};
    uint64_t tensors = 0, keys = 0;
    uint32_t magic = 0, version = 0;

    rewind(file);
    enum err err = take_u32(&head, &magic);
    if (err == ERR_OK)
        err = take_u32(&head, &version);
    if (err == ERR_OK && (version < 2 || version > GGUF_VERSION))
        return err_set(ERR_INVALID, "its version of GGUF, %u, is not known", version);
    if (err == ERR_OK)
        err = take_u64(&head, &tensors);
    if (err == ERR_OK)
        err = take_u64(&head, &keys);
    if (err == ERR_OK && (tensors > MAX_TENSORS || keys > MAX_KEYS))
        return err_set(ERR_LIMIT, "its header claims %llu tensors and %llu keys",
                       (unsigned long long)tensors, (unsigned long long)keys);
    for (uint64_t i = 0; err == ERR_OK && i < keys; i++)
        err = check_key(&head);
    for (uint64_t i = 0; err == ERR_OK && i < tensors; i++)
        err = check_tensor(&head);
    return err;
}
