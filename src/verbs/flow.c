#include "verbs/flow.h"

#include <stdio.h>
#include <string.h>

#include "config/wrap.h"
#include "verbs/term.h"
#include "wire/utf8.h"

#define TAB 4

static void put(struct flow *flow, const char *text, size_t len)
{
    if (!flow->failed && len > 0 && !flow->write(flow->arg, text, len))
        flow->failed = true;
}

static void put_style(struct flow *flow, unsigned style)
{
    static const struct {
        unsigned bit;
        const char *code;
    } codes[] = {{FLOW_BOLD, ";1"},      {FLOW_DIM, ";2"},    {FLOW_ITALIC, ";3"},
                 {FLOW_UNDERLINE, ";4"}, {FLOW_STRIKE, ";9"}, {FLOW_CYAN, ";36"},
                 {FLOW_GREEN, ";32"},    {FLOW_YELLOW, ";33"}};
    if (style == flow->shown)
        return;
    char text[64] = "\033[0";
    size_t len = 3;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (style & codes[i].bit)
            len += (size_t)snprintf(text + len, sizeof text - len, "%s", codes[i].code);
    }
    text[len++] = 'm';
    put(flow, text, len);
    flow->shown = style;
}

static void line_begin(struct flow *flow)
{
    flow->width = flow->width_of(flow->arg);
    flow->fresh = true;
}

void flow_init(struct flow *flow, flow_write_fn *write, flow_width_fn *width_of, void *arg)
{
    memset(flow, 0, sizeof *flow);
    flow->write = write;
    flow->width_of = width_of;
    flow->arg = arg;
    line_begin(flow);
}

void flow_prefix(struct flow *flow, const char *prefix, unsigned style)
{
    snprintf(flow->prefix, sizeof flow->prefix, "%s", prefix);
    flow->prefix_style = style;
    flow->prefix_columns = (int)wrap_columns(flow->prefix);
}

/* The line is full: on the next one, behind the prefix. */
static void line_break(struct flow *flow)
{
    put_style(flow, 0);
    put(flow, "\n", 1);
    line_begin(flow);
    flow->column = 0;
    if (flow->prefix_columns == 0 || flow->prefix_columns * 2 > flow->width)
        return; /* none, or no room for it */
    put_style(flow, flow->prefix_style);
    put(flow, flow->prefix, strlen(flow->prefix));
    flow->column = flow->prefix_columns;
}

static void cells_put(struct flow *flow)
{
    for (size_t i = 0; i < flow->word_len; i++) {
        const struct flow_cell *cell = &flow->word[i];
        if (flow->column + cell->columns > flow->width && !flow->fresh)
            line_break(flow); /* a word longer than a line */
        put_style(flow, cell->style);
        put(flow, cell->text, strlen(cell->text));
        flow->column += cell->columns;
        flow->fresh = flow->fresh && cell->columns == 0;
    }
    flow->word_len = 0;
    flow->word_columns = 0;
}

void flow_flush(struct flow *flow)
{
    if (flow->word_len == 0)
        return;
    if (!flow->fresh && flow->column + flow->spaces + flow->word_columns > flow->width) {
        line_break(flow);
    } else if (flow->spaces > 0) {
        put_style(flow, flow->space_style);
        for (int i = 0; i < flow->spaces; i++)
            put(flow, " ", 1);
        flow->column += flow->spaces;
    }
    flow->spaces = 0;
    cells_put(flow);
}

/* A copy that may be shown, and its columns. */
static struct flow_cell cell_of(const char *text, size_t len, unsigned style)
{
    struct flow_cell cell = {.text = "?", .columns = 1, .style = style};
    if (len > 0 && len < sizeof cell.text && utf8_char_len(text, len) == len &&
        !term_is_harmful(text, len)) {
        memcpy(cell.text, text, len);
        cell.text[len] = '\0';
        cell.columns = (unsigned char)wrap_columns(cell.text);
    }
    return cell;
}

void flow_char(struct flow *flow, const char *text, size_t len, unsigned style)
{
    if (len == 1 && (*text == ' ' || *text == '\t')) {
        flow_flush(flow);
        if (!flow->fresh && flow->spaces < flow->width)
            flow->spaces++;
        flow->space_style = style;
        return;
    }
    struct flow_cell cell = cell_of(text, len, style);
    if (flow->word_len == FLOW_WORD_MAX)
        flow_flush(flow);
    flow->word[flow->word_len++] = cell;
    flow->word_columns += cell.columns;
    if (cell.columns == 2)
        flow_flush(flow); /* Chinese and its neighbours break anywhere */
}

void flow_text(struct flow *flow, const char *text, unsigned style)
{
    size_t left = strlen(text);
    while (left > 0) {
        size_t len = utf8_char_len(text, left);
        len = len > 0 ? len : 1;
        flow_char(flow, text, len, style);
        text += len;
        left -= len;
    }
}

void flow_char_plain(struct flow *flow, const char *text, size_t len, unsigned style)
{
    flow_flush(flow);
    flow->fresh = false;
    flow->spaces = 0;
    put_style(flow, style);
    if (len == 1 && *text == '\t') {
        do {
            put(flow, " ", 1);
        } while (++flow->column % TAB != 0);
        return;
    }
    struct flow_cell cell = cell_of(text, len, style);
    put(flow, cell.text, strlen(cell.text));
    flow->column += cell.columns;
}

void flow_newline(struct flow *flow)
{
    flow_flush(flow);
    put_style(flow, 0);
    put(flow, "\n", 1);
    flow->column = 0;
    flow->spaces = 0;
    line_begin(flow);
}

void flow_lead(struct flow *flow, const char *text, unsigned style)
{
    if (*text == '\0')
        return;
    put_style(flow, style);
    put(flow, text, strlen(text));
    flow->column += (int)wrap_columns(text);
}

int flow_left(const struct flow *flow)
{
    int used = flow->column + flow->spaces + flow->word_columns;
    return used < flow->width ? flow->width - used : 0;
}
