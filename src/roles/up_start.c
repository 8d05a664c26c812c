/*
 * up_start.c - the command lines of everything that `wyvern up` starts.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "probe/host.h"
#include "roles/up.h"

#define PORT_USUAL 4222 /* of a broker that others must find */

void up_gateway_url(const struct up *up, unsigned i, char out[128])
{
    const char *host = up->settings->host;
    char in_url[NET_HOST_MAX + 2];
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
        host = "127.0.0.1";
    net_url_host(in_url, host);
    snprintf(out, 128, "http://%s:%d", in_url, up->port + (int)i);
}

enum err up_start_broker(struct up *up, const struct child_events *events)
{
    struct broker_config config = {.program = up->broker_program,
                                   .state_dir = up->state_dir,
                                   .bind_host = up->bind_host,
                                   .host = up->broker_host,
                                   .port = up->join_host[0] ? PORT_USUAL : 0,
                                   .model = {.model = up->model_name,
                                             .model_file = (char *)(uintptr_t)up->model_file,
                                             .model_sha256 = up->model_sha256},
                                   .events = *events};
    enum err err = broker_new(&up->broker, up->loop, &config);
    if (err != ERR_OK)
        return err;
    snprintf(up->node_file, sizeof up->node_file, "%s/node.ini", up->state_dir);
    err = broker_write_node_file(up->broker, up->node_file, up->broker_host);
    if (err == ERR_OK && up->join_host[0]) {
        char path[PATH_MAX + 16];
        snprintf(path, sizeof path, "%s/join.ini", up->state_dir);
        err = broker_write_node_file(up->broker, path, up->join_host);
    }
    if (err == ERR_OK)
        err = join_read(&up->setup, broker_service_file(up->broker), "setup");
    if (err == ERR_OK)
        err = broker_start(up->broker);
    return err;
}

enum err up_child_add(struct up *up, struct up_group *group, const char *name, struct args *args,
                      const struct proc_spec *place, const struct child_events *events)
{
    char log[PATH_MAX + 80];
    struct child *child = NULL;
    snprintf(log, sizeof log, "%s/logs/%s.log", up->state_dir, name);
    struct proc_spec spec = *place;
    spec.argv = (const char *const *)args->items;
    spec.log_path = log;
    spec.death_signal = SIGKILL;
    enum err err = args->err;
    if (err == ERR_OK)
        err = child_new(&child, up->loop, name, &spec, events);
    args_done(args);
    if (err != ERR_OK)
        return err;
    group->children[group->count++] = child;
    return child_start(child);
}

static void args_common(struct args *args, const struct up *up, const char *role, const char *join,
                        const char *node)
{
    args_init(args, up->program, role);
    args_text(args, "--join", join);
    args_text(args, "--node", node);
    args_text(args, "--state-dir", up->state_dir);
    args_number(args, "--drain-timeout", up->settings->drain_timeout_s);
    args_level(args, up->settings->log_level);
}

static enum err start_gateway(struct up *up, unsigned i, const char *host,
                              const struct child_events *events)
{
    const struct settings *s = up->settings;
    char name[32];
    struct args args;
    struct proc_spec spec = {0};
    snprintf(name, sizeof name, "gateway-%u", i);
    args_common(&args, up, "gateway", broker_service_file(up->broker), host);
    args_text(&args, "--name", name);
    args_text(&args, "--host", s->host);
    args_number(&args, "--port", up->port + (int)i);
    args_number(&args, "--expect-workers", up->workers);
    args_text(&args, "--broker-pid-file", broker_pid_file(up->broker));
    args_number(&args, "--max-queue", s->max_queue);
    args_number(&args, "--max-wait", s->max_wait_s);
    args_number(&args, "--max-reply", s->max_reply_s);
    args_number(&args, "--keep", s->keep_hours);
    args_number(&args, "--body-limit", s->body_limit_kib);
    args_number(&args, "--file-limit", s->file_limit_mib);
    args_number(&args, "--max-connections", s->max_connections);
    args_text(&args, "--keys", s->keys);
    args_text(&args, "--cors", s->cors);
    args_text(&args, "--params", s->params);
    args_text(&args, "--truncate", s->truncate);
    return up_child_add(up, &up->gateways, name, &args, &spec, events);
}

static enum err start_responder(struct up *up, unsigned i, const char *host,
                                const struct child_events *events)
{
    const struct settings *s = up->settings;
    char name[32];
    struct args args;
    struct proc_spec spec = {0};
    snprintf(name, sizeof name, "respond-%u", i);
    args_common(&args, up, "respond", broker_service_file(up->broker), host);
    args_text(&args, "--name", name);
    args_number(&args, "--max-wait", s->max_wait_s);
    args_number(&args, "--max-reply", s->max_reply_s);
    args_number(&args, "--keep", s->keep_hours);
    return up_child_add(up, &up->responders, name, &args, &spec, events);
}

/* The devices of workers first … first + count − 1, with commas; "" without GPUs. */
static enum err devices_text(const struct up *up, unsigned first, unsigned count, struct buf *out)
{
    char device[DEVICE_MAX];
    enum err err = ERR_OK;
    for (unsigned i = 0; i < count && up->devices.count > 0 && err == ERR_OK; i++) {
        device_list_take(&up->devices, first + i, device);
        err = buf_printf(out, "%s%s", i ? "," : "", device);
    }
    return err;
}

static enum err start_node(struct up *up, unsigned i, unsigned first, unsigned workers,
                           const struct child_events *events)
{
    const struct settings *s = up->settings;
    char name[32], host[NET_HOST_MAX], netns[NETNS_TEXT_MAX];
    int port;
    struct args args;
    struct buf devices;
    struct proc_spec spec = {.report = true};
    snprintf(name, sizeof name, "node%u", i + 1);
    up_net_metrics(up, i, host, &port);
    if (up->namespaces) {
        netns_path(&up->net, i, netns);
        spec.netns_path = netns;
        spec.hostname = name;
    }
    buf_init(&devices, (size_t)DEVICE_MAX * DEVICES_MAX);
    enum err err = devices_text(up, first, workers, &devices);
    args_common(&args, up, "node", up->node_file, name);
    args_text(&args, "--model", up->model);
    args_number(&args, "--workers", workers);
    args_text(&args, "--device", devices.len > 0 ? buf_text(&devices) : NULL);
    args_number(&args, "--threads", up->threads);
    args_number(&args, "--max-reply", s->max_reply_s);
    args_number(&args, "--slots", s->slots);
    args_number(&args, "--context", s->context);
    args_text(&args, "--chat-template", s->chat_template);
    args_text(&args, "--address", host);
    args_text(&args, "--metrics-host", host);
    args_number(&args, "--metrics-port", port);
    args_text(&args, "--job-mapping", s->job_mapping);
    buf_done(&devices);
    if (args.err == ERR_OK)
        args.err = err;
    return up_child_add(up, &up->nodes_group, name, &args, &spec, events);
}

enum err up_start_roles(struct up *up, const struct child_events *events)
{
    char host[48];
    enum err err = ERR_OK;
    unsigned first = 0;
    host_name(host, sizeof host);
    /* Nodes first: loading the model takes longest. */
    for (unsigned i = 0; i < up->nodes && err == ERR_OK; i++) {
        unsigned workers = up->workers / up->nodes + (i < up->workers % up->nodes);
        err = start_node(up, i, first, workers, events);
        first += workers;
    }
    for (int i = 0; i < up->settings->gateways && err == ERR_OK; i++)
        err = start_gateway(up, (unsigned)i, host, events);
    for (int i = 0; i < up->settings->responders && err == ERR_OK; i++)
        err = start_responder(up, (unsigned)i, host, events);
    return err;
}
