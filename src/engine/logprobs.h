/*
 * logprobs.h - how probabilities of tokens are told: OpenAI's JSON.  Private to src/engine/.
 */
#ifndef WYVERN_ENGINE_LOGPROBS_H
#define WYVERN_ENGINE_LOGPROBS_H

#include "wire/json.h"

#define LOGPROBS_MAX 20 /* alternatives */

/* "token", "logprob" and "bytes", into an open object; a token is len bytes. */
void logprobs_write_token(struct json_out *out, const char *token, size_t len, double logprob);

#endif
