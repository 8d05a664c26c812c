/*
 * status.c - what runs: nodes, their workers, and the queue.
 */
#include <stdlib.h>
#include <string.h>

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

static void cell_print(const char *text, int columns)
{
    struct buf cell;
    buf_init(&cell, 4096);
    if (draw_text(&cell, text, columns) == ERR_OK)
        fputs(buf_text(&cell), stdout);
    buf_done(&cell);
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
    struct buf bar;
    buf_init(&bar, 256);
    if (draw_bar(&bar, style, (double)active, 0, (double)slots, 10) != ERR_OK)
        buf_clear(&bar);
    fputs("  ", stdout);
    cell_print(json_text(worker, "id", "?"), 16);
    fputs("  ", stdout);
    cell_print(json_text(worker, "state", "?"), 9);
    printf(" %s %2lld of %-3lld ", buf_text(&bar), (long long)active, (long long)slots);
    text_print(json_text(worker, "device", "?"));
    fputs("  ", stdout);
    text_print(json_text(worker, "model", "?"));
    printf("  pid %lld\n", (long long)json_int(worker, "pid", 0));
    buf_done(&bar);
}

static void node_print(const json_t *node, const struct term_style *style)
{
    fputs(term_bold(style), stdout);
    text_print(json_text(node, "name", "?"));
    fputs(term_reset(style), stdout);
    fputs("  ", stdout);
    text_print(json_text(node, "address", ""));
    fputs("  metrics ", stdout);
    text_print(json_text(node, "metrics_url", "none"));
    fputc('\n', stdout);
    list_print(json_object_get(node, "workers"), worker_print, style);
}

static void responder_print(const json_t *responder, const struct term_style *style)
{
    (void)style;
    fputs("response worker ", stdout);
    text_print(json_text(responder, "id", "?"));
    printf("  pid %lld\n", (long long)json_int(responder, "pid", 0));
}

static void gateway_print(const json_t *gateway, const struct term_style *style)
{
    (void)style;
    fputs("gateway ", stdout);
    text_print(json_text(gateway, "id", "?"));
    fputs("  ", stdout);
    text_print(json_text(gateway, "url", ""));
    printf("  pid %lld\n", (long long)json_int(gateway, "pid", 0));
}

static void status_print(const json_t *root)
{
    struct term_style style = term_style_of(stdout);
    list_print(json_object_get(root, "nodes"), node_print, &style);
    list_print(json_object_get(root, "response_workers"), responder_print, &style);
    list_print(json_object_get(root, "gateways"), gateway_print, &style);
    const json_t *broker = json_object_get(root, "broker");
    fputs("broker ", stdout);
    text_print(json_text(broker, "url", "?"));
    if (json_int(broker, "pid", 0) > 0)
        printf("  pid %lld", (long long)json_int(broker, "pid", 0));
    if (!json_flag(broker, "connected", false))
        fputs("  is away: nodes and workers stand here as they were when it left", stdout);
    const json_t *queue = json_object_get(root, "queue");
    if (!json_is_integer(json_object_get(queue, "waiting"))) {
        fputs("\nqueue: not known\n", stdout);
        return;
    }
    printf("\nqueue: %lld waiting, %lld in flight, at most %lld\n",
           (long long)json_int(queue, "waiting", 0), (long long)json_int(queue, "in_flight", 0),
           (long long)json_int(queue, "limit", 0));
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
