/*
 * The gateway: people's way in.  See gateway.h for who does what.
 */
#include "roles/gateway/gateway.h"
#include "api/params.h"
#include "roles/gateway/batches.h"
#include "roles/gateway/erase.h"
#include "roles/gateway/files.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "roles/gateway/session.h"
#include "roles/roles.h"
#include "wire/subject.h"

#define TICK_MS        500
#define SETTLE_TICKS   8
#define LEAVE_BLIND_MS 5000
#define HELD_BYTES_MAX ((size_t)512 << 20)

static void leave_when_done(struct gateway *gateway)
{
    bool blind = gateway->away_since_ns != 0 &&
                 clock_mono_ns() - gateway->away_since_ns > LEAVE_BLIND_MS * NS_PER_MS;
    bool idle = sessions_may_leave(gateway) && http_server_exchanges(gateway->http) == 0 &&
                endings_count(gateway->endings) == 0;
    if (gateway->draining && (idle || blind))
        loop_stop(gateway->loop);
}

static void on_tick(void *arg)
{
    struct gateway *gateway = arg;
    int expected = gateway->settings->expect_workers;
    if (registry_ready_workers(gateway->registry) >= (unsigned)(expected > 0 ? expected : 1))
        gateway->was_complete = true;
    if (bus_connected(gateway->bus))
        registry_sweep(gateway->registry);
    keys_tick(gateway->keys);
    sessions_tick(gateway);
    erase_tick(gateway);
    batches_tick(gateway->batches);
    if (gateway->ticks++ % SETTLE_TICKS == 0)
        heap_settle(&gateway->heap);
    leave_when_done(gateway);
}

static void on_signal(void *arg, int signum)
{
    struct gateway *gateway = arg;
    if (gateway->draining)
        return;
    log_info("gateway.draining signal=%d open=%u", signum, sessions_count(gateway));
    gateway->draining = true;
    leave_when_done(gateway);
}

static void on_bus_state(void *arg, bool connected)
{
    struct gateway *gateway = arg;
    log_info("broker.%s", connected ? "connected" : "away");
    gateway->away_since_ns = connected ? 0 : clock_mono_ns();
    if (!connected)
        return;
    registry_reconnected(gateway->registry);
    teller_tell(gateway->teller);
    sessions_reconnected(gateway);
    batches_reconnected(gateway->batches);
}

static void on_live(void *arg, const struct bus_message *message)
{
    session_live(arg, message);
}

static void describe(struct gateway *gateway)
{
    const struct settings *settings = gateway->settings;
    struct presence *presence = &gateway->presence;
    snprintf(presence->role, sizeof presence->role, "gateway");
    snprintf(presence->node, sizeof presence->node, "%s",
             settings->node != NULL ? settings->node : "hub");
    snprintf(presence->name, sizeof presence->name, "%s",
             settings->name != NULL ? settings->name : "gateway-0");
    presence->pid = getpid();
    id_random(presence->boot, TAG_LEN);
    log_init(presence->name, settings->log_level);
}

static enum err listen_http(struct gateway *gateway)
{
    const struct settings *settings = gateway->settings;
    const struct http_config config = {
        .host = settings->host,
        .port = (unsigned)settings->port,
        .limits = {.body_bytes = (size_t)settings->body_limit_kib * 1024,
                   .connections = (unsigned)settings->max_connections},
        .handler = gateway_handle,
        .error_body = gateway_error_body,
        .admit = files_admit,
        .arg = gateway,
    };
    enum err err = http_server_new(&gateway->http, gateway->loop, &config);
    if (err == ERR_OK)
        snprintf(gateway->presence.url, sizeof gateway->presence.url,
                 strchr(settings->host, ':') != NULL ? "http://[%s]:%u" : "http://%s:%u",
                 settings->host, http_server_port(gateway->http));
    return err;
}

static enum err open_bus(struct gateway *gateway)
{
    char client[PRESENCE_NAME_MAX + 16], live[SUBJECT_MAX];
    snprintf(client, sizeof client, "gateway.%s", gateway->presence.name);
    snprintf(live, sizeof live, "live.%s.>", gateway->presence.boot);
    const struct bus_config config = {
        .join = &gateway->join,
        .client_name = client,
        .role = "gateway",
        .wait = true,
        .on_state = on_bus_state,
        .arg = gateway,
    };
    enum err err = bus_open(&gateway->bus, gateway->loop, &config);
    if (err == ERR_OK)
        err = endings_new(&gateway->endings, gateway->bus, gateway->loop);
    if (err == ERR_OK)
        err = room_new(&gateway->room, gateway->bus, gateway->loop);
    if (err == ERR_OK)
        err = registry_new(&gateway->registry, gateway->bus);
    if (err == ERR_OK)
        err = bus_subscribe(&gateway->live, gateway->bus, live, on_live, gateway);
    return err;
}

/* What requests leave open: --params and --truncate. */
static enum err read_defaults(struct gateway *gateway)
{
    const struct settings *settings = gateway->settings;
    enum err err = ERR_OK;
    gateway->defaults = prompt_params_default();
    if (settings->params != NULL)
        err = params_parse(&gateway->defaults, &gateway->defaults_root, settings->params,
                           PARAMS_DEFAULTS);
    if (err == ERR_OK && settings->truncate != NULL)
        gateway->defaults.truncate = prompt_truncate_of(settings->truncate);
    return err;
}

static enum err start(struct gateway *gateway)
{
    describe(gateway);
    enum err err = read_defaults(gateway);
    if (err == ERR_OK)
        err = keys_new(&gateway->keys, gateway->settings->keys);
    if (err == ERR_OK)
        err = cors_new(&gateway->cors, gateway->settings->cors);
    if (err == ERR_OK)
        err = loop_new(&gateway->loop);
    if (err == ERR_OK)
        err = loop_signal(gateway->loop, SIGTERM, on_signal, gateway);
    if (err == ERR_OK)
        err = loop_signal(gateway->loop, SIGINT, on_signal, gateway);
    if (err == ERR_OK)
        err = loop_timer_new(&gateway->tick, gateway->loop, on_tick, gateway);
    if (err == ERR_OK)
        err = figures_new(&gateway->figures, gateway->join.model);
    if (err == ERR_OK)
        err = batches_new(&gateway->batches, gateway);
    if (err == ERR_OK)
        err = open_bus(gateway);
    if (err == ERR_OK)
        err = listen_http(gateway);
    /* Last: what it says includes where we listen. */
    if (err == ERR_OK)
        err = teller_new(&gateway->teller, gateway->bus, gateway->loop, &gateway->presence, NULL,
                         NULL);
    return err;
}

bool gateway_is_clogged(const struct gateway *gateway)
{
    return http_server_unsent(gateway->http) + gateway->held_bytes > HELD_BYTES_MAX;
}

int role_gateway(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct gateway gateway = {.settings = settings, .started_at = clock_wall()};
    int status = EX_OK;
    signal(SIGPIPE, SIG_IGN);
    enum err err = join_read(&gateway.join, settings->join, "gateway");
    if (err == ERR_OK)
        err = start(&gateway);
    if (err == ERR_OK) {
        log_info("gateway.listening url=%s", gateway.presence.url);
        loop_timer_start(gateway.tick, 0, TICK_MS);
        loop_run(gateway.loop);
        log_info("gateway.left");
    } else {
        log_error("gateway.not_started why=\"%s\"", err_text());
        status = err_exit_status(err);
    }
    http_server_free(gateway.http);
    endings_free(gateway.endings);
    gateway.endings = NULL; /* closing the bus still ends offers */
    registry_free(gateway.registry);
    teller_free(gateway.teller);
    room_free(gateway.room);
    bus_close(gateway.bus);
    sessions_free(&gateway);
    erase_free(&gateway);
    batches_free(gateway.batches);
    figures_free(gateway.figures);
    keys_free(gateway.keys);
    cors_free(gateway.cors);
    loop_timer_free(gateway.tick);
    loop_free(gateway.loop);
    join_done(&gateway.join);
    json_decref(gateway.defaults_root);
    return status;
}
