/*
 * grammar.h - holds a reply to a grammar: which texts may follow those that were taken.  Private to
 * src/engine/; pure.
 *
 * Where a grammar is ambiguous the ways through it multiply: they are counted, and a grammar that
 * takes too many fails, so that nobody's grammar keeps others waiting.
 */
#ifndef WYVERN_ENGINE_GRAMMAR_H
#define WYVERN_ENGINE_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct grammar;

/* GBNF with the rule "root".  ERR_INVALID: a sentence that begins with "grammar". */
MUST_USE enum err grammar_open(struct grammar **out, const char *text);
void grammar_close(struct grammar *grammar);

/* Whether these bytes may come next; they may end within a character.  ERR_LIMIT: the grammar is
 * too ambiguous. */
MUST_USE enum err grammar_test(struct grammar *grammar, const char *text, size_t len,
                               bool *allowed);
/* Takes them.  ERR_INVALID: they may not come next. */
MUST_USE enum err grammar_accept(struct grammar *grammar, const char *text, size_t len);

bool grammar_may_end(const struct grammar *grammar);  /* what was taken is whole */
bool grammar_must_end(const struct grammar *grammar); /* and nothing may follow */

/* The texts of a vocabulary in the order of their bytes, so that a beginning that may not come next
 * rules out at once all that begin so. */
struct grammar_words {
    char *texts;
    uint32_t *starts; /* in texts; count + 1 */
    int32_t *ids;
    uint32_t *shared; /* bytes that each has in common with the one before */
    size_t count;
};

/* get: the text of id 0 … vocab_size - 1; what has none is left out. */
typedef const char *grammar_word_fn(void *arg, int32_t id, size_t *len);
MUST_USE enum err grammar_words_make(struct grammar_words *out, size_t vocab_size,
                                     grammar_word_fn *get, void *arg);
void grammar_words_done(struct grammar_words *words); /* safe on zeroed memory */

/* allowed[id] becomes 1 for the words that may come next; *count: how many.  ERR_INVALID as above.
 */
MUST_USE enum err grammar_sift(struct grammar *grammar, const struct grammar_words *words,
                               unsigned char *allowed, size_t *count);

#endif
