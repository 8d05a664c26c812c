/*
 * params.h - what may be asked of a reply, apart from a request: the service's defaults, --params.
 */
#ifndef WYVERN_API_PARAMS_H
#define WYVERN_API_PARAMS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "wire/prompt.h"

/* Is it the name of one of them? */
bool params_know(const char *name);

/* A JSON object of parameters, named as in a request.  own: what only the own machine is asked for
 * is allowed too (a higher temperature, a shortest length above the longest).  ERR_USAGE names the
 * key.  out's texts are borrowed from *root (json_decref it). */
MUST_USE enum err params_parse(struct prompt_params *out, json_t **root, const char *text,
                               bool own);

/* What params leaves open becomes what defaults say. */
void params_merge(struct prompt_params *params, const struct prompt_params *defaults);

#endif
