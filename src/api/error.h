/*
 * error.h - errors in OpenAI's shape: {"error":{"message","type","param","code"}}.
 */
#ifndef WYVERN_API_ERROR_H
#define WYVERN_API_ERROR_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct api_error {
    int status;       /* HTTP */
    const char *type; /* "invalid_request_error", "server_error", "rate_limit_exceeded" … */
    const char *code; /* NULL: null */
    char param[96];   /* field at fault, "messages[0].content"; "": null */
    char message[384];
};

/* Fills error; type follows from status.  code is borrowed, param may be NULL.  Messages that are
 * too long are cut at a whole character.  Returns ERR_INVALID for convenience. */
enum err api_error_set(struct api_error *error, int status, const char *code, const char *param,
                       const char *format, ...) PRINTF_LIKE(5, 6);
MUST_USE enum err api_error_write(const struct api_error *error, struct buf *out);

#endif
