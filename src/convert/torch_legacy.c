/*
 * torch_legacy.c - pytorch_model.bin as torch < 1.6 wrote it: five pickles (a magic number, a
 * protocol version, facts of the machine, the state dict, the storages' keys), then each storage as
 * its count of elements (8 bytes) and its elements.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/checkpoint.h"
#include "convert/files.h"
#include "convert/torch_state.h"

#define PROTOCOL_VERSION 1001

/* torch's magic number as its pickle: a long of ten bytes, behind the protocol's byte */
static const unsigned char magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                      0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};
#define MAGIC_BYTES (2 + sizeof magic)

struct storage {
    char key[STORAGE_MAX_KEY];
    uint64_t count; /* elements, as the state dict has it */
    unsigned element;
    bool listed;
    uint64_t offset; /* of its elements, in the file */
};

struct legacy {
    struct part *part;
    struct storage *storages; /* by key */
    size_t count;
};

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct storage *)a)->key, ((const struct storage *)b)->key);
}

static struct storage *find_key(const struct legacy *legacy, const struct pickle_value *key)
{
    struct storage wanted;
    if (legacy->count == 0 || key->kind != PICKLE_TEXT || key->count >= sizeof wanted.key)
        return NULL;
    snprintf(wanted.key, sizeof wanted.key, "%.*s", (int)key->count, key->as.text);
    return bsearch(&wanted, legacy->storages, legacy->count, sizeof wanted, by_key);
}

/* Every storage that the state dict names, once. */
static enum err collect_storages(struct legacy *legacy, const struct pickle *pickle)
{
    size_t count = 0, kept = 0;

    for (uint32_t i = 0; i < pickle->count; i++)
        count += pickle_at(pickle, i)->kind == PICKLE_STORAGE;
    if (count > CHECKPOINT_TENSORS)
        return err_set(ERR_LIMIT, "%s: more than %d storages", legacy->part->path,
                       CHECKPOINT_TENSORS);
    legacy->storages = calloc(count + 1, sizeof *legacy->storages);
    if (legacy->storages == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < pickle->count; i++) {
        const struct pickle_value *value = pickle_at(pickle, i);
        if (value->kind != PICKLE_STORAGE)
            continue;
        const struct pickle_value *key = pickle_item(pickle, value, 1);
        struct storage *storage = &legacy->storages[legacy->count];
        enum dtype dtype;
        int64_t numel = pickle_item(pickle, value, 2)->as.number;
        storage->element = storage_element_size(pickle_item(pickle, value, 0), &dtype);
        if (storage->element == 0 || numel < 0 || numel > INT64_MAX / 16 ||
            key->count >= sizeof storage->key || memchr(key->as.text, '\0', key->count) != NULL)
            return err_set(ERR_INVALID, "%s: a storage of its state dict makes no sense",
                           legacy->part->path);
        memcpy(storage->key, key->as.text, key->count);
        storage->count = (uint64_t)numel;
        legacy->count++;
    }
    if (legacy->count > 0)
        qsort(legacy->storages, legacy->count, sizeof *legacy->storages, by_key);
    for (size_t i = 0; i < legacy->count; i++) {
        struct storage *last = kept > 0 ? &legacy->storages[kept - 1] : NULL;
        const struct storage *next = &legacy->storages[i];
        if (last == NULL || by_key(last, next) != 0)
            legacy->storages[kept++] = *next;
        else if (last->count != next->count || last->element != next->element)
            return err_set(ERR_INVALID, "%s: storage %s has two sizes", legacy->part->path,
                           last->key);
    }
    legacy->count = kept;
    return ERR_OK;
}

/* Walks the storages in the order of their keys' list, which is the file's. */
static enum err place_storages(struct legacy *legacy, const struct pickle *keys, uint64_t at)
{
    const struct part *part = legacy->part;
    const struct pickle_value *list = pickle_at(keys, keys->root);

    if (list->kind != PICKLE_LIST)
        return err_set(ERR_INVALID, "%s: it has no list of storages", part->path);
    for (uint32_t i = 0; i < list->count; i++) {
        struct storage *storage = find_key(legacy, pickle_item(keys, list, i));
        unsigned char head[8];
        uint64_t count = 0;
        if (storage == NULL || storage->listed)
            return err_set(ERR_INVALID, "%s: its list of storages names %s", part->path,
                           storage == NULL ? "one that no tensor has" : "one twice");
        enum err err = files_read_at(part->fd, at, head, sizeof head, part->path);
        if (err != ERR_OK)
            return err_prefix(err, "storage %s", storage->key);
        for (int b = 7; b >= 0; b--)
            count = count << 8 | head[b];
        if (count != storage->count)
            return err_set(ERR_INVALID, "%s: storage %s has another size than its tensors say",
                           part->path, storage->key);
        at += sizeof head;
        if (storage->count * storage->element > part->size - at)
            return err_set(ERR_INVALID, "%s is cut short: storage %s lies behind its end",
                           part->path, storage->key);
        storage->listed = true;
        storage->offset = at;
        at += storage->count * storage->element;
    }
    if (at != part->size)
        return err_set(ERR_INVALID, "%s: %llu bytes behind its last storage", part->path,
                       (unsigned long long)(part->size - at));
    return ERR_OK;
}

static enum err find_storage(void *arg, const char *key, uint64_t bytes, struct storage_place *out)
{
    const struct legacy *legacy = arg;
    struct storage wanted = {0};

    snprintf(wanted.key, sizeof wanted.key, "%s", key);
    const struct storage *storage =
        legacy->count > 0 ? bsearch(&wanted, legacy->storages, legacy->count, sizeof wanted, by_key)
                          : NULL;
    if (storage == NULL || !storage->listed || storage->count * storage->element != bytes)
        return err_set(ERR_INVALID, "%s: its storage %s is missing", legacy->part->path, key);
    *out = (struct storage_place){.offset = storage->offset, .size = bytes};
    return ERR_OK;
}

/* protocol version and the machine's byte order */
static enum err check_facts(const struct pickle *version, const struct pickle *facts,
                            const char *path)
{
    const struct pickle_value *number = pickle_at(version, version->root);
    const struct pickle_value *dict = pickle_at(facts, facts->root);

    if (number->kind != PICKLE_INT || number->as.number != PROTOCOL_VERSION ||
        dict->kind != PICKLE_DICT)
        return err_set(ERR_UNSUPPORTED, "%s: unknown version of the format before zip", path);
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        const struct pickle_value *value = pickle_item(facts, dict, i + 1);
        if (pickle_is_text(pickle_item(facts, dict, i), "little_endian") &&
            (value->kind != PICKLE_BOOL || value->as.number == 0))
            return err_set(ERR_UNSUPPORTED, "%s was written with big-endian numbers", path);
    }
    return ERR_OK;
}

enum err torch_legacy_list(struct part *part, unsigned number, struct tensor_list *out)
{
    enum { VERSION, FACTS, STATE, KEYS, PICKLES };
    struct pickle pickles[PICKLES] = {0};
    struct legacy legacy = {.part = part};
    size_t len = part->size < PICKLE_MAX_BYTES ? (size_t)part->size : PICKLE_MAX_BYTES;
    size_t at = MAGIC_BYTES;
    char *data = malloc(len);

    if (data == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    part->kind = PART_FILE;
    enum err err = files_read_at(part->fd, 0, data, len, part->path);
    if (err == ERR_OK && (len < MAGIC_BYTES || (unsigned char)data[0] != 0x80 ||
                          memcmp(data + 2, magic, sizeof magic) != 0))
        err = err_set(ERR_INVALID,
                      "%s is neither a zip archive nor torch's older format: no PyTorch checkpoint",
                      part->path);
    for (int i = 0; err == ERR_OK && i < PICKLES; i++) {
        size_t used = 0;
        err = pickle_read(&pickles[i], data + at, len - at, &used, part->path);
        at += used;
    }
    if (err == ERR_OK)
        err = check_facts(&pickles[VERSION], &pickles[FACTS], part->path);
    if (err == ERR_OK)
        err = collect_storages(&legacy, &pickles[STATE]);
    if (err == ERR_OK)
        err = place_storages(&legacy, &pickles[KEYS], at);
    if (err == ERR_OK)
        err = torch_state_list(&pickles[STATE], part, number, find_storage, &legacy, out);
    for (int i = 0; i < PICKLES; i++)
        pickle_done(&pickles[i]);
    free(legacy.storages);
    free(data);
    return err;
}
