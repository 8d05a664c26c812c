/*
 * slots.h - which slot a prompt takes, and whose cache its beginning can be copied from.
 *
 * Pure: works on a view of the slots that the engine fills in; token lists are borrowed.
 */
#ifndef WYVERN_SCHED_SLOTS_H
#define WYVERN_SCHED_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slot_view {
    bool busy;
    bool growing;          /* busy with its prompt: what it has not cached yet it soon will */
    uint64_t order;        /* busy: when it started; free: when it was last used; 0: never */
    const int32_t *tokens; /* what it holds or will hold */
    size_t planned;        /* length of tokens */
    size_t cached;         /* how many of them are in the cache now */
};

#define SLOTS_WORTH_COPYING 32 /* tokens; shorter beginnings are computed again */

/* Length of the common beginning of two token lists. */
size_t slots_common(const int32_t *a, size_t a_count, const int32_t *b, size_t b_count);

/* The free slot for a prompt: the one whose cache begins most like it, if that is worth keeping;
 * else the one unused for longest, lowest number first.  count when none is free. */
size_t slots_choose(const struct slot_view *slots, size_t count, const int32_t *prompt,
                    size_t prompt_count);

/* Where slot `self`, which has `have` tokens of its prompt cached, should take more from. */
struct slots_source {
    size_t slot;   /* count: nowhere, go on computing */
    size_t common; /* tokens in common with self's prompt */
    bool wait;     /* it is not cached there yet, but an earlier prompt is just computing it */
};
struct slots_source slots_find_source(const struct slot_view *slots, size_t count, size_t self,
                                      size_t have);

#endif
