/*
 * schema.c - walks a schema; each part of it becomes a rule, or the name of one that is always
 * there.
 */
#include "api/schema.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema_walk.h"
#include "wire/json.h"

#define TYPES_MAX 7 /* that there are */

/* Rules that are always there.  A text holds no lone surrogates, a number no more digits than
 * clients can take, and blanks stand where people put them: behind '{', '[', ',' and before '}' and
 * ']' one blank, or one line's end with its indent; behind ':' one blank. */
static const char always[] =
    "ws ::= ( \" \" | \"\\n\" \" \"{0,16} )?\n"
    "value ::= object | array | string | number | boolean | null\n"
    "object ::= \"{\" ws ( member ( \",\" ws member )* ws )? \"}\"\n"
    "member ::= string colon value\n"
    "colon ::= \":\" \" \"?\n"
    "array ::= \"[\" ws ( value ( \",\" ws value )* ws )? \"]\"\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "char ::= [^\"\\\\\\x00-\\x1F\\x7F] | \"\\\\\" escape\n"
    "escape ::= [\"\\\\/bfnrt] | \"u\" code\n"
    "code ::= [0-9a-cA-CeEfF] hex hex hex | [dD] [0-7] hex hex"
    " | [dD] [89abAB] hex hex \"\\\\u\" [dD] [c-fC-F] hex hex\n"
    "hex ::= [0-9a-fA-F]\n"
    "number ::= \"-\"? whole ( \".\" [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,2} )?\n"
    "integer ::= \"-\"? whole\n"
    "whole ::= \"0\" | [1-9] [0-9]{0,15}\n"
    "boolean ::= \"true\" | \"false\"\n"
    "null ::= \"null\"\n"
    /* from 1000 on; every month has its own days */
    "date ::= [1-9] [0-9]{3} \"-\" ( ( \"0\" [13578] | \"1\" [02] ) \"-\" ( day | \"29\" | \"3\" "
    "[01] )"
    " | ( \"0\" [469] | \"11\" ) \"-\" ( day | \"29\" | \"30\" ) | \"02-\" day ) | leap "
    "\"-02-29\"\n"
    "day ::= \"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8]\n"
    "leap ::= [1-9] [0-9] ( \"0\" [48] | [2468] [048] | [13579] [26] )"
    " | ( \"1\" [26] | [2468] [048] | [3579] [26] ) \"00\"\n"
    "time ::= ( [01] [0-9] | \"2\" [0-3] ) \":\" [0-5] [0-9] \":\" [0-5] [0-9]"
    " ( \".\" [0-9]{1,6} )? ( \"Z\" | [-+] ( [01] [0-9] | \"2\" [0-3] ) \":\" [0-5] [0-9] )\n"
    "uuid ::= hex{8} \"-\" hex{4} \"-\" hex{4} \"-\" hex{4} \"-\" hex{12}\n";

enum err schema_any_object(struct buf *out)
{
    enum err err = buf_append_text(out, "root ::= object\n");
    return err == ERR_OK ? buf_append_text(out, always) : err;
}

/* ---- errors and where they are ---- */

enum err walk_fail(const struct walk *walk, const char *code, const char *below, const char *format,
                   ...)
{
    char param[sizeof walk->path + 64], text[200];
    va_list args;

    snprintf(param, sizeof param, "%s%s%s", walk->path, below[0] != '\0' ? "." : "", below);
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return api_error_set(walk->reading->error, 400, code, param, "Schema at '%.120s': %s", param,
                         text);
}

size_t walk_down(struct walk *walk, const char *name)
{
    size_t len = strlen(walk->path);

    snprintf(walk->path + len, sizeof walk->path - len, ".%s", name);
    return len;
}

void walk_up(struct walk *walk, size_t len)
{
    walk->path[len] = '\0';
}

/* ---- rules ---- */

enum err walk_new_rule(struct walk *walk, int *rule)
{
    if (walk->rules >= SCHEMA_RULES_MAX)
        return walk_fail(walk, "invalid_value", "", "the schema is too large.");
    *rule = walk->rules++;
    return ERR_OK;
}

enum err walk_put_rule(struct walk *walk, int rule, const struct buf *body)
{
    return buf_printf(walk->out, "r%d ::= %s\n", rule, buf_text(body));
}

enum err walk_make_rule(struct walk *walk, const struct buf *body, int *rule)
{
    enum err err = walk_new_rule(walk, rule);
    return err == ERR_OK ? walk_put_rule(walk, *rule, body) : err;
}

/* `from` may begin with `to`. */
enum err walk_edge(struct walk *walk, int from, int to)
{
    if (to < 0)
        return ERR_OK;
    if (walk->edges >= SCHEMA_EDGES_MAX)
        return walk_fail(walk, "invalid_value", "", "the schema is too large.");
    walk->edge[walk->edges].from = from;
    walk->edge[walk->edges++].to = to;
    return ERR_OK;
}

/* A rule that may begin with itself before it says anything has no end. */
static enum err check_cycles(struct walk *walk)
{
    bool settled[SCHEMA_RULES_MAX] = {false}, changed = true;
    size_t left = 0;

    while (changed) {
        bool open[SCHEMA_RULES_MAX] = {false};
        changed = false;
        left = 0;
        for (size_t i = 0; i < walk->edges; i++)
            if (!settled[walk->edge[i].to] && !settled[walk->edge[i].from])
                open[walk->edge[i].from] = true;
        for (int i = 0; i < walk->rules; i++) {
            if (!settled[i] && !open[i])
                settled[i] = changed = true;
            left += !settled[i];
        }
    }
    if (left == 0)
        return ERR_OK;
    return walk_fail(walk, "invalid_value", "",
                     "a definition refers to itself without anything in between.");
}

/* ---- keywords ---- */

enum group { /* what a keyword is about */
             ABOUT_NOTHING = 0,
             ABOUT_TYPE = 1,
             ABOUT_ENUM = 2,
             ABOUT_OBJECT = 4,
             ABOUT_ARRAY = 8,
             ABOUT_STRING = 16,
             ABOUT_NUMBER = 32,
             ABOUT_COMBINED = 64,
             REFUSED = 128,
};

static const struct keyword {
    const char *name;
    enum group group;
} keywords[] = {
    {"type", ABOUT_TYPE},
    {"enum", ABOUT_ENUM},
    {"const", ABOUT_ENUM},
    {"properties", ABOUT_OBJECT},
    {"required", ABOUT_OBJECT},
    {"additionalProperties", ABOUT_OBJECT},
    {"items", ABOUT_ARRAY},
    {"prefixItems", ABOUT_ARRAY},
    {"minItems", ABOUT_ARRAY},
    {"maxItems", ABOUT_ARRAY},
    {"minLength", ABOUT_STRING},
    {"maxLength", ABOUT_STRING},
    {"format", ABOUT_STRING},
    {"minimum", ABOUT_NUMBER},
    {"maximum", ABOUT_NUMBER},
    {"exclusiveMinimum", ABOUT_NUMBER},
    {"exclusiveMaximum", ABOUT_NUMBER},
    {"$ref", ABOUT_COMBINED},
    {"anyOf", ABOUT_COMBINED},
    {"oneOf", ABOUT_COMBINED},
    {"allOf", ABOUT_COMBINED},
    {"pattern", REFUSED},
    {"patternProperties", REFUSED},
    {"propertyNames", REFUSED},
    {"minProperties", REFUSED},
    {"maxProperties", REFUSED},
    {"dependentRequired", REFUSED},
    {"dependentSchemas", REFUSED},
    {"dependencies", REFUSED},
    {"unevaluatedProperties", REFUSED},
    {"unevaluatedItems", REFUSED},
    {"additionalItems", REFUSED},
    {"contains", REFUSED},
    {"minContains", REFUSED},
    {"maxContains", REFUSED},
    {"uniqueItems", REFUSED},
    {"multipleOf", REFUSED},
    {"not", REFUSED},
    {"if", REFUSED},
    {"then", REFUSED},
    {"else", REFUSED},
    {"$dynamicRef", REFUSED},
    {"$recursiveRef", REFUSED},
    {"contentEncoding", REFUSED},
    {"contentMediaType", REFUSED},
    {"contentSchema", REFUSED},
};

static enum group group_of(const char *name)
{
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (strcmp(name, keywords[i].name) == 0)
            return keywords[i].group;
    return ABOUT_NOTHING; /* notes for people, and what JSON Schema does not know */
}

/* Which groups are there; more than one that can't stand together is refused. */
static enum err survey(const struct walk *walk, const json_t *schema, unsigned *out)
{
    unsigned groups = 0, combined = 0;
    const char *key, *other = NULL;
    json_t *value;

    json_object_foreach((json_t *)schema, key, value)
    {
        enum group group = group_of(key);
        if (group == REFUSED && !json_is_false(value))
            return walk_fail(walk, "unsupported_value", key, "this keyword is not supported.");
        groups |= group == REFUSED ? 0 : (unsigned)group;
        combined += group == ABOUT_COMBINED;
        if (group != ABOUT_NOTHING && group != ABOUT_COMBINED && group != ABOUT_TYPE &&
            group != ABOUT_ENUM && group != REFUSED)
            other = key;
    }
    if (json_array_size(json_object_get(schema, "type")) > TYPES_MAX)
        return walk_fail(walk, "array_above_max_length", "type", "more than %d types.", TYPES_MAX);
    if (combined > 1 || ((groups & ABOUT_COMBINED) != 0 && groups != ABOUT_COMBINED))
        return walk_fail(walk, "unsupported_value", "",
                         "$ref, anyOf, oneOf and allOf must stand alone.");
    if ((groups & ABOUT_ENUM) != 0 && other != NULL)
        return walk_fail(walk, "unsupported_value", other, "not supported beside enum or const.");
    *out = groups;
    return ERR_OK;
}

/* ---- values that are listed ---- */

static bool has_type(const json_t *value, const char *type)
{
    if (strcmp(type, "string") == 0)
        return json_is_string(value);
    if (strcmp(type, "boolean") == 0)
        return json_is_boolean(value);
    if (strcmp(type, "null") == 0)
        return json_is_null(value);
    if (strcmp(type, "object") == 0)
        return json_is_object(value);
    if (strcmp(type, "array") == 0)
        return json_is_array(value);
    if (strcmp(type, "integer") == 0)
        return json_is_integer(value) ||
               (json_is_real(value) && trunc(json_real_value(value)) == json_real_value(value));
    return strcmp(type, "number") == 0 && json_is_number(value);
}

static bool fits_type(const json_t *value, const json_t *types)
{
    if (types == NULL)
        return true;
    if (json_is_string(types))
        return has_type(value, json_string_value(types));
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type != NULL && has_type(value, type))
            return true;
    }
    return false;
}

static enum err put_value(struct buf *body, const json_t *value)
{
    struct buf text;
    enum err err;

    buf_init(&text, PROMPT_MAX_GRAMMAR);
    err = json_write(value, &text);
    if (err == ERR_OK)
        err = schema_literal(body, buf_text(&text), text.len);
    buf_done(&text);
    return err;
}

static enum err walk_enum(struct walk *walk, const json_t *schema, struct buf *body)
{
    const json_t *types = json_object_get(schema, "type"), *list = json_object_get(schema, "enum");
    const json_t *one = json_object_get(schema, "const");
    size_t count = one != NULL ? 1 : json_array_size(list), used = 0;
    enum err err = ERR_OK;

    if (one == NULL && !json_is_array(list))
        return walk_fail(walk, "invalid_type", "enum", "it must be an array.");
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        const json_t *value = one != NULL ? one : json_array_get(list, i);
        if (!fits_type(value, types))
            continue;
        if (used++ > 0)
            err = buf_append_text(body, " | ");
        if (err == ERR_OK)
            err = put_value(body, value);
    }
    if (err == ERR_OK && used == 0)
        err = walk_fail(walk, "invalid_value", one != NULL ? "const" : "enum",
                        "no value of its type is in it.");
    return err;
}

/* ---- one of several ---- */

static enum err walk_any(struct walk *walk, const json_t *list, const char *key, char *name,
                         int *rule)
{
    char at[32];
    struct buf body;
    size_t count = json_array_size(list);
    enum err err = walk_new_rule(walk, rule);

    if (err == ERR_OK && (!json_is_array(list) || count == 0))
        return walk_fail(walk, "invalid_type", key, "it must be an array with a schema in it.");
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        char inner[WALK_NAME];
        int other = -1;
        snprintf(at, sizeof at, "%s[%zu]", key, i);
        size_t up = walk_down(walk, at);
        err = walk_schema(walk, json_array_get(list, i), inner, &other);
        if (err == ERR_OK)
            err = walk_edge(walk, *rule, other);
        walk_up(walk, up);
        if (err == ERR_OK)
            err = buf_printf(&body, "%s%s", i > 0 ? " | " : "", inner);
    }
    if (err == ERR_OK)
        err = walk_put_rule(walk, *rule, &body);
    snprintf(name, WALK_NAME, "r%d", *rule);
    buf_done(&body);
    return err;
}

/* ---- references ---- */

/* "#", "#/$defs/NAME", "#/definitions/NAME" → what stands there. */
static const json_t *find_reference(const struct walk *walk, const char *pointer)
{
    static const char *const places[] = {"$defs", "definitions"};
    char prefix[32];

    if (strcmp(pointer, "#") == 0)
        return walk->root;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int len = snprintf(prefix, sizeof prefix, "#/%s/", places[i]);
        if (strncmp(pointer, prefix, (size_t)len) == 0)
            return json_object_get(json_object_get(walk->root, places[i]), pointer + len);
    }
    return NULL;
}

/* Its rule is written later: it may refer to itself. */
static enum err walk_reference(struct walk *walk, const json_t *value, char *name, int *rule)
{
    const char *pointer = json_string_value(value);
    const json_t *schema = pointer != NULL ? find_reference(walk, pointer) : NULL;
    size_t i = 0;
    enum err err = ERR_OK;

    if (schema == NULL)
        return walk_fail(walk, "invalid_value", "$ref",
                         "it must be '#', '#/$defs/NAME' or '#/definitions/NAME' of what is "
                         "there.");
    while (i < walk->refs && strcmp(walk->ref[i].pointer, pointer) != 0)
        i++;
    if (i == walk->refs) {
        if (walk->refs == SCHEMA_REFS_MAX)
            return walk_fail(walk, "invalid_value", "$ref", "more than %d definitions.",
                             SCHEMA_REFS_MAX);
        err = walk_new_rule(walk, &walk->ref[i].rule);
        walk->ref[i].pointer = pointer;
        walk->ref[i].schema = schema;
        walk->refs += err == ERR_OK;
    }
    *rule = walk->ref[i].rule;
    snprintf(name, WALK_NAME, "r%d", *rule);
    return err;
}

static enum err write_references(struct walk *walk, const char *param)
{
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < walk->refs; i++) {
        char name[WALK_NAME];
        int rule = -1;
        snprintf(walk->path, sizeof walk->path, "%s", param);
        if (walk->ref[i].pointer[1] != '\0')
            walk_down(walk, strrchr(walk->ref[i].pointer + 1, '/') + 1);
        err = walk_schema(walk, walk->ref[i].schema, name, &rule);
        if (err == ERR_OK)
            err = walk_edge(walk, walk->ref[i].rule, rule);
        if (err == ERR_OK)
            err = buf_printf(walk->out, "r%d ::= %s\n", walk->ref[i].rule, name);
    }
    return err;
}

/* ---- a schema ---- */

static enum err walk_combined(struct walk *walk, const json_t *schema, char *name, int *rule)
{
    const json_t *any = json_object_get(schema, "anyOf"), *one = json_object_get(schema, "oneOf");
    const json_t *ref = json_object_get(schema, "$ref"), *whole = json_object_get(schema, "allOf");

    if (ref != NULL)
        return walk_reference(walk, ref, name, rule);
    if (whole != NULL && json_array_size(whole) != 1)
        return walk_fail(walk, "unsupported_value", "allOf", "only one schema in it is supported.");
    if (whole != NULL)
        return walk_schema(walk, json_array_get(whole, 0), name, rule);
    return walk_any(walk, any != NULL ? any : one, any != NULL ? "anyOf" : "oneOf", name, rule);
}

/* The type that keywords without "type" are about; NULL: any. */
static enum err infer_type(const struct walk *walk, unsigned groups, const char **type)
{
    *type = NULL;
    switch (groups) {
    case 0:
        return ERR_OK;
    case ABOUT_OBJECT:
        *type = "object";
        return ERR_OK;
    case ABOUT_ARRAY:
        *type = "array";
        return ERR_OK;
    case ABOUT_STRING:
        *type = "string";
        return ERR_OK;
    case ABOUT_NUMBER:
        *type = "number";
        return ERR_OK;
    default:
        return walk_fail(walk, "missing_required_parameter", "type",
                         "its other keywords belong to several types; say which.");
    }
}

/* Several types: an alternative for each. */
static enum err walk_types(struct walk *walk, const json_t *schema, const json_t *types, char *name,
                           int *rule)
{
    struct buf body;
    enum err err = ERR_OK;

    if (json_array_size(types) == 0)
        return walk_fail(walk, "invalid_type", "type",
                         "it must be the name of a type, or an array of them.");
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    for (size_t i = 0; err == ERR_OK && i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        char inner[WALK_NAME];
        int other = -1;
        err = walk_type(walk, schema, type != NULL ? type : "", inner, &other);
        if (err == ERR_OK)
            err = buf_printf(&body, "%s%s", i > 0 ? " | " : "", inner);
    }
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, rule);
    snprintf(name, WALK_NAME, "r%d", *rule);
    buf_done(&body);
    return err;
}

static enum err walk_plain(struct walk *walk, const json_t *schema, unsigned groups, char *name,
                           int *rule)
{
    const json_t *types = json_object_get(schema, "type");
    const char *type = json_string_value(types);
    struct buf body;
    enum err err = ERR_OK;

    if ((groups & ABOUT_ENUM) != 0) {
        buf_init(&body, PROMPT_MAX_GRAMMAR);
        err = walk_enum(walk, schema, &body);
        if (err == ERR_OK)
            err = walk_make_rule(walk, &body, rule);
        snprintf(name, WALK_NAME, "r%d", *rule);
        buf_done(&body);
        return err;
    }
    if (types != NULL && type == NULL)
        return walk_types(walk, schema, types, name, rule);
    if (types == NULL)
        err = infer_type(walk, groups, &type);
    if (err == ERR_OK && type != NULL)
        return walk_type(walk, schema, type, name, rule);
    snprintf(name, WALK_NAME, "value");
    return err;
}

enum err walk_schema(struct walk *walk, const json_t *schema, char *name, int *rule)
{
    unsigned groups = 0;
    enum err err;

    *rule = -1;
    if (json_is_true(schema)) {
        snprintf(name, WALK_NAME, "value");
        return ERR_OK;
    }
    if (json_is_false(schema))
        return walk_fail(walk, "invalid_value", "", "nothing fits it.");
    if (!json_is_object(schema))
        return walk_fail(walk, "invalid_type", "", "it must be an object.");
    if (walk->depth >= SCHEMA_DEPTH_MAX)
        return walk_fail(walk, "invalid_value", "", "nested deeper than %d schemas.",
                         SCHEMA_DEPTH_MAX);
    walk->depth++;
    err = survey(walk, schema, &groups);
    if (err == ERR_OK && (groups & ABOUT_COMBINED) != 0)
        err = walk_combined(walk, schema, name, rule);
    else if (err == ERR_OK)
        err = walk_plain(walk, schema, groups, name, rule);
    walk->depth--;
    return err;
}

enum err schema_to_grammar(struct reading *reading, const json_t *schema, const char *param,
                           struct buf *out)
{
    struct walk *walk = calloc(1, sizeof *walk);
    char name[WALK_NAME];
    int rule = -1;
    enum err err;

    if (walk == NULL)
        return err_set(ERR_NOMEM, "no memory for a schema");
    walk->reading = reading;
    walk->root = schema;
    walk->out = out;
    snprintf(walk->path, sizeof walk->path, "%s", param);
    err = walk_schema(walk, schema, name, &rule);
    if (err == ERR_OK)
        err = buf_printf(out, "root ::= %s\n", name);
    if (err == ERR_OK)
        err = write_references(walk, param);
    snprintf(walk->path, sizeof walk->path, "%s", param);
    if (err == ERR_OK)
        err = check_cycles(walk);
    if (err == ERR_OK)
        err = buf_append_text(out, always);
    if (err == ERR_LIMIT)
        err = walk_fail(walk, "invalid_value", "", "its grammar is larger than %zu bytes.",
                        PROMPT_MAX_GRAMMAR);
    free(walk);
    return err;
}
