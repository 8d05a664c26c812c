/*
 * schema_number.c - numbers between two bounds, digit by digit.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/schema.h"

#define DIGITS_MAX    16 /* of a number without an upper bound */
#define FRACTION      " ( \".\" [0-9]{1,16} )?"
#define NO_FRACTION   " ( \".\" \"0\"{1,16} )?"
#define SOME_FRACTION " \".\" \"0\"{0,8} [1-9] [0-9]{0,8}"

struct lines { /* alternatives, while they are written; the first failure is kept */
    struct buf *out;
    enum err err;
    bool any;
};

static void put(struct lines *lines, const char *text)
{
    if (lines->err == ERR_OK)
        lines->err = buf_append_text(lines->out, text);
}

static void put_class(struct lines *lines, char low, char high)
{
    char text[16];

    if (low == high)
        snprintf(text, sizeof text, " \"%c\"", low);
    else
        snprintf(text, sizeof text, " [%c-%c]", low, high);
    put(lines, text);
}

static void put_free(struct lines *lines, size_t digits)
{
    char text[24];

    if (digits == 0)
        return;
    snprintf(text, sizeof text, digits > 1 ? " [0-9]{%u}" : " [0-9]", (unsigned)digits);
    put(lines, text);
}

static void next(struct lines *lines)
{
    if (lines->any)
        put(lines, " |");
    lines->any = true;
}

static bool all(const char *digits, size_t len, char digit)
{
    for (size_t i = 0; i < len; i++)
        if (digits[i] != digit)
            return false;
    return true;
}

/* Numbers of len digits from low to high, low ≤ high. */
static void same_length(struct lines *lines, const char *low, const char *high, size_t len)
{
    static const char zeros[] = "0000000000000000000", nines[] = "9999999999999999999";
    struct lines inner = {.out = lines->out};
    char first = low[0], last = high[0];

    if (all(low, len, '0') && all(high, len, '9')) {
        put_free(lines, len);
        return;
    }
    if (first == last) {
        put_class(lines, first, first);
        same_length(lines, low + 1, high + 1, len - 1);
        return;
    }
    put(lines, " (");
    inner.err = lines->err;
    if (!all(low + 1, len - 1, '0')) {
        next(&inner);
        put_class(&inner, first, first);
        same_length(&inner, low + 1, nines, len - 1);
        first++;
    }
    bool cut = !all(high + 1, len - 1, '9');
    if (first <= last - cut) {
        next(&inner);
        put_class(&inner, first, (char)(last - cut));
        put_free(&inner, len - 1);
    }
    if (cut) {
        next(&inner);
        put_class(&inner, last, last);
        same_length(&inner, zeros, high + 1, len - 1);
    }
    lines->err = inner.err;
    put(lines, " )");
}

/* Whole numbers from low on, 0 ≤ low; high -1: without an end. */
static void between(struct lines *lines, int64_t low, int64_t high)
{
    struct lines inner = {.out = lines->out};
    char from[24], to[24], text[40];
    int64_t end = high, power = 10;

    put(lines, " (");
    inner.err = lines->err;
    for (size_t len = 1; len <= DIGITS_MAX; len++, power *= 10) {
        int64_t least = len == 1 ? 0 : power / 10;
        if (low >= power)
            continue;
        if (high < 0)
            end = power - 1; /* of this length alone; the longer ones follow */
        else if (least > high)
            break;
        next(&inner);
        snprintf(from, sizeof from, "%" PRId64, low > least ? low : least);
        snprintf(to, sizeof to, "%" PRId64, end < power ? end : power - 1);
        same_length(&inner, from, to, len);
        if (high < 0) {
            next(&inner);
            snprintf(text, sizeof text, " [1-9] [0-9]{%zu,%d}", len, DIGITS_MAX - 1);
            put(&inner, text);
            break;
        }
    }
    lines->err = inner.err;
    put(lines, " )");
}

static void put_one(struct lines *lines, int64_t number, const char *fraction)
{
    char text[32];

    snprintf(text, sizeof text, " \"%" PRId64 "\"", number);
    put(lines, text);
    put(lines, fraction);
}

/* Numbers without sign from low to high (-1: no end), as alternatives with this before each. */
static void magnitudes(struct lines *lines, const char *sign, int64_t low, bool open_low,
                       int64_t high, bool open_high, bool whole)
{
    int64_t first = open_low ? low + 1 : low;

    if (whole) {
        if (high >= 0 && low > high)
            return;
        next(lines);
        put(lines, sign);
        between(lines, low, high);
        return;
    }
    if (open_low && (high < 0 || low < high)) {
        next(lines);
        put(lines, sign);
        put_one(lines, low, SOME_FRACTION);
    }
    if (high < 0 || first < high) {
        next(lines);
        put(lines, sign);
        between(lines, first, high < 0 ? -1 : high - 1);
        put(lines, FRACTION);
    }
    if (high >= 0 && !open_high && (low < high || (low == high && !open_low))) {
        next(lines);
        put(lines, sign);
        put_one(lines, high, NO_FRACTION);
    }
}

enum err schema_number(const struct schema_bounds *bounds, struct buf *out)
{
    struct lines lines = {.out = out, .err = ERR_OK};
    const struct schema_bounds *b = bounds;
    int64_t least = b->whole ? 1 : 0; /* of what follows a '-' */

    put(&lines, "(");
    if (!b->has_low || b->low < 0) {
        bool below = b->has_high && b->high <= 0; /* the nearest to 0 is a bound */
        int64_t near = below && -b->high > least ? -b->high : least;
        magnitudes(&lines, " \"-\"", near, below && b->open_high && -b->high == near,
                   b->has_low ? -b->low : -1, b->open_low, b->whole);
    }
    if (!b->has_high || b->high >= 0) {
        bool above = b->has_low && b->low >= 0;
        magnitudes(&lines, "", above ? b->low : 0, above && b->open_low, b->has_high ? b->high : -1,
                   b->open_high, b->whole);
    }
    put(&lines, " )");
    return lines.err == ERR_OK && !lines.any ? ERR_INVALID : lines.err;
}
