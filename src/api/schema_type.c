/*
 * schema_type.c - what a schema says about one type: objects and their properties, arrays, texts,
 * numbers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema_walk.h"
#include "wire/json.h"
#include "wire/utf8.h"

#define MEMBER_NAME (2 * WALK_NAME)

enum err schema_literal(struct buf *out, const char *text, size_t len)
{
    enum err err = buf_append(out, "\"", 1);

    for (size_t i = 0; err == ERR_OK && i < len; i++) {
        if (text[i] == '"' || text[i] == '\\')
            err = buf_append(out, "\\", 1);
        if (err == ERR_OK)
            err = buf_append(out, text + i, 1);
    }
    return err == ERR_OK ? buf_append(out, "\"", 1) : err;
}

/* ---- counts ---- */

/* A count from the schema; absent leaves *out. */
static enum err read_count(struct walk *walk, const json_t *schema, const char *key, int *out)
{
    const json_t *value = json_object_get(schema, key);
    double number = json_number_value(value);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_number(value) || number < 0 || trunc(number) != number)
        return walk_fail(walk, "invalid_type", key, "it must be a whole number from 0 on.");
    if (number > SCHEMA_REPEAT_MAX)
        return walk_fail(walk, "integer_above_max_value", key, "above its maximum of %d.",
                         SCHEMA_REPEAT_MAX);
    *out = (int)number;
    return ERR_OK;
}

/* {min,max} of both keys; max -1: no end. */
static enum err read_counts(struct walk *walk, const json_t *schema, const char *low,
                            const char *high, int *min, int *max)
{
    enum err err = read_count(walk, schema, low, min);

    if (err == ERR_OK)
        err = read_count(walk, schema, high, max);
    if (err == ERR_OK && *max >= 0 && *min > *max)
        return walk_fail(walk, "invalid_value", low, "above '%s'.", high);
    walk->repeats += (size_t)(*max >= 0 ? *max : *min);
    if (err == ERR_OK && walk->repeats > SCHEMA_REPEATS)
        return walk_fail(walk, "invalid_value", "", "all counts together are above %d.",
                         SCHEMA_REPEATS);
    return err;
}

/* item {min,max} */
static enum err put_times(struct buf *body, const char *item, int min, int max)
{
    if (max >= 0)
        return buf_printf(body, "%s{%d,%d}", item, min, max);
    return buf_printf(body, "%s{%d,}", item, min);
}

/* ---- texts ---- */

static enum err walk_string(struct walk *walk, const json_t *schema, char *name, int *rule)
{
    static const char *const formats[][2] = {
        {"date", "\"\\\"\" date \"\\\"\""},
        {"time", "\"\\\"\" time \"\\\"\""},
        {"date-time", "\"\\\"\" date \"T\" time \"\\\"\""},
        {"uuid", "\"\\\"\" uuid \"\\\"\""},
    };
    const char *format = json_text(schema, "format", NULL);
    int min = 0, max = -1;
    size_t i = 0, count = sizeof formats / sizeof *formats;
    struct buf body;
    enum err err = read_counts(walk, schema, "minLength", "maxLength", &min, &max);

    if (err != ERR_OK)
        return err;
    while (format != NULL && i < count && strcmp(format, formats[i][0]) != 0)
        i++;
    if (i == count)
        return walk_fail(walk, "unsupported_value", "format",
                         "only date, time, date-time and uuid are supported.");
    if (format != NULL && (min > 0 || max >= 0))
        return walk_fail(walk, "unsupported_value", "format",
                         "not supported beside minLength or maxLength.");
    if (format == NULL && min == 0 && max < 0) {
        snprintf(name, WALK_NAME, "string");
        return ERR_OK;
    }
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    if (format != NULL) {
        err = buf_append_text(&body, formats[i][1]);
    } else if (max == 0) {
        err = buf_append_text(&body, "\"\\\"\\\"\"");
    } else {
        err = buf_append_text(&body, "\"\\\"\" ");
        if (err == ERR_OK)
            err = put_times(&body, "char", min, max);
        if (err == ERR_OK)
            err = buf_append_text(&body, " \"\\\"\"");
    }
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, rule);
    snprintf(name, WALK_NAME, "r%d", *rule);
    buf_done(&body);
    return err;
}

/* ---- numbers ---- */

static enum err read_bound(struct walk *walk, const json_t *schema, const char *key, bool *has,
                           int64_t *out)
{
    const json_t *value = json_object_get(schema, key);
    double number = json_number_value(value);

    *has = value != NULL;
    if (value == NULL)
        return ERR_OK;
    if (!json_is_number(value))
        return walk_fail(walk, "invalid_type", key, "it must be a number.");
    if (trunc(number) != number || fabs(number) > (double)SCHEMA_BOUND_MAX)
        return walk_fail(walk, "unsupported_value", key,
                         "only whole numbers of up to 15 digits are supported as bounds.");
    *out = (int64_t)number;
    return ERR_OK;
}

static enum err read_bounds(struct walk *walk, const json_t *schema, struct schema_bounds *bounds)
{
    bool low = false, high = false;
    int64_t open_low = 0, open_high = 0;
    enum err err = read_bound(walk, schema, "minimum", &bounds->has_low, &bounds->low);

    if (err == ERR_OK)
        err = read_bound(walk, schema, "maximum", &bounds->has_high, &bounds->high);
    if (err == ERR_OK)
        err = read_bound(walk, schema, "exclusiveMinimum", &low, &open_low);
    if (err == ERR_OK)
        err = read_bound(walk, schema, "exclusiveMaximum", &high, &open_high);
    if (low && (!bounds->has_low || open_low >= bounds->low)) {
        bounds->low = open_low + (bounds->whole ? 1 : 0);
        bounds->open_low = !bounds->whole;
        bounds->has_low = true;
    }
    if (high && (!bounds->has_high || open_high <= bounds->high)) {
        bounds->high = open_high - (bounds->whole ? 1 : 0);
        bounds->open_high = !bounds->whole;
        bounds->has_high = true;
    }
    return err;
}

static enum err walk_number(struct walk *walk, const json_t *schema, bool whole, char *name,
                            int *rule)
{
    struct schema_bounds bounds = {.whole = whole};
    struct buf body;
    enum err err = read_bounds(walk, schema, &bounds);

    if (err != ERR_OK)
        return err;
    if (!bounds.has_low && !bounds.has_high) {
        snprintf(name, WALK_NAME, whole ? "integer" : "number");
        return ERR_OK;
    }
    if (bounds.has_low && bounds.has_high && bounds.low > bounds.high)
        return walk_fail(walk, "invalid_value", "minimum", "above the maximum.");
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    err = schema_number(&bounds, &body);
    if (err == ERR_INVALID)
        err = walk_fail(walk, "invalid_value", "minimum", "no number lies within the bounds.");
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, rule);
    snprintf(name, WALK_NAME, "r%d", *rule);
    buf_done(&body);
    return err;
}

/* ---- arrays ---- */

/* The leading items, each by its own schema, and the commas between. */
static enum err put_prefix(struct walk *walk, const json_t *prefix, size_t count, struct buf *body)
{
    char at[40], name[WALK_NAME];
    int rule;
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        snprintf(at, sizeof at, "prefixItems[%zu]", i);
        size_t up = walk_down(walk, at);
        err = walk_schema(walk, json_array_get(prefix, i), name, &rule);
        walk_up(walk, up);
        if (err == ERR_OK)
            err = buf_printf(body, "%s%s ", i > 0 ? "\",\" ws " : "", name);
    }
    return err;
}

/* min to max further items, behind the first or (`open`) in an array that is empty so far. */
static enum err put_items(const char *item, int min, int max, bool open, struct buf *body)
{
    char more[64];
    enum err err = ERR_OK;

    snprintf(more, sizeof more, "( \",\" ws %s )", item);
    if (max == 0)
        return open ? ERR_OK : buf_append_text(body, "ws");
    if (!open)
        err = put_times(body, more, min, max);
    else {
        err = buf_printf(body, "%s%s ", min == 0 ? "( " : "", item);
        if (err == ERR_OK && max != 1)
            err = put_times(body, more, min > 1 ? min - 1 : 0, max > 0 ? max - 1 : -1);
    }
    return err == ERR_OK ? buf_append_text(body, open && min == 0 ? " ws )?" : " ws") : err;
}

static enum err walk_array(struct walk *walk, const json_t *schema, char *name, int *rule)
{
    const json_t *prefix = json_object_get(schema, "prefixItems");
    const json_t *items = json_object_get(schema, "items");
    char item[WALK_NAME] = "value";
    int min = 0, max = -1, count = (int)json_array_size(prefix), other = -1;
    struct buf body;
    enum err err = read_counts(walk, schema, "minItems", "maxItems", &min, &max);

    if (err == ERR_OK && prefix != NULL && !json_is_array(prefix))
        err = walk_fail(walk, "invalid_type", "prefixItems", "it must be an array of schemas.");
    if (err != ERR_OK)
        return err;
    if (prefix == NULL && items == NULL && min == 0 && max < 0) {
        snprintf(name, WALK_NAME, "array");
        return ERR_OK;
    }
    if (max >= 0 && count > max)
        count = max;
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    err = buf_append_text(&body, "\"[\" ws ");
    if (err == ERR_OK)
        err = put_prefix(walk, prefix, (size_t)count, &body);
    if (json_is_false(items) || (items == NULL && count > 0 && min <= count))
        max = count; /* nothing has to follow the leading ones, so nothing does */
    if (err == ERR_OK && max >= 0 && min > max)
        err = walk_fail(walk, "invalid_value", "minItems", "more than there are items for.");
    if (err == ERR_OK && items != NULL && max != count) {
        size_t up = walk_down(walk, "items");
        err = walk_schema(walk, items, item, &other);
        walk_up(walk, up);
    }
    if (err == ERR_OK)
        err = put_items(item, min > count ? min - count : 0, max >= 0 ? max - count : -1,
                        count == 0, &body);
    if (err == ERR_OK)
        err = buf_append_text(&body, " \"]\"");
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, rule);
    snprintf(name, WALK_NAME, "r%d", *rule);
    buf_done(&body);
    return err;
}

/* ---- objects ---- */

struct member {
    const char *name;
    bool required;
    char rule[WALK_NAME]; /* "name": value */
};

struct object { /* while it is written */
    struct member *members;
    size_t count, first_required; /* count: none is */
    char more[MEMBER_NAME];       /* ("," any other member)*, or "" */
    char other[WALK_NAME];        /* any other member, or "" */
};

static enum err put_member(struct walk *walk, struct member *member, const json_t *schema)
{
    char value[WALK_NAME];
    struct buf body, key;
    json_t *text = json_string(member->name);
    int rule = -1;
    enum err err;

    size_t up = walk_down(walk, "properties");
    walk_down(walk, member->name);
    err = walk_schema(walk, schema, value, &rule);
    walk_up(walk, up);
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    buf_init(&key, PROMPT_MAX_GRAMMAR);
    if (err == ERR_OK)
        err = json_write(text, &key);
    if (err == ERR_OK)
        err = schema_literal(&body, buf_text(&key), key.len);
    if (err == ERR_OK)
        err = buf_printf(&body, " colon %s", value);
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, &rule);
    snprintf(member->rule, sizeof member->rule, "r%d", rule);
    buf_done(&body);
    buf_done(&key);
    json_decref(text);
    return err;
}

/* A rule for the rest of a name that begins as these members' do (`len` bytes of it are said), and
 * is none of them: so that no name comes twice. */
static enum err other_name(struct walk *walk, const struct member *const *same, size_t count,
                           size_t len, char name[WALK_NAME])
{
    const struct member **next = malloc((count + 1) * sizeof(struct member *));
    struct buf body, said;
    bool whole = false;
    int rule = -1;
    enum err err = next == NULL ? err_set(ERR_NOMEM, "no memory for a schema") : ERR_OK;

    buf_init(&body, PROMPT_MAX_GRAMMAR);
    buf_init(&said, PROMPT_MAX_GRAMMAR); /* characters that go on as a member does */
    for (size_t i = 0; err == ERR_OK && i < count; i++) {
        const char *rest = same[i]->name + len;
        size_t step = utf8_char_len(rest, strlen(rest)), found = 0;
        char inner[WALK_NAME];
        whole = whole || rest[0] == '\0';
        if (step == 0 || strchr("\"\\\x7f", rest[0]) != NULL || (unsigned char)rest[0] < 0x20 ||
            (said.len > 0 && memmem(said.data, said.len, rest, step) != NULL))
            continue; /* at its end; said with an escape, which no other name is; or done */
        for (size_t k = i; k < count; k++)
            if (strncmp(same[k]->name + len, rest, step) == 0)
                next[found++] = same[k];
        err = other_name(walk, next, found, len + step, inner);
        if (err == ERR_OK)
            err = buf_append(&said, rest, step);
        if (err == ERR_OK)
            err = schema_literal(&body, rest, step);
        if (err == ERR_OK)
            err = buf_printf(&body, " %s | ", inner);
    }
    if (err == ERR_OK)
        err = buf_append_text(&body, "[^\"\\\\\\x00-\\x1F\\x7F");
    for (size_t i = 0; err == ERR_OK && i < said.len; i++) {
        if (strchr("[]-^", said.data[i]) != NULL && said.data[i] != '^')
            err = buf_append(&body, "\\", 1);
        if (err == ERR_OK)
            err = buf_append(&body, said.data + i, 1);
    }
    if (err == ERR_OK)
        err = buf_printf(&body, "] char*%s", whole ? "" : " | \"\"");
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, &rule);
    snprintf(name, WALK_NAME, "r%d", rule);
    buf_done(&body);
    buf_done(&said);
    free(next);
    return err;
}

static enum err put_other(struct walk *walk, const json_t *schema, struct object *object)
{
    const struct member **all = malloc((object->count + 1) * sizeof(struct member *));
    char value[WALK_NAME], name[WALK_NAME] = "char*";
    struct buf body;
    int rule = -1;
    enum err err = all == NULL ? err_set(ERR_NOMEM, "no memory for a schema") : ERR_OK;

    buf_init(&body, PROMPT_MAX_GRAMMAR);
    for (size_t i = 0; err == ERR_OK && i < object->count; i++)
        all[i] = &object->members[i];
    if (err == ERR_OK && object->count > 0)
        err = other_name(walk, all, object->count, 0, name);
    if (err == ERR_OK) {
        size_t up = walk_down(walk, "additionalProperties");
        err = walk_schema(walk, schema, value, &rule);
        walk_up(walk, up);
    }
    if (err == ERR_OK)
        err = buf_printf(&body, "\"\\\"\" %s \"\\\"\" colon %s", name, value);
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, &rule);
    snprintf(object->other, sizeof object->other, "r%d", rule);
    buf_clear(&body);
    if (err == ERR_OK)
        err = buf_printf(&body, "( \",\" ws r%d )*", rule);
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, &rule);
    snprintf(object->more, sizeof object->more, "r%d", rule);
    buf_done(&body);
    free(all);
    return err;
}

/* What may follow once a member stands there: those from `from` on, then others. */
static enum err put_tail(const struct object *object, size_t from, struct buf *body)
{
    bool none = from == object->count && object->more[0] == '\0';
    enum err err = none ? buf_append_text(body, " \"\"") : ERR_OK; /* a rule says something */

    for (size_t i = from; err == ERR_OK && i < object->count; i++)
        err = buf_printf(body, object->members[i].required ? " \",\" ws %s" : " ( \",\" ws %s )?",
                         object->members[i].rule);
    return err == ERR_OK ? buf_printf(body, " %s", object->more) : err;
}

/* Members before the first required one may all be absent: an alternative for each that can be the
 * first to stand, and one rule for what follows each, made of the next one's. */
static enum err put_heads(struct walk *walk, const struct object *object, struct buf *body)
{
    size_t last =
        object->first_required < object->count ? object->first_required + 1 : object->count;
    char(*tails)[WALK_NAME] = calloc(last + 1, sizeof *tails);
    struct buf tail;
    int rule = -1;
    enum err err = tails == NULL ? err_set(ERR_NOMEM, "no memory for a schema") : ERR_OK;

    buf_init(&tail, PROMPT_MAX_GRAMMAR);
    for (size_t i = last; err == ERR_OK && i > 0; i--) {
        buf_clear(&tail);
        if (i == last)
            err = put_tail(object, last, &tail);
        else
            err = buf_printf(&tail,
                             object->members[i].required ? "\",\" ws %s %s" : "( \",\" ws %s )? %s",
                             object->members[i].rule, tails[i + 1]);
        if (err == ERR_OK)
            err = walk_make_rule(walk, &tail, &rule);
        if (err == ERR_OK)
            snprintf(tails[i], sizeof tails[i], "r%d", rule);
    }
    for (size_t i = 0; err == ERR_OK && i < last; i++)
        err = buf_printf(body, "%s%s %s", i > 0 ? " | " : "( ( ", object->members[i].rule,
                         tails[i + 1]);
    if (err == ERR_OK && object->first_required == object->count && object->other[0] != '\0')
        err = buf_printf(body, " | %s %s", object->other, object->more);
    if (err == ERR_OK)
        err =
            buf_append_text(body, object->first_required == object->count ? " ) ws )?" : " ) ws )");
    buf_done(&tail);
    free(tails);
    return err;
}

static bool is_listed(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text != NULL && strcmp(text, name) == 0)
            return true;
    }
    return false;
}

static enum err check_required(struct walk *walk, const json_t *required, const json_t *properties)
{
    if (json_object_size(properties) > SCHEMA_RULES_MAX)
        return walk_fail(walk, "invalid_value", "properties", "more than %d.", SCHEMA_RULES_MAX);
    if (json_array_size(required) > json_object_size(properties))
        return walk_fail(walk, "unsupported_value", "required",
                         "it names more than there are 'properties'.");
    if (required != NULL && !json_is_array(required))
        return walk_fail(walk, "invalid_type", "required", "it must be an array of names.");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (name == NULL)
            return walk_fail(walk, "invalid_type", "required", "it must be an array of names.");
        if (json_object_get(properties, name) == NULL)
            return walk_fail(walk, "unsupported_value", "required",
                             "'%.64s' is none of 'properties'.", name);
    }
    return ERR_OK;
}

static enum err read_members(struct walk *walk, const json_t *schema, struct object *object)
{
    const json_t *required = json_object_get(schema, "required");
    json_t *properties = json_object_get(schema, "properties"), *value;
    const char *key;
    enum err err = check_required(walk, required, properties);

    object->members = calloc(json_object_size(properties) + 1, sizeof *object->members);
    if (object->members == NULL)
        return err_set(ERR_NOMEM, "no memory for a schema");
    object->first_required = json_object_size(properties);
    if (err != ERR_OK)
        return err;
    json_object_foreach(properties, key, value)
    {
        struct member *member = &object->members[object->count];
        if (strlen(key) > SCHEMA_NAME_MAX)
            return walk_fail(walk, "string_above_max_length", "properties",
                             "a name is longer than %d bytes.", SCHEMA_NAME_MAX);
        member->name = key;
        member->required = is_listed(required, key);
        if (member->required && object->first_required > object->count)
            object->first_required = object->count;
        err = put_member(walk, member, value);
        if (err != ERR_OK)
            return err;
        object->count++;
    }
    return ERR_OK;
}

static enum err put_object(struct walk *walk, const struct object *object, struct buf *body)
{
    enum err err = buf_append_text(body, "\"{\" ws ");

    if (err == ERR_OK && object->count == 0 && object->other[0] != '\0')
        err = buf_printf(body, "( %s %s ws )?", object->other, object->more);
    else if (err == ERR_OK && object->count > 0 && object->first_required == 0) {
        err = buf_append_text(body, object->members[0].rule);
        if (err == ERR_OK)
            err = put_tail(object, 1, body);
        if (err == ERR_OK)
            err = buf_append_text(body, " ws");
    } else if (err == ERR_OK && object->count > 0) {
        err = put_heads(walk, object, body);
    }
    return err == ERR_OK ? buf_append_text(body, " \"}\"") : err;
}

static enum err walk_object(struct walk *walk, const json_t *schema, char *name, int *rule)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *more = json_object_get(schema, "additionalProperties");
    struct object object = {.count = 0};
    struct buf body;
    enum err err;

    if (properties != NULL && !json_is_object(properties))
        return walk_fail(walk, "invalid_type", "properties", "it must be an object.");
    err = read_members(walk, schema, &object);
    if (err == ERR_OK && object.count == 0 && (more == NULL || json_is_true(more))) {
        snprintf(name, WALK_NAME, "object");
        free(object.members);
        return ERR_OK;
    }
    if (err == ERR_OK && more != NULL && !json_is_false(more))
        err = put_other(walk, more, &object);
    buf_init(&body, PROMPT_MAX_GRAMMAR);
    if (err == ERR_OK)
        err = put_object(walk, &object, &body);
    if (err == ERR_OK)
        err = walk_make_rule(walk, &body, rule);
    snprintf(name, WALK_NAME, "r%d", *rule);
    buf_done(&body);
    free(object.members);
    return err;
}

enum err walk_type(struct walk *walk, const json_t *schema, const char *type, char *name, int *rule)
{
    *rule = -1;
    if (strcmp(type, "object") == 0)
        return walk_object(walk, schema, name, rule);
    if (strcmp(type, "array") == 0)
        return walk_array(walk, schema, name, rule);
    if (strcmp(type, "string") == 0)
        return walk_string(walk, schema, name, rule);
    if (strcmp(type, "number") == 0 || strcmp(type, "integer") == 0)
        return walk_number(walk, schema, type[0] == 'i', name, rule);
    if (strcmp(type, "boolean") != 0 && strcmp(type, "null") != 0)
        return walk_fail(walk, "invalid_value", "type",
                         "it must be one of object, array, string, number, integer, boolean, "
                         "null.");
    snprintf(name, WALK_NAME, "%s", type);
    return ERR_OK;
}
