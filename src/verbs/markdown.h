/*
 * markdown.h - a model's Markdown on a colour terminal, while it comes in.
 *
 * Words show as soon as they are whole; only a table waits for its end, and a marker for its
 * partner.  What it draws is the same however the text was cut into parts.  The text is hostile:
 * no control character of it reaches the terminal (flow.h), nesting and waiting are bounded, and
 * what is broken Markdown is shown as the text it is.  One thread.
 */
#ifndef WYVERN_VERBS_MARKDOWN_H
#define WYVERN_VERBS_MARKDOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "verbs/flow.h"

struct markdown;

/* utf8: bullets and lines; else ASCII.  width_of is asked at each line's beginning. */
MUST_USE enum err markdown_new(struct markdown **out, flow_write_fn *write, flow_width_fn *width_of,
                               void *arg, bool utf8);
void markdown_free(struct markdown *markdown);
/* Fits api_text_fn; arg is the markdown.  False when it can't be written any more. */
bool markdown_feed(void *arg, const char *text, size_t len);
/* Shows what was held back and ends the line; the next feed begins a new text. */
void markdown_end(struct markdown *markdown);
/* Is the cursor at the beginning of a line?  Else: how many columns are free behind it. */
bool markdown_at_line_start(const struct markdown *markdown);
int markdown_left(const struct markdown *markdown);

#endif
