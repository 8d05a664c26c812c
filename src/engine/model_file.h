/*
 * model_file.h - looks at a GGUF before the runtime does, which ends the process on some broken
 * ones.
 */
#ifndef WYVERN_ENGINE_MODEL_FILE_H
#define WYVERN_ENGINE_MODEL_FILE_H

#include <stdint.h>

#include "base/err.h"

struct model_file {
    char arch[32];
    uint64_t tensors;    /* how many */
    uint64_t weights;    /* how many numbers in them */
    uint64_t meta_bytes; /* header and vocabulary */
};

/* ERR_NOT_FOUND, ERR_INVALID (no GGUF, cut short, or its header makes no sense), ERR_IO; err_text()
 * names the path. */
MUST_USE enum err model_file_check(struct model_file *out, const char *path);

#endif
