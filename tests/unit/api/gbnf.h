/*
 * gbnf.h - does a text obey a grammar?  A small reader of llama.cpp's notation, for tests: it
 * follows all ways at once, as a set of places in the text.
 */
#ifndef WYVERN_TEST_GBNF_H
#define WYVERN_TEST_GBNF_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GBNF_TEXT_MAX 1023
struct gbnf_set {
    bool in[GBNF_TEXT_MAX + 1];
};

struct gbnf {
    const char *rules; /* one a line */
    const char *text;
    size_t len;
};

static void gbnf_broken(const char *what, const char *at)
{
    fprintf(stderr, "grammar: %s at: %.60s\n", what, at);
    abort();
}

static bool gbnf_empty(const struct gbnf_set *set, size_t len)
{
    for (size_t i = 0; i <= len; i++)
        if (set->in[i])
            return false;
    return true;
}

static void gbnf_add(struct gbnf_set *to, const struct gbnf_set *from, size_t len)
{
    for (size_t i = 0; i <= len; i++)
        to->in[i] |= from->in[i];
}

static uint32_t gbnf_char(const char **at)
{
    const unsigned char *s = (const unsigned char *)*at;
    size_t more = s[0] >= 0xf0 ? 3 : s[0] >= 0xe0 ? 2 : s[0] >= 0xc0 ? 1 : 0;
    uint32_t value = more > 0 ? s[0] & (0x3fu >> more) : s[0];

    for (size_t i = 1; i <= more; i++)
        value = value << 6 | (s[i] & 0x3fu);
    *at += more + 1;
    return value;
}

static uint32_t gbnf_escaped(const char **at)
{
    char hex[3] = "";

    if (**at != '\\')
        return gbnf_char(at);
    *at += 2;
    switch ((*at)[-1]) {
    case 'n':
        return '\n';
    case 'x':
        memcpy(hex, *at, 2);
        *at += 2;
        return (uint32_t)strtoul(hex, NULL, 16);
    case '"':
    case '\\':
    case ']':
    case '[':
    case '-':
        return (unsigned char)(*at)[-1];
    default:
        gbnf_broken("escape", *at - 2);
        return 0;
    }
}

static void gbnf_step(const struct gbnf *g, const struct gbnf_set *in, const char *class, bool set,
                      uint32_t one, struct gbnf_set *out)
{
    for (size_t i = 0; i < g->len; i++) {
        const char *end = g->text + i;
        if (!in->in[i])
            continue;
        uint32_t c = gbnf_char(&end);
        bool hit = c == one && !set;
        if (set) {
            const char *at = class;
            bool inverse = *at == '^';
            at += inverse;
            while (*at != ']') {
                uint32_t low = gbnf_escaped(&at), high = low;
                if (*at == '-' && at[1] != ']') {
                    at++;
                    high = gbnf_escaped(&at);
                }
                hit |= c >= low && c <= high;
            }
            hit ^= inverse;
        }
        if (hit)
            out->in[end - g->text] = true;
    }
}

static void gbnf_any(const struct gbnf *g, const char **at, const struct gbnf_set *in,
                     struct gbnf_set *out);

static void gbnf_rule(const struct gbnf *g, const char *name, size_t len, const struct gbnf_set *in,
                      struct gbnf_set *out)
{
    for (const char *line = g->rules; *line != '\0'; line = strchr(line, '\n') + 1) {
        if (strncmp(line, name, len) == 0 && strncmp(line + len, " ::= ", 5) == 0) {
            const char *at = line + len + 5;
            if (at[strspn(at, " ")] == '\n')
                gbnf_broken("empty rule", line);
            if (!gbnf_empty(in, g->len))
                gbnf_any(g, &at, in, out);
            return;
        }
    }
    gbnf_broken("rule", name);
}

static void gbnf_item(const struct gbnf *g, const char **at, const struct gbnf_set *in,
                      struct gbnf_set *out)
{
    const char *start = *at;

    if (*start == '"') {
        struct gbnf_set now = *in;
        for (*at += 1; **at != '"';) {
            struct gbnf_set next = {{false}};
            if (**at == '\0' || **at == '\n')
                gbnf_broken("text", start);
            gbnf_step(g, &now, NULL, false, gbnf_escaped(at), &next);
            now = next;
        }
        *at += 1;
        gbnf_add(out, &now, g->len);
    } else if (*start == '[') {
        gbnf_step(g, in, start + 1, true, 0, out);
        for (*at += 1 + (start[1] == '^'); **at != ']';)
            (void)gbnf_escaped(at);
        *at += 1;
    } else if (*start == '(') {
        *at += 1;
        gbnf_any(g, at, in, out);
        if (**at != ')')
            gbnf_broken("parenthesis", *at);
        *at += 1;
    } else {
        size_t len = strspn(start, "abcdefghijklmnopqrstuvwxyz0123456789");
        if (len == 0)
            gbnf_broken("item", start);
        *at += len;
        gbnf_rule(g, start, len, in, out);
    }
}

/* An item and how often it may come. */
static void gbnf_times(const struct gbnf *g, const char **at, const struct gbnf_set *in,
                       struct gbnf_set *out)
{
    const char *start = *at;
    struct gbnf_set now = {{false}};
    long min = 1, max = 1;

    gbnf_item(g, at, in, &now);
    if (**at == '*' || **at == '+' || **at == '?') {
        min = **at == '+';
        max = **at == '?' ? 1 : GBNF_TEXT_MAX;
        *at += 1;
    } else if (**at == '{') {
        min = max = strtol(*at + 1, (char **)at, 10);
        if (**at == ',')
            max = (*at)[1] == '}' ? (*at += 1, GBNF_TEXT_MAX) : strtol(*at + 1, (char **)at, 10);
        if (**at != '}' || min > max || min < 0)
            gbnf_broken("count", start);
        *at += 1;
    }
    if (min == 0)
        gbnf_add(out, in, g->len);
    for (long i = 1; i <= max && !gbnf_empty(&now, g->len); i++) {
        struct gbnf_set next = {{false}};
        const char *again = start;
        if (i >= min)
            gbnf_add(out, &now, g->len);
        if (i < max)
            gbnf_item(g, &again, &now, &next);
        now = next;
    }
}

static void gbnf_any(const struct gbnf *g, const char **at, const struct gbnf_set *in,
                     struct gbnf_set *out)
{
    for (;; *at += 1) {
        struct gbnf_set now = *in;
        while (**at == ' ')
            *at += 1;
        while (**at != '|' && **at != ')' && **at != '\n') {
            struct gbnf_set next = {{false}};
            gbnf_times(g, at, &now, &next);
            now = next;
            while (**at == ' ')
                *at += 1;
        }
        gbnf_add(out, &now, g->len);
        if (**at != '|')
            return;
        if ((*at)[1 + strspn(*at + 1, " ")] == '\n') /* real readers go on in the next line */
            gbnf_broken("empty alternative", *at);
    }
}

static bool gbnf_takes(const char *rules, const char *text)
{
    struct gbnf g = {.rules = rules, .text = text, .len = strlen(text)};
    struct gbnf_set in = {{true}}, out = {{false}};

    if (g.len > GBNF_TEXT_MAX)
        gbnf_broken("long text", text);
    gbnf_rule(&g, "root", 4, &in, &out);
    return out.in[g.len];
}

#endif
