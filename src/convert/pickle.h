/*
 * pickle.h - reads the pickles of PyTorch checkpoints, and no other.
 *
 * A pickle is a program for a small stack machine that may call any Python function.  This machine
 * calls nothing: it knows dictionaries, lists, tuples, numbers, text, storages named by persistent
 * ids, OrderedDict and _rebuild_tensor_v2, and refuses any other global by its name.  Values live
 * in one array and refer to each other by number, so that neither depth nor cycles matter; their
 * count is bounded by the input's length and PICKLE_MAX_VALUES.  Private to src/convert/; pure.
 */
#ifndef WYVERN_CONVERT_PICKLE_H
#define WYVERN_CONVERT_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define PICKLE_MAX_BYTES  (16u << 20)
#define PICKLE_MAX_VALUES (1u << 20)

enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_FLOAT, /* its number is not kept */
    PICKLE_TEXT,
    PICKLE_TUPLE,
    PICKLE_LIST,
    PICKLE_DICT, /* items: key, value, key, value … */
    PICKLE_GLOBAL,
    PICKLE_STORAGE, /* items: type (global), key (text), numel (int) */
    PICKLE_TENSOR,  /* items: storage, offset (int), size, stride (tuples) */
};

enum pickle_global { PICKLE_ORDERED_DICT, PICKLE_REBUILD_TENSOR, PICKLE_STORAGE_TYPE };

struct pickle_value {
    enum pickle_kind kind;
    uint32_t count, cap; /* TEXT: bytes; containers: items */
    union {
        int64_t number;   /* BOOL, INT */
        const char *text; /* TEXT, and a storage type's name: within the input, no NUL behind it */
        uint32_t *items;  /* owned */
    } as;
    enum pickle_global global;
};

struct pickle {
    struct pickle_value *values;
    uint32_t count, cap;
    uint32_t root;
};

/* Reads one pickle from the start of data, which must outlive it; *used: its bytes.  label names
 * the file in sentences. */
MUST_USE enum err pickle_read(struct pickle *out, const char *data, size_t len, size_t *used,
                              const char *label);
void pickle_done(struct pickle *pickle);

/* Value by number. */
const struct pickle_value *pickle_at(const struct pickle *pickle, uint32_t number);
/* Item i of a container. */
const struct pickle_value *pickle_item(const struct pickle *pickle,
                                       const struct pickle_value *container, uint32_t i);
bool pickle_is_text(const struct pickle_value *value, const char *text);

#endif
