/*
 * tokenizer.h - byte-level BPE as GPT-2 has it: text to token ids and back.  Private to
 * src/engine/.
 *
 * Text is cut into words by GPT-2's pattern, each byte of a word becomes one letter of an alphabet
 * of 256 printable characters, and neighbouring letters are joined by the merges, best first.
 * Special tokens are never read from text.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_TOKENIZER_H
#define WYVERN_ENGINE_BLENDERBOT_TOKENIZER_H

#include <gguf.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct bb_tokenizer;

/* Reads tokenizer.ggml.*, which must hold vocab_size tokens.  ERR_INVALID, ERR_NOMEM. */
MUST_USE enum err bb_tokenizer_open(struct bb_tokenizer **out, const struct gguf_context *gguf,
                                    size_t vocab_size);
void bb_tokenizer_close(struct bb_tokenizer *tokenizer);

/* Appends the ids (int32_t) of valid UTF-8, with a space put in front where the model wants one.
 * The time grows with the square of the longest word: bound the text. */
MUST_USE enum err bb_tokenizer_encode(const struct bb_tokenizer *tokenizer, const char *text,
                                      size_t len, struct buf *ids);

/* The bytes of a token; none for a special one.  id is one of the vocabulary. */
const char *bb_tokenizer_text(const struct bb_tokenizer *tokenizer, int32_t id, size_t *len);

/* Most bytes that one token stands for. */
size_t bb_tokenizer_longest(const struct bb_tokenizer *tokenizer);

#endif
