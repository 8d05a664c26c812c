/*
 * status.c - what runs: nodes, their workers, and the queue.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/wrap.h"
#include "verbs/apiclient.h"
#include "verbs/report.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

/* Text that came over the network, to a terminal or a file. */
static void text_print(const char *text)
{
    term_text(stdout, text, strlen(text));
}

/* A line of fields.  On a terminal that is too narrow for all of them the others go below. */
struct row {
    int column, width;
};

static struct row row_begin(const struct term_style *style)
{
    return (struct row){.width = isatty(STDOUT_FILENO) ? style->width : INT_MAX};
}

/* `columns`: what the text takes, or at least so many; 0: what it takes. */
static void field_print(struct row *row, const char *gap, const char *text, int columns)
{
    int takes = columns > 0 ? columns : (int)wrap_columns(text), apart = (int)strlen(gap);
    if (row->column > 0 && row->column + apart + takes > row->width) {
        fputs("\n    ", stdout);
        row->column = 4;
        apart = 0;
    }
    fputs(apart > 0 ? gap : "", stdout);
    text_print(text);
    row->column += apart + takes;
}

/* Cut or filled to so many columns. */
static void cell_print(struct row *row, const char *gap, const char *text, int columns)
{
    struct buf cell;
    buf_init(&cell, 4096);
    if (draw_text(&cell, text, columns) == ERR_OK)
        field_print(row, gap, buf_text(&cell), columns);
    buf_done(&cell);
}

static void pid_print(struct row *row, const json_t *process)
{
    char text[32];
    snprintf(text, sizeof text, "pid %lld", (long long)json_int(process, "pid", 0));
    field_print(row, "  ", text, 0);
}

/* Drawn by us, colours and all: ten columns, and the figures behind. */
static void bar_print(struct row *row, const char *bar, const char *used)
{
    printf(" %s %s", bar, used);
    row->column += 12 + (int)strlen(used);
}

typedef void item_fn(const json_t *item, const struct term_style *style);

static void list_print(const json_t *list, item_fn *print, const struct term_style *style)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        print(json_array_get(list, i), style);
}

static void worker_print(const json_t *worker, const struct term_style *style)
{
    json_int_t slots = json_int(worker, "slots", 0), active = json_int(worker, "active", 0);
    struct row row = row_begin(style);
    struct buf bar;
    char used[48];
    buf_init(&bar, 256);
    if (draw_bar(&bar, style, (double)active, 0, (double)slots, 10) != ERR_OK)
        buf_clear(&bar);
    snprintf(used, sizeof used, "%2lld of %-3lld", (long long)active, (long long)slots);
    cell_print(&row, "  ", json_text(worker, "id", "?"), 16);
    cell_print(&row, "  ", json_text(worker, "state", "?"), 9);
    if (row.column + 12 + (int)strlen(used) > row.width)
        field_print(&row, " ", used, 0); /* figures before bars */
    else
        bar_print(&row, buf_text(&bar), used);
    field_print(&row, " ", json_text(worker, "device", "?"), 0);
    field_print(&row, "  ", json_text(worker, "model", "?"), 0);
    pid_print(&row, worker);
    fputc('\n', stdout);
    buf_done(&bar);
}

static void node_print(const json_t *node, const struct term_style *style)
{
    struct row row = row_begin(style);
    fputs(term_bold(style), stdout);
    field_print(&row, "", json_text(node, "name", "?"), 0);
    fputs(term_reset(style), stdout);
    field_print(&row, "  ", json_text(node, "address", ""), 0);
    field_print(&row, "  ", "metrics", 0);
    field_print(&row, " ", json_text(node, "metrics_url", "none"), 0);
    fputc('\n', stdout);
    list_print(json_object_get(node, "workers"), worker_print, style);
}

static void responder_print(const json_t *responder, const struct term_style *style)
{
    struct row row = row_begin(style);
    field_print(&row, "", "response worker", 0);
    field_print(&row, " ", json_text(responder, "id", "?"), 0);
    pid_print(&row, responder);
    fputc('\n', stdout);
}

static void gateway_print(const json_t *gateway, const struct term_style *style)
{
    struct row row = row_begin(style);
    field_print(&row, "", "gateway", 0);
    field_print(&row, " ", json_text(gateway, "id", "?"), 0);
    field_print(&row, "  ", json_text(gateway, "url", ""), 0);
    pid_print(&row, gateway);
    fputc('\n', stdout);
}

static void broker_print(const json_t *broker, const struct term_style *style)
{
    struct row row = row_begin(style);
    field_print(&row, "", "broker", 0);
    field_print(&row, " ", json_text(broker, "url", "?"), 0);
    if (json_int(broker, "pid", 0) > 0)
        pid_print(&row, broker);
    if (!json_flag(broker, "connected", false))
        field_print(&row, "  ", "is away: nodes and workers stand here as they were when it left",
                    0);
    fputc('\n', stdout);
}

static void status_print(const json_t *root)
{
    struct term_style style = term_style_of(stdout);
    list_print(json_object_get(root, "nodes"), node_print, &style);
    list_print(json_object_get(root, "response_workers"), responder_print, &style);
    list_print(json_object_get(root, "gateways"), gateway_print, &style);
    broker_print(json_object_get(root, "broker"), &style);
    const json_t *queue = json_object_get(root, "queue");
    if (!json_is_integer(json_object_get(queue, "waiting"))) {
        fputs("queue: not known\n", stdout);
        return;
    }
    char text[128];
    snprintf(text, sizeof text, "queue: %lld waiting, %lld in flight, at most %lld",
             (long long)json_int(queue, "waiting", 0), (long long)json_int(queue, "in_flight", 0),
             (long long)json_int(queue, "limit", 0));
    wrap_print(stdout, text, 0, 4, row_begin(&style).width);
}

int verb_status(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    json_t *root = NULL;
    enum err err = api_get(&root, settings, "/wyvern/status");
    if (err == ERR_OK && !json_is_array(json_object_get(root, "nodes"))) {
        json_decref(root);
        err = err_set(ERR_INVALID, "%s tells nothing of nodes; is this a wyvern gateway?",
                      settings->url);
    }
    if (err != ERR_OK)
        return term_fail(err);
    if (settings->json) {
        char *text = json_dumps(root, JSON_COMPACT);
        text_print(text != NULL ? text : "");
        fputc('\n', stdout);
        free(text);
    } else {
        status_print(root);
    }
    json_decref(root);
    return EX_OK;
}
