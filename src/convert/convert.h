/*
 * convert.h - a Hugging Face Blenderbot checkpoint, as people have it on disk, written as one GGUF.
 *
 * The folder holds config.json, a vocabulary (vocab.json with merges.txt, or tokenizer.json) and
 * the weights: model.safetensors, model.safetensors.index.json with its shards, pytorch_model.bin,
 * or pytorch_model.bin.index.json, looked for in this order.  Nothing in these files is ever run,
 * and none of them is trusted: everything is bounded and checked before it is used.  What comes out
 * is described in gguf_blenderbot.h.
 *
 * The output is written beside its place and renamed when it is whole and on disk: a failure leaves
 * nothing behind.  Memory is bounded by the largest tensor's row block, not by the model.  One
 * thread.
 */
#ifndef WYVERN_CONVERT_CONVERT_H
#define WYVERN_CONVERT_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* bytes written so far, of all; called on the caller's thread */
typedef void convert_progress_fn(void *arg, uint64_t done, uint64_t total);

struct convert_report {
    uint64_t bytes;      /* of the file written */
    unsigned tensors;    /* written */
    unsigned left_out;   /* tensors of the checkpoint that the model has no place for */
    char first_left[64]; /* the first of them */
    char ignored[96];    /* settings for sampling that are not followed, by name */
    const char *type;    /* weight type, static */
};

/* Whether path is a folder, and so something for convert_checkpoint. */
bool convert_is_folder(const char *path);

/* type NULL: f16 for a checkpoint that is f16 throughout, else f32.  ERR_USAGE: no such type;
 * ERR_NOT_FOUND, ERR_INVALID, ERR_LIMIT, ERR_UNSUPPORTED: err_text() names the file or tensor. */
MUST_USE enum err convert_checkpoint(const char *folder, const char *out_path, const char *type,
                                     convert_progress_fn *progress, void *arg,
                                     struct convert_report *report);

#endif
