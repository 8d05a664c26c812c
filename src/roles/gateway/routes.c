/*
 * What the gateway answers to: one row per method and path.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "roles/gateway/accept.h"
#include "roles/gateway/batches.h"
#include "roles/gateway/files.h"
#include "roles/gateway/gateway.h"
#include "roles/gateway/stored.h"
#include "wire/json.h"

#define JSON_TYPE     "application/json"
#define RETRY_AFTER_S "2"

size_t gateway_reply_headers(struct http_header out[GATEWAY_REPLY_HEADERS],
                             char parent[TRACE_PARENT_SIZE], const char *request_id,
                             const struct trace *trace)
{
    size_t count = 0;
    if (request_id != NULL && request_id[0] != '\0')
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
    struct http_header headers[GATEWAY_REPLY_HEADERS + 2];
    char parent[TRACE_PARENT_SIZE];
    size_t count = gateway_reply_headers(headers, parent, request_id, trace);
    if (error->status == 429 || error->status == 503)
        headers[count++] = (struct http_header){"Retry-After", RETRY_AFTER_S};
    if (error->status == 401)
        headers[count++] = (struct http_header){"WWW-Authenticate", "Bearer"};
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
    api_error_set(&error, status, status == 401 ? "invalid_api_key" : NULL, NULL, "%s", message);
    buf_init(&json, cap);
    if (api_error_write(&error, &json) == ERR_OK) {
        len = json.len;
        memcpy(out, json.data, len);
    }
    buf_done(&json);
    return len;
}

void gateway_reply_json(struct http_exchange *exchange, const struct buf *json)
{
    http_reply(exchange, 200, NULL, 0, JSON_TYPE, buf_text(json), json->len);
}

/* ---- reading requests ---- */

/* W3C: one good traceparent or none; the tracestate headers are one list, and nothing without it.
 */
void gateway_trace(struct trace *out, const struct http_request *request)
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

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One character of a query; 0: it is no good one. */
static char decode_char(const char **at)
{
    const char *text = *at;
    if (text[0] != '%') {
        (*at)++;
        return text[0] == '+' ? ' ' : text[0];
    }
    int high = hex_digit(text[1]), low = high < 0 ? -1 : hex_digit(text[2]);
    if (low < 0)
        return '\0';
    *at += 3;
    return (char)(high * 16 + low);
}

bool gateway_query(const struct http_request *request, const char *name, char *out, size_t cap)
{
    size_t name_len = strlen(name), len = 0;
    const char *at = request->query;
    while (strncmp(at, name, name_len) != 0 || strchr("=&", at[name_len]) == NULL) {
        at += strcspn(at, "&");
        if (*at++ == '\0')
            return false;
    }
    at += name_len;
    at += *at == '=';
    while (*at != '\0' && *at != '&') {
        char c = decode_char(&at);
        if (c == '\0' || len + 1 >= cap) {
            len = 0;
            break;
        }
        out[len++] = c;
    }
    out[len] = '\0';
    return true;
}

bool gateway_path_id(const struct http_request *request, const char *prefix, const char *suffix,
                     char *out, size_t cap)
{
    size_t begin = strlen(prefix), tail = strlen(suffix), len = strlen(request->path);
    if (len <= begin + tail || strncmp(request->path, prefix, begin) != 0 ||
        strcmp(request->path + len - tail, suffix) != 0)
        return false;
    size_t id = len - begin - tail;
    if (id + 1 > cap || memchr(request->path + begin, '/', id) != NULL)
        return false;
    memcpy(out, request->path + begin, id);
    out[id] = '\0';
    return true;
}

/* ---- the table ---- */

/* A "{…}" in a path stands for one segment.  docs/API.md lists the same (tests/lint/docs.py). */
static const struct route {
    const char *method, *path;
    route_fn *fn;        /* NULL: it becomes prompts, */
    api_parse_fn *parse; /* read by this */
    bool open;           /* no key is asked for */
    const char *what;    /* for the list at "/" */
} routes[] = {
    {"POST", "/v1/chat/completions", NULL, chat_parse, false,
     "a reply to a conversation, whole or streamed"},
    {"GET", "/v1/chat/completions/{id}", stored_chat_get, NULL, false, "a stored one"},
    {"DELETE", "/v1/chat/completions/{id}", stored_chat_delete, NULL, false, "forgets it"},
    {"POST", "/v1/completions", NULL, completion_parse, false, "how a text goes on"},
    {"POST", "/v1/responses", NULL, response_parse, false,
     "a reply that is kept: in the background, streamed, gone on from"},
    {"GET", "/v1/responses/{id}", stored_response_get, NULL, false,
     "as it is now; its events with ?stream=true&starting_after=N"},
    {"DELETE", "/v1/responses/{id}", stored_response_delete, NULL, false, "forgets it"},
    {"POST", "/v1/responses/{id}/cancel", stored_response_cancel, NULL, false, "ends it"},
    {"GET", "/v1/responses/{id}/input_items", stored_response_items, NULL, false,
     "what was said to it"},
    {"POST", "/v1/embeddings", NULL, embedding_parse, false, "vectors of texts"},
    {"GET", "/v1/models", about_models, NULL, false, "what is served: one model"},
    {"GET", "/v1/models/{model}", about_model, NULL, false, "it alone"},
    {"POST", "/v1/files", files_post, NULL, false, "a file, of requests for a batch"},
    {"GET", "/v1/files", files_list, NULL, false, "all of them"},
    {"GET", "/v1/files/{id}", files_get, NULL, false, "one"},
    {"DELETE", "/v1/files/{id}", files_delete, NULL, false, "forgets it"},
    {"GET", "/v1/files/{id}/content", files_content, NULL, false, "what is in it"},
    {"POST", "/v1/batches", batches_post, NULL, false,
     "a file of requests, done when there is time"},
    {"GET", "/v1/batches", batches_list, NULL, false, "all of them"},
    {"GET", "/v1/batches/{id}", batches_get, NULL, false, "one, and how far it is"},
    {"POST", "/v1/batches/{id}/cancel", batches_cancel, NULL, false, "ends it"},
    {"POST", "/tokenize", NULL, tokenize_parse, false, "a text as tokens"},
    {"POST", "/detokenize", NULL, detokenize_parse, false, "tokens as a text"},
    {"POST", "/apply-template", NULL, template_parse, false,
     "a conversation as the text that a model is given"},
    {"GET", "/props", about_props, NULL, false, "what llama-server's clients ask first"},
    {"GET", "/slots", about_slots, NULL, false, "places for prompts, and which are busy"},
    {"GET", "/health", about_health, NULL, true, "200 while this gateway lives"},
    {"GET", "/ready", about_ready, NULL, true, "200 when a prompt can be taken"},
    {"GET", "/wyvern/status", about_status, NULL, false, "nodes, workers, queue"},
    {"GET", "/metrics", about_metrics, NULL, true, "for Prometheus"},
    {"GET", "/sd", about_sd, NULL, true, "what Prometheus may scrape"},
    {"GET", "/", about_root, NULL, true, "this list; the console for a browser"},
    {"GET", "/console/", about_console, NULL, true, "the console"},
    {"GET", "/console/{file}", about_console, NULL, true, "its files"},
};
#define ROUTE_COUNT (sizeof routes / sizeof *routes)

void gateway_write_routes(struct buf *out)
{
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        int width = 42 - (int)strlen(routes[i].method);
        /* Only memory can be wanting: then the list is short. */
        (void)!buf_printf(out, "%s %-*s %s\n", routes[i].method, width, routes[i].path,
                          routes[i].what);
    }
}

static bool is_at(const char *path, const char *pattern)
{
    while (*pattern != '\0') {
        if (*pattern == '{') {
            size_t len = strcspn(path, "/");
            if (len == 0)
                return false;
            path += len;
            pattern += strcspn(pattern, "}") + 1;
        } else if (*path++ != *pattern++) {
            return false;
        }
    }
    return *path == '\0';
}

static void reply_unrouted(struct http_exchange *exchange, const struct http_request *request)
{
    struct api_error error;
    char allowed[64] = "";
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        if (!is_at(request->path, routes[i].path))
            continue;
        size_t len = strlen(allowed);
        snprintf(allowed + len, sizeof allowed - len, "%s%s", len > 0 ? ", " : "",
                 routes[i].method);
    }
    if (allowed[0] != '\0') {
        (void)http_reply_header_add(exchange, "Allow", allowed);
        api_error_set(&error, 405, "method_not_allowed", NULL, "this path takes %s", allowed);
    } else {
        api_error_set(&error, 404, "not_found", NULL, "there is nothing at this path");
    }
    gateway_reply_error(exchange, &error, NULL, NULL);
}

static void reply_foreign(struct gateway *gateway, struct http_exchange *exchange)
{
    struct api_error error;
    api_error_set(&error, 403, "origin_not_allowed", NULL,
                  "pages of this origin may not use this service; --cors allows them");
    figures_refused(gateway->figures, "foreign_origin");
    gateway_reply_error(exchange, &error, NULL, NULL);
}

/* RFC 9110, 15.5.16: what is taken instead is told. */
static bool reply_encoded(struct http_exchange *exchange, const struct http_request *request)
{
    struct api_error error;
    const char *coding = http_request_header(request, "content-encoding");
    if (coding == NULL || strcasecmp(coding, "identity") == 0)
        return false;
    (void)http_reply_header_add(exchange, "Accept-Encoding", "identity");
    api_error_set(&error, 415, "unsupported_content_encoding", NULL,
                  "bodies are taken as they are, without Content-Encoding");
    gateway_reply_error(exchange, &error, NULL, NULL);
    return true;
}

static void answer(struct gateway *gateway, struct http_exchange *exchange,
                   const struct http_request *request, const struct route *route)
{
    static const struct key nobody;
    struct api_error error;
    const struct key *caller = route->open ? &nobody : keys_check(gateway->keys, request, &error);
    if (caller == NULL) {
        figures_refused(gateway->figures, "unauthorized");
        gateway_reply_error(exchange, &error, NULL, NULL);
    } else if (route->fn != NULL) {
        route->fn(gateway, exchange, request, caller);
    } else {
        accept_post(gateway, exchange, request, caller, route->parse);
    }
}

void gateway_handle(void *arg, struct http_exchange *exchange, const struct http_request *request)
{
    struct gateway *gateway = arg;
    const char *method = strcmp(request->method, "HEAD") == 0 ? "GET" : request->method;
    if (cors_enter(gateway->cors, exchange, request))
        return;
    if (cors_is_foreign(gateway->cors, request)) {
        reply_foreign(gateway, exchange);
        return;
    }
    if (reply_encoded(exchange, request))
        return;
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        const struct route *route = &routes[i];
        if (strcmp(method, route->method) != 0 || !is_at(request->path, route->path))
            continue;
        answer(gateway, exchange, request, route);
        return;
    }
    reply_unrouted(exchange, request);
}
