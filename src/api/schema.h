/*
 * schema.h - JSON schemas as grammars that a reply obeys (GBNF, llama.cpp's notation): a subset of
 * JSON Schema, which docs/API.md lists; what it can't say is refused by name.  Private to src/api/.
 *
 * The grammar may be narrower than the schema and is never wider.  Its size is linear in the
 * schema's, and bounded; blanks between its tokens are few, so that a model can't go on with
 * them for ever.
 */
#ifndef WYVERN_API_SCHEMA_H
#define WYVERN_API_SCHEMA_H

#include "api/read.h"

#define SCHEMA_DEPTH_MAX  32
#define SCHEMA_RULES_MAX  1900
#define SCHEMA_REFS_MAX   256
#define SCHEMA_REPEAT_MAX 1000  /* minItems, maxLength … */
#define SCHEMA_REPEATS    20000 /* all of them together */
#define SCHEMA_EDGES_MAX  4096
#define SCHEMA_NAME_MAX   256 /* bytes of a property's name */

/* param: the schema's own name in the request.  ERR_INVALID names what lies below it. */
MUST_USE enum err schema_to_grammar(struct reading *reading, const json_t *schema,
                                    const char *param, struct buf *out);
/* Any JSON object. */
MUST_USE enum err schema_any_object(struct buf *out);

/* ---- between the files that do it ---- */

/* Numbers within bounds, as one alternative list in parentheses. */
struct schema_bounds {
    bool has_low, has_high;
    bool open_low, open_high; /* the bound itself is out; whole numbers: never set */
    int64_t low, high;
    bool whole;
};
#define SCHEMA_BOUND_MAX INT64_C(1000000000000000)
/* ERR_INVALID: no number lies within. */
MUST_USE enum err schema_number(const struct schema_bounds *bounds, struct buf *out);
/* A text as a literal of the grammar. */
MUST_USE enum err schema_literal(struct buf *out, const char *text, size_t len);

#endif
