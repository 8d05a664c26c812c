/*
 * fields.h - one line of figures that fits a terminal: fields of fixed widths, the least important
 * left out where there is no room, the rest given to the one that can grow.  Pure.
 */
#ifndef WYVERN_VERBS_FIELDS_H
#define WYVERN_VERBS_FIELDS_H

#include "base/buf.h"
#include "base/err.h"
#include "verbs/term.h"
#include "verbs/topseries.h"

#define FIELDS_MAX        20
#define FIELD_TEXT_SIZE   160
#define FIELD_TRAIL_LEAST 8

enum field_kind { FIELD_TEXT, FIELD_BAR, FIELD_TRAIL };

struct field {
    enum field_kind kind;
    char text[FIELD_TEXT_SIZE];
    double value;                  /* FIELD_BAR: 0 … 1 is full; NAN: not known */
    const struct top_trail *trail; /* FIELD_TRAIL: grows; NULL draws nothing */
    double whole;                  /* FIELD_TRAIL: what full height is; 0: the highest shown */
    const char *colour;            /* an escape, or "" */
    int columns;
    int rank; /* 0: never left out; then the higher goes first */
    bool right;
};

struct fields {
    const struct term_style *style;
    struct field items[FIELDS_MAX];
    size_t count;
};

void fields_init(struct fields *fields, const struct term_style *style);
/* Appended when there is room for one more; returned for the caller to add what it likes. */
struct field *fields_text(struct fields *fields, int columns, int rank, const char *format, ...)
    PRINTF_LIKE(4, 5);
struct field *fields_bar(struct fields *fields, int columns, int rank, double value);
struct field *fields_trail(struct fields *fields, int rank, const struct top_trail *trail,
                           double whole);

/* Which fit into `width` columns with two between each two, and how wide each is then (0: left
 * out). */
void fields_fit(const struct fields *fields, int width, int columns[FIELDS_MAX]);
/* Whole line with its newline; at most style.width columns. */
MUST_USE enum err fields_draw(const struct fields *fields, int indent, struct buf *out);

/* The newest `columns` values as a line of that many columns; unknown ones are dots. */
MUST_USE enum err trail_draw(struct buf *out, const struct term_style *style,
                             const struct top_trail *trail, double whole, int columns);

#define FIGURE_SIZE 32
/* Short texts; not known: "–" ("-" in ASCII). */
void figure_number(char out[FIGURE_SIZE], const struct term_style *style, double value);
void figure_count(char out[FIGURE_SIZE], const struct term_style *style, double value);
void figure_percent(char out[FIGURE_SIZE], const struct term_style *style, double share);
void figure_seconds(char out[FIGURE_SIZE], const struct term_style *style, double seconds);
void figure_bytes(char out[FIGURE_SIZE], const struct term_style *style, double bytes);

#endif
