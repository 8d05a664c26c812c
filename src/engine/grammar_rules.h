/*
 * grammar_rules.h - a GBNF text (llama.cpp's notation of grammars) as a small program.  Private to
 * src/engine/.
 *
 * llama.cpp's own reader is not for text from strangers: it recurses without a bound, prints what
 * it can't read, looks for left recursion in exponential time and misses some of it.  This one
 * takes the same notation but for tokens (<…>), which we refuse.
 */
#ifndef WYVERN_ENGINE_GRAMMAR_RULES_H
#define WYVERN_ENGINE_GRAMMAR_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum rule_op {
    RULE_CHARS,  /* one character of ranges[a] … ranges[a + b - 1] */
    RULE_SPLIT,  /* goes on at +a and at +b */
    RULE_JUMP,   /* goes on at +a */
    RULE_CALL,   /* rule a, then goes on behind */
    RULE_RETURN, /* the rule is over */
};

struct rule_instr {
    enum rule_op op;
    int32_t a, b;
};

struct rule_range {
    uint32_t low, high; /* characters, both included */
};

struct rule {
    const char *name; /* in the text while it is read */
    size_t name_len;
    int32_t start; /* its first instruction; -1: not defined */
};

struct grammar_rules {
    struct rule_instr *code;
    size_t code_count, code_cap;
    struct rule_range *ranges; /* sorted within a set, disjoint, without surrogates */
    size_t range_count, range_cap;
    struct rule *rules;
    size_t rule_count, rule_cap;
    size_t root;
};

/* ERR_INVALID: a sentence that begins with "grammar": too big, nested too deeply, malformed, a rule
 * missing or defined twice, left recursion. */
MUST_USE enum err grammar_rules_read(struct grammar_rules *out, const char *text);
/* Its part that looks at all rules together; sets root.  Their names are still there. */
MUST_USE enum err grammar_rules_check(struct grammar_rules *rules);
void grammar_rules_done(struct grammar_rules *rules); /* safe on zeroed memory */

#endif
