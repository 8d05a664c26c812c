/*
 * checkpoint.h - the tensors of a checkpoint by name, whatever files hold them.
 *
 * A checkpoint is one or more parts (files); each part's reader lists its tensors once and reads
 * their bytes on demand.  Every offset and size was checked against its file before a tensor is
 * listed.  Private to src/convert/; one thread.
 */
#ifndef WYVERN_CONVERT_CHECKPOINT_H
#define WYVERN_CONVERT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zip.h>

#include "base/err.h"

#define TENSOR_MAX_DIMS    4
#define TENSOR_MAX_NAME    255
#define CHECKPOINT_TENSORS 65536        /* most tensors of a checkpoint */
#define CHECKPOINT_PARTS   256          /* most files */
#define CHECKPOINT_HEADER  (100u << 20) /* largest safetensors header, as its own library has it */

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_OTHER };

struct tensor {
    char *name; /* owned by the list */
    enum dtype dtype;
    char dtype_name[24]; /* as its file says it */
    unsigned dims;
    uint64_t shape[TENSOR_MAX_DIMS];
    uint64_t stride[TENSOR_MAX_DIMS]; /* in elements */
    uint64_t count;                   /* elements */
    uint64_t span;                    /* elements from the first to the last in its storage */
    bool contiguous;
    unsigned part;
    uint64_t entry;  /* in a zip archive: which one */
    uint64_t offset; /* bytes in the file, or in the archive's entry */
};

struct tensor_list {
    struct tensor *items;
    size_t count, cap;
};

enum part_kind { PART_FILE, PART_ZIP };

struct part {
    enum part_kind kind;
    char *path;
    int fd;
    uint64_t size;
    zip_t *zip;
    zip_file_t *open; /* the entry that was read last, and where it stands */
    uint64_t open_entry, open_at, open_size;
};

struct checkpoint {
    struct part parts[CHECKPOINT_PARTS];
    unsigned part_count;
    struct tensor_list tensors; /* by name */
};

MUST_USE enum err checkpoint_open(struct checkpoint **out, const char *folder);
void checkpoint_free(struct checkpoint *checkpoint);
/* NULL: there is none. */
const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name);

/* Elements first … first + count as floats.  A tensor that is not contiguous is read whole only. */
MUST_USE enum err checkpoint_read(struct checkpoint *checkpoint, const struct tensor *tensor,
                                  uint64_t first, uint64_t count, float *out);

/* ---- for the readers of one part ---- */

/* Adds a tensor and copies its name; computes count and span.  ERR_INVALID: its numbers overflow.
 */
MUST_USE enum err tensor_list_add(struct tensor_list *list, const struct tensor *tensor,
                                  const char *name, const char *path);
size_t dtype_size(enum dtype dtype); /* 0: other */

/* Each lists the tensors of an open part. */
MUST_USE enum err safetensors_list(struct part *part, unsigned number, struct tensor_list *out);
MUST_USE enum err torch_zip_list(struct part *part, unsigned number, struct tensor_list *out);
MUST_USE enum err torch_legacy_list(struct part *part, unsigned number, struct tensor_list *out);

MUST_USE enum err torch_zip_read(struct part *part, uint64_t entry, uint64_t offset, void *out,
                                 size_t len);
void torch_zip_close(struct part *part);

#endif
