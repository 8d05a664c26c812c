/*
 * wrap.h - text for people: how wide their terminal is, and lines that fit it.  Any thread.
 */
#ifndef WYVERN_CONFIG_WRAP_H
#define WYVERN_CONFIG_WRAP_H

#include <stddef.h>
#include <stdio.h>

#define WRAP_WIDTH_DEFAULT 80
#define WRAP_WIDTH_LEAST   40
#define WRAP_WIDTH_MOST    400

/* Columns of the terminal behind fd, else $COLUMNS, else 80; within the bounds above. */
int wrap_width(int fd);

/* Columns that UTF-8 text takes: one a character, two for wide ones, none for combining marks. */
size_t wrap_columns(const char *text);

/* Writes text broken at spaces, the lines after the first indented; ends with a newline.  `column`
 * is where the first line begins. */
void wrap_print(FILE *out, const char *text, int column, int indent, int width);

#endif
