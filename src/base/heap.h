/*
 * heap.h - memory that a burst has left goes back to the system.
 *
 * What many requests held at once lies between the little that stays of each, and the C library
 * gives back only what is free at the heap's end.  One thread.
 */
#ifndef WYVERN_BASE_HEAP_H
#define WYVERN_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct heap {    /* zero at first */
    size_t last; /* bytes that were free at the last look */
    size_t low;  /* the fewest since pages were given back: those need not be given again */
};

/* To be called each few seconds.  When much more is free than after the last time, and no more than
 * at the last look (the burst is over), its whole pages are given back: true. */
bool heap_settle(struct heap *heap);

#endif
