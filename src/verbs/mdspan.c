#include "verbs/mdspan.h"

#include <ctype.h>
#include <string.h>

#include "wire/utf8.h"

#define DEPTH_MAX 4 /* bold in italic in a link … */
#define WAIT      ((size_t)-1)
#define RUN_MAX   8 /* backticks in a row that are told apart */

struct span {
    struct flow *flow;
    const char *text;
    size_t len;
    bool ended;
    unsigned style;
    int depth;
};

static void put_all(struct flow *flow, const char *text, size_t len, bool ended, unsigned style,
                    char prev, int depth, size_t *used);

static bool is_wordy(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\0';
}

static size_t run_len(const struct span *span, size_t at)
{
    size_t end = at;
    while (end < span->len && span->text[end] == span->text[at])
        end++;
    return end - at;
}

/* Where the run of exactly `run` backticks behind `from` begins; WAIT: there is none so far. */
static size_t ticks_find(const struct span *span, size_t from, size_t run)
{
    for (size_t at = from; at < span->len;) {
        if (span->text[at] != '`') {
            at++;
            continue;
        }
        size_t found = run_len(span, at);
        if (found == run && (span->ended || at + found < span->len))
            return at;
        at += found;
    }
    return WAIT;
}

static void plain_put(const struct span *span, const char *text, size_t len, unsigned style)
{
    while (len > 0) {
        size_t one = utf8_char_len(text, len);
        one = one > 0 ? one : 1;
        flow_char(span->flow, text, one, style);
        text += one;
        len -= one;
    }
}

/* Each of these gives the bytes it wrote of what begins at `at`; 0: it is no such thing, WAIT: that
 * shows later. */

static size_t code_put(const struct span *span, size_t at)
{
    size_t run = run_len(span, at);
    size_t close = ticks_find(span, at + run, run);
    if (close == WAIT)
        return WAIT;
    const char *inner = span->text + at + run;
    size_t len = close - at - run;
    if (len > 2 && inner[0] == ' ' && inner[len - 1] == ' ') {
        inner++;
        len -= 2;
    }
    plain_put(span, inner, len, span->style | FLOW_CYAN);
    return close + run - at;
}

static bool run_closes(char mark, size_t open, size_t run)
{
    if (mark == '~')
        return run == open;
    return run == open || (open < 3 && run == 3) || (open == 2 && run > 2);
}

/* Where the closing run of `open` marks begins, behind `from`. */
static size_t close_find(const struct span *span, size_t from, char mark, size_t open)
{
    bool unpaired[RUN_MAX + 1] = {false}; /* backticks that nothing closes */
    for (size_t at = from; at < span->len;) {
        char c = span->text[at];
        if (c == '\\') {
            at += 2;
            continue;
        }
        if (c != mark && c != '`') {
            at++;
            continue;
        }
        size_t run = run_len(span, at);
        if (c == '`') {
            size_t kind = run < RUN_MAX ? run : RUN_MAX;
            size_t close = unpaired[kind] ? WAIT : ticks_find(span, at + run, run);
            unpaired[kind] = close == WAIT;
            at = close == WAIT ? at + run : close + run;
            continue;
        }
        if (at + run == span->len && !span->ended)
            return WAIT;
        char next = at + run < span->len ? span->text[at + run] : '\0';
        if (run_closes(mark, open, run) && !is_blank(span->text[at - 1]) &&
            !(mark == '_' && is_wordy(next)))
            return at + run - open;
        at += run;
    }
    return WAIT;
}

static size_t emphasis_put(const struct span *span, size_t at, char prev)
{
    static const unsigned styles[] = {0, FLOW_ITALIC, FLOW_BOLD, FLOW_BOLD | FLOW_ITALIC};
    char mark = span->text[at];
    size_t run = run_len(span, at);
    if (at + run == span->len && !span->ended)
        return WAIT;
    if (run > 3 || (mark == '~' && run != 2) || at + run == span->len ||
        is_blank(span->text[at + run]) || (mark == '_' && is_wordy(prev)))
        return 0;
    size_t close = close_find(span, at + run, mark, run);
    if (close == WAIT)
        return WAIT;
    unsigned style = span->style | (mark == '~' ? FLOW_STRIKE : styles[run]);
    size_t used = 0;
    put_all(span->flow, span->text + at + run, close - at - run, true, style, mark, span->depth + 1,
            &used);
    return close + run - at;
}

/* Where what opens at `at` closes, others of its kind in between. */
static size_t bracket_find(const struct span *span, size_t at, char open, char close)
{
    unsigned depth = 0;
    for (size_t i = at; i < span->len; i++) {
        if (span->text[i] == '\\')
            i++;
        else if (span->text[i] == open)
            depth++;
        else if (span->text[i] == close && --depth == 0)
            return i;
    }
    return WAIT;
}

static size_t link_put(const struct span *span, size_t at)
{
    size_t open = at + (span->text[at] == '!');
    if (open == span->len)
        return WAIT;
    if (span->text[open] != '[')
        return 0;
    size_t middle = bracket_find(span, open, '[', ']');
    if (middle == WAIT || middle + 1 == span->len)
        return WAIT;
    if (span->text[middle + 1] != '(')
        return 0;
    size_t close = bracket_find(span, middle + 1, '(', ')');
    if (close == WAIT)
        return WAIT;
    const char *label = span->text + open + 1, *address = span->text + middle + 2;
    size_t label_len = middle - open - 1, address_len = close - middle - 2;
    size_t used = 0;
    put_all(span->flow, label, label_len, true, span->style | FLOW_UNDERLINE, '[', span->depth + 1,
            &used);
    if (address_len > 0 && !(address_len == label_len && memcmp(address, label, label_len) == 0)) {
        plain_put(span, label_len > 0 ? " (" : "(", label_len > 0 ? 2 : 1, FLOW_DIM);
        plain_put(span, address, address_len, FLOW_DIM);
        plain_put(span, ")", 1, FLOW_DIM);
    }
    return close + 1 - at;
}

static size_t marked_put(const struct span *span, size_t at, char prev)
{
    size_t used = 0;
    if (span->depth >= DEPTH_MAX)
        return 0;
    switch (span->text[at]) {
    case '`':
        used = code_put(span, at);
        break;
    case '[':
    case '!':
        used = link_put(span, at);
        break;
    default:
        used = emphasis_put(span, at, prev);
    }
    /* Nothing closes it, or not so soon. */
    if (used == WAIT && (span->ended || span->len - at > SPAN_MAX))
        return 0;
    return used;
}

static bool is_marker(char c)
{
    return c != '\0' && strchr("`*_~[!", c) != NULL;
}

/* Bytes of a character, or of a run of markers that mean nothing; 0: more must come. */
static size_t char_put(const struct span *span, size_t at)
{
    const char *text = span->text + at;
    size_t left = span->len - at;
    if (*text == '\\') {
        if (left < 2 && !span->ended)
            return 0;
        bool escapes = left > 1 && ispunct((unsigned char)text[1]);
        flow_char(span->flow, text + escapes, 1, span->style);
        return 1 + (size_t)escapes;
    }
    size_t len = utf8_char_len(text, left);
    if (len == 0 && !span->ended && left < 4 && (unsigned char)*text >= 0xc2)
        return 0; /* the rest may come */
    len = len > 0 ? len : 1;
    flow_char(span->flow, text, len, span->style);
    return len;
}

static void put_all(struct flow *flow, const char *text, size_t len, bool ended, unsigned style,
                    char prev, int depth, size_t *used)
{
    struct span span = {flow, text, len, ended, style, depth};
    size_t at = 0;
    while (at < len) {
        size_t step = 0;
        bool marker = is_marker(text[at]);
        if (marker)
            step = marked_put(&span, at, prev);
        if (step == WAIT)
            break;
        if (step == 0 && marker) { /* a run that means nothing, whole: "****" */
            size_t run = text[at] == '[' || text[at] == '!' ? 1 : run_len(&span, at);
            plain_put(&span, text + at, run, style);
            step = run;
        } else if (step == 0) {
            step = char_put(&span, at);
        }
        if (step == 0)
            break;
        at += step;
        prev = text[at - 1];
    }
    *used = at;
}

size_t span_put(struct flow *flow, const char *text, size_t len, bool ended, unsigned style,
                char prev)
{
    size_t used = 0;
    put_all(flow, text, len, ended, style, prev, 0, &used);
    return used;
}
