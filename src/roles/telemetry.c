/*
 * telemetry.c - the telemetry worker: one a node, serves the node's metrics to Prometheus.
 *
 * One thread, one loop.  Every second it reads GPUs and host and says that it is there; in between
 * it hears what the node's inference workers say of themselves (state.infer.<node>.*) and answers
 * scrapes from the registry, so that a scrape never waits for a driver.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/net.h"
#include "bus/bus.h"
#include "bus/teller.h"
#include "config/settings.h"
#include "http/server.h"
#include "metrics/text.h"
#include "probe/host.h"
#include "probe/nvml.h"
#include "roles/roles.h"
#include "roles/tally.h"
#include "wire/presence.h"
#include "wire/subject.h"

#define POLL_MS          1000
#define GPU_RETRY_POLLS  60        /* between two looks for a library that was not there */
#define SCRAPE_MAX_BYTES (4 << 20) /* text of one scrape */
#define DEFAULT_HOST     "127.0.0.1"

enum row {
    /* the original's seven */
    GPU_UTILIZATION,
    GPU_MEMORY_UTILIZATION,
    GPU_MEMORY_USED,
    GPU_MEMORY_FREE,
    GPU_MEMORY_TOTAL,
    SYSTEM_LOAD_AVERAGE,
    REQUEST_LATENCY,
    /* ours */
    GPU_UP,
    WORKER_INFO,
    WORKER_SLOTS,
    WORKER_ACTIVE,
    WORKER_PROMPTS,
    WORKER_FAILED,
    WORKER_PROMPT_TOKENS,
    WORKER_REPLY_TOKENS,
    BUILD_INFO,
    BROKER_CONNECTED,
    POLL_SECONDS,
    ROW_COUNT
};

#define GPU_LABELS                                                                                 \
    {                                                                                              \
        "hostname", "gpu_index", "uuid"                                                            \
    }
#define WORKER_LABELS                                                                              \
    {                                                                                              \
        "worker"                                                                                   \
    }

static const struct metric rows[ROW_COUNT] = {
    [GPU_UTILIZATION] = {.name = "gpu_utilization",
                         .type = METRIC_GAUGE,
                         .help = "GPU utilization percentage",
                         .labels = GPU_LABELS},
    [GPU_MEMORY_UTILIZATION] = {.name = "gpu_memory_utilization",
                                .type = METRIC_GAUGE,
                                .help = "GPU memory utilization percentage (time the memory was "
                                        "busy)",
                                .labels = GPU_LABELS},
    [GPU_MEMORY_USED] = {.name = "gpu_memory_used",
                         .type = METRIC_GAUGE,
                         .help = "GPU memory used in MiB",
                         .labels = GPU_LABELS},
    [GPU_MEMORY_FREE] = {.name = "gpu_memory_free",
                         .type = METRIC_GAUGE,
                         .help = "GPU memory free in MiB",
                         .labels = GPU_LABELS},
    [GPU_MEMORY_TOTAL] = {.name = "gpu_memory_total",
                          .type = METRIC_GAUGE,
                          .help = "GPU memory total in MiB",
                          .labels = GPU_LABELS},
    [SYSTEM_LOAD_AVERAGE] = {.name = "system_load_average",
                             .type = METRIC_GAUGE,
                             .help = "System load average over 1 minute"},
    [REQUEST_LATENCY] = {.name = "request_latency_seconds",
                         .type = METRIC_HISTOGRAM,
                         .help = "Request latency in seconds, from acceptance to the reply's end, "
                                 "of requests served on this node",
                         .buckets = presence_latency_bounds,
                         .bucket_count = LATENCY_BUCKET_COUNT},
    [GPU_UP] = {.name = "wyvern_gpu_up",
                .type = METRIC_GAUGE,
                .help = "1 while the GPU answers, 0 when it was lost",
                .labels = GPU_LABELS},
    [WORKER_INFO] = {.name = "wyvern_worker_info",
                     .type = METRIC_GAUGE,
                     .help = "An inference worker of this node: its device, model and state",
                     .labels = {"worker", "device", "model", "state"}},
    [WORKER_SLOTS] = {.name = "wyvern_worker_slots",
                      .type = METRIC_GAUGE,
                      .help = "Prompts that the worker can serve at once",
                      .labels = WORKER_LABELS},
    [WORKER_ACTIVE] = {.name = "wyvern_worker_active",
                       .type = METRIC_GAUGE,
                       .help = "Prompts that the worker is serving now",
                       .labels = WORKER_LABELS},
    [WORKER_PROMPTS] = {.name = "wyvern_worker_prompts_total",
                        .type = METRIC_COUNTER,
                        .help = "Prompts that the worker has served since its start",
                        .labels = WORKER_LABELS},
    [WORKER_FAILED] = {.name = "wyvern_worker_failed_total",
                       .type = METRIC_COUNTER,
                       .help = "Prompts that failed in the worker since its start",
                       .labels = WORKER_LABELS},
    [WORKER_PROMPT_TOKENS] = {.name = "wyvern_worker_prompt_tokens_total",
                              .type = METRIC_COUNTER,
                              .help = "Tokens of prompts that the worker has read",
                              .labels = WORKER_LABELS},
    [WORKER_REPLY_TOKENS] = {.name = "wyvern_worker_reply_tokens_total",
                             .type = METRIC_COUNTER,
                             .help = "Tokens that the worker has generated",
                             .labels = WORKER_LABELS},
    [BUILD_INFO] = {.name = "wyvern_build_info",
                    .type = METRIC_GAUGE,
                    .help = "Version of this program",
                    .labels = {"version"}},
    [BROKER_CONNECTED] = {.name = "wyvern_broker_connected",
                          .type = METRIC_GAUGE,
                          .help = "1 while this telemetry worker is connected to the broker"},
    [POLL_SECONDS] = {.name = "wyvern_poll_duration_seconds",
                      .type = METRIC_GAUGE,
                      .help = "How long the last reading of GPUs and host took"},
};

struct telemetry {
    const struct settings *settings;
    struct join join;
    struct loop *loop;
    struct bus *bus;
    struct bus_subscription *workers;
    struct http_server *server;
    struct loop_timer *tick;
    struct teller *teller;
    struct metrics *metrics;
    struct nvml *nvml;
    struct tally tally;
    struct presence presence;
    char hostname[PRESENCE_TEXT_MAX];
    unsigned polls;
    bool told_no_gpu, gpu_gone, told_full, incomplete;
};

/* ---- filling the registry ---- */

/* A series that can't be kept (more than METRICS_MAX_SERIES, no memory) is told once. */
static void keep(struct telemetry *telemetry, enum err err)
{
    if (err != ERR_OK && !telemetry->incomplete) {
        telemetry->incomplete = true;
        log_warn("metrics.incomplete why=\"%s\"", err_text());
    }
}

static void set(struct telemetry *telemetry, enum row row, const char *const *labels, double value)
{
    keep(telemetry, metrics_set(telemetry->metrics, row, labels, value));
}

static void show_gpu(struct telemetry *telemetry, const struct gpu_reading *gpu)
{
    char index[16];
    const char *const labels[] = {telemetry->hostname, index, gpu->uuid};

    snprintf(index, sizeof index, "%u", gpu->index);
    set(telemetry, GPU_UP, labels, gpu->up);
    if (gpu->has_utilization) {
        set(telemetry, GPU_UTILIZATION, labels, gpu->gpu_percent);
        set(telemetry, GPU_MEMORY_UTILIZATION, labels, gpu->memory_percent);
    }
    if (gpu->has_memory) { /* whole MiB, as the original has them */
        set(telemetry, GPU_MEMORY_USED, labels, (double)(gpu->memory_used >> 20));
        set(telemetry, GPU_MEMORY_FREE, labels, (double)(gpu->memory_free >> 20));
        set(telemetry, GPU_MEMORY_TOTAL, labels, (double)(gpu->memory_total >> 20));
    }
}

/* No GPU is normal: said once, and looked for again now and then, should a driver come. */
static void open_gpus(struct telemetry *telemetry)
{
    if (telemetry->nvml != NULL || telemetry->polls % GPU_RETRY_POLLS != 0)
        return;
    if (nvml_open(&telemetry->nvml, NULL) == ERR_OK) {
        log_info("gpu.found");
    } else if (!telemetry->told_no_gpu) {
        telemetry->told_no_gpu = true;
        log_info("gpu.none why=\"%s\"", err_text());
    }
}

static void poll_gpus(struct telemetry *telemetry)
{
    static const enum row gpu_rows[] = {GPU_UTILIZATION, GPU_MEMORY_UTILIZATION, GPU_MEMORY_USED,
                                        GPU_MEMORY_FREE, GPU_MEMORY_TOTAL,       GPU_UP};
    struct gpu_reading readings[NVML_MAX_GPUS];
    unsigned count = 0;
    bool gone;

    open_gpus(telemetry);
    if (telemetry->nvml == NULL)
        return;
    gone = nvml_read(telemetry->nvml, readings, &count) != ERR_OK;
    if (gone && !telemetry->gpu_gone)
        log_warn("gpu.gone why=\"%s\"", err_text());
    else if (!gone && telemetry->gpu_gone)
        log_info("gpu.back count=%u", count);
    telemetry->gpu_gone = gone;
    for (size_t i = 0; i < sizeof gpu_rows / sizeof *gpu_rows; i++)
        metrics_clear(telemetry->metrics, gpu_rows[i]);
    for (unsigned i = 0; i < count; i++)
        show_gpu(telemetry, &readings[i]);
}

static void poll_host(struct telemetry *telemetry)
{
    double load[3];

    if (host_load_average(load) == ERR_OK)
        set(telemetry, SYSTEM_LOAD_AVERAGE, NULL, load[0]);
    else
        metrics_clear(telemetry->metrics, SYSTEM_LOAD_AVERAGE);
}

static void show_worker(struct telemetry *telemetry, const struct presence *worker)
{
    const char *const name[] = {worker->name};
    const char *const info[] = {worker->name, worker->device, worker->model, worker->state};

    set(telemetry, WORKER_INFO, info, 1);
    set(telemetry, WORKER_SLOTS, name, worker->slots);
    set(telemetry, WORKER_ACTIVE, name, worker->active);
    set(telemetry, WORKER_PROMPTS, name, (double)worker->prompts_total);
    set(telemetry, WORKER_FAILED, name, (double)worker->failed_total);
    set(telemetry, WORKER_PROMPT_TOKENS, name, (double)worker->prompt_tokens_total);
    set(telemetry, WORKER_REPLY_TOKENS, name, (double)worker->reply_tokens_total);
}

static void show_workers(struct telemetry *telemetry)
{
    uint64_t counts[LATENCY_BUCKET_COUNT + 1];
    double sum;

    tally_sweep(&telemetry->tally, clock_mono_ns());
    for (enum row row = WORKER_INFO; row <= WORKER_REPLY_TOKENS; row++)
        metrics_clear(telemetry->metrics, row);
    for (size_t i = 0; i < telemetry->tally.count; i++)
        if (!telemetry->tally.workers[i].gone)
            show_worker(telemetry, &telemetry->tally.workers[i].presence);
    tally_latency(&telemetry->tally, counts, &sum);
    keep(telemetry, metrics_set_histogram(telemetry->metrics, REQUEST_LATENCY, NULL, counts, sum));
}

/* ---- what comes in ---- */

static void on_worker(void *arg, const struct bus_message *message)
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

static void answer_metrics(struct telemetry *telemetry, struct http_exchange *exchange,
                           const struct http_request *request)
{
    static const struct http_header headers[] = {{"Cache-Control", "no-store"}, {"Vary", "Accept"}};
    enum metrics_format format = metrics_format_negotiate(http_request_header(request, "accept"));
    struct buf text;

    buf_init(&text, SCRAPE_MAX_BYTES);
    show_workers(telemetry);
    if (metrics_write(telemetry->metrics, format, &text) == ERR_OK)
        http_reply(exchange, 200, headers, 2, metrics_content_type(format), text.data, text.len);
    else
        http_reply(exchange, 500, NULL, 0, "text/plain", err_text(), strlen(err_text()));
    buf_done(&text);
}

static void on_request(void *arg, struct http_exchange *exchange,
                       const struct http_request *request)
{
    static const struct http_header allow = {"Allow", "GET, HEAD"};
    static const char health[] = "{\"status\":\"ok\"}";
    static const char nothing[] = "Nothing is here: look at /metrics or /health.\n";
    static const char only_get[] = "Only GET and HEAD are answered here.\n";

    if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0)
        http_reply(exchange, 405, &allow, 1, "text/plain", only_get, sizeof only_get - 1);
    else if (strcmp(request->path, "/metrics") == 0)
        answer_metrics(arg, exchange, request);
    else if (strcmp(request->path, "/health") == 0)
        http_reply(exchange, 200, NULL, 0, "application/json", health, sizeof health - 1);
    else
        http_reply(exchange, 404, NULL, 0, "text/plain", nothing, sizeof nothing - 1);
}

static void on_tick(void *arg)
{
    struct telemetry *telemetry = arg;
    int64_t start_ns = clock_mono_ns();

    poll_gpus(telemetry);
    poll_host(telemetry);
    telemetry->polls++;
    set(telemetry, POLL_SECONDS, NULL, (double)(clock_mono_ns() - start_ns) / (double)NS_PER_S);
    set(telemetry, BROKER_CONNECTED, NULL, bus_connected(telemetry->bus));
}

static void on_signal(void *arg, int signum)
{
    struct telemetry *telemetry = arg;

    log_info("telemetry.leaving signal=%d", signum);
    loop_stop(telemetry->loop);
}

static void on_bus_state(void *arg, bool connected)
{
    struct telemetry *telemetry = arg;

    log_info("broker.%s", connected ? "connected" : "away");
    if (connected && telemetry->teller != NULL)
        teller_tell(telemetry->teller);
}

/* ---- starting and ending ---- */

static void introduce(struct telemetry *telemetry)
{
    const struct settings *settings = telemetry->settings;
    struct presence *presence = &telemetry->presence;

    host_name(telemetry->hostname, sizeof telemetry->hostname);
    snprintf(presence->role, sizeof presence->role, "telemetry");
    snprintf(presence->node, sizeof presence->node, "%.63s",
             settings->node != NULL ? settings->node : telemetry->hostname);
    snprintf(presence->name, sizeof presence->name, "%s",
             settings->name != NULL ? settings->name : "telemetry-0");
    presence->pid = getpid();
    id_random(presence->boot, TAG_LEN);
    log_init(presence->name, settings->log_level);
}

static enum err serve(struct telemetry *telemetry)
{
    const struct settings *settings = telemetry->settings;
    const char *host = settings->metrics_host != NULL ? settings->metrics_host
                       : settings->address != NULL    ? settings->address
                                                      : DEFAULT_HOST;
    const char *seen = settings->address != NULL ? settings->address : host;
    const struct http_config config = {
        .host = host,
        .port = (unsigned)settings->metrics_port,
        .limits = {.body_bytes = 4096, .connections = 256},
        .handler = on_request,
        .arg = telemetry,
    };
    char url_host[NET_HOST_MAX + 2];
    enum err err = http_server_new(&telemetry->server, telemetry->loop, &config);

    if (err != ERR_OK)
        return err;
    net_url_host(url_host, seen);
    snprintf(telemetry->presence.address, sizeof telemetry->presence.address, "%s", seen);
    snprintf(telemetry->presence.url, sizeof telemetry->presence.url, "http://%s:%u/metrics",
             url_host, http_server_port(telemetry->server));
    log_info("telemetry.listening url=\"%s\"", telemetry->presence.url);
    return ERR_OK;
}

static enum err join_broker(struct telemetry *telemetry)
{
    char node[3 * PRESENCE_NAME_MAX], subject[SUBJECT_MAX], client[PRESENCE_NAME_MAX + 16];
    const struct bus_config config = {
        .join = &telemetry->join,
        .client_name = client,
        .role = "telemetry",
        .wait = true,
        .on_state = on_bus_state,
        .arg = telemetry,
    };
    enum err err;

    snprintf(client, sizeof client, "telemetry.%s", telemetry->presence.node);
    err = bus_open(&telemetry->bus, telemetry->loop, &config);
    if (err == ERR_OK)
        err = subject_encode(node, sizeof node, telemetry->presence.node);
    if (err != ERR_OK)
        return err;
    snprintf(subject, sizeof subject, "state.infer.%s.*", node);
    err = bus_subscribe(&telemetry->workers, telemetry->bus, subject, on_worker, telemetry);
    if (err == ERR_OK)
        err = teller_new(&telemetry->teller, telemetry->bus, telemetry->loop, &telemetry->presence,
                         NULL, NULL);
    return err;
}

static enum err start(struct telemetry *telemetry)
{
    static const char *const version[] = {WYVERN_VERSION};
    enum err err = metrics_new(&telemetry->metrics, rows, ROW_COUNT);

    if (err == ERR_OK)
        err = metrics_set(telemetry->metrics, BUILD_INFO, version, 1);
    if (err == ERR_OK)
        err = loop_new(&telemetry->loop);
    if (err == ERR_OK)
        err = loop_signal(telemetry->loop, SIGTERM, on_signal, telemetry);
    if (err == ERR_OK)
        err = loop_signal(telemetry->loop, SIGINT, on_signal, telemetry);
    if (err == ERR_OK)
        err = loop_timer_new(&telemetry->tick, telemetry->loop, on_tick, telemetry);
    if (err == ERR_OK)
        err = serve(telemetry);
    if (err == ERR_OK)
        err = join_broker(telemetry);
    return err;
}

int role_telemetry(const struct settings *settings, int argc, char **argv)
{
    struct telemetry telemetry = {.settings = settings};
    int status = EX_OK;
    enum err err;

    (void)argc;
    (void)argv;
    signal(SIGPIPE, SIG_IGN);
    tally_init(&telemetry.tally);
    introduce(&telemetry);
    err = join_read(&telemetry.join, settings->join, "telemetry");
    if (err == ERR_OK)
        err = start(&telemetry);
    if (err == ERR_OK) {
        loop_timer_start(telemetry.tick, 0, POLL_MS);
        loop_run(telemetry.loop);
        log_info("telemetry.left polls=%u", telemetry.polls);
    } else {
        log_error("telemetry.not_started why=\"%s\"", err_text());
        status = err_exit_status(err);
    }
    http_server_free(telemetry.server);
    teller_free(telemetry.teller);
    bus_close(telemetry.bus);
    loop_timer_free(telemetry.tick);
    loop_free(telemetry.loop);
    nvml_close(telemetry.nvml);
    metrics_free(telemetry.metrics);
    tally_done(&telemetry.tally);
    join_done(&telemetry.join);
    return status;
}
