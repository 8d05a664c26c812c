/*
 * format.c - the shape that a reply is held to: response_format, text.format, grammar.
 */
#include <stdio.h>
#include <string.h>

#include "api/read.h"
#include "api/schema.h"
#include "wire/json.h"

/* The grammar stands in the root from then on, as if it had been asked for. */
static enum err set_grammar(struct reading *reading, const struct buf *text)
{
    json_t *root = reading->request.root;
    enum err err =
        read_put(reading, root, "grammar", json_stringn_nocheck(buf_text(text), text->len));

    reading->request.prompt.params.grammar = json_text(root, "grammar", NULL);
    return err;
}

static enum err read_grammar(struct reading *reading)
{
    json_t *value = read_field(reading->request.root, "grammar");

    if (value == NULL)
        return ERR_OK;
    if (!json_is_string(value))
        return read_wrong_type(reading, "grammar", "a string", value);
    if (json_string_length(value) > PROMPT_MAX_GRAMMAR)
        return INVALID("string_above_max_length", "grammar", "'grammar' is longer than %zu bytes.",
                       PROMPT_MAX_GRAMMAR);
    if (json_string_length(value) > 0)
        reading->request.prompt.params.grammar = json_string_value(value);
    return ERR_OK;
}

static enum err read_schema(struct reading *reading, const json_t *holder, const char *param)
{
    char at[96];
    struct buf text;
    const json_t *schema = read_field(holder, "schema");
    enum err err;

    snprintf(at, sizeof at, "%s.schema", param);
    if (!json_is_object(schema))
        return read_wrong_type(reading, at, "an object", schema);
    buf_init(&text, PROMPT_MAX_GRAMMAR);
    err = schema_to_grammar(reading, schema, at, &text);
    if (err == ERR_OK)
        err = set_grammar(reading, &text);
    buf_done(&text);
    return err;
}

static enum err read_any_object(struct reading *reading)
{
    struct buf text;
    enum err err;

    buf_init(&text, PROMPT_MAX_GRAMMAR);
    err = schema_any_object(&text);
    if (err == ERR_OK)
        err = set_grammar(reading, &text);
    buf_done(&text);
    return err;
}

enum err read_format(struct reading *reading, const json_t *format, const char *param,
                     const char *inner)
{
    char at[64];
    const char *type = json_text(format, "type", NULL);
    const json_t *holder = inner != NULL ? read_field(format, inner) : format;
    enum err err = read_grammar(reading);

    if (err != ERR_OK || format == NULL)
        return err;
    if (!json_is_object(format))
        return read_wrong_type(reading, param, "an object", format);
    snprintf(at, sizeof at, "%s.type", param);
    if (type == NULL)
        return read_wrong_type(reading, at, "a string", read_field(format, "type"));
    if (strcmp(type, "text") == 0)
        return ERR_OK;
    if (reading->request.prompt.params.grammar != NULL)
        return INVALID("invalid_value", "grammar", "'grammar' goes only without '%s'.", param);
    if (strcmp(type, "json_object") == 0)
        return read_any_object(reading);
    if (strcmp(type, "json_schema") != 0)
        return INVALID("unsupported_value", at,
                       "'%s' must be 'text', 'json_object' or 'json_schema'.", at);
    if (inner == NULL)
        return read_schema(reading, holder, param);
    snprintf(at, sizeof at, "%s.%s", param, inner);
    if (!json_is_object(holder))
        return read_wrong_type(reading, at, "an object", holder);
    return read_schema(reading, holder, at);
}
