/*
 * emit.h - from tokens to pieces: holds back what may not be said yet.  Private to src/engine/.
 *
 * Bytes come in as the model makes them; out go pieces of whole UTF-8 characters that can no
 * longer become part of a stop string.  Bytes that are no UTF-8 become U+FFFD.
 */
#ifndef WYVERN_ENGINE_EMIT_H
#define WYVERN_ENGINE_EMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct emit {
    char **stop; /* owned */
    size_t stop_count;
    char partial[4]; /* bytes of a character that is not complete yet */
    size_t partial_len;
    struct buf held;   /* whole characters not yet said */
    struct buf piece;  /* what the last emit_take gave */
    struct buf taken;  /* token ids (int32_t) since the piece before */
    struct buf tokens; /* the ids that the last emit_take gave */
    struct buf noted;  /* notes on tokens taken since the piece before, between commas */
    struct buf notes;  /* a JSON array: those on the ids that the last emit_take gave; or empty */
    bool stopped;      /* a stop string came: held ends before it, no more text is taken */
};

MUST_USE enum err emit_init(struct emit *emit, const char *const *stop, size_t stop_count);
void emit_done(struct emit *emit); /* safe on zeroed memory */

/* One token and its text (may be empty). */
MUST_USE enum err emit_token(struct emit *emit, int32_t token, const char *text, size_t len);

/* JSON that goes along with the token put next. */
MUST_USE enum err emit_note(struct emit *emit, const char *json, size_t len);

/* For a reply that goes on elsewhere, after its tokens were put in: drops `text`, which was said
 * already, and the tokens.  ERR_INVALID: the tokens' text does not begin with it. */
MUST_USE enum err emit_resume(struct emit *emit, const char *text);

/* The reply is over, and an unfinished character at its end becomes U+FFFD.  For engines that owe
 * the reference's text; without it such a character is dropped. */
MUST_USE enum err emit_end(struct emit *emit);

/* Moves what may be said (all that is left when `last`; an unfinished character is dropped) to
 * emit->piece, and then, or when last, the ids to emit->tokens.  Both are empty when nothing may be
 * said.  Returns whether there is anything in them. */
MUST_USE enum err emit_take(struct emit *emit, bool last, bool *any);

/* Appends bytes as text: what is no UTF-8, and NUL, as U+FFFD. */
MUST_USE enum err emit_clean(struct buf *out, const char *data, size_t len);

#endif
