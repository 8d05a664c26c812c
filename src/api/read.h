/*
 * read.h - reading the fields of a request, with errors that name them.  Private to src/api/.
 *
 * Each function fills reading->error itself and returns ERR_INVALID; a field that is absent or null
 * leaves *out as it is.
 */
#ifndef WYVERN_API_READ_H
#define WYVERN_API_READ_H

#include "api/request.h"

struct reading { /* one request while it is read */
    struct api_request request;
    struct api_error *error;
    double now;
    bool own; /* our own command line's: what one machine allows itself, too */
};

#define INVALID(code, param, ...) api_error_set(reading->error, 400, code, param, __VA_ARGS__)

/* A request is read in steps, the fields that they share first. */
typedef enum err read_step(struct reading *reading);
MUST_USE enum err read_body(struct api_request *out, enum api_kind kind, read_step *const *steps,
                            size_t count, const char *body, size_t len, double now,
                            struct api_error *error);

/* The field's value; NULL when it is absent or null. */
json_t *read_field(const json_t *object, const char *key);
/* Does the value ask for nothing beyond what we do anyway? */
bool read_is_idle(const json_t *value);
MUST_USE enum err read_wrong_type(struct reading *reading, const char *param, const char *wanted,
                                  const json_t *value);
MUST_USE enum err read_unsupported(struct reading *reading, const char *param);
/* Fields that change what a reply is, in ways that we can't: refused unless they are idle. */
MUST_USE enum err read_refused(struct reading *reading, const char *const *names, size_t count);
MUST_USE enum err read_integer(struct reading *reading, const char *key, int64_t min, int64_t max,
                               int64_t *out);
MUST_USE enum err read_int(struct reading *reading, const char *key, int min, int max, int *out);
MUST_USE enum err read_number(struct reading *reading, const char *key, double min, double max,
                              double *out);
MUST_USE enum err read_flag(struct reading *reading, const json_t *object, const char *key,
                            const char *param, bool *out);
/* A short text that names something: bounded, without control characters. */
MUST_USE enum err read_name(struct reading *reading, const char *key, size_t max, const char **out);
/* A text, or an array of 1 … most texts: an array of them in either case, which stands in the root
 * under the key from then on.  Arrays of token ids are refused by name. */
MUST_USE enum err read_texts(struct reading *reading, const char *key, size_t most,
                             const json_t **out);
/* Gives a new value to the root.  ERR_NOMEM, also for value NULL. */
MUST_USE enum err read_put(struct reading *reading, json_t *object, const char *key, json_t *value);
/* Makes request.kept: {"api":…,"created":…} and these fields, where they were given. */
MUST_USE enum err read_keep(struct reading *reading, const char *api, const char *const *names,
                            size_t count);

/* The field metadata of any object that is asked for: a few short texts, or absent. */
MUST_USE enum err read_metadata_of(const json_t *object, struct api_error *error);

/* Steps, each for some fields. */
read_step read_model;      /* model: required */
read_step read_user;       /* user */
read_step read_stream;     /* stream, stream_options.include_usage */
read_step read_metadata;   /* metadata: checked */
read_step read_messages;   /* messages.c: messages */
read_step read_params;     /* params.c: what is asked of the reply */
read_step read_logit_bias; /* params.c: logit_bias */

/* format.c: response_format or text.format (format; NULL: not given), whose schema stands below
 * `inner` (NULL: in itself); and grammar. */
MUST_USE enum err read_format(struct reading *reading, const json_t *format, const char *param,
                              const char *inner);

/* messages.c: a message's content, a text or an array of parts of one of these types (NULL ends
 * them), joined by newlines; *content belongs to message. */
MUST_USE enum err read_content(struct reading *reading, json_t *message, const char *at,
                               const char *const *types, const char **content);
/* Its role; developer is system. */
MUST_USE enum err read_role(struct reading *reading, const json_t *message, const char *at,
                            const char **role);
/* Room for more messages behind those there are.  ERR_INVALID: too many. */
MUST_USE enum err read_more_messages(struct reading *reading, const char *param, size_t more);

#endif
