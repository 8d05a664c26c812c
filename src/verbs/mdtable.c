#include "verbs/mdtable.h"

#include <stdlib.h>
#include <string.h>

#include "config/wrap.h"
#include "verbs/mdspan.h"
#include "wire/utf8.h"

#define NATURAL_MOST 400 /* columns */
#define COLUMN_LEAST 8   /* narrower ones are no pleasure */
#define LINE_MAX     ((size_t)1 << 20)

struct cell {
    const char *text;
    size_t len;
};

struct table {
    struct flow *flow;
    const char *lead;
    bool utf8;
    size_t columns, records;
    int widths[TABLE_COLUMNS_MAX];
    bool right[TABLE_COLUMNS_MAX];
};

bool table_is_rule(const char *line, size_t len)
{
    bool dashes = false;
    for (size_t i = 0; i < len; i++) {
        if (strchr("|:- \t", line[i]) == NULL || line[i] == '\0')
            return false;
        dashes = dashes || line[i] == '-';
    }
    return dashes;
}

static struct cell trimmed(const char *text, size_t len)
{
    while (len > 0 && (*text == ' ' || *text == '\t')) {
        text++;
        len--;
    }
    while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    return (struct cell){text, len};
}

/* Cells of a line, missing ones empty; returns how many there were. */
static size_t cells_of(const char *line, size_t len, struct cell cells[TABLE_COLUMNS_MAX])
{
    for (size_t i = 0; i < TABLE_COLUMNS_MAX; i++)
        cells[i] = (struct cell){"", 0};
    struct cell rest = trimmed(line, len);
    size_t at = rest.len > 0 && rest.text[0] == '|', begin = at, count = 0;
    for (; at <= rest.len; at++) {
        if (at < rest.len && rest.text[at] == '\\') {
            at++;
            continue;
        }
        if (at < rest.len && rest.text[at] != '|')
            continue;
        if (at == rest.len && begin == rest.len)
            break; /* behind the last bar */
        if (count < TABLE_COLUMNS_MAX)
            cells[count] = trimmed(rest.text + begin, at - begin);
        count++;
        begin = at + 1;
    }
    return count;
}

/* ---- one cell, drawn by a flow of its own ---- */

struct drawn {
    struct buf out;
    int width;
};

static bool drawn_write(void *arg, const char *text, size_t len)
{
    struct drawn *drawn = arg;
    return buf_append(&drawn->out, text, len) == ERR_OK;
}

static int drawn_width(void *arg)
{
    const struct drawn *drawn = arg;
    return drawn->width;
}

static void cell_draw(struct drawn *drawn, struct cell cell, int width, unsigned style)
{
    struct flow flow;
    buf_init(&drawn->out, LINE_MAX);
    drawn->width = width;
    flow_init(&flow, drawn_write, drawn_width, drawn);
    (void)span_put(&flow, cell.text, cell.len, true, style, '\0');
    flow_newline(&flow);
}

/* Columns of a line that a flow wrote. */
static int columns_of(const char *line, size_t len)
{
    char text[8];
    int columns = 0;
    for (size_t at = 0; at < len;) {
        if (line[at] == '\033') {
            const char *end = memchr(line + at, 'm', len - at);
            at = end != NULL ? (size_t)(end - line) + 1 : len;
            continue;
        }
        size_t one = utf8_char_len(line + at, len - at);
        one = one > 0 ? one : 1;
        memcpy(text, line + at, one);
        text[one] = '\0';
        columns += (int)wrap_columns(text);
        at += one;
    }
    return columns;
}

static int cell_columns(struct cell cell)
{
    struct drawn drawn;
    cell_draw(&drawn, cell, NATURAL_MOST, 0);
    const char *end = memchr(buf_text(&drawn.out), '\n', drawn.out.len);
    int columns = end != NULL ? columns_of(drawn.out.data, (size_t)(end - drawn.out.data)) : 0;
    buf_done(&drawn.out);
    return columns;
}

/* ---- the whole ---- */

/* Narrows the widest columns until all fit; false: they can't. */
static bool widths_fit(struct table *table)
{
    int room = table->flow->width - (int)wrap_columns(table->lead) - 3 * (int)(table->columns - 1);
    int sum = 0;
    for (size_t i = 0; i < table->columns; i++)
        sum += table->widths[i];
    for (; sum > room; sum--) {
        size_t widest = 0;
        for (size_t i = 1; i < table->columns; i++) {
            if (table->widths[i] > table->widths[widest])
                widest = i;
        }
        if (table->widths[widest] <= COLUMN_LEAST)
            return false;
        table->widths[widest]--;
    }
    return true;
}

static void raw_put(struct table *table, const char *text, size_t len)
{
    if (!table->flow->failed && !table->flow->write(table->flow->arg, text, len))
        table->flow->failed = true;
}

static void spaces_put(struct table *table, int count)
{
    for (int i = 0; i < count; i++)
        raw_put(table, " ", 1);
}

static void row_draw(struct table *table, const struct cell *cells, unsigned style)
{
    struct drawn drawn[TABLE_COLUMNS_MAX];
    const char *at[TABLE_COLUMNS_MAX];
    bool more = true;
    for (size_t i = 0; i < table->columns; i++) {
        cell_draw(&drawn[i], cells[i], table->widths[i], style);
        at[i] = buf_text(&drawn[i].out);
    }
    while (more && !table->flow->failed) {
        more = false;
        flow_lead(table->flow, table->lead, FLOW_DIM);
        for (size_t i = 0; i < table->columns; i++) {
            size_t len = strcspn(at[i], "\n");
            int pad = table->widths[i] - columns_of(at[i], len);
            if (i > 0)
                flow_lead(table->flow, table->utf8 ? " │ " : " | ", FLOW_DIM);
            flow_lead(table->flow, "", 0);
            if (table->right[i])
                spaces_put(table, pad);
            if (len > 0)
                raw_put(table, "\033[0m", 4);
            raw_put(table, at[i], len);
            raw_put(table, "\033[0m", 4);
            table->flow->shown = 0;
            if (!table->right[i] && i + 1 < table->columns)
                spaces_put(table, pad);
            at[i] += len + (at[i][len] == '\n');
            more = more || *at[i] != '\0';
        }
        flow_newline(table->flow);
    }
    for (size_t i = 0; i < table->columns; i++)
        buf_done(&drawn[i].out);
}

static void rule_draw(struct table *table)
{
    flow_lead(table->flow, table->lead, FLOW_DIM);
    for (size_t i = 0; i < table->columns; i++) {
        if (i > 0)
            flow_lead(table->flow, table->utf8 ? "─┼─" : "-+-", FLOW_DIM);
        for (int j = 0; j < table->widths[i]; j++)
            flow_lead(table->flow, table->utf8 ? "─" : "-", FLOW_DIM);
    }
    flow_newline(table->flow);
}

static void record_draw(struct table *table, const struct cell *head, const struct cell *cells)
{
    if (table->records++ > 0)
        flow_newline(table->flow);
    for (size_t i = 0; i < table->columns; i++) {
        flow_lead(table->flow, table->lead, FLOW_DIM);
        (void)span_put(table->flow, head[i].text, head[i].len, true, FLOW_BOLD, '\0');
        flow_text(table->flow, ": ", FLOW_BOLD);
        (void)span_put(table->flow, cells[i].text, cells[i].len, true, 0, '\0');
        flow_newline(table->flow);
    }
}

/* Calls what with each row behind the rule. */
static void rows_each(struct table *table, const struct buf *rows,
                      void (*what)(struct table *, const struct cell *head,
                                   const struct cell *cells))
{
    struct cell head[TABLE_COLUMNS_MAX], cells[TABLE_COLUMNS_MAX];
    const char *line = rows->data, *end = rows->data + rows->len;
    for (size_t number = 0; line < end; number++) {
        size_t len = strcspn(line, "\n");
        if (number == 0)
            (void)cells_of(line, len, head);
        if (number != 1) {
            (void)cells_of(line, len, cells);
            what(table, number == 0 ? NULL : head, cells);
        }
        line += len + 1;
    }
}

static void widths_grow(struct table *table, const struct cell *head, const struct cell *cells)
{
    (void)head;
    for (size_t i = 0; i < table->columns; i++) {
        int columns = cell_columns(cells[i]);
        if (columns > table->widths[i])
            table->widths[i] = columns;
    }
}

static void as_row(struct table *table, const struct cell *head, const struct cell *cells)
{
    row_draw(table, cells, head == NULL ? FLOW_BOLD : 0);
    if (head == NULL)
        rule_draw(table);
}

static void as_record(struct table *table, const struct cell *head, const struct cell *cells)
{
    if (head != NULL)
        record_draw(table, head, cells);
}

bool table_draw(struct flow *flow, const struct buf *rows, const char *lead, bool utf8)
{
    struct table table = {.flow = flow, .lead = lead, .utf8 = utf8};
    struct cell cells[TABLE_COLUMNS_MAX];
    const char *rule = rows->len > 0 ? memchr(rows->data, '\n', rows->len) : NULL;
    if (rule == NULL || !table_is_rule(rule + 1, strcspn(rule + 1, "\n")))
        return false;
    table.columns = cells_of(rows->data, (size_t)(rule - rows->data), cells);
    if (table.columns == 0 || table.columns > TABLE_COLUMNS_MAX)
        return false;
    (void)cells_of(rule + 1, strcspn(rule + 1, "\n"), cells);
    for (size_t i = 0; i < table.columns; i++) {
        table.right[i] =
            cells[i].len > 1 && cells[i].text[cells[i].len - 1] == ':' && cells[i].text[0] != ':';
        table.widths[i] = 1;
    }
    rows_each(&table, rows, widths_grow);
    rows_each(&table, rows, widths_fit(&table) ? as_row : as_record);
    return true;
}
