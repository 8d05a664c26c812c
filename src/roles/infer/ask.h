/*
 * ask.h - a prompt as the engine takes it, and what a task without pieces comes to.
 *
 * Private to the inference worker.  ask_* on the model's thread, result_* on the loop's.
 */
#ifndef WYVERN_ROLES_INFER_ASK_H
#define WYVERN_ROLES_INFER_ASK_H

#include <jansson.h>

#include "engine/params.h"
#include "wire/prompt.h"

struct ask {
    struct engine_request request; /* user and what is resumed are the caller's to set */
    /* what the request borrows, besides the prompt */
    struct engine_params_room params;
    struct engine_message *messages;
    const char **inputs;
    int32_t *tokens; /* of TASK_DETOKENIZE */
};

/* ERR_INVALID: a token that is none; ERR_NOMEM.  The prompt must outlive it. */
MUST_USE enum err ask_init(struct ask *ask, const struct prompt *prompt);
void ask_done(struct ask *ask); /* safe after a failed ask_init */

/* Does the task's answer come as pieces of text?  Else it is a result. */
bool task_makes_text(enum prompt_task task);

/* The result (json_decref it) of the last event of such a task, in the shape that enum prompt_task
 * says.  ERR_NOMEM; ERR_INTERNAL: the event holds none. */
MUST_USE enum err result_make(json_t **out, enum prompt_task task,
                              const struct engine_event *event);

#endif
