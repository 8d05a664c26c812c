/*
 * schema_walk.h - what the two halves of the walk through a schema share.  Private to schema*.c.
 */
#ifndef WYVERN_API_SCHEMA_WALK_H
#define WYVERN_API_SCHEMA_WALK_H

#include "api/schema.h"

#define WALK_NAME 16 /* bytes of a rule's name */

struct walk {
    struct reading *reading;
    const json_t *root;
    struct buf *out; /* rules that are done */
    char path[224];  /* of the schema at hand, in the request */
    unsigned depth;
    int rules;
    size_t repeats;
    struct {
        const char *pointer;
        const json_t *schema;
        int rule;
    } ref[SCHEMA_REFS_MAX];
    size_t refs;
    struct {
        int from, to;
    } edge[SCHEMA_EDGES_MAX];
    size_t edges;
};

/* name (WALK_NAME bytes) gets the rule that says the schema; *rule its number, -1 for one that is
 * always there. */
MUST_USE enum err walk_schema(struct walk *walk, const json_t *schema, char *name, int *rule);
/* schema_type.c: the same for what a schema says about one type. */
MUST_USE enum err walk_type(struct walk *walk, const json_t *schema, const char *type, char *name,
                            int *rule);

MUST_USE enum err walk_new_rule(struct walk *walk, int *rule);
MUST_USE enum err walk_put_rule(struct walk *walk, int rule, const struct buf *body);
MUST_USE enum err walk_make_rule(struct walk *walk, const struct buf *body, int *rule);
MUST_USE enum err walk_edge(struct walk *walk, int from, int to);
size_t walk_down(struct walk *walk, const char *name);
void walk_up(struct walk *walk, size_t len);
/* below: of the schema at hand; "": the schema itself. */
enum err walk_fail(const struct walk *walk, const char *code, const char *below, const char *format,
                   ...) PRINTF_LIKE(4, 5);

#endif
