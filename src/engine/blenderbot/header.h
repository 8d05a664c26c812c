/*
 * header.h - keys of a Blenderbot GGUF's header, with bounds.  Private to src/engine/blenderbot/.
 *
 * Names are without "blenderbot.".  ERR_INVALID and ERR_UNSUPPORTED name the key.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_HEADER_H
#define WYVERN_ENGINE_BLENDERBOT_HEADER_H

#include <gguf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define BB_PREFIX  "blenderbot."
#define BB_IDS_MAX (1u << 20) /* of one list */

bool bb_has_key(const struct gguf_context *gguf, const char *name);

/* The key must be there. */
MUST_USE enum err bb_read_u32(const struct gguf_context *gguf, const char *name, uint32_t min,
                              uint32_t max, uint32_t *out);
MUST_USE enum err bb_read_size(const struct gguf_context *gguf, const char *name, uint32_t min,
                               uint32_t max, size_t *out);

/* Where the key is absent *out is left alone. */
MUST_USE enum err bb_read_default_size(const struct gguf_context *gguf, const char *name,
                                       uint32_t min, uint32_t max, size_t *out);
MUST_USE enum err bb_read_default_float(const struct gguf_context *gguf, const char *name,
                                        float min, float max, float *out);
MUST_USE enum err bb_read_default_bool(const struct gguf_context *gguf, const char *name,
                                       bool *out);
/* A text out of a list. */
MUST_USE enum err bb_read_choice(const struct gguf_context *gguf, const char *name,
                                 const char *const *choices, size_t count, int *index);
/* Ids from min to below vocab_size; the caller frees *out. */
MUST_USE enum err bb_read_ids(const struct gguf_context *gguf, const char *name, int32_t min,
                              size_t vocab_size, int32_t **out, size_t *count);

#endif
