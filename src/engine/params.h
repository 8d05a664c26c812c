/*
 * params.h - a prompt's parameters as an engine takes them.
 */
#ifndef WYVERN_ENGINE_PARAMS_H
#define WYVERN_ENGINE_PARAMS_H

#include "engine/engine.h"
#include "wire/prompt.h"

struct engine_params_room { /* what the parameters point to */
    struct engine_search search;
    struct engine_bias bias[PROMPT_MAX_BIAS];
};

/* params borrows its texts from `from` and the rest from room.  ERR_INVALID: a key of logit_bias is
 * no token's number. */
MUST_USE enum err engine_params_of(struct engine_params *params, struct engine_params_room *room,
                                   const struct prompt_params *from);

#endif
