/*
 * grammar_check.c - what a grammar must not be: without a root, with rules that are not there, or
 * with one that can begin with itself.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/grammar_rules.h"

#define ROUNDS_MAX 256

struct check {
    const struct grammar_rules *rules;
    bool *nullable;   /* of each rule: may be empty */
    uint32_t *seen;   /* of each instruction: the walk that came by */
    int32_t *todo;    /* instructions */
    uint32_t *before; /* of each rule: how many begin with it */
    size_t *free_rules;
    uint32_t walks;
};

static void come_by(struct check *check, size_t *count, int32_t at)
{
    if (check->seen[at] == check->walks)
        return;
    check->seen[at] = check->walks;
    check->todo[(*count)++] = at;
}

/* Walks through all that a rule can begin with; adds `weight` to before[] of the rules met. Returns
 * whether the rule may be empty. */
static bool walk_beginning(struct check *check, size_t rule, int weight, size_t *ready)
{
    const struct rule_instr *code = check->rules->code;
    size_t count = 0;
    bool empty = false;
    check->walks++;
    come_by(check, &count, check->rules->rules[rule].start);
    while (count > 0) {
        int32_t at = check->todo[--count];
        const struct rule_instr *instr = &code[at];
        if (instr->op == RULE_RETURN) {
            empty = true;
        } else if (instr->op == RULE_JUMP || instr->op == RULE_SPLIT) {
            come_by(check, &count, at + instr->a);
            if (instr->op == RULE_SPLIT)
                come_by(check, &count, at + instr->b);
        } else if (instr->op == RULE_CALL) {
            uint32_t *before = &check->before[instr->a];
            *before += (uint32_t)weight;
            if (weight < 0 && *before == 0)
                check->free_rules[(*ready)++] = (size_t)instr->a;
            if (check->nullable[instr->a])
                come_by(check, &count, at + 1);
        }
    }
    return empty;
}

/* A rule that can begin with itself would be looked into for ever: takes away, one by one, the
 * rules that no other begins with; what can't be taken away is a circle. */
static enum err check_left_recursion(struct check *check)
{
    size_t count = check->rules->rule_count, ready = 0, taken = 0;
    bool changed = true;
    for (unsigned round = 0; changed; round++) {
        changed = false;
        if (round == ROUNDS_MAX)
            return err_set(ERR_INVALID, "grammar has rules that hang together too deeply");
        for (size_t i = 0; i < count; i++) {
            if (!check->nullable[i] && walk_beginning(check, i, 0, &ready))
                check->nullable[i] = changed = true;
        }
    }
    for (size_t i = 0; i < count; i++)
        walk_beginning(check, i, 1, &ready);
    for (size_t i = 0; i < count; i++) {
        if (check->before[i] == 0)
            check->free_rules[ready++] = i;
    }
    while (ready > taken)
        walk_beginning(check, check->free_rules[taken++], -1, &ready);
    for (size_t i = 0; i < count; i++) {
        const struct rule *rule = &check->rules->rules[i];
        if (check->before[i] > 0)
            return err_set(ERR_INVALID,
                           "grammar has the rule %.*s, which can begin with itself (left "
                           "recursion), or is used by one that can",
                           (int)(rule->name_len < 64 ? rule->name_len : 64), rule->name);
    }
    return ERR_OK;
}

enum err grammar_rules_check(struct grammar_rules *rules)
{
    bool rooted = false;
    for (size_t i = 0; i < rules->rule_count; i++) {
        const struct rule *rule = &rules->rules[i];
        if (rule->start < 0)
            return err_set(ERR_INVALID, "grammar has no rule %.*s",
                           (int)(rule->name_len < 64 ? rule->name_len : 64), rule->name);
        if (rule->name_len == 4 && memcmp(rule->name, "root", 4) == 0) {
            rules->root = i;
            rooted = true;
        }
    }
    if (!rooted)
        return err_set(ERR_INVALID, "grammar has no rule root");
    struct check check = {.rules = rules};
    check.nullable = calloc(rules->rule_count, sizeof *check.nullable);
    check.seen = calloc(rules->code_count, sizeof *check.seen);
    check.todo = calloc(rules->code_count, sizeof *check.todo);
    check.before = calloc(rules->rule_count, sizeof *check.before);
    check.free_rules = calloc(rules->rule_count, sizeof *check.free_rules);
    bool made = check.nullable != NULL && check.seen != NULL && check.todo != NULL &&
                check.before != NULL && check.free_rules != NULL;
    enum err err = made ? check_left_recursion(&check) : err_set(ERR_NOMEM, "out of memory");
    free(check.nullable);
    free(check.seen);
    free(check.todo);
    free(check.before);
    free(check.free_rules);
    return err;
}
