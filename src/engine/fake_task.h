/*
 * fake_task.h - what the fake engine makes of tasks that are no replies, and of logprobs: always
 * the same of the same.  Private to src/engine/.
 */
#ifndef WYVERN_ENGINE_FAKE_TASK_H
#define WYVERN_ENGINE_FAKE_TASK_H

#include "engine/emit.h"
#include "engine/engine.h"
#include "engine/task.h"

/* Tokens are bytes; a chat is "role: content" lines; a vector has 16 numbers, made of the text's
 * words. */
MUST_USE enum err fake_task_run(const struct engine_request *request, struct task_result *result);

/* Of piece `number`, with so many alternatives: the first is the piece itself. */
MUST_USE enum err fake_tell_logprobs(struct emit *emit, int64_t number, const char *text,
                                     size_t len, int alternatives);

#endif
