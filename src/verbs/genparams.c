#include "verbs/genparams.h"

#include <string.h>

#include "api/params.h"

enum err genparams_read(struct genparams *out, const struct settings *settings)
{
    struct prompt_params flags = prompt_params_default();
    *out = (struct genparams){.asked = flags};
    flags.min_tokens = settings->min_tokens;
    flags.max_tokens = settings->max_tokens;
    flags.temperature = settings->temperature;
    flags.top_p = settings->top_p;
    flags.top_k = settings->top_k;
    flags.seed = settings->seed;
    if (settings->truncate != NULL)
        flags.truncate = prompt_truncate_of(settings->truncate);
    if (settings->params != NULL) {
        enum err err = params_parse(&out->asked, &out->root, settings->params, PARAMS_OWN);
        if (err != ERR_OK)
            return err;
    }
    params_merge(&out->asked, &flags);
    return engine_params_of(&out->params, &out->room, &out->asked);
}

void genparams_done(struct genparams *params)
{
    json_decref(params->root);
    *params = (struct genparams){0};
}
