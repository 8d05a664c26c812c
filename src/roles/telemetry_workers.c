/*
 * telemetry_workers.c - what the node's inference workers say of themselves, as metrics.
 */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "roles/telemetry.h"

#define AT(row) [(row)-NODE_ROWS_END]
#define WORKER_LABELS                                                                              \
    {                                                                                              \
        "worker"                                                                                   \
    }

const struct metric telemetry_worker_rows[WORKER_ROWS_END - NODE_ROWS_END] = {
    AT(REQUEST_LATENCY) = {.name = "request_latency_seconds",
                           .type = METRIC_HISTOGRAM,
                           .help =
                               "Request latency in seconds, from acceptance to the reply's end, "
                               "of requests served on this node",
                           .buckets = presence_latency_bounds,
                           .bucket_count = LATENCY_BUCKET_COUNT},
    AT(WORKER_INFO) = {.name = "wyvern_worker_info",
                       .type = METRIC_GAUGE,
                       .help = "An inference worker of this node: its device, model and state",
                       .labels = {"worker", "device", "model", "state"}},
    AT(WORKER_SLOTS) = {.name = "wyvern_worker_slots",
                        .type = METRIC_GAUGE,
                        .help = "Prompts that the worker can serve at once",
                        .labels = WORKER_LABELS},
    AT(WORKER_ACTIVE) = {.name = "wyvern_worker_active",
                         .type = METRIC_GAUGE,
                         .help = "Prompts that the worker is serving now",
                         .labels = WORKER_LABELS},
    AT(WORKER_PROMPTS) = {.name = "wyvern_worker_prompts_total",
                          .type = METRIC_COUNTER,
                          .help = "Prompts that the worker has served since its start",
                          .labels = WORKER_LABELS},
    AT(WORKER_FAILED) = {.name = "wyvern_worker_failed_total",
                         .type = METRIC_COUNTER,
                         .help = "Prompts that failed in the worker since its start",
                         .labels = WORKER_LABELS},
    AT(WORKER_PROMPT_TOKENS) = {.name = "wyvern_worker_prompt_tokens_total",
                                .type = METRIC_COUNTER,
                                .help = "Tokens of prompts that the worker has read",
                                .labels = WORKER_LABELS},
    AT(WORKER_REPLY_TOKENS) = {.name = "wyvern_worker_reply_tokens_total",
                               .type = METRIC_COUNTER,
                               .help = "Tokens that the worker has generated",
                               .labels = WORKER_LABELS},
};

static void show_worker(struct telemetry *telemetry, const struct presence *worker)
{
    const char *const name[] = {worker->name};
    const char *const info[] = {worker->name, worker->device, worker->model, worker->state};

    telemetry_set(telemetry, WORKER_INFO, info, 1);
    telemetry_set(telemetry, WORKER_SLOTS, name, worker->slots);
    telemetry_set(telemetry, WORKER_ACTIVE, name, worker->active);
    telemetry_set(telemetry, WORKER_PROMPTS, name, (double)worker->prompts_total);
    telemetry_set(telemetry, WORKER_FAILED, name, (double)worker->failed_total);
    telemetry_set(telemetry, WORKER_PROMPT_TOKENS, name, (double)worker->prompt_tokens_total);
    telemetry_set(telemetry, WORKER_REPLY_TOKENS, name, (double)worker->reply_tokens_total);
}

void show_workers(struct telemetry *telemetry)
{
    uint64_t counts[LATENCY_BUCKET_COUNT + 1];
    double sum;

    tally_sweep(&telemetry->tally, clock_mono_ns());
    for (size_t row = WORKER_INFO; row < WORKER_ROWS_END; row++)
        metrics_clear(telemetry->metrics, row);
    for (size_t i = 0; i < telemetry->tally.count; i++)
        if (!telemetry->tally.workers[i].gone)
            show_worker(telemetry, &telemetry->tally.workers[i].presence);
    tally_latency(&telemetry->tally, counts, &sum);
    telemetry_keep(telemetry,
                   metrics_set_histogram(telemetry->metrics, REQUEST_LATENCY, NULL, counts, sum));
}

void hear_worker(void *arg, const struct bus_message *message)
{
    struct telemetry *telemetry = arg;
    struct presence presence;
    enum err err = presence_decode(&presence, message->data, message->len);

    if (err != ERR_OK) {
        log_debug("presence.unread subject=\"%s\" why=\"%s\"", message->subject, err_text());
        return;
    }
    if (strcmp(presence.role, "infer") != 0)
        return;
    err = tally_hear(&telemetry->tally, &presence, clock_mono_ns());
    if (err != ERR_OK && !telemetry->told_full) {
        telemetry->told_full = true;
        log_warn("worker.uncounted worker=\"%s\" why=\"%s\"", presence.name, err_text());
    }
}
