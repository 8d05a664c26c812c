/*
 * topk.h - the best of many scores, in the very order that the original gives them.  Private to
 * src/engine/blenderbot/; pure.
 *
 * Among equal scores (forbidden tokens at −∞, hopeless sequences at −10⁹) the order decides which
 * sequences a beam search returns.  PyTorch's topk leaves it to the C++ library's partial_sort and
 * nth_element; these are the same steps.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_TOPK_H
#define WYVERN_ENGINE_BLENDERBOT_TOPK_H

#include <stddef.h>
#include <stdint.h>

struct topk_item {
    float score; /* never NaN */
    uint32_t at; /* where it came from */
};

/* Room that topk_begin() wants for the `most` best of `total`. */
size_t topk_room(size_t total, size_t most);

struct topk {
    struct topk_item *items; /* borrowed */
    size_t count, total, most;
};

/* 1 ≤ most ≤ total.  Exactly `total` scores must follow, in their order. */
void topk_begin(struct topk *topk, struct topk_item *room, size_t total, size_t most);
void topk_offer(struct topk *topk, float score);
/* A bound below which (and at which) an offer changes nothing; it still has to be made, or skipped
 * by topk_skip(). */
float topk_threshold(const struct topk *topk);
void topk_skip(struct topk *topk, size_t count);
/* Afterwards items holds the `most` best, best first. */
void topk_end(struct topk *topk);

#endif
