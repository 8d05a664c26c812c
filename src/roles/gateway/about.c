/*
 * How the service is: for people, Prometheus, load balancers, and clients that ask before they
 * speak.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/render.h"
#include "base/clock.h"
#include "metrics/gzip.h"
#include "probe/host.h"
#include "roles/gateway/console.h"
#include "roles/gateway/gateway.h"
#include "roles/gateway/session.h"
#include "wire/json.h"

#define JSON_TYPE     "application/json"
#define STATUS_BYTES  ((size_t)16 << 20)
#define METRICS_BYTES ((size_t)4 << 20)
#define ROUTES_BYTES  ((size_t)16 << 10)
#define TARGETS_BYTES ((size_t)16 << 20)

static void reply_text(struct http_exchange *exchange, int status, const char *type,
                       const char *text)
{
    http_reply(exchange, status, NULL, 0, type, text, strlen(text));
}

static void reply_json_if(struct http_exchange *exchange, enum err err, const struct buf *json)
{
    if (err == ERR_OK)
        gateway_reply_json(exchange, json);
    else
        reply_text(exchange, 500, JSON_TYPE, "{}");
}

/* ---- models ---- */

void about_models(struct gateway *gateway, struct http_exchange *exchange,
                  const struct http_request *request, const struct key *caller)
{
    (void)request;
    (void)caller;
    const char *names[] = {gateway->join.model};
    struct buf json;
    buf_init(&json, 4096);
    reply_json_if(exchange, models_write(names, 1, gateway->started_at, &json), &json);
    buf_done(&json);
}

void about_model(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller)
{
    (void)caller;
    const char *name = request->path + strlen("/v1/models/");
    struct api_error error;
    struct buf json;
    if (strcmp(name, "default") != 0 && strcmp(name, gateway->join.model) != 0) {
        api_error_set(&error, 404, "model_not_found", "model",
                      "the model \"%.64s\" is not served here; GET /v1/models lists what is", name);
        gateway_reply_error(exchange, &error, NULL, NULL);
        return;
    }
    buf_init(&json, 4096);
    reply_json_if(exchange, model_write(gateway->join.model, gateway->started_at, &json), &json);
    buf_done(&json);
}

/* ---- health ---- */

static bool is_ready(const struct gateway *gateway)
{
    return !gateway->draining && bus_connected(gateway->bus) && gateway->was_complete &&
           registry_ready_workers(gateway->registry) > 0;
}

void about_health(struct gateway *gateway, struct http_exchange *exchange,
                  const struct http_request *request, const struct key *caller)
{
    (void)caller;
    (void)gateway;
    (void)request;
    reply_text(exchange, 200, JSON_TYPE, "{\"status\":\"ok\"}");
}

void about_ready(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller)
{
    (void)caller;
    (void)request;
    char text[256];
    bool ready = is_ready(gateway);
    snprintf(text, sizeof text,
             "{\"status\":\"%s\",\"workers_ready\":%u,\"workers_expected\":%d,\"broker\":%s}",
             ready               ? "ok"
             : gateway->draining ? "draining"
                                 : "starting",
             registry_ready_workers(gateway->registry), gateway->settings->expect_workers,
             bus_connected(gateway->bus) ? "true" : "false");
    reply_text(exchange, ready ? 200 : 503, JSON_TYPE, text);
}

/* ---- what needs the queue's depth first ---- */

struct depth_wait {
    struct gateway *gateway;
    struct http_exchange *exchange; /* NULL once the reader left */
    bool metrics;                   /* else the status */
    bool answered;
    enum metrics_format format;
    bool packed; /* metrics: gzip is welcome */
};

static void on_waiter_closed(void *arg, bool complete)
{
    (void)complete;
    struct depth_wait *wait = arg;
    if (wait->answered)
        free(wait);
    else
        wait->exchange = NULL;
}

static int read_broker_pid(const struct gateway *gateway)
{
    int pid = 0;
    if (gateway->settings->broker_pid_file == NULL)
        return 0;
    FILE *file = fopen(gateway->settings->broker_pid_file, "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%d", &pid) != 1)
        pid = 0;
    fclose(file);
    return pid;
}

static void write_status(struct depth_wait *wait, const struct prompts_depth *depth)
{
    struct gateway *gateway = wait->gateway;
    json_t *status = json_object();
    struct buf json;
    buf_init(&json, STATUS_BYTES);
    enum err err = registry_describe(gateway->registry, status);
    int failed = json_object_set_new(status, "broker",
                                     json_pack("{s:s, s:i, s:b}", "url", gateway->join.url, "pid",
                                               read_broker_pid(gateway), "connected",
                                               bus_connected(gateway->bus)));
    json_t *queue =
        depth != NULL
            ? json_pack("{s:I, s:I, s:I}", "waiting", (json_int_t)depth->waiting, "in_flight",
                        (json_int_t)depth->in_flight, "limit", (json_int_t)depth->limit)
            : json_pack("{s:n, s:n, s:n}", "waiting", "in_flight", "limit");
    failed |= json_object_set_new(status, "queue", queue);
    failed |= json_object_set_new(status, "model", json_string(gateway->join.model));
    failed |= json_object_set_new(status, "time", json_real(clock_wall()));
    failed |= json_object_set_new(status, "version", json_string(WYVERN_VERSION));
    if (err == ERR_OK && !failed)
        err = json_write(status, &json);
    if (err == ERR_OK && !failed)
        http_reply(wait->exchange, 200, NULL, 0, JSON_TYPE, buf_text(&json), json.len);
    else
        reply_text(wait->exchange, 500, JSON_TYPE, "{}");
    json_decref(status);
    buf_done(&json);
}

static void write_metrics(struct depth_wait *wait, const struct prompts_depth *depth)
{
    struct gateway *gateway = wait->gateway;
    struct figures_now now = {
        .http = http_server_counts(gateway->http),
        .depth_known = depth != NULL,
        .broker_connected = bus_connected(gateway->bus),
        .ready_workers = registry_ready_workers(gateway->registry),
        .slots = registry_slots(gateway->registry),
        .room = gateway->room,
        .open_replies = sessions_count(gateway),
    };
    if (depth != NULL)
        now.depth = *depth;
    static const struct http_header headers[] = {
        {"Cache-Control", "no-store"},
        {"Vary", "Accept, Accept-Encoding"},
        {"Content-Encoding", "gzip"},
    };
    struct buf text;
    buf_init(&text, METRICS_BYTES);
    enum err err = figures_write(gateway->figures, &now, wait->format, &text);
    bool packed = err == ERR_OK && wait->packed && metrics_gzip(&text) == ERR_OK;
    if (err == ERR_OK)
        http_reply(wait->exchange, 200, headers, packed ? 3 : 2, metrics_content_type(wait->format),
                   buf_text(&text), text.len);
    else
        reply_text(wait->exchange, 500, "text/plain; charset=utf-8", "metrics are too large\n");
    buf_done(&text);
}

static void on_depth(void *arg, enum err err, const struct prompts_depth *depth)
{
    struct depth_wait *wait = arg;
    if (wait->exchange == NULL) {
        free(wait);
        return;
    }
    wait->answered = true; /* freed when the exchange closes */
    if (wait->metrics)
        write_metrics(wait, err == ERR_OK ? depth : NULL);
    else
        write_status(wait, err == ERR_OK ? depth : NULL);
}

static void answer_with_depth(struct gateway *gateway, struct http_exchange *exchange, bool metrics,
                              enum metrics_format format, bool packed)
{
    struct depth_wait *wait = calloc(1, sizeof *wait);
    if (wait == NULL) {
        reply_text(exchange, 503, JSON_TYPE, "{}");
        return;
    }
    *wait = (struct depth_wait){.gateway = gateway,
                                .exchange = exchange,
                                .metrics = metrics,
                                .format = format,
                                .packed = packed};
    http_on_close(exchange, on_waiter_closed, wait);
    if (prompts_depth(gateway->bus, gateway->join.model, on_depth, wait) != ERR_OK)
        on_depth(wait, ERR_UNAVAILABLE, NULL);
}

void about_status(struct gateway *gateway, struct http_exchange *exchange,
                  const struct http_request *request, const struct key *caller)
{
    (void)caller;
    (void)request;
    answer_with_depth(gateway, exchange, false, METRICS_TEXT_004, false);
}

void about_metrics(struct gateway *gateway, struct http_exchange *exchange,
                   const struct http_request *request, const struct key *caller)
{
    (void)caller;
    const char *accept = http_request_header(request, "accept");
    const char *encoding = http_request_header(request, "accept-encoding");
    answer_with_depth(gateway, exchange, true, metrics_format_negotiate(accept),
                      metrics_gzip_welcome(encoding));
}

/* For Prometheus' HTTP discovery. */
void about_sd(struct gateway *gateway, struct http_exchange *exchange,
              const struct http_request *request, const struct key *caller)
{
    (void)caller;
    (void)request;
    char host[PRESENCE_TEXT_MAX];
    struct buf json;
    host_name(host, sizeof host);
    buf_init(&json, TARGETS_BYTES);
    if (registry_targets(gateway->registry, host, &json) == ERR_OK)
        http_reply(exchange, 200, NULL, 0, JSON_TYPE, buf_text(&json), json.len);
    else
        reply_text(exchange, 503, JSON_TYPE, "{}"); /* Prometheus keeps the list it had */
    buf_done(&json);
}

/* ---- what llama-server's clients ask ---- */

static void write_defaults(struct json_out *out, const struct gateway *gateway)
{
    const struct prompt_params *params = &gateway->defaults;
    json_out_object(out, "default_generation_settings");
    json_out_uint(out, "n_ctx", registry_context(gateway->registry));
    json_out_object(out, "params");
    if (!isnan(params->temperature))
        json_out_number(out, "temperature", params->temperature);
    if (!isnan(params->top_p))
        json_out_number(out, "top_p", params->top_p);
    if (params->top_k >= 0)
        json_out_int(out, "top_k", params->top_k);
    if (params->max_tokens >= 0)
        json_out_int(out, "n_predict", params->max_tokens);
    if (params->seed >= 0)
        json_out_int(out, "seed", params->seed);
    json_out_object_end(out);
    json_out_object_end(out);
}

void about_props(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller)
{
    (void)request;
    (void)caller;
    struct buf json;
    struct json_out out;
    buf_init(&json, 64 << 10);
    json_out_begin(&out, &json);
    json_out_object(&out, NULL);
    write_defaults(&out, gateway);
    json_out_uint(&out, "total_slots", registry_slots(gateway->registry));
    json_out_text(&out, "model_alias", gateway->join.model);
    json_out_text(&out, "model_path", gateway->join.model_file);
    json_out_text(&out, "build_info", "wyvern-" WYVERN_VERSION);
    json_out_object_end(&out);
    reply_json_if(exchange, json_out_end(&out), &json);
    buf_done(&json);
}

void about_slots(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller)
{
    (void)request;
    (void)caller;
    struct buf json;
    buf_init(&json, STATUS_BYTES);
    reply_json_if(exchange, registry_write_slots(gateway->registry, &json), &json);
    buf_done(&json);
}

void about_root(struct gateway *gateway, struct http_exchange *exchange,
                const struct http_request *request, const struct key *caller)
{
    (void)caller;
    static const struct http_header vary = {"Vary", "Accept, Accept-Encoding"};
    struct buf text;
    if (console_wanted(request) && console_reply(exchange, request, ""))
        return;
    buf_init(&text, ROUTES_BYTES);
    if (buf_printf(&text, "wyvern " WYVERN_VERSION ", serving %s\n\n", gateway->join.model) ==
        ERR_OK)
        gateway_write_routes(&text);
    http_reply(exchange, 200, &vary, 1, "text/plain; charset=utf-8", buf_text(&text), text.len);
    buf_done(&text);
}

void about_console(struct gateway *gateway, struct http_exchange *exchange,
                   const struct http_request *request, const struct key *caller)
{
    (void)gateway;
    (void)caller;
    struct api_error error;
    if (console_reply(exchange, request, request->path + strlen("/console/")))
        return;
    api_error_set(&error, 404, "not_found", NULL, "the console has no such file");
    gateway_reply_error(exchange, &error, NULL, NULL);
}
