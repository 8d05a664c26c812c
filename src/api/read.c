#include "api/read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/json.h"
#include "wire/subject.h"

#define METADATA_PAIRS_MAX 16
#define METADATA_KEY_MAX   64
#define METADATA_VALUE_MAX 512

enum err read_body(struct api_request *out, enum api_kind kind, read_step *const *steps,
                   size_t count, const char *body, size_t len, double now, struct api_error *error)
{
    char param[64] = "";
    struct reading at = {.error = error, .now = now}, *reading = &at;
    struct api_request *request = &reading->request;
    enum err err;

    request->kind = kind;
    request->n = 1;
    request->prompt.prompter = "";
    request->prompt.params = prompt_params_default();
    err = json_parse_naming(&request->root, body, len, param, sizeof param);
    if (err == ERR_LIMIT || err == ERR_INVALID)
        return INVALID("invalid_json", param, "The body can't be read: %s.", err_text());
    if (err == ERR_OK && !json_is_object(request->root))
        err = INVALID("invalid_type", NULL, "The body must be a JSON object.");
    for (size_t i = 0; err == ERR_OK && i < count; i++)
        err = steps[i](reading);
    if (err == ERR_OK)
        *out = *request;
    else
        api_request_done(request);
    return err;
}

void api_request_done(struct api_request *request)
{
    if (request == NULL)
        return;
    free(request->prompt.messages);
    json_decref(request->root);
    json_decref(request->kept);
    *request = (struct api_request){.root = NULL};
}

json_t *read_field(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

bool read_is_idle(const json_t *value)
{
    const char *text = json_string_value(value);

    switch (json_typeof(value)) {
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_STRING:
        return strcmp(text, "none") == 0 || strcmp(text, "auto") == 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return fpclassify(json_number_value(value)) == FP_ZERO;
    default:
        return !json_is_true(value);
    }
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

enum err read_wrong_type(struct reading *reading, const char *param, const char *wanted,
                         const json_t *value)
{
    if (value == NULL)
        return INVALID("missing_required_parameter", param, "'%s' is required: %s.", param, wanted);
    return INVALID("invalid_type", param, "Invalid type for '%s': expected %s, but got %s.", param,
                   wanted, type_name(value));
}

enum err read_unsupported(struct reading *reading, const char *param)
{
    return INVALID("unsupported_parameter", param, "'%s' is not supported by this service.", param);
}

enum err read_refused(struct reading *reading, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = read_field(reading->request.root, names[i]);
        if (value != NULL && !read_is_idle(value))
            return read_unsupported(reading, names[i]);
    }
    return ERR_OK;
}

enum err read_integer(struct reading *reading, const char *key, int64_t min, int64_t max,
                      int64_t *out)
{
    json_t *value = read_field(reading->request.root, key);
    double real;

    if (value == NULL)
        return ERR_OK;
    if (json_is_integer(value)) {
        json_int_t integer = json_integer_value(value);
        if (integer < min)
            return INVALID("integer_below_min_value", key,
                           "'%s' is %lld, below its minimum of %lld.", key, (long long)integer,
                           (long long)min);
        if (integer > max)
            return INVALID("integer_above_max_value", key,
                           "'%s' is %lld, above its maximum of %lld.", key, (long long)integer,
                           (long long)max);
        *out = integer;
        return ERR_OK;
    }
    if (!json_is_real(value) || trunc(json_real_value(value)) != json_real_value(value))
        return read_wrong_type(reading, key, "an integer", value);
    real = json_real_value(value); /* 5.0, or an integer of more than 64 bits */
    if (real < (double)min)
        return INVALID("integer_below_min_value", key, "'%s' is below its minimum of %lld.", key,
                       (long long)min);
    if (real > (double)max || real >= 0x1p63)
        return INVALID("integer_above_max_value", key, "'%s' is above its maximum of %lld.", key,
                       (long long)max);
    *out = (int64_t)real;
    return ERR_OK;
}

enum err read_int(struct reading *reading, const char *key, int min, int max, int *out)
{
    int64_t value = *out;
    enum err err = read_integer(reading, key, min, max, &value);

    if (err == ERR_OK)
        *out = (int)value;
    return err;
}

enum err read_number(struct reading *reading, const char *key, double min, double max, double *out)
{
    json_t *value = read_field(reading->request.root, key);
    double number = json_number_value(value);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_number(value))
        return read_wrong_type(reading, key, "a number", value);
    if (number < min)
        return INVALID("decimal_below_min_value", key, "'%s' is %g, below its minimum of %g.", key,
                       number, min);
    if (number > max)
        return INVALID("decimal_above_max_value", key, "'%s' is %g, above its maximum of %g.", key,
                       number, max);
    *out = number;
    return ERR_OK;
}

enum err read_flag(struct reading *reading, const json_t *object, const char *key,
                   const char *param, bool *out)
{
    json_t *value = read_field(object, key);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_boolean(value))
        return read_wrong_type(reading, param, "a boolean", value);
    *out = json_is_true(value);
    return ERR_OK;
}

static bool has_control_character(const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
        bool c1 = s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0; /* U+0080 … U+009F */
        if (*s < 0x20 || *s == 0x7f || c1)
            return true;
    }
    return false;
}

enum err read_name(struct reading *reading, const char *key, size_t max, const char **out)
{
    json_t *value = read_field(reading->request.root, key);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_string(value))
        return read_wrong_type(reading, key, "a string", value);
    if (json_string_length(value) > max)
        return INVALID("string_above_max_length", key, "'%s' is longer than %zu bytes.", key, max);
    if (has_control_character(json_string_value(value)))
        return INVALID("invalid_value", key, "'%s' must not hold control characters.", key);
    *out = json_string_value(value);
    return ERR_OK;
}

enum err read_put(struct reading *reading, json_t *object, const char *key, json_t *value)
{
    (void)reading;
    return json_object_set_new_nocheck(object, key, value) == 0
               ? ERR_OK
               : err_set(ERR_NOMEM, "no memory for a request");
}

static enum err wrap_text(struct reading *reading, const char *key, json_t *text)
{
    json_t *array = json_array();

    if (json_array_append(array, text) == 0)
        return read_put(reading, reading->request.root, key, array);
    json_decref(array);
    return err_set(ERR_NOMEM, "no memory for a request");
}

enum err read_texts(struct reading *reading, const char *key, size_t most, const json_t **out)
{
    json_t *value = read_field(reading->request.root, key);
    const json_t *first = json_array_get(value, 0);
    char param[48];
    enum err err;

    if (json_is_string(value)) {
        err = wrap_text(reading, key, value);
        if (err == ERR_OK)
            *out = json_object_get(reading->request.root, key);
        return err;
    }
    if (!json_is_array(value))
        return read_wrong_type(reading, key, "a string or an array of strings", value);
    if (json_array_size(value) == 0)
        return INVALID("empty_array", key, "'%s' must hold at least one text.", key);
    if (json_is_number(first) || json_is_array(first))
        return INVALID("unsupported_value", key,
                       "'%s' as token ids is not supported: ids belong to one model alone, and "
                       "which one answers may change; send text.",
                       key);
    if (json_array_size(value) > most)
        return INVALID("array_above_max_length", key, "'%s' holds more than %zu texts.", key, most);
    for (size_t i = 0; i < json_array_size(value); i++) {
        snprintf(param, sizeof param, "%s[%zu]", key, i);
        if (!json_is_string(json_array_get(value, i)))
            return read_wrong_type(reading, param, "a string", json_array_get(value, i));
    }
    *out = value;
    return ERR_OK;
}

enum err read_keep(struct reading *reading, const char *api, const char *const *names, size_t count)
{
    json_t *kept = json_object();
    enum err err = read_put(reading, kept, "api", json_string(api));

    reading->request.kept = kept;
    if (err == ERR_OK)
        err = read_put(reading, kept, "created", json_real(reading->now));
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        json_t *value = read_field(reading->request.root, names[i]);
        if (value != NULL)
            err = read_put(reading, kept, names[i], json_incref(value));
    }
    return err;
}

/* ---- steps ---- */

enum err read_model(struct reading *reading)
{
    const char **model = &reading->request.prompt.model;
    enum err err = read_name(reading, "model", MODEL_NAME_MAX, model);

    if (err == ERR_OK && *model == NULL)
        return read_wrong_type(reading, "model", "the name of a model", NULL);
    if (err == ERR_OK && (*model)[0] == '\0')
        return INVALID("invalid_value", "model", "'model' must not be empty.");
    return err;
}

enum err read_user(struct reading *reading)
{
    return read_name(reading, "user", PROMPT_MAX_USER, &reading->request.prompt.prompter);
}

enum err read_stream(struct reading *reading)
{
    struct api_request *request = &reading->request;
    json_t *options = read_field(request->root, "stream_options");
    enum err err = read_flag(reading, request->root, "stream", "stream", &request->stream);

    if (err != ERR_OK || options == NULL)
        return err;
    if (!json_is_object(options))
        return read_wrong_type(reading, "stream_options", "an object", options);
    if (!request->stream)
        return INVALID("invalid_value", "stream_options",
                       "'stream_options' goes only with 'stream': true.");
    return read_flag(reading, options, "include_usage", "stream_options.include_usage",
                     &request->include_usage);
}

enum err read_metadata_of(const json_t *object, struct api_error *error)
{
    struct reading at = {.error = error}, *reading = &at;
    json_t *metadata = read_field(object, "metadata"), *value;
    char param[96];
    const char *key;

    if (metadata == NULL)
        return ERR_OK;
    if (!json_is_object(metadata))
        return read_wrong_type(reading, "metadata", "an object", metadata);
    if (json_object_size(metadata) > METADATA_PAIRS_MAX)
        return INVALID("object_above_max_properties", "metadata",
                       "'metadata' holds more than %d pairs.", METADATA_PAIRS_MAX);
    json_object_foreach(metadata, key, value)
    {
        if (strlen(key) > METADATA_KEY_MAX)
            return INVALID("string_above_max_length", "metadata",
                           "A key of 'metadata' is longer than %d bytes.", METADATA_KEY_MAX);
        snprintf(param, sizeof param, "metadata.%s", key);
        if (!json_is_string(value))
            return read_wrong_type(reading, param, "a string", value);
        if (json_string_length(value) > METADATA_VALUE_MAX)
            return INVALID("string_above_max_length", param, "'%s' is longer than %d bytes.", param,
                           METADATA_VALUE_MAX);
    }
    return ERR_OK;
}

enum err read_metadata(struct reading *reading)
{
    return read_metadata_of(reading->request.root, reading->error);
}
