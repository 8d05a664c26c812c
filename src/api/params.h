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

enum params_of {
    PARAMS_DEFAULTS, /* of a service: nothing that belongs to one reply alone */
    PARAMS_REQUEST,  /* of a request to a service */
    PARAMS_OWN, /* only the own machine is asked: more is allowed (a higher temperature, a shortest
                   length above the longest) */
};
/* A JSON object of parameters, named as in a request.  ERR_USAGE names the key.  out's texts are
 * borrowed from *root (json_decref it). */
MUST_USE enum err params_parse(struct prompt_params *out, json_t **root, const char *text,
                               enum params_of of);

/* What params leaves open becomes what defaults say. */
void params_merge(struct prompt_params *params, const struct prompt_params *defaults);

#endif
