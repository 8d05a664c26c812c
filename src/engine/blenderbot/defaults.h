/*
 * defaults.h - what a checkpoint says of generate, out of the GGUF's header.  Private to
 * src/engine/blenderbot/.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_DEFAULTS_H
#define WYVERN_ENGINE_BLENDERBOT_DEFAULTS_H

#include "engine/blenderbot/model.h"

/* Fills defaults, bans and prompt_end of a model whose sizes and start token are known. */
MUST_USE enum err bb_defaults_read(struct bb_model *model, const struct gguf_context *gguf);

#endif
