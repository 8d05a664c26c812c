/*
 * torch_state.h - a state dict's tensors, once its pickle was read and its storages are located.
 * Private to src/convert/.
 */
#ifndef WYVERN_CONVERT_TORCH_STATE_H
#define WYVERN_CONVERT_TORCH_STATE_H

#include "convert/checkpoint.h"
#include "convert/pickle.h"

#define STORAGE_MAX_KEY 64

/* Where the bytes of a storage lie. */
struct storage_place {
    uint64_t entry, offset; /* as in struct tensor */
    uint64_t size;          /* bytes */
};

/* Finds a storage by its key; bytes: what it should have. */
typedef enum err storage_find_fn(void *arg, const char *key, uint64_t bytes,
                                 struct storage_place *out);

/* Bytes of one element of a storage type ("HalfStorage"); 0: unknown. */
unsigned storage_element_size(const struct pickle_value *type, enum dtype *dtype);

MUST_USE enum err torch_state_list(const struct pickle *pickle, struct part *part, unsigned number,
                                   storage_find_fn *find, void *arg, struct tensor_list *out);

#endif
