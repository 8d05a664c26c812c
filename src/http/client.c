/*
 * client.c - calls over libcurl: easy handles, alone or many under one multi handle.
 *
 * A call is the same struct both ways; only who drives it differs.  Nothing of the environment
 * decides about loopback addresses: a proxy there would be wrong, and a surprise.
 */
#include "http/client.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include <curl/curl.h>

#include "base/clock.h"

#define CONNECT_MS_DEFAULT 5000
#define KEPT_CONNECTIONS   1024L

struct call {
    CURL *easy;
    struct curl_slist *headers;
    bool (*on_data)(void *arg, const char *data, size_t len);
    void *arg;
    bool cancelled;
    bool too_large;
    struct http_result *result;
    char fault[CURL_ERROR_SIZE];
};

struct set_call {
    TAILQ_ENTRY(set_call) link;
    struct call call;
    struct http_result result;
    http_set_done_fn *done;
    void *arg;
};

struct http_set {
    CURLM *multi;
    TAILQ_HEAD(set_call_list, set_call) calls;
    size_t count;
};

void http_result_init(struct http_result *result)
{
    *result = (struct http_result){0};
    buf_init(&result->body, HTTP_CLIENT_BODY_MAX);
}

void http_result_done(struct http_result *result)
{
    if (result != NULL) {
        buf_done(&result->body);
    }
}

static CURLcode global_code;

static void global_init(void)
{
    global_code = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static enum err global_ready(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
    if (global_code != CURLE_OK) {
        return err_set(ERR_OS, "can't start libcurl: %s", curl_easy_strerror(global_code));
    }
    return ERR_OK;
}

static bool is_loopback(const char *url)
{
    CURLU *parts = curl_url();
    char *host = NULL;
    bool is = false;
    if (parts != NULL &&
        curl_url_set(parts, CURLUPART_URL, url, CURLU_DEFAULT_SCHEME) == CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        struct in_addr v4;
        is = strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
             strcmp(host, "::1") == 0 ||
             (inet_pton(AF_INET, host, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127);
    }
    curl_free(host);
    curl_url_cleanup(parts);
    return is;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct call *call = arg;
    size_t len = size * count;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->on_data != NULL && status >= 200 && status < 300) {
        if (!call->on_data(call->arg, data, len)) {
            call->cancelled = true;
            return 0;
        }
        return len;
    }
    if (buf_append(&call->result->body, data, len) != ERR_OK) {
        call->too_large = true;
        return 0;
    }
    return len;
}

/* The value behind "name:", or NULL. */
static const char *header_value(const char *line, size_t len, const char *name, size_t *value_len)
{
    size_t name_len = strlen(name);
    if (len <= name_len || strncasecmp(line, name, name_len) != 0 || line[name_len] != ':') {
        return NULL;
    }
    const char *value = line + name_len + 1;
    const char *end = line + len;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ')) {
        end--;
    }
    *value_len = (size_t)(end - value);
    return value;
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    struct call *call = arg;
    struct http_result *result = call->result;
    size_t len = size * count;
    size_t value_len = 0;
    const char *value = header_value(line, len, "x-request-id", &value_len);
    if (value != NULL && value_len < sizeof result->request_id) {
        memcpy(result->request_id, value, value_len);
        result->request_id[value_len] = '\0';
    }
    value = header_value(line, len, "retry-after", &value_len);
    char number[32];
    if (value != NULL && value_len < sizeof number) {
        memcpy(number, value, value_len);
        number[value_len] = '\0';
        double seconds = strtod(number, NULL);
        result->retry_after_s = seconds > 0 && seconds < 1e9 ? seconds : 0;
    }
    return len;
}

static enum err add_header(struct call *call, const char *line)
{
    struct curl_slist *more = curl_slist_append(call->headers, line);
    if (more == NULL) {
        return err_set(ERR_NOMEM, "out of memory");
    }
    call->headers = more;
    return ERR_OK;
}

static enum err set_headers(struct call *call, const struct http_call *spec)
{
    enum err err = add_header(call, "Expect:"); /* no waiting for 100 Continue */
    if (err == ERR_OK && spec->body != NULL) {
        err = add_header(call, "Content-Type: application/json");
    }
    if (err == ERR_OK && spec->bearer != NULL) {
        struct buf line;
        buf_init(&line, 8192);
        err = buf_printf(&line, "Authorization: Bearer %s", spec->bearer);
        if (err == ERR_OK) {
            err = add_header(call, buf_text(&line));
        }
        buf_done(&line);
    }
    for (size_t i = 0; err == ERR_OK && spec->headers != NULL && spec->headers[i] != NULL; i++) {
        err = add_header(call, spec->headers[i]);
    }
    return err;
}

static void call_done(struct call *call)
{
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    call->easy = NULL;
    call->headers = NULL;
}

/* Options of one call.  The result is borrowed until call_done(). */
static enum err call_init(struct call *call, const struct http_call *spec,
                          struct http_result *result)
{
    enum err err = global_ready();
    if (err != ERR_OK) {
        return err;
    }
    *call = (struct call){.on_data = spec->on_data, .arg = spec->arg, .result = result};
    call->easy = curl_easy_init();
    if (call->easy == NULL) {
        return err_set(ERR_NOMEM, "out of memory");
    }
    err = set_headers(call, spec);
    if (err != ERR_OK) {
        call_done(call);
        return err;
    }
    CURL *easy = call->easy;
    curl_easy_setopt(easy, CURLOPT_URL, spec->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "wyvern/" WYVERN_VERSION);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->fault);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(spec->connect_ms != 0 ? spec->connect_ms : CONNECT_MS_DEFAULT));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)spec->total_ms);
    /* A reply may take as long as it likes, but not from a machine that is gone. */
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 30L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 10L);
    if (is_loopback(spec->url)) {
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    }
    if (spec->body != NULL) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(spec->body));
        curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, spec->body);
    } else if (strcmp(spec->method, "POST") == 0) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
        curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, "");
    }
    if (strcmp(spec->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, spec->method);
    }
    return ERR_OK;
}

/* libcurl's verdict in our codes and one plain sentence. */
static enum err call_verdict(struct call *call, CURLcode code)
{
    long status = 0;
    curl_off_t connected_us = 0;
    const char *url = "";
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(call->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
    curl_easy_getinfo(call->easy, CURLINFO_EFFECTIVE_URL, &url);
    call->result->status = (int)status;
    const char *fault = call->fault[0] != '\0' ? call->fault : curl_easy_strerror(code);
    if (call->cancelled) {
        return err_set(ERR_CANCELLED, "the call was cancelled");
    }
    if (call->too_large) {
        return err_set(ERR_LIMIT, "the reply of %s is larger than %zu bytes", url,
                       HTTP_CLIENT_BODY_MAX);
    }
    switch (code) {
    case CURLE_OK:
        return ERR_OK;
    case CURLE_OPERATION_TIMEDOUT:
        if (connected_us > 0) {
            return err_set(ERR_TIMEOUT,
                           "%s did not answer in time: try again, or look into its log", url);
        }
        return err_set(ERR_UNAVAILABLE,
                       "can't connect to %s in time: is the service up, and the address right?",
                       url);
    case CURLE_COULDNT_CONNECT:
        return err_set(ERR_UNAVAILABLE,
                       "can't connect to %s: start the service with `wyvern up`, or name another "
                       "address with --url",
                       url);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return err_set(ERR_UNAVAILABLE,
                       "can't connect to %s: start the service with `wyvern up`, or name another "
                       "address with --url (%s)",
                       url, fault);
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
        return err_set(ERR_IO, "the connection to %s broke before the reply was whole: try again",
                       url);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return err_set(ERR_USAGE, "%s is no http or https address", url);
    case CURLE_OUT_OF_MEMORY:
        return err_set(ERR_NOMEM, "out of memory");
    default:
        return err_set(ERR_IO, "the call to %s broke: %s", url, fault);
    }
}

enum err http_call_run(const struct http_call *spec, struct http_result *result)
{
    struct call call;
    enum err err = call_init(&call, spec, result);
    if (err != ERR_OK) {
        return err;
    }
    err = call_verdict(&call, curl_easy_perform(call.easy));
    call_done(&call);
    return err;
}

enum err http_set_new(struct http_set **out)
{
    enum err err = global_ready();
    if (err != ERR_OK) {
        return err;
    }
    struct http_set *set = calloc(1, sizeof *set);
    CURLM *multi = curl_multi_init();
    if (set == NULL || multi == NULL) {
        free(set);
        curl_multi_cleanup(multi);
        return err_set(ERR_NOMEM, "out of memory");
    }
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, KEPT_CONNECTIONS);
    set->multi = multi;
    TAILQ_INIT(&set->calls);
    *out = set;
    return ERR_OK;
}

enum err http_set_add(struct http_set *set, const struct http_call *spec, http_set_done_fn *done,
                      void *arg)
{
    struct set_call *one = calloc(1, sizeof *one);
    if (one == NULL) {
        return err_set(ERR_NOMEM, "out of memory");
    }
    http_result_init(&one->result);
    one->done = done;
    one->arg = arg;
    enum err err = call_init(&one->call, spec, &one->result);
    if (err != ERR_OK) {
        free(one);
        return err;
    }
    curl_easy_setopt(one->call.easy, CURLOPT_PRIVATE, one);
    CURLMcode code = curl_multi_add_handle(set->multi, one->call.easy);
    if (code != CURLM_OK) {
        call_done(&one->call);
        free(one);
        return err_set(ERR_OS, "can't start a call: %s", curl_multi_strerror(code));
    }
    TAILQ_INSERT_TAIL(&set->calls, one, link);
    set->count++;
    return ERR_OK;
}

/* Takes the call out of the set; the caller frees it. */
static void set_remove(struct http_set *set, struct set_call *one)
{
    curl_multi_remove_handle(set->multi, one->call.easy);
    TAILQ_REMOVE(&set->calls, one, link);
    set->count--;
}

static void set_call_free(struct set_call *one)
{
    call_done(&one->call);
    http_result_done(&one->result);
    free(one);
}

/* Hands over what is finished.  Returns how many calls that were. */
static size_t set_reap(struct http_set *set)
{
    size_t reaped = 0;
    int left = 0;
    for (CURLMsg *msg; (msg = curl_multi_info_read(set->multi, &left)) != NULL;) {
        if (msg->msg != CURLMSG_DONE) {
            continue;
        }
        struct set_call *one = NULL;
        CURLcode code = msg->data.result;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &one);
        set_remove(set, one);
        one->done(one->arg, call_verdict(&one->call, code), &one->result);
        set_call_free(one);
        reaped++;
    }
    return reaped;
}

size_t http_set_poll(struct http_set *set, unsigned timeout_ms)
{
    int64_t deadline_ns = clock_mono_ns() + (int64_t)timeout_ms * NS_PER_MS;
    for (;;) {
        int running = 0;
        curl_multi_perform(set->multi, &running);
        size_t reaped = set_reap(set);
        int64_t left_ms = (deadline_ns - clock_mono_ns()) / NS_PER_MS;
        if (reaped > 0 || set->count == 0 || left_ms <= 0) {
            return set->count;
        }
        curl_multi_poll(set->multi, NULL, 0, left_ms > 1000 ? 1000 : (int)left_ms, NULL);
    }
}

void http_set_free(struct http_set *set)
{
    if (set == NULL) {
        return;
    }
    for (struct set_call *one = TAILQ_FIRST(&set->calls); one != NULL;) {
        struct set_call *next = TAILQ_NEXT(one, link);
        set_remove(set, one);
        set_call_free(one);
        one = next;
    }
    curl_multi_cleanup(set->multi);
    free(set);
}
