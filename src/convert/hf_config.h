/*
 * hf_config.h - config.json and generation_config.json of a Blenderbot checkpoint, checked.
 * Private to src/convert/.
 */
#ifndef WYVERN_CONVERT_HF_CONFIG_H
#define WYVERN_CONVERT_HF_CONFIG_H

#include <gguf.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct hf_side {
    uint32_t blocks, heads, ffn;
};

struct hf_config {
    uint32_t vocab, width, positions;
    struct hf_side encoder, decoder;
    char activation[24];
    bool scale_embedding;
    uint32_t bos, eos, pad, decoder_start;
};

/* Reads both files; writes general, model and generation keys into gguf.  On failure gguf may hold
 * some of them. */
MUST_USE enum err hf_config_read(struct hf_config *out, struct gguf_context *gguf,
                                 const char *folder);

#endif
