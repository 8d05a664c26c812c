/*
 * telemetry.c - the telemetry worker: one a node, serves the node's metrics to Prometheus.
 *
 * One loop, and a thread for each collector, which reads GPUs, host, … every second: a scrape never
 * waits for a driver, and a driver that hangs stops nothing else (probe/poller.h).  The loop hears
 * what the node's inference workers say of themselves (state.infer.<node>.*), and fills the
 * registry anew for each scrape.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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
#include "metrics/gzip.h"
#include "metrics/text.h"
#include "probe/host.h"
#include "roles/roles.h"
#include "roles/telemetry.h"
#include "wire/presence.h"
#include "wire/subject.h"

#define POLL_MS          1000
#define HANG_MS          3000      /* a reading that takes longer hangs */
#define SCRAPE_MAX_BYTES (4 << 20) /* text of one scrape */
#define DEFAULT_HOST     "127.0.0.1"

#define AT(row) [(row)-WORKER_ROWS_END]

static const struct metric self_rows[ROW_COUNT - WORKER_ROWS_END] = {
    AT(BUILD_INFO) = {.name = "wyvern_build_info",
                      .type = METRIC_GAUGE,
                      .help = "Version of this program, and what it is here",
                      .labels = {"version", "role"}},
    AT(BROKER_CONNECTED) = {.name = "wyvern_broker_connected",
                            .type = METRIC_GAUGE,
                            .help = "1 while this telemetry worker is connected to the broker"},
    AT(COLLECTOR_SUCCESS) = {.name = "wyvern_collector_success",
                             .type = METRIC_GAUGE,
                             .help = "1 while a collector reads what it should, 0 when it fails or "
                                     "hangs; none where there is nothing for it here",
                             .labels = {"collector"}},
    AT(COLLECTOR_DURATION) = {.name = "wyvern_collector_duration_seconds",
                              .type = METRIC_GAUGE,
                              .help = "How long a collector's last reading took, or has hung",
                              .labels = {"collector"}},
};

/* ---- filling the registry ---- */

/* A series that can't be kept (more than METRICS_MAX_SERIES, no memory) is told once. */
void telemetry_keep(struct telemetry *telemetry, enum err err)
{
    if (err != ERR_OK && !telemetry->incomplete) {
        telemetry->incomplete = true;
        log_warn("metrics.incomplete why=\"%s\"", err_text());
    }
}

void telemetry_set(struct telemetry *telemetry, size_t row, const char *const *labels, double value)
{
    if (!isnan(value))
        telemetry_keep(telemetry, metrics_set(telemetry->metrics, row, labels, value));
}

static void show_self(struct telemetry *telemetry)
{
    static const char *const build[] = {WYVERN_VERSION, "telemetry"};

    telemetry_set(telemetry, BUILD_INFO, build, 1);
    telemetry_set(telemetry, BROKER_CONNECTED, NULL, bus_connected(telemetry->bus));
    metrics_clear(telemetry->metrics, COLLECTOR_SUCCESS);
    metrics_clear(telemetry->metrics, COLLECTOR_DURATION);
    for (size_t i = 0; i < COLLECTOR_COUNT; i++) {
        const struct collector *collector = &telemetry->collectors[i];
        if (collector->poller == NULL || collector->news.answer == POLL_NOTHING)
            continue;
        telemetry_set(telemetry, COLLECTOR_SUCCESS, &collector->name,
                      collector->news.answer == POLL_WELL);
        telemetry_set(telemetry, COLLECTOR_DURATION, &collector->name, collector->news.duration_s);
    }
}

/* A collector's news to the log, when they are other than before. */
static void tell_news(struct collector *collector)
{
    switch (collector->news.answer) {
    case POLL_WELL:
        if (collector->told_failed || collector->told_nothing)
            log_info("collector.works collector=%s", collector->name);
        collector->told_failed = collector->told_nothing = false;
        break;
    case POLL_NOTHING:
        if (!collector->told_nothing && collector->news.readings > 0) {
            collector->told_nothing = true;
            log_info("collector.idle collector=%s why=\"%s\"", collector->name,
                     collector->news.why);
        }
        break;
    case POLL_FAILED:
        if (!collector->told_failed)
            log_warn("collector.failed collector=%s why=\"%s\"", collector->name,
                     collector->news.why);
        collector->told_failed = true;
        break;
    }
}

static void fetch_readings(struct telemetry *telemetry)
{
    for (size_t i = 0; i < COLLECTOR_COUNT; i++) {
        struct collector *collector = &telemetry->collectors[i];
        if (collector->poller == NULL)
            continue;
        poller_latest(collector->poller, collector->latest, &collector->news);
        tell_news(collector);
    }
}

/* ---- what comes in ---- */

static void answer_metrics(struct telemetry *telemetry, struct http_exchange *exchange,
                           const struct http_request *request)
{
    static const struct http_header headers[] = {
        {"Cache-Control", "no-store"},
        {"Vary", "Accept, Accept-Encoding"},
        {"Content-Encoding", "gzip"},
    };
    enum metrics_format format = metrics_format_negotiate(http_request_header(request, "accept"));
    bool packed = metrics_gzip_welcome(http_request_header(request, "accept-encoding"));
    struct buf text;
    enum err err;

    buf_init(&text, SCRAPE_MAX_BYTES);
    fetch_readings(telemetry);
    show_gpus(telemetry);
    show_node(telemetry);
    show_workers(telemetry);
    show_self(telemetry);
    err = metrics_write(telemetry->metrics, format, &text);
    if (err == ERR_OK && packed)
        packed = metrics_gzip(&text) == ERR_OK;
    if (err == ERR_OK)
        http_reply(exchange, 200, headers, packed ? 3 : 2, metrics_content_type(format), text.data,
                   text.len);
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

/* For the log alone: scrapes fetch for themselves, and nobody may be scraping. */
static void on_tick(void *arg)
{
    fetch_readings(arg);
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
    err = bus_subscribe(&telemetry->workers, telemetry->bus, subject, hear_worker, telemetry);
    snprintf(subject, sizeof subject, "state.node.%s.*", node);
    if (err == ERR_OK)
        err = bus_subscribe(&telemetry->supervisor, telemetry->bus, subject, hear_supervisor,
                            telemetry);
    if (err == ERR_OK)
        err = teller_new(&telemetry->teller, telemetry->bus, telemetry->loop, &telemetry->presence,
                         telemetry_refresh, telemetry);
    return err;
}

enum err telemetry_collect(struct telemetry *telemetry, enum collector_id id, const char *name,
                           const struct poller_config *config)
{
    struct collector *collector = &telemetry->collectors[id];
    struct poller_config whole = *config;

    whole.period_ms = POLL_MS;
    whole.hang_ms = HANG_MS;
    collector->name = name;
    collector->latest = calloc(1, config->size);
    if (collector->latest != NULL)
        return poller_new(&collector->poller, &whole);
    if (config->done != NULL)
        config->done(config->state);
    return err_set(ERR_NOMEM, "no memory for the collector %s", name);
}

/* One table of all sections. */
static const struct metric *make_table(void)
{
    static struct metric rows[ROW_COUNT];

    memcpy(rows, telemetry_gpu_rows, sizeof telemetry_gpu_rows);
    memcpy(rows + GPU_ROWS_END, telemetry_node_rows, sizeof telemetry_node_rows);
    memcpy(rows + NODE_ROWS_END, telemetry_worker_rows, sizeof telemetry_worker_rows);
    memcpy(rows + WORKER_ROWS_END, self_rows, sizeof self_rows);
    return rows;
}

const struct metric *role_telemetry_metrics(size_t *count)
{
    *count = ROW_COUNT;
    return make_table();
}

static enum err start(struct telemetry *telemetry)
{
    enum err err = metrics_new(&telemetry->metrics, make_table(), ROW_COUNT);

    if (err == ERR_OK)
        err = loop_new(&telemetry->loop);
    if (err == ERR_OK)
        err = loop_signal(telemetry->loop, SIGTERM, on_signal, telemetry);
    if (err == ERR_OK)
        err = loop_signal(telemetry->loop, SIGINT, on_signal, telemetry);
    if (err == ERR_OK)
        err = loop_timer_new(&telemetry->tick, telemetry->loop, on_tick, telemetry);
    if (err == ERR_OK)
        err = collect_gpus(telemetry);
    if (err == ERR_OK)
        err = collect_node(telemetry);
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
        log_info("telemetry.left");
    } else {
        log_error("telemetry.not_started why=\"%s\"", err_text());
        status = err_exit_status(err);
    }
    http_server_free(telemetry.server);
    teller_free(telemetry.teller);
    bus_close(telemetry.bus);
    loop_timer_free(telemetry.tick);
    loop_free(telemetry.loop);
    for (size_t i = 0; i < COLLECTOR_COUNT; i++) {
        poller_free(telemetry.collectors[i].poller);
        free(telemetry.collectors[i].latest);
    }
    metrics_free(telemetry.metrics);
    tally_done(&telemetry.tally);
    join_done(&telemetry.join);
    return status;
}
