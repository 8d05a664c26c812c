/*
 * gguf_head.h - walks the header of a GGUF without believing it, before the runtime reads it: the
 * runtime ends the process on some lies, and on others allocates or compares for ever.  Private to
 * src/engine/.
 */
#ifndef WYVERN_ENGINE_GGUF_HEAD_H
#define WYVERN_ENGINE_GGUF_HEAD_H

#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* Reads from the start of the file, which has `size` bytes.  ERR_INVALID, ERR_LIMIT: a count,
 * length, type or shape makes no sense, or claims more than the file holds.  Takes no memory. */
MUST_USE enum err gguf_head_check(FILE *file, uint64_t size);

#endif
