/*
 * topmetrics.c - from samples to figures: a table of names says which sample is which figure.
 */
#include "verbs/topmetrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verbs/scrape.h"

struct figure {
    const char *metric;
    size_t offset; /* of the double */
};

static const struct figure node_figures[] = {
    {"system_load_average", offsetof(struct top_node, old_load)},
    {"wyvern_node_load1", offsetof(struct top_node, load1)},
    {"wyvern_node_load5", offsetof(struct top_node, load5)},
    {"wyvern_node_load15", offsetof(struct top_node, load15)},
    {"wyvern_node_cpus", offsetof(struct top_node, cpus)},
    {"wyvern_node_memory_size_bytes", offsetof(struct top_node, memory_size)},
    {"wyvern_node_memory_available_bytes", offsetof(struct top_node, memory_available)},
    {"wyvern_node_disk_free_bytes", offsetof(struct top_node, disk_free)},
    {"wyvern_node_disk_size_bytes", offsetof(struct top_node, disk_size)},
};
static const struct figure gpu_figures[] = {
    {"wyvern_gpu_up", offsetof(struct top_gpu, up)},
    {"wyvern_gpu_utilization_ratio", offsetof(struct top_gpu, utilization)},
    {"wyvern_gpu_memory_used_bytes", offsetof(struct top_gpu, memory_used)},
    {"wyvern_gpu_memory_size_bytes", offsetof(struct top_gpu, memory_size)},
    {"wyvern_gpu_power_watts", offsetof(struct top_gpu, power)},
    {"wyvern_gpu_power_limit_watts", offsetof(struct top_gpu, power_limit)},
    {"wyvern_gpu_temperature_celsius", offsetof(struct top_gpu, temperature)},
    {"gpu_utilization", offsetof(struct top_gpu, percent)},
    {"gpu_memory_used", offsetof(struct top_gpu, used_mib)},
    {"gpu_memory_total", offsetof(struct top_gpu, size_mib)},
};
static const struct figure worker_figures[] = {
    {"wyvern_worker_waiting", offsetof(struct top_worker, waiting)},
    {"wyvern_worker_kv_cache_usage_ratio", offsetof(struct top_worker, kv_usage)},
    {"wyvern_worker_prefix_cache_hit_tokens_total", offsetof(struct top_worker, hit_tokens)},
    {"wyvern_worker_prompt_tokens_total", offsetof(struct top_worker, prompt_tokens)},
    {"wyvern_worker_restarts_total", offsetof(struct top_worker, restarts)},
};
#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

static void figure_set(void *object, const struct figure *figure, double value)
{
    memcpy((char *)object + figure->offset, &value, sizeof value);
}

static void figures_forget(void *object, const struct figure *figures, size_t count)
{
    for (size_t i = 0; i < count; i++)
        figure_set(object, &figures[i], NAN);
}

static const struct figure *figure_find(const struct figure *figures, size_t count,
                                        const char *metric)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(figures[i].metric, metric) == 0)
            return &figures[i];
    }
    return NULL;
}

static void figure_keep(void *object, const struct figure *figure, double value)
{
    if (figure != NULL && isfinite(value))
        figure_set(object, figure, value);
}

void top_worker_forget(struct top_worker *worker)
{
    figures_forget(worker, worker_figures, COUNT_OF(worker_figures));
}

void top_node_forget(struct top_node *node)
{
    figures_forget(node, node_figures, COUNT_OF(node_figures));
    for (size_t i = 0; i < node->gpu_count; i++)
        figures_forget(&node->gpus[i], gpu_figures, COUNT_OF(gpu_figures));
    top_rate_clear(&node->cpu_rate);
    top_rate_clear(&node->idle_rate);
    top_rate_clear(&node->receive_rate);
    top_rate_clear(&node->send_rate);
}

/* ---- a node's ---- */

/* NULL: no room, or no GPU is named. */
static struct top_gpu *gpu_of(struct top_node *node, const struct scrape_sample *sample)
{
    const char *index = scrape_label(sample, "gpu_index");
    const char *uuid = scrape_label(sample, "uuid");
    if (*index == '\0' || strlen(index) >= sizeof node->gpus->index ||
        strlen(uuid) >= sizeof node->gpus->uuid)
        return NULL;
    for (size_t i = 0; i < node->gpu_count; i++) {
        struct top_gpu *gpu = &node->gpus[i];
        if (strcmp(gpu->index, index) == 0 && strcmp(gpu->uuid, uuid) == 0)
            return gpu;
    }
    if (node->gpu_count == TOP_GPUS_MAX)
        return NULL;
    struct top_gpu *grown = realloc(node->gpus, (node->gpu_count + 1) * sizeof *node->gpus);
    if (grown == NULL)
        return NULL;
    node->gpus = grown;
    struct top_gpu *gpu = &grown[node->gpu_count++];
    memset(gpu, 0, sizeof *gpu);
    snprintf(gpu->index, sizeof gpu->index, "%s", index);
    snprintf(gpu->uuid, sizeof gpu->uuid, "%s", uuid);
    figures_forget(gpu, gpu_figures, COUNT_OF(gpu_figures));
    return gpu;
}

static void gpu_sample(struct top_node *node, const struct scrape_sample *sample)
{
    bool info = strcmp(sample->name, "wyvern_gpu_info") == 0;
    const struct figure *figure = figure_find(gpu_figures, COUNT_OF(gpu_figures), sample->name);
    if (!info && figure == NULL)
        return;
    struct top_gpu *gpu = gpu_of(node, sample);
    if (gpu == NULL)
        return;
    gpu->seen = true;
    if (info) {
        const char *name = scrape_label(sample, "name");
        if (strlen(name) < sizeof gpu->name)
            snprintf(gpu->name, sizeof gpu->name, "%s", name);
    }
    figure_keep(gpu, figure, sample->value);
}

static void worker_sample(struct top_node *node, const struct scrape_sample *sample)
{
    const struct figure *figure =
        figure_find(worker_figures, COUNT_OF(worker_figures), sample->name);
    const char *id = scrape_label(sample, "worker");
    for (size_t i = 0; figure != NULL && i < node->worker_count; i++) {
        if (strcmp(node->workers[i].id, id) == 0)
            figure_keep(&node->workers[i], figure, sample->value);
    }
}

/* Counters of which there are several: their sum counts. */
static void sum_add(double *sum, double value)
{
    *sum = isnan(*sum) ? value : *sum + value;
}

static bool sums_sample(struct top_node *node, const struct scrape_sample *sample)
{
    const char *mode = scrape_label(sample, "mode"), *device = scrape_label(sample, "device");
    if (strcmp(sample->name, "wyvern_node_cpu_seconds_total") == 0) {
        if (strncmp(mode, "guest", 5) == 0) /* the kernel counts it as user time too */
            return true;
        sum_add(&node->cpu_all_s, sample->value);
        if (strcmp(mode, "idle") == 0 || strcmp(mode, "iowait") == 0)
            sum_add(&node->cpu_idle_s, sample->value);
    } else if (strcmp(sample->name, "wyvern_node_network_receive_bytes_total") == 0) {
        if (strcmp(device, "lo") != 0)
            sum_add(&node->received, sample->value);
    } else if (strcmp(sample->name, "wyvern_node_network_transmit_bytes_total") == 0) {
        if (strcmp(device, "lo") != 0)
            sum_add(&node->sent, sample->value);
    } else {
        return false;
    }
    return true;
}

static void node_sample(void *arg, const struct scrape_sample *sample)
{
    struct top_node *node = arg;
    if (sums_sample(node, sample))
        return;
    figure_keep(node, figure_find(node_figures, COUNT_OF(node_figures), sample->name),
                sample->value);
    worker_sample(node, sample);
    gpu_sample(node, sample);
}

/* What a share may be; anything else is no figure. */
static double share_of(double value)
{
    return value >= 0 && value <= 1.001 ? value : NAN;
}

static void gpus_finish(struct top_node *node)
{
    size_t kept = 0;
    for (size_t i = 0; i < node->gpu_count; i++) {
        struct top_gpu *gpu = &node->gpus[i];
        if (!gpu->seen)
            continue;
        gpu->seen = false;
        if (isnan(gpu->utilization))
            gpu->utilization = gpu->percent / 100;
        if (isnan(gpu->memory_used))
            gpu->memory_used = gpu->used_mib * 1048576;
        if (isnan(gpu->memory_size))
            gpu->memory_size = gpu->size_mib * 1048576;
        gpu->utilization = share_of(gpu->utilization);
        if (kept != i)
            node->gpus[kept] = *gpu;
        kept++;
    }
    node->gpu_count = kept;
}

void top_take_node(struct top_node *node, double now, const char *text, size_t len)
{
    figures_forget(node, node_figures, COUNT_OF(node_figures));
    for (size_t i = 0; i < node->gpu_count; i++)
        figures_forget(&node->gpus[i], gpu_figures, COUNT_OF(gpu_figures));
    for (size_t i = 0; i < node->worker_count; i++)
        top_worker_forget(&node->workers[i]);
    node->cpu_all_s = node->cpu_idle_s = node->received = node->sent = NAN;
    scrape_read(text, len, node_sample, node);
    if (isnan(node->load1))
        node->load1 = node->old_load;
    gpus_finish(node);
    for (size_t i = 0; i < node->worker_count; i++)
        node->workers[i].kv_usage = share_of(node->workers[i].kv_usage);
    top_rate_add(&node->cpu_rate, now, node->cpu_all_s);
    top_rate_add(&node->idle_rate, now, node->cpu_idle_s);
    top_rate_tell(&node->receive_rate, now, node->received);
    top_rate_tell(&node->send_rate, now, node->sent);
    node->metrics_s = now;
    node->metrics_why[0] = '\0';
}

/* ---- a gateway's ---- */

static const char *const latency_metrics[TOP_LATENCIES] = {
    [TOP_TTFT] = "wyvern_time_to_first_token_seconds_bucket",
    [TOP_E2E] = "wyvern_e2e_request_latency_seconds_bucket",
    [TOP_ITL] = "wyvern_inter_token_latency_seconds_bucket",
    [TOP_QUEUE_TIME] = "wyvern_request_queue_time_seconds_bucket",
};

static void gateway_sample(void *arg, const struct scrape_sample *sample)
{
    struct top_gateway *gateway = arg;
    if (strcmp(sample->name, "wyvern_prompts_accepted_total") == 0)
        sum_add(&gateway->ended, 0); /* the other has no series before a reply has ended */
    else if (strcmp(sample->name, "wyvern_replies_total") == 0)
        sum_add(&gateway->ended, sample->value);
    for (int i = 0; i < TOP_LATENCIES; i++) {
        if (strcmp(sample->name, latency_metrics[i]) == 0)
            top_buckets_add(&gateway->latency[i], scrape_label(sample, "le"), sample->value);
    }
}

void top_take_gateway(struct top *top, struct top_gateway *gateway, double now, const char *text,
                      size_t len)
{
    struct top_buckets before[TOP_LATENCIES], since;
    bool first = !gateway->answers;
    memcpy(before, gateway->latency, sizeof before);
    memset(gateway->latency, 0, sizeof gateway->latency);
    gateway->ended = NAN;
    scrape_read(text, len, gateway_sample, gateway);
    for (int i = 0; i < TOP_LATENCIES; i++) {
        struct top_buckets none = gateway->latency[i];
        memset(none.counts, 0, sizeof none.counts);
        /* A family without series had counted nothing; before our first look it is unknown. */
        const struct top_buckets *from = !first && before[i].count == 0 ? &none : &before[i];
        top_buckets_since(&since, from, &gateway->latency[i]);
        top_window_add(&top->latency[i], &since);
    }
    top_rate_add(&gateway->reply_rate, now, gateway->ended);
    gateway->answers = true;
}
