/*
 * term.h - what the verbs know about the terminal: colours, safe text, progress that redraws
 * itself.
 *
 * One thread.  Text that came from a model or over the network goes through term_text(), which lets
 * no control character reach a terminal.
 */
#ifndef WYVERN_VERBS_TERM_H
#define WYVERN_VERBS_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

/* How to draw on one stream. */
struct term_style {
    int width;
    bool utf8;   /* blocks and bars; else ASCII */
    bool colour; /* a terminal, and NO_COLOR is not set */
    bool redraw; /* a terminal that can move its cursor */
};
struct term_style term_style_of(FILE *stream);

/* Escape sequences, "" without colour. */
const char *term_bold(const struct term_style *style);
const char *term_dim(const struct term_style *style);
const char *term_red(const struct term_style *style);
const char *term_green(const struct term_style *style);
const char *term_yellow(const struct term_style *style);
const char *term_cyan(const struct term_style *style);
const char *term_reset(const struct term_style *style);

/* May this character (whole UTF-8, len bytes) not reach a terminal?  Controls, and what turns the
 * direction of a line around. */
bool term_is_harmful(const char *text, size_t len);

/* A copy in which what is harmful or broken is '?' (free() it); NULL without memory. */
char *term_safe(const char *text);

/* Writes text; on a terminal what is harmful or broken becomes '?', but
 * newline and tab.  False when
 * the stream can't be written (its reader left): stop. */
bool term_text(FILE *out, const char *text, size_t len);
/* The same on standard output, seen at once; fits api_text_fn. */
bool term_words(void *arg, const char *text, size_t len);

/* Standard output, as it is: what we drew ourselves.  Nothing (0 bytes): what is there is shown
 * now. False when it can't be written. */
bool term_drawn(const char *text, size_t len);

/* A dim line on standard error when so many tokens of a prompt were left out; none for 0. */
void term_truncated(uint64_t tokens);

/* A label and a sentence on standard error; on a terminal broken at spaces, the lines after the
 * first indented, and without what may not get there. */
void term_say(const char *label, const char *text, int indent);
/* "wyvern: SENTENCE" of err_text() on standard error; returns the exit status. */
int term_fail(enum err err);

/* Flushes standard output at the end: a reader that left is no fault, a full disk is. */
int term_finish(int status);

/* A block of lines on standard error that is drawn over again. */
struct term_live {
    struct term_style style;
    int lines; /* drawn now */
};
/* frame: whole lines, each at most style.width columns. */
void term_live_draw(struct term_live *live, const struct buf *frame);
void term_live_clear(struct term_live *live);

#endif
