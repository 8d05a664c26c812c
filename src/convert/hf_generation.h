/*
 * hf_generation.h - a checkpoint's defaults of generate.  Private to src/convert/.
 *
 * As in transformers: generation_config.json alone says them where there is one, else config.json
 * itself; what neither says has no other default (those of the class BlenderbotConfig are none).
 * What would change replies and is not followed is refused by name.
 */
#ifndef WYVERN_CONVERT_HF_GENERATION_H
#define WYVERN_CONVERT_HF_GENERATION_H

#include "convert/hf_config.h"

/* vocab must be known.  Fills token ids and ignored; writes blenderbot.generation.* into gguf.
 * beside: config.json where `from` is another file, else NULL. */
MUST_USE enum err hf_generation_read(struct hf_config *config, struct gguf_context *gguf,
                                     const struct hf_source *from, const struct hf_source *beside);

#endif
