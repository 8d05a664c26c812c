/*
 * question.h - lines become a question: one line, several with a backslash at the end of each but
 * the last, or a block between """ and """.  Pure; one thread.
 */
#ifndef WYVERN_VERBS_QUESTION_H
#define WYVERN_VERBS_QUESTION_H

#include <stdbool.h>

#include "base/buf.h"

#define QUESTION_MAX ((size_t)16 << 20)

struct question {
    struct buf text;
    bool block; /* within """ */
    bool open;  /* a line came, and more must */
};

void question_init(struct question *question);
void question_done(struct question *question);
void question_clear(struct question *question);
/* Takes a line without its newline; afterwards question.open tells whether more must come.  A whole
 * question stands in question.text until question_clear().  ERR_LIMIT. */
MUST_USE enum err question_line(struct question *question, const char *line);

#endif
