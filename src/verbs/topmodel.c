#include "verbs/topmodel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verbs/topmetrics.h"
#include "wire/json.h"

enum err top_new(struct top **out, const char *url)
{
    struct top *top = calloc(1, sizeof *top);
    if (top == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    snprintf(top->url, sizeof top->url, "%s", url);
    top->status_s = top->waiting = top->in_flight = top->limit = NAN;
    *out = top;
    return ERR_OK;
}

static void node_free(struct top_node *node)
{
    free(node->workers);
    free(node->gpus);
    free(node);
}

void top_free(struct top *top)
{
    if (top == NULL)
        return;
    for (size_t i = 0; i < top->node_count; i++)
        node_free(top->nodes[i]);
    free(top);
}

struct top_node *top_node_find(const struct top *top, const char *name)
{
    for (size_t i = 0; i < top->node_count; i++) {
        if (strcmp(top->nodes[i]->name, name) == 0)
            return top->nodes[i];
    }
    return NULL;
}

struct top_gateway *top_gateway_find(struct top *top, const char *url)
{
    for (size_t i = 0; i < top->gateway_count; i++) {
        if (strcmp(top->gateways[i].url, url) == 0)
            return &top->gateways[i];
    }
    return NULL;
}

bool top_is_fresh(const struct top *top, double now)
{
    return now - top->status_s < TOP_STALE_S; /* false for NAN */
}

/* ---- the status ---- */

/* NULL: no room. */
static struct top_worker *worker_of(struct top_node *node, const char *id)
{
    for (size_t i = 0; i < node->worker_count; i++) {
        if (strcmp(node->workers[i].id, id) == 0)
            return &node->workers[i];
    }
    if (node->worker_count == TOP_WORKERS_MAX)
        return NULL;
    struct top_worker *grown =
        realloc(node->workers, (node->worker_count + 1) * sizeof *node->workers);
    if (grown == NULL)
        return NULL;
    node->workers = grown;
    struct top_worker *worker = &grown[node->worker_count++];
    memset(worker, 0, sizeof *worker);
    snprintf(worker->id, sizeof worker->id, "%s", id);
    top_worker_forget(worker);
    return worker;
}

static bool worker_take(struct top_node *node, double now, const json_t *each)
{
    char id[TOP_NAME_SIZE];
    json_text_copy(each, "id", id, sizeof id);
    struct top_worker *worker = worker_of(node, id);
    if (worker == NULL)
        return false;
    long long pid = json_int(each, "pid", 0);
    if (pid != worker->pid)
        top_rate_restart(&worker->token_rate);
    worker->pid = pid;
    worker->seen = true;
    json_text_copy(each, "state", worker->state, sizeof worker->state);
    json_text_copy(each, "device", worker->device, sizeof worker->device);
    json_text_copy(each, "model", worker->model, sizeof worker->model);
    worker->slots = json_number(each, "slots", NAN);
    worker->active = json_number(each, "active", NAN);
    worker->prompts = json_number(each, "prompts", NAN);
    worker->failed = json_number(each, "failed", NAN);
    worker->tokens = json_number(each, "tokens", NAN);
    top_rate_tell(&worker->token_rate, now, worker->tokens);
    return true;
}

static struct top_node *node_of(struct top *top, const char *name)
{
    struct top_node *node = top_node_find(top, name);
    if (node != NULL || top->node_count == TOP_NODES_MAX)
        return node;
    node = calloc(1, sizeof *node);
    if (node == NULL)
        return NULL;
    snprintf(node->name, sizeof node->name, "%s", name);
    node->metrics_s = NAN;
    top_node_forget(node);
    top->nodes[top->node_count++] = node;
    return node;
}

static void node_take(struct top *top, double now, const json_t *each)
{
    char name[TOP_NAME_SIZE];
    const json_t *workers = json_object_get(each, "workers");
    json_text_copy(each, "name", name, sizeof name);
    struct top_node *node = node_of(top, name);
    if (node == NULL) {
        top->missed_nodes++;
        top->missed_workers += json_array_size(workers);
        return;
    }
    node->seen = true;
    json_text_copy(each, "address", node->address, sizeof node->address);
    json_text_copy(each, "metrics_url", node->metrics_url, sizeof node->metrics_url);
    for (size_t i = 0; i < json_array_size(workers); i++) {
        if (!worker_take(node, now, json_array_get(workers, i)))
            top->missed_workers++;
    }
    size_t kept = 0;
    for (size_t i = 0; i < node->worker_count; i++) {
        if (!node->workers[i].seen)
            continue;
        node->workers[i].seen = false;
        if (kept != i)
            node->workers[kept] = node->workers[i];
        kept++;
    }
    node->worker_count = kept;
}

static void gateway_take(struct top *top, const json_t *each)
{
    char url[TOP_TEXT_SIZE];
    json_text_copy(each, "url", url, sizeof url);
    struct top_gateway *gateway = top_gateway_find(top, url);
    if (gateway == NULL && top->gateway_count < TOP_GATEWAYS_MAX) {
        gateway = &top->gateways[top->gateway_count++];
        memset(gateway, 0, sizeof *gateway);
        memcpy(gateway->url, url, sizeof gateway->url);
    }
    if (gateway == NULL)
        return;
    gateway->seen = true;
    json_text_copy(each, "id", gateway->id, sizeof gateway->id);
}

static void unseen_drop(struct top *top)
{
    size_t kept = 0;
    for (size_t i = 0; i < top->node_count; i++) {
        struct top_node *node = top->nodes[i];
        if (node->seen) {
            node->seen = false;
            top->nodes[kept++] = node;
        } else {
            node_free(node);
        }
    }
    top->node_count = kept;
    kept = 0;
    for (size_t i = 0; i < top->gateway_count; i++) {
        if (!top->gateways[i].seen)
            continue;
        top->gateways[i].seen = false;
        if (kept != i)
            top->gateways[kept] = top->gateways[i];
        kept++;
    }
    top->gateway_count = kept;
}

enum err top_take_status(struct top *top, double now, const json_t *status)
{
    const json_t *nodes = json_object_get(status, "nodes");
    const json_t *gateways = json_object_get(status, "gateways");
    const json_t *queue = json_object_get(status, "queue");
    if (!json_is_array(nodes) || !json_is_array(gateways) || !json_is_object(queue))
        return err_set(ERR_INVALID, "%s sent no status: is this a wyvern gateway?", top->url);
    top->missed_nodes = top->missed_workers = 0;
    for (size_t i = 0; i < json_array_size(nodes); i++)
        node_take(top, now, json_array_get(nodes, i));
    for (size_t i = 0; i < json_array_size(gateways); i++)
        gateway_take(top, json_array_get(gateways, i));
    unseen_drop(top);
    json_text_copy(status, "model", top->model, sizeof top->model);
    top->responders = json_array_size(json_object_get(status, "response_workers"));
    top->connected = json_flag(json_object_get(status, "broker"), "connected", false);
    top->waiting = json_number(queue, "waiting", NAN);
    top->in_flight = json_number(queue, "in_flight", NAN);
    top->limit = json_number(queue, "limit", NAN);
    top->status_s = now;
    top->why[0] = '\0';
    return ERR_OK;
}

void top_take_failure(struct top *top, const char *why)
{
    snprintf(top->why, sizeof top->why, "%s", why);
}

/* ---- each second ---- */

static void node_tick(struct top_node *node, double now, bool fresh)
{
    if (!(now - node->metrics_s < TOP_STALE_S)) {
        top_node_forget(node);
        for (size_t i = 0; i < node->worker_count; i++)
            top_worker_forget(&node->workers[i]);
    }
    top_trail_add(&node->busy, top_node_cpu(node));
    for (size_t i = 0; i < node->gpu_count; i++)
        top_trail_add(&node->gpus[i].busy, node->gpus[i].utilization);
    for (size_t i = 0; i < node->worker_count; i++) {
        struct top_worker *worker = &node->workers[i];
        if (!fresh)
            top_rate_clear(&worker->token_rate);
        double busy = fresh && worker->slots > 0 ? worker->active / worker->slots : NAN;
        top_trail_add(&worker->busy, busy > 1 ? 1 : busy);
    }
}

void top_tick(struct top *top, double now)
{
    bool fresh = top_is_fresh(top, now);
    struct top_sums sums;
    if (isnan(top->status_s))
        return; /* nothing is known yet, not even that it is unknown */
    if (!fresh) {
        top->waiting = top->in_flight = NAN;
        for (size_t i = 0; i < top->gateway_count; i++)
            top_rate_clear(&top->gateways[i].reply_rate);
    }
    for (size_t i = 0; i < top->node_count; i++)
        node_tick(top->nodes[i], now, fresh);
    top_sum(top, &sums);
    top_trail_add(&top->token_trail, sums.tokens_per_s);
    top_trail_add(&top->waiting_trail, top->waiting);
    top_trail_add(&top->busy, fresh && sums.slots > 0 ? sums.active / sums.slots : NAN);
    for (int i = 0; i < TOP_LATENCIES; i++)
        top_window_tick(&top->latency[i]);
}

/* ---- sums ---- */

/* What is known adds up; nothing known stays NAN. */
static void figure_add(double *sum, double value)
{
    if (!isnan(value))
        *sum = isnan(*sum) ? value : *sum + value;
}

void top_sum(const struct top *top, struct top_sums *out)
{
    *out =
        (struct top_sums){.slots = NAN, .active = NAN, .tokens_per_s = NAN, .replies_per_s = NAN};
    for (size_t n = 0; n < top->node_count; n++) {
        const struct top_node *node = top->nodes[n];
        out->gpus += node->gpu_count;
        for (size_t i = 0; i < node->worker_count; i++) {
            const struct top_worker *worker = &node->workers[i];
            out->workers++;
            out->ready += strcmp(worker->state, "ready") == 0;
            figure_add(&out->slots, worker->slots);
            figure_add(&out->active, worker->active);
            figure_add(&out->tokens_per_s, top_rate_now(&worker->token_rate));
        }
    }
    for (size_t i = 0; i < top->gateway_count; i++)
        figure_add(&out->replies_per_s, top_rate_now(&top->gateways[i].reply_rate));
}

double top_node_cpu(const struct top_node *node)
{
    double all = top_rate_now(&node->cpu_rate), idle = top_rate_now(&node->idle_rate);
    if (!(all > 0) || isnan(idle))
        return NAN;
    double busy = 1 - idle / all;
    return busy < 0 ? 0 : busy;
}

double top_worker_hits(const struct top_worker *worker)
{
    return worker->prompt_tokens > 0 ? worker->hit_tokens / worker->prompt_tokens : NAN;
}

void top_latency_of(const struct top *top, enum top_latency which, bool all_time,
                    struct top_buckets *out)
{
    if (!all_time) {
        top_window_sum(&top->latency[which], out);
        return;
    }
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < top->gateway_count; i++) {
        if (!top_buckets_sum(out, &top->gateways[i].latency[which]))
            out->broken = true;
    }
}
