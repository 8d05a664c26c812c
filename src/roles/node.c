/*
 * node.c - one node's share: an inference worker per device and one telemetry worker, supervised.
 *
 * A worker tells on its report pipe which prompts it takes in hand ("+ACK-SUBJECT") and which have
 * left it ("-ACK-SUBJECT").  When it dies, what it still held is handed back to the queue at once,
 * so that another worker goes on without waiting for the broker's patience to end.
 *
 * Leaving (SIGTERM, SIGINT): the workers finish what they hold, then telemetry ends, then we say
 * goodbye.  A second signal, or the drain's time being up, kills what is left.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/child.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/net.h"
#include "bus/bus.h"
#include "bus/prompts.h"
#include "bus/teller.h"
#include "config/settings.h"
#include "probe/host.h"
#include "roles/args.h"
#include "roles/devices.h"
#include "roles/held.h"
#include "roles/roles.h"
#include "wire/presence.h"

#define WORKERS_MAX PRESENCE_RESTARTS_MAX
#define GRACE_MS    1000 /* least time between asking to end and killing */

struct worker {
    struct node *node;
    struct child *child;
    struct held held;
    char boot[sizeof((struct presence *)NULL)->boot]; /* of the process that runs now; "": none */
};

struct node {
    const struct settings *settings;
    struct loop *loop;
    struct bus *bus;
    struct join join;
    struct presence presence;
    struct teller *teller;
    struct loop_timer *deadline;
    struct worker workers[WORKERS_MAX];
    unsigned worker_count;
    uint32_t restarts[WORKERS_MAX]; /* of each worker; told in our presence */
    struct child *telemetry;
    struct held orphans; /* of dead workers, kept while the broker is away */
    int64_t orphans_until_ns;
    char state_dir[PATH_MAX], program[PATH_MAX], model[PATH_MAX];
    bool all_ready, leaving;
    int status;
};

/* --- what dead workers held ------------------------------------------------------------------ */

static void orphans_hand_back(struct node *node)
{
    /* Later the broker has given them to others by itself; then it is not ours to hand back. */
    if (clock_mono_ns() < node->orphans_until_ns)
        for (size_t i = 0; i < node->orphans.count; i++)
            prompts_hand_back(node->bus, node->orphans.subjects[i], 0);
    held_clear(&node->orphans);
}

/* Says goodbye in a dead worker's name: nobody has to wait for its silence, and whoever takes over
 * what it held knows that it died.  Before the prompts are handed back, so that it is heard first.
 */
static void goodbye_for(struct worker *worker, const char *name)
{
    struct node *node = worker->node;
    struct presence dead = {.leaving = true};
    snprintf(dead.role, sizeof dead.role, "infer");
    snprintf(dead.node, sizeof dead.node, "%s", node->presence.node);
    snprintf(dead.name, sizeof dead.name, "%s", name);
    snprintf(dead.boot, sizeof dead.boot, "%s", worker->boot);
    teller_tell_once(node->bus, &dead);
}

static void worker_died(void *arg, struct child *child, int status)
{
    struct worker *worker = arg;
    struct node *node = worker->node;
    if (worker->boot[0] != '\0')
        goodbye_for(worker, child_name(child));
    worker->boot[0] = '\0';
    if (!node->leaving) {
        node->restarts[worker - node->workers]++;
        teller_tell_soon(node->teller);
    }
    if (worker->held.count > 0)
        log_warn("node.hands_back worker=%s status=\"%s\" prompts=%zu", child_name(child),
                 proc_status_text(status), worker->held.count);
    node->orphans_until_ns = clock_mono_ns() + PROMPTS_ACK_WAIT_MS * NS_PER_MS;
    for (size_t i = 0; i < worker->held.count; i++)
        if (held_add(&node->orphans, worker->held.subjects[i]) != ERR_OK)
            log_warn("node.not_handed_back reason=\"%s\"", err_text());
    held_clear(&worker->held);
    if (bus_connected(node->bus))
        orphans_hand_back(node);
}

static void bus_changed(void *arg, bool connected)
{
    struct node *node = arg;
    if (!connected || !node->bus)
        return;
    orphans_hand_back(node);
    if (node->teller)
        teller_tell(node->teller);
}

static void worker_line(void *arg, struct child *child, const char *line)
{
    struct worker *worker = arg;
    if (line[0] == '+') {
        if (held_add(&worker->held, line + 1) != ERR_OK)
            log_warn("node.not_noted worker=%s reason=\"%s\"", child_name(child), err_text());
    } else if (line[0] == '-') {
        held_remove(&worker->held, line + 1);
    } else if (strncmp(line, "boot ", 5) == 0) {
        snprintf(worker->boot, sizeof worker->boot, "%s", line + 5);
    }
}

/* --- leaving --------------------------------------------------------------------------------- */

static void leave_step(struct node *node)
{
    bool workers_left = false;
    for (unsigned i = 0; i < node->worker_count; i++)
        workers_left = workers_left || !child_ended(node->workers[i].child);
    if (workers_left)
        return;
    if (node->telemetry && !child_ended(node->telemetry)) {
        child_stop(node->telemetry, SIGTERM);
        return;
    }
    loop_stop(node->loop);
}

static void kill_all(void *arg)
{
    struct node *node = arg;
    for (unsigned i = 0; i < node->worker_count; i++)
        child_stop(node->workers[i].child, SIGKILL);
    child_stop(node->telemetry, SIGKILL);
    leave_step(node);
}

static void leave(struct node *node)
{
    if (node->leaving) {
        kill_all(node);
        return;
    }
    node->leaving = true;
    log_info("node.leaving name=\"%s\"", node->presence.name);
    for (unsigned i = 0; i < node->worker_count; i++)
        child_stop(node->workers[i].child, SIGTERM);
    uint64_t drain_ms = (uint64_t)node->settings->drain_timeout_s * MS_PER_S;
    loop_timer_start(node->deadline, drain_ms > GRACE_MS ? drain_ms : GRACE_MS, 0);
    leave_step(node);
}

static void signalled(void *arg, int signum)
{
    (void)signum;
    leave(arg);
}

/* --- children's news ------------------------------------------------------------------------- */

static void check_ready(struct node *node)
{
    for (unsigned i = 0; i < node->worker_count; i++)
        if (!child_ready(node->workers[i].child))
            return;
    if (node->all_ready)
        return;
    node->all_ready = true;
    log_info("node.ready name=\"%s\" workers=%u", node->presence.name, node->worker_count);
    teller_tell(node->teller);
    proc_report("ready");
    if (!proc_reports() && !node->settings->quiet)
        fprintf(stderr, "%s: %u worker%s ready\n", node->presence.name, node->worker_count,
                node->worker_count == 1 ? "" : "s");
}

static void worker_ready(void *arg, struct child *child)
{
    struct worker *worker = arg;
    log_info("node.worker_ready name=%s pid=%d", child_name(child), (int)child_pid(child));
    check_ready(worker->node);
}

/* Only at the start can a child be given up: then the node ends, and says why. */
static void child_gone(struct node *node, struct child *child)
{
    if (child_given_up(child) && node->status == EX_OK) {
        node->status = child_exit_status(child);
        if (node->status == EX_OK)
            node->status = EX_SOFTWARE;
        proc_report("fatal %s", child_reason(child));
        fprintf(stderr, "wyvern: %s\n", child_reason(child));
        if (!node->leaving)
            leave(node);
        loop_timer_start(node->deadline, GRACE_MS, 0); /* nothing was served yet */
    }
    if (node->leaving)
        leave_step(node);
}

static void worker_gone(void *arg, struct child *child)
{
    struct worker *worker = arg;
    child_gone(worker->node, child);
}

static void telemetry_gone(void *arg, struct child *child)
{
    child_gone(arg, child);
}

/* --- starting -------------------------------------------------------------------------------- */

static enum err child_make(struct node *node, struct child **out, const char *name,
                           struct args *args, const char *const *env, bool report,
                           const struct child_events *events)
{
    char log[PATH_MAX + 80];
    snprintf(log, sizeof log, "%s/logs/%s.log", node->state_dir, name);
    struct proc_spec spec = {.argv = (const char *const *)args->items,
                             .env = env,
                             .log_path = log,
                             .report = report,
                             .death_signal = SIGKILL};
    enum err err = args->err;
    if (err == ERR_OK)
        err = child_new(out, node->loop, name, &spec, events);
    if (err == ERR_OK)
        err = child_start(*out);
    args_done(args);
    return err;
}

static void args_common(struct args *args, const struct node *node, const char *name)
{
    const struct settings *s = node->settings;
    args_text(args, "--join", s->join);
    args_text(args, "--name", name);
    args_text(args, "--node", node->presence.name);
    args_text(args, "--state-dir", node->state_dir);
    args_level(args, s->log_level);
}

static enum err worker_start(struct node *node, unsigned i, const struct device_list *devices)
{
    const struct settings *s = node->settings;
    char name[PRESENCE_NAME_MAX + 16], device[DEVICE_MAX], visible[DEVICE_MAX + 32];
    const char *env[] = {visible, NULL};
    struct worker *worker = &node->workers[i];
    struct args args;
    unsigned share = host_cpus() / node->worker_count;
    worker->node = node;
    snprintf(name, sizeof name, "infer-%s-%u", node->presence.name, i);
    device_list_take(devices, i, device);
    bool gpu = strncmp(device, "gpu:GPU-", 8) == 0 || strncmp(device, "gpu:MIG-", 8) == 0;
    if (gpu)
        snprintf(visible, sizeof visible, "CUDA_VISIBLE_DEVICES=%s", device + 4);
    args_init(&args, node->program, "infer");
    args_common(&args, node, name);
    args_text(&args, "--model", node->model);
    args_text(&args, "--device", device);
    args_number(&args, "--threads", s->threads > 0 ? s->threads : (long long)(share ? share : 1));
    args_number(&args, "--slots", s->slots);
    args_number(&args, "--context", s->context);
    args_number(&args, "--max-reply", s->max_reply_s);
    args_text(&args, "--chat-template", s->chat_template);
    args_number(&args, "--drain-timeout", s->drain_timeout_s);
    struct child_events events = {.on_line = worker_line,
                                  .on_ready = worker_ready,
                                  .on_exit = worker_died,
                                  .on_end = worker_gone,
                                  .arg = worker};
    return child_make(node, &worker->child, name, &args, gpu ? env : NULL, true, &events);
}

static enum err telemetry_start(struct node *node)
{
    const struct settings *s = node->settings;
    char name[PRESENCE_NAME_MAX + 16];
    const char *host = s->metrics_host ? s->metrics_host : node->presence.address;
    struct args args;
    if (s->metrics_port > 0) {
        enum err err = net_port_probe(host, s->metrics_port, NULL);
        if (err != ERR_OK)
            return err_set(err, "%s; choose another port for metrics with --metrics-port",
                           err_text());
    }
    snprintf(name, sizeof name, "telemetry-%s", node->presence.name);
    args_init(&args, node->program, "telemetry");
    args_common(&args, node, name);
    args_text(&args, "--metrics-host", host);
    args_number(&args, "--metrics-port", s->metrics_port);
    args_text(&args, "--address", node->presence.address);
    args_text(&args, "--job-mapping", s->job_mapping);
    struct child_events events = {.on_end = telemetry_gone, .arg = node};
    return child_make(node, &node->telemetry, name, &args, NULL, false, &events);
}

/* A name becomes a part of ids, file names and subjects. */
static void name_clean(char *name)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyz"
                               "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    for (; *name; name++)
        if (!strchr(fine, *name))
            *name = '-';
}

static void presence_prepare(struct node *node)
{
    const struct settings *s = node->settings;
    struct presence *p = &node->presence;
    char host[NET_HOST_MAX], own[48];
    snprintf(p->role, sizeof p->role, "node");
    host_name(own, sizeof own);
    snprintf(p->name, sizeof p->name, "%.40s", s->node ? s->node : s->name ? s->name : own);
    name_clean(p->name);
    snprintf(p->node, sizeof p->node, "%s", p->name);
    id_random(p->boot, TAG_LEN);
    p->pid = (int)getpid();
    if (s->address) {
        snprintf(p->address, sizeof p->address, "%s", s->address);
        return;
    }
    /* nats://host:port, host perhaps in brackets */
    const char *start = strstr(node->join.url, "://");
    start = start ? start + 3 : node->join.url;
    start += *start == '[';
    snprintf(host, sizeof host, "%.*s", (int)strcspn(start, strchr(start, ']') ? "]" : ":/"),
             start);
    net_address_toward(p->address, host);
}

static enum err model_prepare(struct node *node)
{
    const struct join *join = &node->join;
    const char *wanted = node->settings->model;
    char found[PATH_MAX];
    /* Replies must not depend on who gives them: it is the service's own file, or none.  `up` has
     * looked at the file already when it starts us. */
    enum err err = model_find(found, wanted ? wanted : join->model_file,
                              proc_reports() ? NULL : join->model_sha256);
    if (err == ERR_OK)
        memcpy(node->model, found, sizeof found);
    return err;
}

static enum err node_prepare(struct node *node)
{
    char logs[PATH_MAX + 8];
    const struct settings *s = node->settings;
    enum err err = join_read(&node->join, s->join, "node");
    if (err != ERR_OK)
        return err;
    presence_prepare(node);
    log_init(node->presence.name, s->log_level);
    err = model_prepare(node);
    if (err == ERR_OK)
        err = state_dir_prepare(node->state_dir, s->state_dir);
    if (err == ERR_OK)
        err = program_path(node->program);
    if (err != ERR_OK)
        return err;
    snprintf(logs, sizeof logs, "%s/logs", node->state_dir);
    (void)mkdir(logs, 0700); /* if it can't be, opening the first log says so */
    return ERR_OK;
}

static enum err node_open(struct node *node)
{
    struct bus_config config = {.join = &node->join,
                                .client_name = node->presence.name,
                                .role = "node",
                                .wait = proc_reports(), /* by hand: an error tells more */
                                .on_state = bus_changed,
                                .arg = node};
    enum err err = loop_new(&node->loop);
    if (err == ERR_OK)
        err = loop_signal(node->loop, SIGTERM, signalled, node);
    if (err == ERR_OK)
        err = loop_signal(node->loop, SIGINT, signalled, node);
    if (err == ERR_OK)
        err = loop_timer_new(&node->deadline, node->loop, kill_all, node);
    if (err == ERR_OK)
        err = bus_open(&node->bus, node->loop, &config);
    if (err == ERR_OK)
        err = teller_new(&node->teller, node->bus, node->loop, &node->presence, NULL, NULL);
    return err;
}

static enum err children_start(struct node *node)
{
    struct device_list *devices = calloc(1, sizeof *devices);
    if (!devices)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = device_list_fill(devices, node->settings->device);
    unsigned count = (unsigned)node->settings->workers;
    if (count == 0)
        count = devices->count > 0 ? (unsigned)devices->count : 1;
    count = count < WORKERS_MAX ? count : WORKERS_MAX;
    if (err == ERR_OK)
        err = telemetry_start(node);
    node->worker_count = err == ERR_OK ? count : 0;
    node->presence.restarts = node->restarts;
    node->presence.restart_count = node->worker_count;
    for (unsigned i = 0; i < count && err == ERR_OK; i++)
        err = worker_start(node, i, devices);
    free(devices);
    return err;
}

static void node_free(struct node *node)
{
    for (unsigned i = 0; i < node->worker_count; i++) {
        child_free(node->workers[i].child);
        held_done(&node->workers[i].held);
    }
    child_free(node->telemetry);
    teller_free(node->teller);
    bus_close(node->bus);
    loop_timer_free(node->deadline);
    if (node->loop)
        loop_free(node->loop);
    held_done(&node->orphans);
    join_done(&node->join);
    free(node);
}

int role_node(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct node *node = calloc(1, sizeof *node);
    if (!node)
        return EX_OSERR;
    node->settings = settings;
    enum err err = node_prepare(node);
    if (err == ERR_OK)
        err = node_open(node);
    if (err == ERR_OK)
        err = children_start(node);
    if (err == ERR_OK) {
        loop_run(node->loop);
        log_info("node.left name=\"%s\"", node->presence.name);
    } else {
        proc_report("fatal %s", err_text());
        fprintf(stderr, "wyvern: %s\n", err_text());
        node->status = err_exit_status(err);
    }
    int status = node->status;
    node_free(node);
    return status;
}
