/*
 * telemetry.c - the telemetry worker: one a node, serves the node's metrics to Prometheus.
 *
 * One thread, one loop.  Every second it reads GPUs and host and says that it is there; in between
 * it hears what the node's inference workers say of themselves (state.infer.<node>.*) and answers
 * scrapes from the registry, so that a scrape never waits for a driver.
 */
#include <math.h>
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
#include "roles/roles.h"
#include "roles/telemetry.h"
#include "wire/presence.h"
#include "wire/subject.h"

#define POLL_MS          1000
#define SCRAPE_MAX_BYTES (4 << 20) /* text of one scrape */
#define DEFAULT_HOST     "127.0.0.1"

#define AT(row) [(row)-WORKER_ROWS_END]

static const struct metric self_rows[ROW_COUNT - WORKER_ROWS_END] = {
    AT(BUILD_INFO) = {.name = "wyvern_build_info",
                      .type = METRIC_GAUGE,
                      .help = "Version of this program",
                      .labels = {"version"}},
    AT(BROKER_CONNECTED) = {.name = "wyvern_broker_connected",
                            .type = METRIC_GAUGE,
                            .help = "1 while this telemetry worker is connected to the broker"},
    AT(POLL_SECONDS) = {.name = "wyvern_poll_duration_seconds",
                        .type = METRIC_GAUGE,
                        .help = "How long the last reading of GPUs and host took"},
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

/* ---- what comes in ---- */

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

    show_gpus(telemetry);
    show_node(telemetry);
    telemetry->polls++;
    telemetry_set(telemetry, POLL_SECONDS, NULL,
                  (double)(clock_mono_ns() - start_ns) / (double)NS_PER_S);
    telemetry_set(telemetry, BROKER_CONNECTED, NULL, bus_connected(telemetry->bus));
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
    if (err == ERR_OK)
        err = teller_new(&telemetry->teller, telemetry->bus, telemetry->loop, &telemetry->presence,
                         NULL, NULL);
    return err;
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
    static const char *const version[] = {WYVERN_VERSION};
    enum err err = metrics_new(&telemetry->metrics, make_table(), ROW_COUNT);

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
