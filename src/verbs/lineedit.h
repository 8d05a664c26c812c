/*
 * lineedit.h - lines from a person: edited on a terminal (libedit), plain elsewhere.  One thread.
 *
 * On a terminal: a history that lasts, Tab completion, pasted text as one line whatever newlines it
 * holds (they show as a sign, and come back as newlines), windows that change their size, Ctrl-Z.
 * However the program ends, but for SIGKILL, the terminal is as it was.
 */
#ifndef WYVERN_VERBS_LINEEDIT_H
#define WYVERN_VERBS_LINEEDIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define LINE_BYTES_MAX ((size_t)1 << 20)

struct lineedit;

enum line_kind {
    LINE_TEXT,
    LINE_STOPPED, /* Ctrl-C at the prompt */
    LINE_END,     /* Ctrl-D, or the input's end */
};

/* What Tab may make of the line before the cursor: words that could stand from `from` on. */
#define LINE_WORDS_MAX 64
#define LINE_WORD_SIZE 256
struct line_words {
    size_t from, count;
    char words[LINE_WORDS_MAX][LINE_WORD_SIZE];
};
typedef void line_words_fn(void *arg, const char *before, struct line_words *words);

/* Edits when standard input and output are a terminal.  words: NULL for no completion. */
MUST_USE enum err lineedit_new(struct lineedit **out, line_words_fn *words, void *arg);
void lineedit_free(struct lineedit *edit);
bool lineedit_is_interactive(const struct lineedit *edit);
/* Recalls from this file and adds to it from now on. */
MUST_USE enum err lineedit_history(struct lineedit *edit, const char *path);
/* *line, without its newline, is valid until the next call. */
enum line_kind lineedit_read(struct lineedit *edit, const char *prompt, const char **line);
/* For recalling it.  Its newlines are kept. */
MUST_USE enum err lineedit_remember(struct lineedit *edit, const char *text);

#endif
