/*
 * subject.h - the names of everything that crosses the broker; docs/PROTOCOL.md lists them.
 */
#ifndef WYVERN_WIRE_SUBJECT_H
#define WYVERN_WIRE_SUBJECT_H

#include <stddef.h>

#include "base/err.h"
#include "base/id.h"

#define SUBJECT_MAX       256
#define SUBJECT_TOKEN_MAX 96 /* bytes of an encoded name */
#define MODEL_NAME_MAX    64 /* bytes of a model's name before encoding */

/* A name as one subject token: letters, digits, '-' and '_' stay, any other byte becomes =XX.
 * ERR_LIMIT when the result does not fit cap. */
MUST_USE enum err subject_encode(char *out, size_t cap, const char *name);
MUST_USE enum err subject_decode(char *out, size_t cap, const char *token);

/* The lanes of the prompt queue, in the order workers look. */
#define LANE_MAIN  "main"
#define LANE_BATCH "batch" /* what nobody waits for */

/* prompt.<model>.<lane>.<id> */
void subject_prompt(char out[SUBJECT_MAX], const char *model, const char *lane, const char *id);
/* prompt.*.*.<id>: the same prompt when model and lane are not known */
void subject_prompt_any(char out[SUBJECT_MAX], const char *id);
void subject_claim(char out[SUBJECT_MAX], const char *gateway,
                   const char *id); /* tok.<gw>.<id>.c */
void subject_pieces(char out[SUBJECT_MAX], const char *gateway,
                    const char *id); /* tok.<gw>.<id>.p */
void subject_reply(char out[SUBJECT_MAX], const char *gateway,
                   const char *id);                           /* reply.<gw>.<id> */
void subject_response(char out[SUBJECT_MAX], const char *id); /* response.<id> */

/* What a stored or republished subject is.  Pointers go into `parts`' own memory. */
enum subject_kind { SUBJECT_OTHER, SUBJECT_CLAIM, SUBJECT_PIECES, SUBJECT_REPLY, SUBJECT_PROMPT };
struct subject_parts {
    char gateway[TAG_SIZE]; /* "" for prompts */
    char id[ID_SIZE];
};
/* tok.<gw>.<id>.c, reply.<gw>.<id>, prompt.…; live.<gw>.<id>[.c|.p], as they are republished. */
enum subject_kind subject_parse(struct subject_parts *out, const char *subject);

#endif
