/*
 * topjson.c - the same for programs.  What is not known is null.
 */
#include "verbs/topdraw.h"

#include <math.h>

#include "wire/json.h"

static void latency_write(struct json_out *out, const struct top *top, const char *key,
                          bool all_time)
{
    static const char *const names[TOP_LATENCIES] = {
        [TOP_TTFT] = "time_to_first_token",
        [TOP_E2E] = "whole_reply",
        [TOP_ITL] = "inter_token",
        [TOP_QUEUE_TIME] = "queue_time",
    };
    json_out_object(out, key);
    for (int i = 0; i < TOP_LATENCIES; i++) {
        struct top_buckets buckets;
        top_latency_of(top, (enum top_latency)i, all_time, &buckets);
        json_out_object(out, names[i]);
        json_out_number(out, "p50_ms", top_buckets_quantile(&buckets, 0.5) * 1000);
        json_out_number(out, "p99_ms", top_buckets_quantile(&buckets, 0.99) * 1000);
        json_out_number(out, "count", top_buckets_total(&buckets));
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static void worker_write(struct json_out *out, const struct top_worker *worker, bool fresh)
{
    json_out_object(out, NULL);
    json_out_text(out, "id", worker->id);
    json_out_text(out, "state", fresh ? worker->state : NULL);
    json_out_text(out, "device", worker->device);
    json_out_text(out, "model", worker->model);
    json_out_int(out, "pid", worker->pid);
    json_out_number(out, "slots", worker->slots);
    json_out_number(out, "active", fresh ? worker->active : NAN);
    json_out_number(out, "waiting", worker->waiting);
    json_out_number(out, "utilization_ratio", top_trail_get(&worker->busy, 0));
    json_out_number(out, "tokens_per_second", top_rate_now(&worker->token_rate));
    json_out_number(out, "prompts", worker->prompts);
    json_out_number(out, "failed", worker->failed);
    json_out_number(out, "tokens", worker->tokens);
    json_out_number(out, "kv_cache_usage_ratio", worker->kv_usage);
    json_out_number(out, "prefix_cache_hit_ratio", top_worker_hits(worker));
    json_out_number(out, "restarts", worker->restarts);
    json_out_object_end(out);
}

static void gpu_write(struct json_out *out, const struct top_gpu *gpu)
{
    json_out_object(out, NULL);
    json_out_text(out, "index", gpu->index);
    json_out_text(out, "uuid", gpu->uuid);
    json_out_text(out, "name", gpu->name[0] != '\0' ? gpu->name : NULL);
    json_out_number(out, "up", gpu->up);
    json_out_number(out, "utilization_ratio", gpu->utilization);
    json_out_number(out, "memory_used_bytes", gpu->memory_used);
    json_out_number(out, "memory_size_bytes", gpu->memory_size);
    json_out_number(out, "power_watts", gpu->power);
    json_out_number(out, "power_limit_watts", gpu->power_limit);
    json_out_number(out, "temperature_celsius", gpu->temperature);
    json_out_object_end(out);
}

/* fresh: what the service says of the workers; the node's own figures have an age of their own. */
static void node_write(struct json_out *out, const struct top_node *node, bool fresh, double now)
{
    bool answers = now - node->metrics_s < TOP_STALE_S;
    json_out_object(out, NULL);
    json_out_text(out, "name", node->name);
    json_out_text(out, "address", node->address);
    json_out_text(out, "metrics_url", node->metrics_url[0] != '\0' ? node->metrics_url : NULL);
    json_out_flag(out, "metrics_answer", answers);
    json_out_text(out, "metrics_error", node->metrics_why[0] != '\0' ? node->metrics_why : NULL);
    json_out_number(out, "load1", node->load1);
    json_out_number(out, "load5", node->load5);
    json_out_number(out, "load15", node->load15);
    json_out_number(out, "cpus", node->cpus);
    json_out_number(out, "cpu_ratio", top_node_cpu(node));
    json_out_number(out, "memory_size_bytes", node->memory_size);
    json_out_number(out, "memory_available_bytes", node->memory_available);
    json_out_number(out, "disk_size_bytes", node->disk_size);
    json_out_number(out, "disk_free_bytes", node->disk_free);
    json_out_number(out, "receive_bytes_per_second", top_rate_now(&node->receive_rate));
    json_out_number(out, "transmit_bytes_per_second", top_rate_now(&node->send_rate));
    json_out_array(out, "gpus");
    for (size_t i = 0; i < node->gpu_count; i++)
        gpu_write(out, &node->gpus[i]);
    json_out_array_end(out);
    json_out_array(out, "workers");
    for (size_t i = 0; i < node->worker_count; i++)
        worker_write(out, &node->workers[i], fresh);
    json_out_array_end(out);
    json_out_object_end(out);
}

enum err top_write_json(const struct top *top, double now, double wall, struct buf *text)
{
    struct json_out out;
    struct top_sums sums;
    bool fresh = top_is_fresh(top, now);
    top_sum(top, &sums);
    json_out_begin(&out, text);
    json_out_object(&out, NULL);
    json_out_time(&out, "time", wall);
    json_out_text(&out, "url", top->url);
    json_out_text(&out, "error", top->why[0] != '\0' ? top->why : NULL);
    json_out_text(&out, "model", top->model[0] != '\0' ? top->model : NULL);
    json_out_flag(&out, "broker_connected", fresh && top->connected);
    json_out_object(&out, "queue");
    json_out_number(&out, "waiting", fresh ? top->waiting : NAN);
    json_out_number(&out, "in_flight", fresh ? top->in_flight : NAN);
    json_out_number(&out, "limit", top->limit);
    json_out_object_end(&out);
    json_out_number(&out, "tokens_per_second", sums.tokens_per_s);
    json_out_number(&out, "replies_per_second", sums.replies_per_s);
    json_out_number(&out, "slots", sums.slots);
    json_out_number(&out, "slots_active", fresh ? sums.active : NAN);
    json_out_number(&out, "workers_ready", fresh ? (double)sums.ready : NAN);
    json_out_uint(&out, "response_workers", top->responders);
    latency_write(&out, top, "latency_60s", false);
    latency_write(&out, top, "latency_since_start", true);
    json_out_array(&out, "gateways");
    for (size_t i = 0; i < top->gateway_count; i++) {
        json_out_object(&out, NULL);
        json_out_text(&out, "id", top->gateways[i].id);
        json_out_text(&out, "url", top->gateways[i].url);
        json_out_flag(&out, "metrics_answer", top->gateways[i].answers);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_array(&out, "nodes");
    for (size_t i = 0; i < top->node_count; i++)
        node_write(&out, top->nodes[i], fresh, now);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return json_out_end(&out);
}
