/*
 * mdspan.h - what stands within a line of Markdown: **bold**, *italic*, `code`, [text](address).
 *
 * Text comes in parts.  A marker whose partner has not come yet waits, within SPAN_MAX bytes; one
 * that never gets any is shown as it is, so that no character of "2 * 3" or "*args" is lost.  Pure
 * but for the flow; one thread.
 */
#ifndef WYVERN_VERBS_MDSPAN_H
#define WYVERN_VERBS_MDSPAN_H

#include <stdbool.h>
#include <stddef.h>

#include "verbs/flow.h"

#define SPAN_MAX 1000 /* bytes that one marker looks ahead for its partner */

/* Writes what is decided of text and returns how many bytes that was; ended: no more comes on this
 * line, everything is.  prev: the byte before text, '\0' at a line's beginning. */
size_t span_put(struct flow *flow, const char *text, size_t len, bool ended, unsigned style,
                char prev);

#endif
