/*
 * vocab.h - the byte-level BPE vocabulary of a checkpoint, written into a GGUF's tokenizer keys.
 *
 * From vocab.json with merges.txt where both are there, else from tokenizer.json; special tokens
 * from special_tokens_map.json, added_tokens.json, tokenizer_config.json and tokenizer.json.
 * Private to src/convert/.
 */
#ifndef WYVERN_CONVERT_VOCAB_H
#define WYVERN_CONVERT_VOCAB_H

#include "convert/hf_config.h"

MUST_USE enum err vocab_read(struct gguf_context *gguf, const char *folder,
                             const struct hf_config *config);

#endif
