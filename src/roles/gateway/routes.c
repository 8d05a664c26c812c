/*
 * What the gateway answers to: one row per path.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/params.h"
#include "base/clock.h"
#include "base/log.h"
#include "metrics/gzip.h"
#include "probe/host.h"
#include "roles/gateway/gateway.h"
#include "wire/json.h"

#define JSON_TYPE     "application/json"
#define RETRY_AFTER_S "2"
#define STATUS_BYTES  ((size_t)4 << 20)
#define METRICS_BYTES ((size_t)4 << 20)
#define TARGETS_BYTES ((size_t)16 << 20)

size_t gateway_reply_headers(struct http_header out[GATEWAY_REPLY_HEADERS],
                             char parent[TRACE_PARENT_SIZE], const char *request_id,
                             const struct trace *trace)
{
    size_t count = 0;
    if (request_id != NULL)
        out[count++] = (struct http_header){"x-request-id", request_id};
    if (trace == NULL)
        return count;
    trace_write(parent, trace);
    out[count++] = (struct http_header){"traceparent", parent};
    if (trace->state[0] != '\0')
        out[count++] = (struct http_header){"tracestate", trace->state};
    return count;
}

void gateway_reply_error(struct http_exchange *exchange, const struct api_error *error,
                         const char *request_id, const struct trace *trace)
{
    struct http_header headers[GATEWAY_REPLY_HEADERS + 1];
    char parent[TRACE_PARENT_SIZE];
    size_t count = gateway_reply_headers(headers, parent, request_id, trace);
    if (error->status == 429 || error->status == 503)
        headers[count++] = (struct http_header){"Retry-After", RETRY_AFTER_S};
    struct buf json;
    buf_init(&json, 4096);
    if (api_error_write(error, &json) != ERR_OK)
        buf_clear(&json);
    http_reply(exchange, error->status, headers, count, JSON_TYPE, buf_text(&json), json.len);
    buf_done(&json);
}

size_t gateway_error_body(void *arg, int status, const char *message, char *out, size_t cap)
{
    (void)arg;
    struct api_error error;
    struct buf json;
    size_t len = 0;
    api_error_set(&error, status, NULL, NULL, "%s", message);
    buf_init(&json, cap);
    if (api_error_write(&error, &json) == ERR_OK) {
        len = json.len;
        memcpy(out, json.data, len);
    }
    buf_done(&json);
    return len;
}

static void reply_text(struct http_exchange *exchange, int status, const char *type,
                       const char *text)
{
    http_reply(exchange, status, NULL, 0, type, text, strlen(text));
}

/* ---- /v1/chat/completions ---- */

static bool is_served(const struct gateway *gateway, const char *model)
{
    return strcmp(model, "default") == 0 || strcmp(model, gateway->join.model) == 0;
}

/* W3C: one good traceparent or none; the tracestate headers are one list, and nothing without it.
 */
static void trace_of_request(struct trace *out, const struct http_request *request)
{
    struct trace theirs;
    const char *parent = http_request_header(request, "traceparent"), *state;
    if (parent != NULL && (http_request_header_at(request, "traceparent", 1) != NULL ||
                           !trace_parse(&theirs, parent)))
        parent = NULL;
    trace_begin(out, parent);
    for (unsigned i = 0;
         parent != NULL && (state = http_request_header_at(request, "tracestate", i)) != NULL &&
         trace_add_state(out, state);
         i++)
        continue;
}

static void post_chat(struct gateway *gateway, struct http_exchange *exchange,
                      const struct http_request *request)
{
    struct chat_request chat;
    struct api_error error;
    struct trace trace;
    trace_of_request(&trace, request);
    enum err err = chat_request_parse(&chat, request->body, request->body_len, &error);
    if (err == ERR_NOMEM)
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
    if (err != ERR_OK) {
        figures_refused(gateway->figures, "invalid");
        gateway_reply_error(exchange, &error, NULL, &trace);
        return;
    }
    const char *why = NULL;
    if (!is_served(gateway, chat.prompt.model)) {
        why = "invalid";
        api_error_set(&error, 404, "model_not_found", "model",
                      "the model \"%s\" is not served here; GET /v1/models lists what is",
                      chat.prompt.model);
    } else if (gateway->draining) {
        why = "draining";
        api_error_set(&error, 503, "draining", NULL, "the service is stopping");
    } else if (!bus_connected(gateway->bus)) {
        why = "unavailable";
        api_error_set(&error, 503, "unavailable", NULL,
                      "the prompt queue can't be reached; try again in a moment");
    } else if (room_is_full(gateway->room)) {
        why = "storage_full";
        api_error_set(&error, 503, "storage_full", NULL,
                      "the broker's disk space is nearly used up; try again later");
    }
    if (why != NULL) {
        figures_refused(gateway->figures, why);
        gateway_reply_error(exchange, &error, NULL, &trace);
        chat_request_done(&chat);
        return;
    }
    params_merge(&chat.prompt.params, &gateway->defaults);
    if (chat.stream && chat.prompt.params.search.num_return_sequences > 1)
        chat.prompt.params.search.num_return_sequences = 1; /* the defaults'; a stream is one */
    char made_up[48];
    const char *prompter = chat.prompt.prompter;
    if (prompter[0] == '\0') {
        snprintf(made_up, sizeof made_up, "anonymous-%.8s-%llu", gateway->presence.boot,
                 (unsigned long long)request->connection);
        prompter = made_up;
    }
    session_begin(gateway, exchange, &chat, prompter, &trace);
}

static void get_models(struct gateway *gateway, struct http_exchange *exchange,
                       const struct http_request *request)
{
    (void)request;
    const char *names[] = {gateway->join.model};
    struct buf json;
    buf_init(&json, 4096);
    if (models_write(names, 1, gateway->started_at, &json) == ERR_OK)
        http_reply(exchange, 200, NULL, 0, JSON_TYPE, buf_text(&json), json.len);
    else
        reply_text(exchange, 500, JSON_TYPE, "{}");
    buf_done(&json);
}

/* ---- health ---- */

bool gateway_is_ready(const struct gateway *gateway)
{
    return !gateway->draining && bus_connected(gateway->bus) && gateway->was_complete &&
           registry_ready_workers(gateway->registry) > 0;
}

static void get_health(struct gateway *gateway, struct http_exchange *exchange,
                       const struct http_request *request)
{
    (void)gateway;
    (void)request;
    reply_text(exchange, 200, JSON_TYPE, "{\"status\":\"ok\"}");
}

static void get_ready(struct gateway *gateway, struct http_exchange *exchange,
                      const struct http_request *request)
{
    (void)request;
    char text[256];
    bool ready = gateway_is_ready(gateway);
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

static void get_status(struct gateway *gateway, struct http_exchange *exchange,
                       const struct http_request *request)
{
    (void)request;
    answer_with_depth(gateway, exchange, false, METRICS_TEXT_004, false);
}

static void get_metrics(struct gateway *gateway, struct http_exchange *exchange,
                        const struct http_request *request)
{
    const char *accept = http_request_header(request, "accept");
    const char *encoding = http_request_header(request, "accept-encoding");
    answer_with_depth(gateway, exchange, true, metrics_format_negotiate(accept),
                      metrics_gzip_welcome(encoding));
}

/* For Prometheus' HTTP discovery. */
static void get_sd(struct gateway *gateway, struct http_exchange *exchange,
                   const struct http_request *request)
{
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

static void get_root(struct gateway *gateway, struct http_exchange *exchange,
                     const struct http_request *request)
{
    (void)request;
    char text[512];
    snprintf(text, sizeof text,
             "wyvern " WYVERN_VERSION ", serving %s\n\n"
             "POST /v1/chat/completions   chat, as any OpenAI client does\n"
             "GET  /v1/models             what is served\n"
             "GET  /wyvern/status         nodes, workers, queue\n"
             "GET  /health, /ready        is it alive; can it take a prompt\n"
             "GET  /metrics               for Prometheus\n"
             "GET  /sd                    what Prometheus may scrape\n",
             gateway->join.model);
    reply_text(exchange, 200, "text/plain; charset=utf-8", text);
}

/* ---- the table ---- */

typedef void route_fn(struct gateway *gateway, struct http_exchange *exchange,
                      const struct http_request *request);

static const struct route {
    const char *method, *path;
    route_fn *fn;
} routes[] = {
    {"POST", "/v1/chat/completions", post_chat},
    {"GET", "/v1/models", get_models},
    {"GET", "/health", get_health},
    {"GET", "/ready", get_ready},
    {"GET", "/wyvern/status", get_status},
    {"GET", "/metrics", get_metrics},
    {"GET", "/sd", get_sd},
    {"GET", "/", get_root},
};

void gateway_handle(void *arg, struct http_exchange *exchange, const struct http_request *request)
{
    const struct route *same_path = NULL;
    struct api_error error;
    const char *method = strcmp(request->method, "HEAD") == 0 ? "GET" : request->method;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(request->path, routes[i].path) != 0)
            continue;
        if (strcmp(method, routes[i].method) == 0) {
            routes[i].fn(arg, exchange, request);
            return;
        }
        same_path = &routes[i];
    }
    if (same_path != NULL)
        api_error_set(&error, 405, "method_not_allowed", NULL, "%s takes %s", same_path->path,
                      same_path->method);
    else
        api_error_set(&error, 404, "not_found", NULL, "there is nothing at this path");
    gateway_reply_error(exchange, &error, NULL, NULL);
}
