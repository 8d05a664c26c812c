/*
 * flow.h - words that flow onto a terminal: broken at spaces where the width ends, in styles.
 *
 * Characters come one by one; a word is written when it is whole, so that the text shows while it
 * is made and no line is drawn twice.  The width is asked for anew at each line, which is all that
 * a resized window needs.  Nothing but whole UTF-8 characters that draw something, spaces, newlines
 * and the style sequences of this file ever leaves it.  Embedded in its owner; one thread.
 */
#ifndef WYVERN_VERBS_FLOW_H
#define WYVERN_VERBS_FLOW_H

#include <stdbool.h>
#include <stddef.h>

enum flow_style { /* bits */
                  FLOW_BOLD = 1,
                  FLOW_DIM = 2,
                  FLOW_ITALIC = 4,
                  FLOW_UNDERLINE = 8,
                  FLOW_STRIKE = 16,
                  FLOW_CYAN = 32,
                  FLOW_GREEN = 64,
                  FLOW_YELLOW = 128,
};

/* false: the reader left. */
typedef bool flow_write_fn(void *arg, const char *text, size_t len);
typedef int flow_width_fn(void *arg);

#define FLOW_WORD_MAX   256 /* characters; a longer word is written in parts */
#define FLOW_PREFIX_MAX 160 /* bytes */

struct flow_cell {
    char text[5];
    unsigned char columns;
    unsigned style;
};

struct flow {
    flow_write_fn *write;
    flow_width_fn *width_of;
    void *arg;
    int width, column;
    char prefix[FLOW_PREFIX_MAX + 1]; /* of lines that go on */
    unsigned prefix_style;
    int prefix_columns;
    struct flow_cell word[FLOW_WORD_MAX];
    size_t word_len;
    int word_columns;
    int spaces; /* before the word */
    unsigned space_style;
    unsigned shown; /* the terminal's style now */
    bool fresh;     /* nothing but the prefix stands on this line */
    bool failed;
};

void flow_init(struct flow *flow, flow_write_fn *write, flow_width_fn *width_of, void *arg);
/* One character (whole UTF-8, or anything broken: drawn as '?').  A space ends a word; a newline is
 * flow_newline()'s. */
void flow_char(struct flow *flow, const char *text, size_t len, unsigned style);
void flow_text(struct flow *flow, const char *text, unsigned style);
/* As it is, without breaks: lines of code.  Tabs go to the next multiple of 4. */
void flow_char_plain(struct flow *flow, const char *text, size_t len, unsigned style);
/* Writes the word that is not whole yet. */
void flow_flush(struct flow *flow);
/* Ends the line, in no style. */
void flow_newline(struct flow *flow);
/* What stands before the lines that follow, until the next call.  Our own text. */
void flow_prefix(struct flow *flow, const char *prefix, unsigned style);
/* What the first line of a block begins with: our own text, which takes no part in breaking. */
void flow_lead(struct flow *flow, const char *text, unsigned style);
/* Columns that are free on this line. */
int flow_left(const struct flow *flow);

#endif
