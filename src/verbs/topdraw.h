/*
 * topdraw.h - what `wyvern top` shows: a screen, a text of everything, JSON.  Pure.
 */
#ifndef WYVERN_VERBS_TOPDRAW_H
#define WYVERN_VERBS_TOPDRAW_H

#include "base/buf.h"
#include "verbs/term.h"
#include "verbs/topmodel.h"

struct top_screen {
    struct term_style style; /* width: the terminal's */
    int height;
    size_t scroll; /* first line of the list that is shown; set right by drawing */
    size_t page;   /* lines of the list that fit; set by drawing */
};

/* At most `height` lines, each with its newline and at most `width` columns.  clock: the time of
 * day. */
MUST_USE enum err top_draw_screen(const struct top *top, struct top_screen *screen, double now,
                                  const char *clock, struct buf *out);
/* Everything there is, latencies since the gateways began. */
MUST_USE enum err top_draw_text(const struct top *top, const struct term_style *style, double now,
                                struct buf *out);
/* One object, without a newline.  wall: Unix seconds. */
MUST_USE enum err top_write_json(const struct top *top, double now, double wall, struct buf *out);

#endif
