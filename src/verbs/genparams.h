/*
 * genparams.h - what `wyvern generate` is asked for: its flags, and over them --params.
 */
#ifndef WYVERN_VERBS_GENPARAMS_H
#define WYVERN_VERBS_GENPARAMS_H

#include <jansson.h>

#include "config/options.h"
#include "engine/params.h"

struct genparams {
    struct prompt_params asked;
    struct engine_params params;
    struct engine_params_room room; /* what params points to */
    json_t *root;                   /* of --params */
};

/* ERR_USAGE names the key.  out must stay where it is: params points into it. */
MUST_USE enum err genparams_read(struct genparams *out, const struct settings *settings);
void genparams_done(struct genparams *params); /* safe on zeroed memory */

#endif
