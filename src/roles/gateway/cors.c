#include "roles/gateway/cors.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define METHODS      "GET, POST, DELETE, OPTIONS"
#define MAX_AGE_S    "3600"
#define HEADERS_MAX  1024 /* bytes of a list of allowed headers */
#define ORIGIN_BYTES 512
#define EXPOSED      "x-request-id, retry-after, traceparent, tracestate, www-authenticate"

struct cors {
    char *text; /* the option, lower case, cut up */
    const char *origins[CORS_ORIGINS_MAX];
    size_t count;
    bool any; /* "*" */
};

/* As browsers write it: scheme://host[:port], nothing behind. */
static bool is_origin(const char *text)
{
    static const char rest[] = "abcdefghijklmnopqrstuvwxyz0123456789-.:[]_";
    size_t scheme = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789+-.");
    if (scheme == 0 || strncmp(text + scheme, "://", 3) != 0)
        return false;
    const char *host = text + scheme + 3;
    return *host != '\0' && host[strspn(host, rest)] == '\0' && strlen(text) < ORIGIN_BYTES;
}

static enum err origins_read(struct cors *cors)
{
    char *rest = NULL;
    for (char *at = strtok_r(cors->text, ", ", &rest); at != NULL;
         at = strtok_r(NULL, ", ", &rest)) {
        if (strcmp(at, "*") == 0) {
            cors->any = true;
            continue;
        }
        if (!is_origin(at))
            return err_set(ERR_USAGE,
                           "--cors: '%.80s' is no origin: write it as https://host[:port], without "
                           "a path",
                           at);
        if (cors->count == CORS_ORIGINS_MAX)
            return err_set(ERR_USAGE, "--cors takes at most %d origins", CORS_ORIGINS_MAX);
        cors->origins[cors->count++] = at;
    }
    if (cors->any && cors->count > 0)
        return err_set(ERR_USAGE, "--cors: * already means every origin: name it alone");
    if (!cors->any && cors->count == 0)
        return err_set(ERR_USAGE, "--cors names no origin");
    return ERR_OK;
}

enum err cors_new(struct cors **out, const char *origins)
{
    if (origins == NULL) {
        *out = NULL;
        return ERR_OK;
    }
    struct cors *cors = calloc(1, sizeof *cors);
    if (cors == NULL || (cors->text = strdup(origins)) == NULL) {
        free(cors);
        return err_set(ERR_NOMEM, "out of memory");
    }
    for (char *at = cors->text; *at != '\0'; at++)
        *at = (char)tolower((unsigned char)*at);
    enum err err = origins_read(cors);
    if (err != ERR_OK) {
        cors_free(cors);
        return err;
    }
    *out = cors;
    return ERR_OK;
}

void cors_free(struct cors *cors)
{
    if (cors == NULL)
        return;
    free(cors->text);
    free(cors);
}

/* The allowed origin that the request comes from, or NULL. */
static const char *origin_of(const struct cors *cors, const struct http_request *request)
{
    const char *origin = http_request_header(request, "origin");
    if (origin == NULL || http_request_header_at(request, "origin", 1) != NULL)
        return NULL;
    for (size_t i = 0; i < cors->count; i++) {
        if (strcmp(cors->origins[i], origin) == 0)
            return cors->origins[i];
    }
    return NULL;
}

size_t cors_headers(const struct cors *cors, const struct http_request *request,
                    struct http_header out[CORS_HEADERS])
{
    size_t count = 0;
    if (cors == NULL)
        return 0;
    const char *origin = cors->any ? "*" : origin_of(cors, request);
    if (!cors->any) /* a cache must not give one origin's reply to another */
        out[count++] = (struct http_header){"Vary", "Origin"};
    if (origin == NULL)
        return count;
    out[count++] = (struct http_header){"Access-Control-Allow-Origin", origin};
    out[count++] = (struct http_header){"Access-Control-Expose-Headers", EXPOSED};
    return count;
}

/* What OpenAI's clients send, and ours. */
static bool is_allowed(const char *name, size_t len)
{
    static const char *const names[] = {"authorization", "content-type", "idempotency-key",
                                        "last-event-id", "api-key",      "accept",
                                        "traceparent",   "tracestate",   "cache-control"};
    static const char *const prefixes[] = {"x-", "openai-"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i]) == len && strncasecmp(names[i], name, len) == 0)
            return true;
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        size_t prefix = strlen(prefixes[i]);
        if (len > prefix && strncasecmp(prefixes[i], name, prefix) == 0)
            return true;
    }
    return false;
}

void cors_allowed_headers(char *out, size_t cap, const char *asked)
{
    static const char token[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    size_t len = 0;
    out[0] = '\0';
    while (*asked != '\0') {
        asked += strspn(asked, ", \t");
        size_t name = strcspn(asked, ", \t");
        if (strspn(asked, token) >= name && is_allowed(asked, name) && len + name + 3 < cap)
            len += (size_t)snprintf(out + len, cap - len, "%s%.*s", len > 0 ? ", " : "", (int)name,
                                    asked);
        asked += name;
    }
}

static void preflight(struct http_exchange *exchange, const struct http_request *request,
                      bool allowed)
{
    char names[HEADERS_MAX];
    struct http_header headers[3];
    size_t count = 0;
    const char *asked = http_request_header(request, "access-control-request-headers");
    if (allowed) {
        cors_allowed_headers(names, sizeof names, asked != NULL ? asked : "");
        headers[count++] = (struct http_header){"Access-Control-Allow-Methods", METHODS};
        headers[count++] = (struct http_header){"Access-Control-Max-Age", MAX_AGE_S};
        if (names[0] != '\0')
            headers[count++] = (struct http_header){"Access-Control-Allow-Headers", names};
    }
    http_reply(exchange, 204, headers, count, NULL, NULL, 0);
}

bool cors_is_foreign(const struct cors *cors, const struct http_request *request)
{
    const char *site = http_request_header(request, "sec-fetch-site");
    if (site == NULL || strcmp(site, "same-origin") == 0 || strcmp(site, "none") == 0)
        return false;
    if (strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0)
        return false; /* a link to the console; what it shows, its own scripts ask for */
    return cors == NULL || (!cors->any && origin_of(cors, request) == NULL);
}

bool cors_enter(const struct cors *cors, struct http_exchange *exchange,
                const struct http_request *request)
{
    struct http_header headers[CORS_HEADERS];
    size_t count = cors_headers(cors, request, headers);
    bool asks = strcmp(request->method, "OPTIONS") == 0 &&
                http_request_header(request, "origin") != NULL &&
                http_request_header(request, "access-control-request-method") != NULL;
    for (size_t i = 0; i < count; i++)
        (void)http_reply_header_add(exchange, headers[i].name, headers[i].value);
    if (cors == NULL || !asks)
        return false;
    preflight(exchange, request, cors->any || count > 1);
    return true;
}
