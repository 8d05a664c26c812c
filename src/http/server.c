/*
 * server.c - the listener, the flush of each turn, the deadlines, the life of the whole.
 *
 * Flush: handlers' writes put their connection on the dirty list; a uv_prepare handle, which runs
 * just before the loop sleeps, sends each connection's output with one system call.  Sending may
 * end an exchange and begin the next pipelined one, whose reply is sent in the next turn: then an
 * idle handle keeps the loop from sleeping.
 *
 * Deadlines: one timer walks all connections, each shortest-limit ÷ 4, instead of a timer each.
 *
 * Memory: libuv keeps touching a handle until its close callback, so connections and the server
 * are freed from there; http_server_free only begins that, and the loop finishes it.
 */
#include <assert.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/internal.h"

#define BACKLOG      1024
#define SWEEP_MS_MIN 5
#define SWEEP_MS_MAX 500

void server_mark_dirty(struct connection *conn)
{
    if (!conn->is_dirty && conn->phase != PHASE_CLOSED) {
        conn->is_dirty = true;
        conn->server->dirty_count++;
        TAILQ_INSERT_TAIL(&conn->server->dirty, conn, dirty);
    }
}

void server_unmark_dirty(struct connection *conn)
{
    if (conn->is_dirty) {
        conn->is_dirty = false;
        conn->server->dirty_count--;
        TAILQ_REMOVE(&conn->server->dirty, conn, dirty);
    }
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* its being active is all */
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct http_server *server = prepare->data;
    /* Those that are dirty now; what they bring about waits for the next turn. */
    for (size_t left = server->dirty_count; left > 0 && !TAILQ_EMPTY(&server->dirty); left--) {
        struct connection *conn = TAILQ_FIRST(&server->dirty);
        server_unmark_dirty(conn);
        connection_flush(conn);
    }
    if (server->freed) {
        return;
    }
    if (!TAILQ_EMPTY(&server->dirty)) {
        uv_idle_start(&server->idle, on_idle);
    } else if (uv_is_active((uv_handle_t *)&server->idle)) {
        uv_idle_stop(&server->idle);
    }
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *server = timer->data;
    uint64_t now_ms = uv_now(server->loop);
    /* Connections leave the list only from close callbacks, which do not run inside this. */
    for (struct connection *conn = TAILQ_FIRST(&server->all); conn != NULL;) {
        struct connection *next = TAILQ_NEXT(conn, all);
        connection_sweep(conn, now_ms);
        conn = next;
    }
    if (server->accept_waits && server->listening) {
        connection_accept(server);
    }
    bool is_needed = server->accept_waits && server->listening;
    if (!server->freed && !is_needed && TAILQ_EMPTY(&server->all)) {
        uv_timer_stop(timer);
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct http_server *server = listener->data;
    if (status != 0 || !server->listening) {
        return;
    }
    connection_accept(server);
    if (!uv_is_active((uv_handle_t *)&server->sweep)) {
        uv_timer_start(&server->sweep, on_sweep, server->sweep_ms, server->sweep_ms);
    }
}

void server_release(struct http_server *server)
{
    if (server->freed && server->handles == 0 && TAILQ_EMPTY(&server->all)) {
        free(server->read_buffer);
        free(server);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct http_server *server = handle->data;
    server->handles--;
    server_release(server);
}

static size_t size_or(size_t value, size_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static unsigned count_or(unsigned value, unsigned otherwise)
{
    return value != 0 ? value : otherwise;
}

static struct http_limits limits_of(const struct http_limits *given)
{
    return (struct http_limits){
        .head_bytes = size_or(given->head_bytes, (size_t)16 << 10),
        .header_count = count_or(given->header_count, 100),
        .body_bytes = size_or(given->body_bytes, (size_t)1 << 20),
        .bodies_bytes = size_or(given->bodies_bytes, (size_t)256 << 20),
        .connections = count_or(given->connections, 4096),
        .head_ms = count_or(given->head_ms, 10000),
        .body_ms = count_or(given->body_ms, 30000),
        .idle_ms = count_or(given->idle_ms, 60000),
        .write_queue_bytes = size_or(given->write_queue_bytes, (size_t)1 << 20),
        .write_ms = count_or(given->write_ms, 30000),
    };
}

static unsigned sweep_interval(const struct http_limits *limits)
{
    unsigned shortest_ms = LINGER_MS;
    const unsigned all_ms[] = {limits->head_ms, limits->body_ms, limits->idle_ms, limits->write_ms};
    for (size_t i = 0; i < sizeof all_ms / sizeof *all_ms; i++) {
        shortest_ms = all_ms[i] < shortest_ms ? all_ms[i] : shortest_ms;
    }
    unsigned each_ms = shortest_ms / 4;
    if (each_ms < SWEEP_MS_MIN) {
        return SWEEP_MS_MIN;
    }
    return each_ms > SWEEP_MS_MAX ? SWEEP_MS_MAX : each_ms;
}

/* Every handle is initialised before anything can fail, so that free can close them all. */
static enum err init_handles(struct http_server *server)
{
    int status = uv_tcp_init(server->loop, &server->listener);
    if (status != 0) {
        return err_set(ERR_OS, "can't make a socket: %s", uv_strerror(status));
    }
    uv_prepare_init(server->loop, &server->prepare); /* these three can't fail */
    uv_idle_init(server->loop, &server->idle);
    uv_timer_init(server->loop, &server->sweep);
    server->listener.data = server;
    server->prepare.data = server;
    server->idle.data = server;
    server->sweep.data = server;
    server->handles = 4;
    uv_prepare_start(&server->prepare, on_prepare);
    return ERR_OK;
}

static enum err start_listening(struct http_server *server, const char *host, unsigned port)
{
    char service[12];
    struct addrinfo *found = NULL;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    if (port > 65535) {
        return err_set(ERR_INVALID, "%u is no port: ports end at 65535", port);
    }
    snprintf(service, sizeof service, "%u", port);
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0) {
        return err_set(ERR_UNAVAILABLE, "can't listen on %s: %s", host, gai_strerror(rc));
    }
    int status = uv_tcp_bind(&server->listener, found->ai_addr, 0);
    freeaddrinfo(found);
    if (status == 0) {
        status = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    }
    if (status == UV_EADDRINUSE) {
        return err_set(ERR_UNAVAILABLE,
                       "port %u on %s is in use: stop the program that has it, or choose another "
                       "port",
                       port, host);
    }
    if (status != 0) {
        return err_set(ERR_UNAVAILABLE, "can't listen on %s port %u: %s", host, port,
                       uv_strerror(status));
    }
    struct sockaddr_storage address;
    int size = sizeof address;
    uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &size);
    server->port = ntohs(address.ss_family == AF_INET6
                             ? ((const struct sockaddr_in6 *)(const void *)&address)->sin6_port
                             : ((const struct sockaddr_in *)(const void *)&address)->sin_port);
    server->listening = true;
    return ERR_OK;
}

/* libuv writes with write(2): to a reader that has left, that must be an error and no signal. */
static void ignore_sigpipe(void)
{
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
        signal(SIGPIPE, SIG_IGN);
    }
}

enum err http_server_new(struct http_server **out, struct loop *loop,
                         const struct http_config *config)
{
    assert(config->handler != NULL && config->host != NULL);
    struct http_server *server = calloc(1, sizeof *server);
    char *read_buffer = malloc(READ_BUFFER_BYTES);
    if (server == NULL || read_buffer == NULL) {
        free(server);
        free(read_buffer);
        return err_set(ERR_NOMEM, "out of memory");
    }
    ignore_sigpipe();
    server->loop = loop_uv(loop);
    server->read_buffer = read_buffer;
    server->limits = limits_of(&config->limits);
    server->sweep_ms = sweep_interval(&server->limits);
    server->handler = config->handler;
    server->error_body = config->error_body;
    server->admit = config->admit;
    server->arg = config->arg;
    TAILQ_INIT(&server->all);
    TAILQ_INIT(&server->dirty);
    enum err err = init_handles(server);
    if (err == ERR_OK) {
        err = start_listening(server, config->host, config->port);
    }
    if (err != ERR_OK) {
        http_server_free(server);
        return err;
    }
    *out = server;
    return ERR_OK;
}

unsigned http_server_port(const struct http_server *server)
{
    return server->port;
}

const struct http_counts *http_server_counts(const struct http_server *server)
{
    return &server->counts;
}

unsigned http_server_exchanges(const struct http_server *server)
{
    return server->exchanges;
}

size_t http_server_unsent(const struct http_server *server)
{
    return server->unsent_bytes;
}

void http_server_stop_listening(struct http_server *server)
{
    if (!server->listening) {
        return;
    }
    server->listening = false;
    uv_close((uv_handle_t *)&server->listener, on_handle_closed);
    for (struct connection *conn = TAILQ_FIRST(&server->all); conn != NULL;
         conn = TAILQ_NEXT(conn, all)) {
        if (conn->phase == PHASE_IDLE) {
            connection_close(conn, false);
        }
    }
}

static void close_once(uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) {
        uv_close(handle, on_handle_closed);
    }
}

void http_server_free(struct http_server *server)
{
    if (server == NULL || server->freed) {
        return;
    }
    server->freed = true;
    server->listening = false;
    if (server->handles == 0) { /* its handles were never made */
        server_release(server);
        return;
    }
    for (struct connection *conn = TAILQ_FIRST(&server->all); conn != NULL;) {
        struct connection *next = TAILQ_NEXT(conn, all);
        if (conn->phase != PHASE_CLOSED) {
            connection_close(conn, false);
        } else if (conn->exchange.open) {
            connection_end_orphan(conn);
        }
        conn = next;
    }
    close_once((uv_handle_t *)&server->listener);
    close_once((uv_handle_t *)&server->prepare);
    close_once((uv_handle_t *)&server->idle);
    close_once((uv_handle_t *)&server->sweep);
}
