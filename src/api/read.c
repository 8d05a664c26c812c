#include "api/read.h"

#include <math.h>
#include <string.h>

json_t *read_field(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
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
    real = json_real_value(value); /* 5.0, or any integer beside one that needs over 64 bits */
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
