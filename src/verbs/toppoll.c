#include "verbs/toppoll.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "http/client.h"
#include "verbs/apiclient.h"
#include "wire/json.h"

#define CONNECT_MS  2000
#define ANSWER_MS   3000
#define STATUS_MAX  ((size_t)16 << 20)
#define METRICS_MAX ((size_t)8 << 20)
#define OPEN_MAX    128 /* calls at once */
#define SOURCES_MAX (TOP_NODES_MAX + TOP_GATEWAYS_MAX + 1)

enum source_kind { SOURCE_STATUS, SOURCE_GATEWAY, SOURCE_NODE };

/* Somebody to ask.  A source outlives its call, whatever the status says meanwhile. */
struct source {
    struct top_poller *poller;
    enum source_kind kind;
    char name[TOP_TEXT_SIZE]; /* a node's name, a gateway's url */
    struct buf url, body;
    bool open, full, wanted;
    int64_t asked_ns;
};

struct top_poller {
    struct top *top;
    struct http_set *set;
    enum top_poll_scope scope;
    struct api_key key;     /* for the status alone: metrics are open, and at other addresses */
    struct buf metrics_url; /* of the gateway that we were told of */
    struct source *sources[SOURCES_MAX];
    size_t source_count, open;
    enum err status_err;
};

static double seconds_now(void)
{
    return (double)clock_mono_ns() / (double)NS_PER_S;
}

static void source_free(struct source *source)
{
    buf_done(&source->url);
    buf_done(&source->body);
    free(source);
}

/* The source of that kind and name, made when there is none; NULL: no room. */
static struct source *source_of(struct top_poller *poller, enum source_kind kind, const char *name)
{
    for (size_t i = 0; i < poller->source_count; i++) {
        struct source *source = poller->sources[i];
        if (source->kind == kind && strcmp(source->name, name) == 0)
            return source;
    }
    if (poller->source_count == SOURCES_MAX)
        return NULL;
    struct source *source = calloc(1, sizeof *source);
    if (source == NULL)
        return NULL;
    source->poller = poller;
    source->kind = kind;
    snprintf(source->name, sizeof source->name, "%s", name);
    buf_init(&source->url, 4096);
    buf_init(&source->body, kind == SOURCE_STATUS ? STATUS_MAX : METRICS_MAX);
    poller->sources[poller->source_count++] = source;
    return source;
}

enum err top_poller_new(struct top_poller **out, struct top *top, const struct settings *settings,
                        enum top_poll_scope scope)
{
    struct top_poller *poller = calloc(1, sizeof *poller);
    if (poller == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    poller->top = top;
    poller->scope = scope;
    buf_init(&poller->metrics_url, 4096);
    enum err err = api_key_read(&poller->key, settings);
    if (err == ERR_OK)
        err = http_set_new(&poller->set);
    if (err == ERR_OK)
        err = api_url(&poller->metrics_url, settings, "/metrics");
    struct source *status = err == ERR_OK ? source_of(poller, SOURCE_STATUS, "") : NULL;
    if (err == ERR_OK)
        err = status == NULL ? err_set(ERR_NOMEM, "out of memory")
                             : api_url(&status->url, settings, "/wyvern/status");
    if (err != ERR_OK) {
        top_poller_free(poller);
        return err;
    }
    status->wanted = true;
    *out = poller;
    return ERR_OK;
}

void top_poller_free(struct top_poller *poller)
{
    if (poller == NULL)
        return;
    http_set_free(poller->set);
    for (size_t i = 0; i < poller->source_count; i++)
        source_free(poller->sources[i]);
    buf_done(&poller->metrics_url);
    free(poller);
}

/* ---- who is to be asked ---- */

static bool has_gpu(const struct top_node *node)
{
    for (size_t i = 0; i < node->worker_count; i++) {
        if (strncmp(node->workers[i].device, "gpu:", 4) == 0)
            return true;
    }
    return false;
}

static void source_want(struct top_poller *poller, enum source_kind kind, const char *name,
                        const char *url)
{
    struct source *source = source_of(poller, kind, name);
    if (source == NULL || source->open)
        return;
    buf_clear(&source->url);
    source->wanted = buf_append_text(&source->url, url) == ERR_OK;
}

/* Of one gateway we know a way to it that works; of several, each is asked where it says it is. */
static void sources_choose(struct top_poller *poller)
{
    const struct top *top = poller->top;
    for (size_t i = 0; i < poller->source_count; i++)
        poller->sources[i]->wanted = poller->sources[i]->kind == SOURCE_STATUS;
    for (size_t i = 0; i < top->gateway_count && poller->scope == TOP_POLL_ALL; i++) {
        char url[TOP_TEXT_SIZE + 16];
        snprintf(url, sizeof url, "%s/metrics", top->gateways[i].url);
        source_want(poller, SOURCE_GATEWAY, top->gateways[i].url,
                    top->gateway_count == 1 ? buf_text(&poller->metrics_url) : url);
    }
    for (size_t i = 0; i < top->node_count; i++) {
        const struct top_node *node = top->nodes[i];
        if (node->metrics_url[0] != '\0' && (poller->scope == TOP_POLL_ALL || has_gpu(node)))
            source_want(poller, SOURCE_NODE, node->name, node->metrics_url);
    }
    size_t kept = 0;
    for (size_t i = 0; i < poller->source_count; i++) {
        struct source *source = poller->sources[i];
        if (source->wanted || source->open)
            poller->sources[kept++] = source;
        else
            source_free(source);
    }
    poller->source_count = kept;
}

/* ---- calls ---- */

static bool source_feed(void *arg, const char *data, size_t len)
{
    struct source *source = arg;
    source->full = buf_append(&source->body, data, len) != ERR_OK;
    return !source->full;
}

static enum err status_take(struct source *source, double now)
{
    json_t *status = NULL;
    enum err err = json_parse(&status, buf_text(&source->body), source->body.len);
    if (err != ERR_OK)
        return err_prefix(ERR_INVALID, "%s sent what is no JSON", buf_text(&source->url));
    err = top_take_status(source->poller->top, now, status);
    json_decref(status);
    return err;
}

static void metrics_take(struct source *source, double now, enum err err)
{
    struct top *top = source->poller->top;
    const char *text = buf_text(&source->body);
    struct top_gateway *gateway =
        source->kind == SOURCE_GATEWAY ? top_gateway_find(top, source->name) : NULL;
    struct top_node *node = source->kind == SOURCE_NODE ? top_node_find(top, source->name) : NULL;
    if (gateway != NULL && err == ERR_OK)
        top_take_gateway(top, gateway, now, text, source->body.len);
    else if (gateway != NULL)
        gateway->answers = false;
    if (node != NULL && err == ERR_OK)
        top_take_node(node, now, text, source->body.len);
    else if (node != NULL)
        snprintf(node->metrics_why, sizeof node->metrics_why, "%.250s", err_text());
}

static void on_ended(void *arg, enum err err, struct http_result *result)
{
    struct source *source = arg;
    struct top_poller *poller = source->poller;
    source->open = false;
    poller->open--;
    if (source->full)
        err = err_set(ERR_LIMIT, "the answer of %s is too large", buf_text(&source->url));
    else if (err == ERR_OK && result->status == 401)
        err = err_set(ERR_DENIED, "%s asks for an API key that it knows: --key-file FILE",
                      buf_text(&source->url));
    else if (err == ERR_OK && result->status != 200)
        err = err_set(ERR_UNAVAILABLE, "%s answered with status %d", buf_text(&source->url),
                      result->status);
    if (source->kind == SOURCE_STATUS) {
        if (err == ERR_OK)
            err = status_take(source, seconds_now());
        if (err != ERR_OK)
            top_take_failure(poller->top, err_text());
        poller->status_err = err;
    } else {
        metrics_take(source, seconds_now(), err);
    }
    buf_done(&source->body); /* of 256 nodes: not kept between rounds */
}

static void source_ask(struct source *source)
{
    struct top_poller *poller = source->poller;
    struct http_call call = {.method = "GET",
                             .url = buf_text(&source->url),
                             .bearer = source->kind == SOURCE_STATUS ? api_key_bearer(&poller->key)
                                                                     : NULL,
                             .connect_ms = CONNECT_MS,
                             .total_ms = ANSWER_MS,
                             .on_data = source_feed,
                             .arg = source};
    buf_init(&source->body, source->kind == SOURCE_STATUS ? STATUS_MAX : METRICS_MAX);
    source->full = false;
    source->asked_ns = clock_mono_ns();
    if (http_set_add(poller->set, &call, on_ended, source) == ERR_OK) {
        source->open = true;
        poller->open++;
    }
}

void top_poller_ask(struct top_poller *poller)
{
    sources_choose(poller);
    /* Where not all fit at once, who waits longest goes first. */
    while (poller->open < OPEN_MAX) {
        struct source *next = NULL;
        for (size_t i = 0; i < poller->source_count; i++) {
            struct source *source = poller->sources[i];
            if (source->wanted && !source->open &&
                (next == NULL || source->asked_ns < next->asked_ns))
                next = source;
        }
        if (next == NULL)
            break;
        source_ask(next);
        next->wanted = false;
    }
}

bool top_poller_run(struct top_poller *poller, unsigned timeout_ms)
{
    return http_set_poll(poller->set, timeout_ms) == 0;
}

enum err top_poller_status(const struct top_poller *poller)
{
    return poller->status_err;
}
