/*
 * telemetry_workers.c - what the node's inference workers say of themselves, as metrics.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "probe/host.h"
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
    AT(WORKER_WAITING) = {.name = "wyvern_worker_waiting",
                          .type = METRIC_GAUGE,
                          .help =
                              "Of the active prompts, those that the model does not work on yet",
                          .labels = WORKER_LABELS},
    AT(WORKER_BUSY) = {.name = "wyvern_worker_busy_seconds_total",
                       .type = METRIC_COUNTER,
                       .help =
                           "Time with at least one prompt in the model, since the worker's start",
                       .labels = WORKER_LABELS},
    AT(WORKER_SLOT_TIME) = {.name = "wyvern_worker_slot_seconds_total",
                            .type = METRIC_COUNTER,
                            .help = "The same, summed over the prompts: slots in use times time",
                            .labels = WORKER_LABELS},
    AT(WORKER_KV_USED) =
        {.name = "wyvern_worker_kv_cache_usage_ratio",
         .type = METRIC_GAUGE,
         .help = "Share of the model's cache that prompts in hand and their replies take up",
         .labels = WORKER_LABELS},
    AT(WORKER_CACHED_TOKENS) = {.name = "wyvern_worker_prefix_cache_hit_tokens_total",
                                .type = METRIC_COUNTER,
                                .help = "Tokens of prompts that were found in the prefix cache",
                                .labels = WORKER_LABELS},
    AT(WORKER_PREFILL) =
        {.name = "wyvern_worker_prefill_seconds_total",
         .type = METRIC_COUNTER,
         .help = "Time that the model spent computing prompts; a mixed step counts by its tokens",
         .labels = WORKER_LABELS},
    AT(WORKER_DECODE) = {.name = "wyvern_worker_decode_seconds_total",
                         .type = METRIC_COUNTER,
                         .help =
                             "Time that the model spent computing the further tokens of replies",
                         .labels = WORKER_LABELS},
    AT(WORKER_RESTARTS) =
        {.name = "wyvern_worker_restarts_total",
         .type = METRIC_COUNTER,
         .help = "Times that the worker died and was started again, since its supervisor's start",
         .labels = WORKER_LABELS},
};

static void show_work(struct telemetry *telemetry, const char *const *name,
                      const struct presence_work *work)
{
    if (!work->known)
        return; /* an older worker */
    telemetry_set(telemetry, WORKER_WAITING, name, work->waiting);
    telemetry_set(telemetry, WORKER_BUSY, name, work->busy_s);
    telemetry_set(telemetry, WORKER_SLOT_TIME, name, work->slot_s);
    telemetry_set(telemetry, WORKER_KV_USED, name, work->kv_used >= 0 ? work->kv_used : NAN);
    telemetry_set(telemetry, WORKER_CACHED_TOKENS, name, (double)work->cached_tokens_total);
    telemetry_set(telemetry, WORKER_PREFILL, name, work->prefill_s);
    telemetry_set(telemetry, WORKER_DECODE, name, work->decode_s);
}

static void show_restarts(struct telemetry *telemetry)
{
    char name[PRESENCE_NAME_MAX + 24];
    const char *const label[] = {name};

    if (clock_mono_ns() - telemetry->restarts_ns > PRESENCE_GONE_MS * NS_PER_MS)
        telemetry->restart_count = 0;
    for (unsigned i = 0; i < telemetry->restart_count; i++) {
        snprintf(name, sizeof name, "infer-%s-%u", telemetry->presence.node, i);
        telemetry_set(telemetry, WORKER_RESTARTS, label, telemetry->restarts[i]);
    }
}

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
    show_work(telemetry, name, &worker->work);
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
    show_restarts(telemetry);
    tally_latency(&telemetry->tally, counts, &sum);
    telemetry_keep(telemetry,
                   metrics_set_histogram(telemetry->metrics, REQUEST_LATENCY, NULL, counts, sum));
}

#define BEFORE_S 5 /* what starts with us, as all of a node does, is not older than we are */

/* Where it can't be told, as from another machine, a worker counts as younger. */
static bool is_older_than_us(const struct presence *worker)
{
    double its = 0, ours = 0;

    return worker->pid > 0 && host_started(worker->pid, &its) == ERR_OK &&
           host_started(0, &ours) == ERR_OK && its + BEFORE_S < ours;
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
    bool older = !tally_knows(&telemetry->tally, &presence) && is_older_than_us(&presence);
    err = tally_hear(&telemetry->tally, &presence, older, clock_mono_ns());
    if (err != ERR_OK && !telemetry->told_full) {
        telemetry->told_full = true;
        log_warn("worker.uncounted worker=\"%s\" why=\"%s\"", presence.name, err_text());
    }
}

void hear_supervisor(void *arg, const struct bus_message *message)
{
    struct telemetry *telemetry = arg;
    struct presence presence;

    if (presence_decode(&presence, message->data, message->len) != ERR_OK)
        return;
    telemetry->restarts_ns = clock_mono_ns();
    telemetry->restart_count = 0;
    if (!presence.leaving)
        telemetry->restart_count =
            presence_restarts(telemetry->restarts, message->data, message->len);
}
