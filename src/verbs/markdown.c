/*
 * markdown.c - the blocks of Markdown, line by line: each line's beginning is held until it is
 * known what it opens; the rest streams through mdspan.c.
 */
#include "verbs/markdown.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verbs/mdspan.h"
#include "verbs/mdtable.h"
#include "wire/utf8.h"

#define HEAD_MAX   256 /* bytes that a line's kind may need */
#define ROW_MAX    4096
#define QUOTES_MAX 8
#define INDENT_MAX 24
#define RULE_MOST  60 /* columns */

enum block { MORE, BLANK, TEXT, HEADING, BULLET, NUMBER, RULE, FENCE, ROW };

/* What a line begins with. */
struct opening {
    enum block block;
    unsigned quotes, indent, level;
    size_t marker, body; /* offsets in the line */
};

enum place { AT_START, IN_BODY, AT_CODE, IN_CODE, IN_ROW };

struct markdown {
    struct flow flow;
    bool utf8;
    enum place place;
    char head[HEAD_MAX + 1];
    size_t head_len;
    struct buf held; /* of a line's body: what is not decided; in code: a character's bytes */
    char prev;       /* the byte before held */
    unsigned style;
    char fence;
    size_t fence_len;
    unsigned fence_quotes, fence_indent;
    struct buf rows; /* of a table, and the row that comes in behind rows_whole */
    size_t rows_whole;
    unsigned rows_quotes;
    bool rows_refused; /* these rows are no table: they are text */
};

enum err markdown_new(struct markdown **out, flow_write_fn *write, flow_width_fn *width_of,
                      void *arg, bool utf8)
{
    struct markdown *md = calloc(1, sizeof *md);
    if (md == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    flow_init(&md->flow, write, width_of, arg);
    md->utf8 = utf8;
    buf_init(&md->held, SPAN_MAX * 2);
    buf_init(&md->rows, TABLE_BYTES_MAX);
    *out = md;
    return ERR_OK;
}

void markdown_free(struct markdown *md)
{
    if (md == NULL)
        return;
    buf_done(&md->held);
    buf_done(&md->rows);
    free(md);
}

/* ---- what a line opens ---- */

static size_t run_of(const char *text, size_t len, char c)
{
    size_t run = 0;
    while (run < len && text[run] == c)
        run++;
    return run;
}

static enum block heading_or_text(struct opening *open, const char *text, size_t len, bool whole)
{
    size_t run = run_of(text, len, '#');
    if (run == len && !whole && run <= 6)
        return MORE;
    if (run > 6 || run == len || text[run] != ' ')
        return TEXT;
    open->level = (unsigned)run;
    open->body = run + 1;
    return HEADING;
}

static enum block fence_or_text(struct opening *open, const char *text, size_t len, bool whole)
{
    size_t run = run_of(text, len, *text);
    if (run < 3 && (run < len || whole))
        return TEXT;
    if (!whole)
        return *text == '`' && memchr(text + run, '`', len - run) != NULL ? TEXT : MORE;
    if (*text == '`' && memchr(text + run, '`', len - run) != NULL)
        return TEXT;
    open->body = run;
    return FENCE;
}

/* "-", "*", "_", "+": a bullet, a rule, or a word. */
static enum block bullet_or_rule(struct opening *open, const char *text, size_t len, bool whole)
{
    size_t marks = 0, at = 0;
    for (; at < len && (text[at] == *text || text[at] == ' '); at++)
        marks += text[at] == *text;
    bool rule = *text != '+' && marks >= 3;
    if (at == len && !whole)
        return MORE;
    if (at == len && rule)
        return RULE;
    if (*text == '_' || (len > 1 && text[1] != ' '))
        return TEXT;
    open->body = len > 1 ? 2 : 1;
    return BULLET;
}

static enum block number_or_text(struct opening *open, const char *text, size_t len, bool whole)
{
    size_t at = strspn(text, "0123456789");
    if (at > 9)
        return TEXT;
    if (at < len && text[at] != '.' && text[at] != ')')
        return TEXT;
    if (at + 1 >= len)
        return whole ? TEXT : MORE;
    if (text[at + 1] != ' ')
        return TEXT;
    open->body = at + 2;
    return NUMBER;
}

/* text ends with NUL; whole: the line ends here. */
static struct opening opening_of(const char *text, size_t len, bool whole)
{
    struct opening open = {.block = MORE};
    size_t at = 0;
    for (;;) {
        while (at < len && (text[at] == ' ' || text[at] == '\t'))
            open.indent += text[at++] == '\t' ? 4 : 1;
        if (at == len || text[at] != '>' || open.quotes == QUOTES_MAX)
            break;
        open.quotes++;
        open.indent = 0;
        at++;
        if (at == len && !whole)
            return open;
        at += at < len && text[at] == ' ';
    }
    if (at == len) {
        open.block = whole ? BLANK : MORE;
    } else if (text[at] == '#') {
        open.block = heading_or_text(&open, text + at, len - at, whole);
    } else if (text[at] == '`' || text[at] == '~') {
        open.block = fence_or_text(&open, text + at, len - at, whole);
    } else if (strchr("-*_+", text[at]) != NULL) {
        open.block = bullet_or_rule(&open, text + at, len - at, whole);
    } else if (text[at] >= '0' && text[at] <= '9') {
        open.block = number_or_text(&open, text + at, len - at, whole);
    } else {
        open.block = text[at] == '|' ? ROW : TEXT;
    }
    if (open.block == TEXT)
        open.body = 0;
    open.marker = at;
    open.body += at;
    open.indent = open.indent < INDENT_MAX ? open.indent : INDENT_MAX;
    return open;
}

/* ---- drawing ---- */

static const char *bar(const struct markdown *md)
{
    return md->utf8 ? "│ " : "| ";
}

static void lead_quotes(struct markdown *md, unsigned quotes)
{
    for (unsigned i = 0; i < quotes; i++)
        flow_lead(&md->flow, bar(md), FLOW_DIM);
}

static void lead_spaces(struct markdown *md, unsigned count)
{
    char spaces[INDENT_MAX + 1];
    memset(spaces, ' ', sizeof spaces);
    spaces[count < INDENT_MAX ? count : INDENT_MAX] = '\0';
    flow_lead(&md->flow, spaces, 0);
}

/* Of the lines that the block goes on with. */
static void prefix_set(struct markdown *md, unsigned quotes, unsigned indent)
{
    char prefix[FLOW_PREFIX_MAX + 1] = "";
    size_t len = 0;
    for (unsigned i = 0; i < quotes; i++)
        len += (size_t)snprintf(prefix + len, sizeof prefix - len, "%s", bar(md));
    for (unsigned i = 0; i < indent && len < FLOW_PREFIX_MAX; i++)
        prefix[len++] = ' ';
    prefix[len] = '\0';
    flow_prefix(&md->flow, prefix, FLOW_DIM);
}

static void rule_draw(struct markdown *md, const char *label)
{
    const char *dash = md->utf8 ? "─" : "-";
    if (*label != '\0') {
        flow_lead(&md->flow, dash, FLOW_DIM);
        flow_lead(&md->flow, dash, FLOW_DIM);
        flow_lead(&md->flow, " ", FLOW_DIM);
        flow_text(&md->flow, label, FLOW_DIM);
        flow_flush(&md->flow);
        flow_lead(&md->flow, " ", FLOW_DIM);
    }
    while (md->flow.column < RULE_MOST && flow_left(&md->flow) > 0)
        flow_lead(&md->flow, dash, FLOW_DIM);
    flow_newline(&md->flow);
}

static void body_byte(struct markdown *md, char c);

/* The line's body, of which the beginning is there. */
static void body_begin(struct markdown *md, const char *text, size_t len)
{
    md->place = IN_BODY;
    md->prev = '\0';
    buf_clear(&md->held);
    for (size_t i = 0; i < len; i++)
        body_byte(md, text[i]);
}

static void item_begin(struct markdown *md, const struct opening *open, const char *line)
{
    char marker[16] = "- ";
    unsigned columns = 2;
    if (open->block == NUMBER) {
        columns = (unsigned)(open->body - open->marker);
        snprintf(marker, sizeof marker, "%.*s", (int)columns, line + open->marker);
    } else if (md->utf8) {
        snprintf(marker, sizeof marker, "%s", open->indent >= 2 ? "◦ " : "• ");
    }
    flow_lead(&md->flow, marker, FLOW_CYAN);
    prefix_set(md, open->quotes, open->indent + columns);
}

static void fence_begin(struct markdown *md, const struct opening *open, const char *line)
{
    char label[40];
    const char *info = line + open->body;
    info += strspn(info, " \t");
    snprintf(label, sizeof label, "%.*s", (int)strcspn(info, " \t{"), info);
    size_t len = strlen(label);
    while (len > 0 && !utf8_is_valid(label, len))
        label[--len] = '\0'; /* cut within a character */
    md->fence = line[open->marker];
    md->fence_len = open->body - open->marker;
    md->fence_quotes = open->quotes;
    md->fence_indent = open->indent;
    rule_draw(md, label);
    md->place = AT_CODE;
}

/* Text that came before the line's kind was known, and the kind. */
static void line_begin(struct markdown *md, const struct opening *open, const char *line,
                       size_t len)
{
    prefix_set(md, open->quotes, open->indent);
    lead_quotes(md, open->quotes);
    md->style = 0;
    if (open->block == BLANK) {
        flow_newline(&md->flow);
        return;
    }
    if (open->block == RULE) {
        rule_draw(md, "");
        return;
    }
    lead_spaces(md, open->indent);
    if (open->block == FENCE) {
        fence_begin(md, open, line);
        return;
    }
    if (open->block == HEADING)
        md->style = FLOW_BOLD | FLOW_GREEN | (open->level == 1 ? FLOW_UNDERLINE : 0u);
    else if (open->block != TEXT)
        item_begin(md, open, line);
    body_begin(md, line + open->body, len - open->body);
}

static void body_end(struct markdown *md)
{
    (void)span_put(&md->flow, buf_text(&md->held), md->held.len, true, md->style, md->prev);
    buf_clear(&md->held);
    flow_newline(&md->flow);
    md->place = AT_START;
}

static bool may_decide(char c)
{
    return c != '\0' && strchr("*_`~[]()!\\", c) != NULL;
}

static void body_byte(struct markdown *md, char c)
{
    bool waits = md->held.len > 0 && (unsigned char)md->held.data[0] < 0x80;
    char before = waits ? md->held.data[md->held.len - 1] : '\0';
    if (buf_append(&md->held, &c, 1) != ERR_OK) { /* without memory: at least the words */
        (void)span_put(&md->flow, buf_text(&md->held), md->held.len, true, md->style, md->prev);
        buf_clear(&md->held);
        return;
    }
    if (waits && md->held.len <= SPAN_MAX && !may_decide(c) && !may_decide(before))
        return;
    size_t used = span_put(&md->flow, md->held.data, md->held.len, false, md->style, md->prev);
    if (used > 0)
        md->prev = md->held.data[used - 1];
    buf_consume(&md->held, used);
}

/* ---- code ---- */

/* One character, when its bytes are all there. */
static void code_byte(struct markdown *md, char c)
{
    if (buf_append(&md->held, &c, 1) != ERR_OK)
        return;
    while (md->held.len > 0) {
        size_t len = utf8_char_len(md->held.data, md->held.len);
        if (len == 0 && md->held.len < 4 && (unsigned char)md->held.data[0] >= 0xc2)
            return;
        len = len > 0 ? len : 1;
        flow_char_plain(&md->flow, md->held.data, len, FLOW_CYAN);
        buf_consume(&md->held, len);
    }
}

static void code_line_end(struct markdown *md)
{
    while (md->held.len > 0) {
        flow_char_plain(&md->flow, md->held.data, 1, FLOW_CYAN);
        buf_consume(&md->held, 1);
    }
    flow_newline(&md->flow);
    md->place = AT_CODE;
}

/* A line of code that may be the closing fence: -1 not, 0 perhaps, 1 it is. */
static int fence_closes(const struct markdown *md, bool whole)
{
    size_t at = 0, left = md->head_len;
    const char *text = md->head;
    for (unsigned i = 0; i <= md->fence_quotes; i++) {
        while (at < left && text[at] == ' ')
            at++;
        if (i < md->fence_quotes && at < left && text[at] == '>')
            at++;
    }
    size_t run = run_of(text + at, left - at, md->fence);
    at += run;
    while (at < left && text[at] == ' ')
        at++;
    if (at < left || left == HEAD_MAX)
        return -1;
    return !whole ? 0 : run >= md->fence_len ? 1 : -1;
}

/* The line's beginning is code after all. */
static void code_begin(struct markdown *md)
{
    size_t at = 0;
    for (unsigned i = 0; i < md->fence_quotes; i++) {
        size_t mark = at + strspn(md->head + at, " ");
        if (md->head[mark] != '>')
            break;
        at = mark + 1;
        at += md->head[at] == ' ';
    }
    lead_quotes(md, md->fence_quotes);
    md->place = IN_CODE;
    buf_clear(&md->held);
    for (; at < md->head_len; at++)
        code_byte(md, md->head[at]);
    md->head_len = 0;
}

static void fence_end(struct markdown *md)
{
    lead_quotes(md, md->fence_quotes);
    lead_spaces(md, md->fence_indent);
    rule_draw(md, "");
}

static void code_start_byte(struct markdown *md, char c)
{
    bool whole = c == '\n';
    if (!whole)
        md->head[md->head_len++] = c;
    md->head[md->head_len] = '\0';
    int closes = fence_closes(md, whole);
    if (closes == 1) {
        md->head_len = 0;
        md->place = AT_START;
        fence_end(md);
    } else if (closes < 0) {
        code_begin(md);
        if (whole)
            code_line_end(md);
    }
}

/* ---- tables ---- */

/* Shows the rows that were held: as a table, else as the text they are. */
static void table_end(struct markdown *md)
{
    if (md->rows.len == 0)
        return;
    char lead[QUOTES_MAX * 4 + 1] = "";
    for (unsigned i = 0; i < md->rows_quotes; i++)
        strcat(lead, bar(md));
    prefix_set(md, md->rows_quotes, 0);
    md->style = 0;
    if (!table_draw(&md->flow, &md->rows, lead, md->utf8)) {
        for (size_t at = 0; at < md->rows.len;) {
            size_t len = strcspn(md->rows.data + at, "\n");
            lead_quotes(md, md->rows_quotes);
            (void)span_put(&md->flow, md->rows.data + at, len, true, 0, '\0');
            flow_newline(&md->flow);
            at += len + 1;
        }
    }
    buf_clear(&md->rows);
    md->rows_whole = 0;
}

static void row_byte(struct markdown *md, char c)
{
    bool full = buf_append(&md->rows, c == '\0' ? "?" : &c, 1) != ERR_OK ||
                md->rows.len - md->rows_whole > ROW_MAX;
    if (c != '\n' && !full)
        return;
    if (full && c != '\n') { /* too much for a table: what is there, and then text */
        table_end(md);
        md->rows_refused = true;
        body_begin(md, &c, 1);
        return;
    }
    const char *line = md->rows.data + md->rows_whole;
    bool second = md->rows_whole > 0 && memchr(md->rows.data, '\n', md->rows_whole - 1) == NULL;
    if (second && !table_is_rule(line, md->rows.len - md->rows_whole - 1))
        md->rows_refused = true;
    md->rows_whole = md->rows.len;
    md->place = AT_START;
    if (md->rows_refused)
        table_end(md);
}

/* ---- lines ---- */

static void start_byte(struct markdown *md, char c)
{
    bool whole = c == '\n';
    if (!whole)
        md->head[md->head_len++] = c == '\0' ? '?' : c;
    md->head[md->head_len] = '\0';
    struct opening open = opening_of(md->head, md->head_len, whole);
    if (open.block == MORE) {
        if (md->head_len < HEAD_MAX)
            return;
        open.block = TEXT;
        open.body = open.marker;
    }
    size_t len = md->head_len;
    md->head_len = 0;
    if (open.block == ROW && !md->rows_refused) {
        if (md->rows.len == 0)
            md->rows_quotes = open.quotes;
        md->place = IN_ROW;
        for (size_t i = open.marker; i < len; i++)
            row_byte(md, md->head[i]);
        return;
    }
    if (open.block != ROW) {
        table_end(md);
        md->rows_refused = false;
    } else {
        open.block = TEXT;
    }
    line_begin(md, &open, md->head, len);
    if (whole && md->place == IN_BODY)
        body_end(md);
}

bool markdown_feed(void *arg, const char *text, size_t len)
{
    struct markdown *md = arg;
    for (size_t i = 0; i < len && !md->flow.failed; i++) {
        char c = text[i];
        if (c == '\r')
            continue;
        if (md->place == AT_START)
            start_byte(md, c);
        else if (md->place == IN_ROW)
            row_byte(md, c);
        else if (md->place == AT_CODE)
            code_start_byte(md, c);
        else if (md->place == IN_CODE && c != '\n')
            code_byte(md, c);
        else if (md->place == IN_CODE)
            code_line_end(md);
        else if (c == '\n')
            body_end(md);
        else
            body_byte(md, c);
    }
    return !md->flow.failed;
}

void markdown_end(struct markdown *md)
{
    if (md->place == IN_ROW || md->place == IN_BODY || md->place == IN_CODE || md->head_len > 0)
        (void)markdown_feed(md, "\n", 1);
    table_end(md);
    if (md->place == AT_CODE)
        fence_end(md);
    md->place = AT_START;
    md->head_len = 0;
    md->rows_refused = false;
    flow_prefix(&md->flow, "", 0);
}

bool markdown_at_line_start(const struct markdown *md)
{
    return md->flow.column == 0 && md->flow.word_len == 0;
}

int markdown_left(const struct markdown *md)
{
    return flow_left(&md->flow);
}
