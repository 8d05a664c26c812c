/*
 * topterm.h - the terminal while `wyvern top` has it: another screen, no echo, keys at once.  One
 * at a time, one thread.
 *
 * Whatever ends the program, the terminal is as it was: also on exit() and on a crash.
 */
#ifndef WYVERN_VERBS_TOPTERM_H
#define WYVERN_VERBS_TOPTERM_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

enum top_key {
    TOP_KEY_NONE,
    TOP_KEY_LEAVE, /* q, or the terminal is gone */
    TOP_KEY_UP,
    TOP_KEY_DOWN,
    TOP_KEY_PAGE_UP,
    TOP_KEY_PAGE_DOWN,
    TOP_KEY_HOME,
    TOP_KEY_END,
    TOP_KEY_DRAW, /* Ctrl-L */
};

/* Takes the terminal behind standard output (and input, where that is one as well). */
MUST_USE enum err top_term_enter(void);
void top_term_leave(void); /* also when it was never taken */

/* Its size; 80 × 24 when it does not say. */
void top_term_size(int *width, int *height);
/* Waits for a key, a signal or the timeout.  TOP_KEY_NONE: no key came. */
enum top_key top_term_key(unsigned timeout_ms);
/* Draws a whole frame over the last one.  ERR_IO: the terminal is gone. */
MUST_USE enum err top_term_show(const struct buf *frame);

/* What the bytes of one key mean; *used: how many they are, 0 when more must come.  Pure. */
enum top_key top_key_read(const char *bytes, size_t len, size_t *used);

#endif
