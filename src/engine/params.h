/*
 * params.h - a prompt's parameters as an engine takes them.
 */
#ifndef WYVERN_ENGINE_PARAMS_H
#define WYVERN_ENGINE_PARAMS_H

#include "engine/engine.h"
#include "wire/prompt.h"

/* params borrows its stop strings from `from`, and *search when the prompt says anything of it. */
void engine_params_of(struct engine_params *params, struct engine_search *search,
                      const struct prompt_params *from);

#endif
