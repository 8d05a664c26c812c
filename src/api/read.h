/*
 * read.h - reading the fields of a request, with errors that name them.  Private to src/api/.
 *
 * Each function fills reading->error itself and returns ERR_INVALID; a field that is absent or null
 * leaves *out as it is.
 */
#ifndef WYVERN_API_READ_H
#define WYVERN_API_READ_H

#include "api/chat.h"

struct reading { /* one request while it is read */
    struct chat_request request;
    struct api_error *error;
    bool own; /* our own command line's: what one machine allows itself, too */
};

#define INVALID(code, param, ...) api_error_set(reading->error, 400, code, param, __VA_ARGS__)

/* The field's value; NULL when it is absent or null. */
json_t *read_field(const json_t *object, const char *key);
MUST_USE enum err read_wrong_type(struct reading *reading, const char *param, const char *wanted,
                                  const json_t *value);
MUST_USE enum err read_unsupported(struct reading *reading, const char *param);
MUST_USE enum err read_integer(struct reading *reading, const char *key, int64_t min, int64_t max,
                               int64_t *out);
MUST_USE enum err read_int(struct reading *reading, const char *key, int min, int max, int *out);
MUST_USE enum err read_number(struct reading *reading, const char *key, double min, double max,
                              double *out);
MUST_USE enum err read_flag(struct reading *reading, const json_t *object, const char *key,
                            const char *param, bool *out);
/* A short text that names something: bounded, without control characters. */
MUST_USE enum err read_name(struct reading *reading, const char *key, size_t max, const char **out);

/* params.c: what is asked of the reply, into request.prompt.params. */
MUST_USE enum err read_params(struct reading *reading);

#endif
