/*
 * lineedit.h - lines from a person: edited on a terminal (libedit), plain elsewhere.  One thread.
 */
#ifndef WYVERN_VERBS_LINEEDIT_H
#define WYVERN_VERBS_LINEEDIT_H

#include <stdbool.h>

#include "base/err.h"

#define LINE_BYTES_MAX ((size_t)1 << 20)

struct lineedit;

enum line_kind {
    LINE_TEXT,
    LINE_STOPPED, /* Ctrl-C at the prompt */
    LINE_END,     /* Ctrl-D, or the input's end */
};

/* Edits when standard input and output are a terminal. */
MUST_USE enum err lineedit_new(struct lineedit **out, const char *prompt);
void lineedit_free(struct lineedit *edit);
bool lineedit_is_interactive(const struct lineedit *edit);
/* *line, without its newline, is valid until the next call. */
enum line_kind lineedit_read(struct lineedit *edit, const char **line);

#endif
