/*
 * weights.h - the tensors of a Blenderbot GGUF into memory.  Private to src/engine/blenderbot/.
 *
 * Matrices that are used together are put row under row into one.  A matrix goes where it is
 * multiplied fastest: packed for our own kernel (cpu_ops.h), into the memory of a kind that the
 * backend has for its type (repacked for the CPU's instructions, say), or as it is.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_WEIGHTS_H
#define WYVERN_ENGINE_BLENDERBOT_WEIGHTS_H

#include <gguf.h>

#include "engine/blenderbot/model.h"

/* Fills in the model's tensors; its sizes are set.  file: of file_size bytes, read by position.
 * ERR_INVALID, ERR_UNSUPPORTED, ERR_IO, ERR_NOMEM; what was made stays in model->plain and extra.
 */
MUST_USE enum err bb_weights_load(struct bb_model *model, const struct gguf_context *gguf, int file,
                                  uint64_t file_size, ggml_backend_t backend);
void bb_weights_free(struct bb_weights *weights); /* safe on zeroed memory */

#endif
