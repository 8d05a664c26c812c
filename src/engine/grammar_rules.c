#include "engine/grammar_rules.h"

#include <stdlib.h>
#include <string.h>

#include "wire/utf8.h"

#define TEXT_MAX   ((size_t)64 << 10)
#define CODE_MAX   ((size_t)1 << 17) /* instructions, repetitions written out */
#define RANGES_MAX ((size_t)1 << 16)
#define RULES_MAX  2048
#define DEPTH_MAX  64 /* parentheses */
#define REPEAT_MAX 100000
#define CHAR_LAST  0x10FFFFu

struct reader {
    struct grammar_rules *out;
    const char *text, *at;
    unsigned depth;
};

static enum err fail(const struct reader *reader, const char *what)
{
    size_t line = 1;
    for (const char *c = reader->text; c < reader->at; c++)
        line += *c == '\n';
    return err_set(ERR_INVALID, "grammar line %zu: %s", line, what);
}

/* Makes room for more items, within a limit. */
static enum err reserve(const struct reader *reader, void **items, size_t *cap, size_t count,
                        size_t size, size_t limit)
{
    if (count <= *cap)
        return ERR_OK;
    if (count > limit)
        return fail(reader, "it is too big, or repeats too often");
    size_t more = *cap * 2 > count ? *cap * 2 : count + 16;
    if (more > limit)
        more = limit;
    void *grown = realloc(*items, more * size);
    if (grown == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *items = grown;
    *cap = more;
    return ERR_OK;
}

static enum err reserve_code(const struct reader *reader, size_t count)
{
    struct grammar_rules *out = reader->out;
    return reserve(reader, (void **)&out->code, &out->code_cap, count, sizeof *out->code, CODE_MAX);
}

static enum err put(struct reader *reader, enum rule_op op, int32_t a, int32_t b)
{
    struct grammar_rules *out = reader->out;
    enum err err = reserve_code(reader, out->code_count + 1);
    if (err == ERR_OK)
        out->code[out->code_count++] = (struct rule_instr){op, a, b};
    return err;
}

/* In front of what stands from `at` on; jumps within that are relative and stay right. */
static enum err insert(struct reader *reader, size_t at, enum rule_op op, int32_t a, int32_t b)
{
    struct grammar_rules *out = reader->out;
    enum err err = reserve_code(reader, out->code_count + 1);
    if (err != ERR_OK)
        return err;
    memmove(out->code + at + 1, out->code + at, (out->code_count - at) * sizeof *out->code);
    out->code[at] = (struct rule_instr){op, a, b};
    out->code_count++;
    return ERR_OK;
}

/* ---- characters ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit(c);
}

static void skip_space(struct reader *reader, bool newlines)
{
    for (;; reader->at++) {
        char c = *reader->at;
        if (c == '#') {
            reader->at += strcspn(reader->at, "\r\n");
            c = *reader->at;
        }
        if (c != ' ' && c != '\t' && !(newlines && (c == '\r' || c == '\n')))
            return;
    }
}

static enum err read_hex(struct reader *reader, int digits, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < digits; i++, reader->at++) {
        char c = *reader->at;
        if (is_digit(c))
            value = value * 16 + (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            value = value * 16 + (uint32_t)((c | 0x20) - 'a' + 10);
        else
            return fail(reader, "an escape lacks hexadecimal digits");
    }
    if (value > CHAR_LAST)
        return fail(reader, "an escape is beyond U+10FFFF");
    *out = value;
    return ERR_OK;
}

static enum err read_escape(struct reader *reader, uint32_t *out)
{
    char c = *reader->at++;
    switch (c) {
    case 'x':
        return read_hex(reader, 2, out);
    case 'u':
        return read_hex(reader, 4, out);
    case 'U':
        return read_hex(reader, 8, out);
    case 't':
        *out = '\t';
        return ERR_OK;
    case 'r':
        *out = '\r';
        return ERR_OK;
    case 'n':
        *out = '\n';
        return ERR_OK;
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
        *out = (unsigned char)c;
        return ERR_OK;
    default:
        reader->at -= c == '\0';
        return fail(reader, "an escape is not known");
    }
}

static enum err read_char(struct reader *reader, uint32_t *out)
{
    if (*reader->at == '\0')
        return fail(reader, "it ends within a text or a set of characters");
    if (*reader->at == '\\') {
        reader->at++;
        return read_escape(reader, out);
    }
    const unsigned char *s = (const unsigned char *)reader->at;
    size_t len = utf8_char_len(reader->at, strnlen(reader->at, 4));
    uint32_t value = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++)
        value = value << 6 | (s[i] & 0x3Fu);
    reader->at += len;
    *out = value;
    return ERR_OK;
}

static enum err put_range(struct reader *reader, uint32_t low, uint32_t high)
{
    struct grammar_rules *out = reader->out;
    enum err err = reserve(reader, (void **)&out->ranges, &out->range_cap, out->range_count + 1,
                           sizeof *out->ranges, RANGES_MAX);
    if (err == ERR_OK)
        out->ranges[out->range_count++] = (struct rule_range){low, high};
    return err;
}

static int by_low(const void *a, const void *b)
{
    const struct rule_range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* Puts in place of the ranges from `first` on all that lies between them, and sorts. */
static enum err turn_round(struct reader *reader, size_t first)
{
    struct grammar_rules *out = reader->out;
    size_t count = out->range_count - first;
    struct rule_range *own = malloc((count + 1) * sizeof *own);
    if (own == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    if (count > 0)
        memcpy(own, out->ranges + first, count * sizeof *own);
    qsort(own, count, sizeof *own, by_low);
    out->range_count = first;
    uint32_t next = 0;
    enum err err = ERR_OK;
    for (size_t i = 0; i < count && err == ERR_OK; i++) {
        if (own[i].low > next)
            err = put_range(reader, next, own[i].low - 1);
        if (own[i].high >= next)
            next = own[i].high + 1;
    }
    if (err == ERR_OK && next <= CHAR_LAST)
        err = put_range(reader, next, CHAR_LAST);
    free(own);
    return err;
}

/* Rewrites the set that begins at ranges[first]: sorted, disjoint, turned round when `inverse`. */
static enum err settle_set(struct reader *reader, size_t first, bool inverse)
{
    const struct grammar_rules *out = reader->out;
    bool single = out->range_count == first + 1;
    if (!inverse && (out->range_count == first || (single && out->ranges[first].high < 0xD800)))
        return ERR_OK;
    enum err err = inverse ? ERR_OK : turn_round(reader, first);
    if (err == ERR_OK)
        err = put_range(reader, 0xD800, 0xDFFF); /* surrogates are no characters */
    return err == ERR_OK ? turn_round(reader, first) : err;
}

static enum err put_set(struct reader *reader, size_t first, bool inverse)
{
    enum err err = settle_set(reader, first, inverse);
    if (err != ERR_OK)
        return err;
    if (reader->out->range_count == first)
        return fail(reader, "a set of characters is empty");
    return put(reader, RULE_CHARS, (int32_t)first, (int32_t)(reader->out->range_count - first));
}

static enum err read_literal(struct reader *reader)
{
    reader->at++;
    while (*reader->at != '"') {
        uint32_t c = 0;
        size_t first = reader->out->range_count;
        enum err err = read_char(reader, &c);
        if (err == ERR_OK)
            err = put_range(reader, c, c);
        if (err == ERR_OK)
            err = put_set(reader, first, false);
        if (err != ERR_OK)
            return err;
    }
    reader->at++;
    return ERR_OK;
}

static enum err read_set(struct reader *reader)
{
    size_t first = reader->out->range_count;
    bool inverse = *++reader->at == '^';
    reader->at += inverse;
    while (*reader->at != ']') {
        uint32_t low = 0, high = 0;
        enum err err = read_char(reader, &low);
        high = low;
        if (err == ERR_OK && reader->at[0] == '-' && reader->at[1] != ']') {
            reader->at++;
            err = read_char(reader, &high);
        }
        if (err == ERR_OK && high < low)
            return fail(reader, "a range of characters ends before it begins");
        if (err == ERR_OK)
            err = put_range(reader, low, high);
        if (err != ERR_OK)
            return err;
    }
    reader->at++;
    return put_set(reader, first, inverse);
}

/* ---- rules ---- */

static enum err find_rule(struct reader *reader, size_t *number)
{
    struct grammar_rules *out = reader->out;
    const char *name = reader->at;
    size_t len = 0;
    while (is_name(name[len]))
        len++;
    if (len == 0)
        return fail(reader, "the name of a rule is missing");
    reader->at += len;
    for (size_t i = 0; i < out->rule_count; i++) {
        if (out->rules[i].name_len == len && memcmp(out->rules[i].name, name, len) == 0) {
            *number = i;
            return ERR_OK;
        }
    }
    enum err err = reserve(reader, (void **)&out->rules, &out->rule_cap, out->rule_count + 1,
                           sizeof *out->rules, RULES_MAX);
    if (err != ERR_OK)
        return err;
    *number = out->rule_count;
    out->rules[out->rule_count++] = (struct rule){name, len, -1};
    return ERR_OK;
}

static enum err read_number(struct reader *reader, size_t *out)
{
    size_t value = 0;
    if (!is_digit(*reader->at))
        return fail(reader, "a number is missing in { }");
    for (; is_digit(*reader->at); reader->at++) {
        value = value * 10 + (size_t)(*reader->at - '0');
        if (value > REPEAT_MAX)
            return fail(reader, "it repeats something more than 100000 times");
    }
    *out = value;
    return ERR_OK;
}

/* Writes what stands from `start` on min to max times; max SIZE_MAX: any number of times. */
static enum err repeat(struct reader *reader, size_t start, size_t min, size_t max)
{
    struct grammar_rules *out = reader->out;
    size_t len = out->code_count - start, times = max == SIZE_MAX ? min + 1 : max;
    if (max < min)
        return fail(reader, "{ } has more as its least than as its most");
    enum err err = reserve_code(reader, start + times * (len + 1) + 2);
    struct rule_instr *item = err == ERR_OK ? malloc((len + 1) * sizeof *item) : NULL;
    if (item == NULL)
        return err != ERR_OK ? err : err_set(ERR_NOMEM, "out of memory");
    memcpy(item, out->code + start, len * sizeof *item);
    out->code_count = start;
    for (size_t i = 0; i < times; i++) {
        int32_t rest = max == SIZE_MAX ? (int32_t)len + 2 : (int32_t)((max - i) * (len + 1));
        if (i >= min && !(max == SIZE_MAX && min > 0))
            out->code[out->code_count++] = (struct rule_instr){RULE_SPLIT, 1, rest};
        else if (i >= min)
            break; /* the last one loops instead */
        memcpy(out->code + out->code_count, item, len * sizeof *item);
        out->code_count += len;
    }
    free(item);
    if (max != SIZE_MAX)
        return ERR_OK;
    return min > 0 ? put(reader, RULE_SPLIT, -(int32_t)len, 1)
                   : put(reader, RULE_JUMP, -(int32_t)len - 1, 0);
}

static enum err read_repetition(struct reader *reader, size_t start)
{
    size_t min = 0, max = SIZE_MAX;
    char c = *reader->at++;
    if (c == '+')
        min = 1;
    if (c == '?')
        max = 1;
    if (c != '{')
        return repeat(reader, start, min, max);
    skip_space(reader, reader->depth > 0);
    enum err err = read_number(reader, &min);
    skip_space(reader, reader->depth > 0);
    if (err == ERR_OK && *reader->at == ',') {
        reader->at++;
        skip_space(reader, reader->depth > 0);
        if (*reader->at != '}')
            err = read_number(reader, &max);
        skip_space(reader, reader->depth > 0);
    } else {
        max = min;
    }
    if (err != ERR_OK)
        return err;
    if (*reader->at != '}')
        return fail(reader, "} is missing");
    reader->at++;
    return repeat(reader, start, min, max);
}

static enum err read_alternatives(struct reader *reader);

static enum err read_group(struct reader *reader)
{
    reader->at++;
    if (++reader->depth > DEPTH_MAX)
        return fail(reader, "its parentheses are nested too deeply");
    skip_space(reader, true);
    enum err err = read_alternatives(reader);
    if (err != ERR_OK)
        return err;
    if (*reader->at != ')')
        return fail(reader, ") is missing");
    reader->at++;
    reader->depth--;
    return ERR_OK;
}

static enum err read_item(struct reader *reader)
{
    size_t number = 0, first = reader->out->range_count;
    enum err err;
    switch (*reader->at) {
    case '"':
        return read_literal(reader);
    case '[':
        return read_set(reader);
    case '(':
        return read_group(reader);
    case '.':
        reader->at++;
        return put_set(reader, first, true);
    case '<':
    case '!':
        return fail(reader, "tokens (<…>) are not supported");
    default:
        err = find_rule(reader, &number);
        return err == ERR_OK ? put(reader, RULE_CALL, (int32_t)number, 0) : err;
    }
}

static bool begins_item(char c)
{
    return c != '\0' && (strchr("\"[(.<!", c) != NULL || is_name(c));
}

static enum err read_sequence(struct reader *reader)
{
    enum err err = ERR_OK;
    size_t start = SIZE_MAX;
    while (err == ERR_OK) {
        char c = *reader->at;
        if (begins_item(c)) {
            start = reader->out->code_count;
            err = read_item(reader);
        } else if (c != '\0' && strchr("*+?{", c) != NULL) {
            if (start == SIZE_MAX)
                return fail(reader, "there is nothing before * + ? or {");
            err = read_repetition(reader, start);
        } else {
            break;
        }
        if (err == ERR_OK)
            skip_space(reader, reader->depth > 0);
    }
    return err;
}

static enum err read_alternatives(struct reader *reader)
{
    struct grammar_rules *out = reader->out;
    size_t start = out->code_count;
    int32_t last_jump = -1; /* each holds the number of the one before until the end is known */
    enum err err = read_sequence(reader);
    while (err == ERR_OK && *reader->at == '|') {
        reader->at++;
        skip_space(reader, true);
        err = insert(reader, start, RULE_SPLIT, 1, (int32_t)(out->code_count - start) + 2);
        if (err == ERR_OK)
            err = put(reader, RULE_JUMP, last_jump, 0);
        if (err != ERR_OK)
            return err;
        last_jump = (int32_t)out->code_count - 1;
        start = out->code_count;
        err = read_sequence(reader);
    }
    while (err == ERR_OK && last_jump >= 0) {
        int32_t before = out->code[last_jump].a;
        out->code[last_jump].a = (int32_t)out->code_count - last_jump;
        last_jump = before;
    }
    return err;
}

static enum err read_rule(struct reader *reader)
{
    size_t number = 0;
    enum err err = find_rule(reader, &number);
    if (err != ERR_OK)
        return err;
    if (reader->out->rules[number].start >= 0)
        return fail(reader, "a rule is defined twice");
    reader->out->rules[number].start = (int32_t)reader->out->code_count;
    skip_space(reader, false);
    if (strncmp(reader->at, "::=", 3) != 0)
        return fail(reader, "::= is missing");
    reader->at += 3;
    skip_space(reader, true);
    err = read_alternatives(reader);
    if (err == ERR_OK)
        err = put(reader, RULE_RETURN, 0, 0);
    if (err == ERR_OK && *reader->at != '\0' && *reader->at != '\r' && *reader->at != '\n')
        err = fail(reader, "something stands where a rule should end");
    skip_space(reader, true);
    return err;
}

enum err grammar_rules_read(struct grammar_rules *out, const char *text)
{
    struct grammar_rules rules = {0};
    struct reader reader = {.out = &rules, .text = text, .at = text};
    size_t len = strnlen(text, TEXT_MAX + 1);
    if (len > TEXT_MAX)
        return err_set(ERR_INVALID, "grammar must have at most %zu bytes", TEXT_MAX);
    if (!utf8_is_valid(text, len))
        return err_set(ERR_INVALID, "grammar is not valid UTF-8");
    enum err err = ERR_OK;
    skip_space(&reader, true);
    while (err == ERR_OK && *reader.at != '\0')
        err = read_rule(&reader);
    if (err == ERR_OK)
        err = grammar_rules_check(&rules);
    for (size_t i = 0; i < rules.rule_count; i++)
        rules.rules[i].name = NULL; /* the text is the caller's */
    if (err == ERR_OK)
        *out = rules;
    else
        grammar_rules_done(&rules);
    return err;
}

void grammar_rules_done(struct grammar_rules *rules)
{
    free(rules->code);
    free(rules->ranges);
    free(rules->rules);
    *rules = (struct grammar_rules){0};
}
