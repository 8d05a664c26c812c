#include "verbs/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "config/wrap.h"
#include "verbs/report.h"

#define GAP 2

void fields_init(struct fields *fields, const struct term_style *style)
{
    fields->style = style;
    fields->count = 0;
}

static struct field *field_add(struct fields *fields, enum field_kind kind, int columns, int rank)
{
    if (fields->count == FIELDS_MAX)
        fields->count--; /* our own bug shows as a field that is missing, not as a crash */
    struct field *field = &fields->items[fields->count++];
    memset(field, 0, sizeof *field);
    field->kind = kind;
    field->columns = columns;
    field->rank = rank;
    field->colour = "";
    return field;
}

struct field *fields_text(struct fields *fields, int columns, int rank, const char *format, ...)
{
    struct field *field = field_add(fields, FIELD_TEXT, columns, rank);
    va_list args;
    va_start(args, format);
    vsnprintf(field->text, sizeof field->text, format, args);
    va_end(args);
    return field;
}

struct field *fields_bar(struct fields *fields, int columns, int rank, double value)
{
    struct field *field = field_add(fields, FIELD_BAR, columns, rank);
    field->value = value;
    return field;
}

struct field *fields_trail(struct fields *fields, int rank, const struct top_trail *trail,
                           double whole)
{
    struct field *field = field_add(fields, FIELD_TRAIL, FIELD_TRAIL_LEAST, rank);
    field->trail = trail;
    field->whole = whole;
    return field;
}

void fields_fit(const struct fields *fields, int width, int columns[FIELDS_MAX])
{
    int used = -GAP, most_rank = 0;
    for (size_t i = 0; i < fields->count; i++) {
        columns[i] = 0;
        if (fields->items[i].rank > most_rank)
            most_rank = fields->items[i].rank;
    }
    for (int rank = 0; rank <= most_rank; rank++) {
        for (size_t i = 0; i < fields->count; i++) {
            const struct field *field = &fields->items[i];
            if (field->rank != rank)
                continue;
            int room = width - used - GAP;
            if (field->columns > room && rank > 0)
                continue;
            columns[i] = field->columns < room ? field->columns : room > 0 ? room : 0;
            used += columns[i] > 0 ? columns[i] + GAP : 0;
        }
    }
    for (size_t i = 0; i < fields->count; i++) {
        if (fields->items[i].kind == FIELD_TRAIL && columns[i] > 0 && used < width) {
            columns[i] += width - used;
            if (columns[i] > TOP_TRAIL)
                columns[i] = TOP_TRAIL;
            break;
        }
    }
}

static enum err text_draw(const struct field *field, int columns, struct buf *out)
{
    int len = (int)wrap_columns(field->text);
    enum err err = ERR_OK;
    if (field->right && len < columns) {
        err = buf_printf(out, "%*s", columns - len, "");
        columns = len;
    }
    return err == ERR_OK ? draw_text(out, field->text, columns) : err;
}

static enum err field_draw(const struct fields *fields, const struct field *field, int columns,
                           struct buf *out)
{
    enum err err = buf_append_text(out, field->colour);
    if (err != ERR_OK)
        return err;
    if (field->kind == FIELD_BAR && !isnan(field->value))
        err = draw_bar(out, fields->style, field->value, 0, 1, columns);
    else if (field->kind == FIELD_TRAIL && field->trail != NULL)
        err = trail_draw(out, fields->style, field->trail, field->whole, columns);
    else
        err = text_draw(field, columns, out);
    return err == ERR_OK && *field->colour != '\0' ? buf_append_text(out, term_reset(fields->style))
                                                   : err;
}

enum err fields_draw(const struct fields *fields, int indent, struct buf *out)
{
    int columns[FIELDS_MAX];
    fields_fit(fields, fields->style->width - indent, columns);
    enum err err = buf_printf(out, "%*s", indent, "");
    bool any = false;
    for (size_t i = 0; i < fields->count && err == ERR_OK; i++) {
        if (columns[i] == 0)
            continue;
        if (any)
            err = buf_printf(out, "%*s", GAP, "");
        if (err == ERR_OK)
            err = field_draw(fields, &fields->items[i], columns[i], out);
        any = true;
    }
    return err == ERR_OK ? buf_append_text(out, "\n") : err;
}

enum err trail_draw(struct buf *out, const struct term_style *style, const struct top_trail *trail,
                    double whole, int columns)
{
    enum err err = ERR_OK;
    double full = whole > 0 ? whole : top_trail_max(trail, (unsigned)columns);
    for (int at = 0; at < columns && err == ERR_OK; at++) {
        unsigned back = (unsigned)(columns - 1 - at);
        double level = top_trail_get(trail, back);
        if (back >= trail->count || (!isnan(level) && !(full > 0)))
            level = 0;
        else if (!isnan(level))
            level /= full;
        err = draw_levels(out, style, &level, 1);
    }
    return err;
}

/* ---- figures ---- */

/* True when there is nothing to write but a dash. */
static bool dash(char out[FIGURE_SIZE], const struct term_style *style, double value)
{
    if (isnan(value))
        snprintf(out, FIGURE_SIZE, "%s", style->utf8 ? "–" : "-");
    else if (isinf(value))
        snprintf(out, FIGURE_SIZE, "%s", style->utf8 ? "∞" : "inf");
    return !isfinite(value);
}

void figure_number(char out[FIGURE_SIZE], const struct term_style *style, double value)
{
    if (dash(out, style, value))
        return;
    if (fabs(value) < 99.95)
        snprintf(out, FIGURE_SIZE, "%.1f", value);
    else if (fabs(value) < 99999.5)
        snprintf(out, FIGURE_SIZE, "%.0f", value);
    else if (fabs(value) < 99.95e6)
        snprintf(out, FIGURE_SIZE, "%.1fk", value / 1e3);
    else
        snprintf(out, FIGURE_SIZE, "%.3g", value);
}

void figure_count(char out[FIGURE_SIZE], const struct term_style *style, double value)
{
    if (dash(out, style, value))
        return;
    if (fabs(value) < 1e6)
        snprintf(out, FIGURE_SIZE, "%.0f", value);
    else if (fabs(value) < 1e9)
        snprintf(out, FIGURE_SIZE, "%.1fM", value / 1e6);
    else
        snprintf(out, FIGURE_SIZE, "%.3g", value);
}

void figure_percent(char out[FIGURE_SIZE], const struct term_style *style, double share)
{
    if (!dash(out, style, share))
        snprintf(out, FIGURE_SIZE, "%.0f%%", share * 100);
}

void figure_seconds(char out[FIGURE_SIZE], const struct term_style *style, double seconds)
{
    if (dash(out, style, seconds))
        return;
    if (seconds < 0.00995)
        snprintf(out, FIGURE_SIZE, "%.1f ms", seconds * 1000);
    else if (seconds < 0.9995)
        snprintf(out, FIGURE_SIZE, "%.0f ms", seconds * 1000);
    else if (seconds < 99.95)
        snprintf(out, FIGURE_SIZE, "%.1f s", seconds);
    else
        snprintf(out, FIGURE_SIZE, "%.0f s", seconds);
}

void figure_bytes(char out[FIGURE_SIZE], const struct term_style *style, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    if (dash(out, style, bytes))
        return;
    size_t unit = 0;
    while (fabs(bytes) >= 1000 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, FIGURE_SIZE, unit == 0 || fabs(bytes) >= 99.95 ? "%.0f %s" : "%.1f %s", bytes,
             units[unit]);
}
