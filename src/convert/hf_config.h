/*
 * hf_config.h - config.json and generation_config.json of a Blenderbot checkpoint, checked.
 * Private to src/convert/.
 */
#ifndef WYVERN_CONVERT_HF_CONFIG_H
#define WYVERN_CONVERT_HF_CONFIG_H

#include <gguf.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct hf_side {
    uint32_t blocks, heads, ffn;
};

#define HF_ENDS_MAX 8 /* end tokens; as many as the engine knows */

struct hf_config {
    uint32_t vocab, width, positions;
    struct hf_side encoder, decoder;
    char activation[24];
    bool scale_embedding;
    bool tied; /* one matrix for both sides' embeddings and the output */
    uint32_t bos, pad, decoder_start;
    int32_t ends[HF_ENDS_MAX]; /* what ends a reply */
    size_t end_count;
    char ignored[96]; /* settings for sampling that the engine doesn't follow, by name */
};

/* What a key of one of the files is called in sentences. */
struct hf_source {
    const json_t *object;
    const char *folder, *file;
};

MUST_USE enum err hf_bad_field(const struct hf_source *from, const char *key, const char *what);
/* An integer within bounds; absent or null: fallback. */
MUST_USE enum err hf_read_uint(const struct hf_source *from, const char *key, uint32_t fallback,
                               uint32_t low, uint32_t high, uint32_t *out);

/* Reads both files; writes general, model and generation keys into gguf.  On failure gguf may hold
 * some of them. */
MUST_USE enum err hf_config_read(struct hf_config *out, struct gguf_context *gguf,
                                 const char *folder);

#endif
