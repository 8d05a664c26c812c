/*
 * up.c - `wyvern up`: the whole service of one machine, from one command, in the foreground.
 *
 * One loop, one thread.  The phases of up.h are gone through in order; what ends a phase is looked
 * at whenever a child ends and at each tick.  A stop asks the groups to leave in the order that
 * loses nothing: gateways (they refuse new prompts and end open replies), then the queue runs
 * empty, then nodes, response workers, and the broker last.  If we are killed ourselves, every
 * child gets SIGKILL by PR_SET_PDEATHSIG and the keeper removes the namespaces; the prompts that
 * were accepted lie in the state directory and are answered after the next start.
 */
#include "roles/up.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "bus/streams.h"
#include "http/client.h"
#include "roles/roles.h"

#define TICK_FAST_MS     10 /* while the broker starts */
#define TICK_MS          50 /* while looking at /ready */
#define TICK_DRAIN_MS    200
#define READY_CALL_MS    500
#define STREAMS_TRIES_MS 10000
#define LEAVE_MS         10000 /* for a group that has nothing left to finish */
#define HURRY_MS         1000

static void phase_enter(struct up *up, enum up_phase phase);

void up_say(const struct up *up, const char *format, ...)
{
    char line[1024];
    va_list args;
    if (up->settings->quiet)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "wyvern: %s\n", line);
}

/* --- groups ---------------------------------------------------------------------------------- */

static void group_stop(struct up_group *group, int signum)
{
    for (unsigned i = 0; i < group->count; i++)
        if (!child_ended(group->children[i]))
            child_stop(group->children[i], signum);
}

static bool group_ended(const struct up_group *group)
{
    for (unsigned i = 0; i < group->count; i++)
        if (!child_ended(group->children[i]))
            return false;
    return true;
}

static bool group_ready(const struct up_group *group)
{
    for (unsigned i = 0; i < group->count; i++)
        if (!child_ready(group->children[i]))
            return false;
    return true;
}

static void group_free(struct up_group *group)
{
    for (unsigned i = 0; i < group->count; i++)
        child_free(group->children[i]);
    group->count = 0;
}

static void broker_stop(struct up *up, int signum)
{
    if (up->broker && !child_ended(broker_child(up->broker)))
        child_stop(broker_child(up->broker), signum);
}

static bool broker_ended(const struct up *up)
{
    return !up->broker || child_ended(broker_child(up->broker));
}

/* --- stopping -------------------------------------------------------------------------------- */

static bool queue_is_empty(struct up *up)
{
    uint64_t messages = 0;
    return streams_queue_depth(&up->setup, &messages) == ERR_OK && messages == 0;
}

static bool phase_is_over(struct up *up)
{
    switch (up->phase) {
    case UP_GATEWAYS_LEAVE:
        return group_ended(&up->gateways);
    case UP_DRAINS:
        return up->hurry || queue_is_empty(up);
    case UP_NODES_LEAVE:
        return group_ended(&up->nodes_group) && group_ended(&up->watchers);
    case UP_RESPONDERS_LEAVE:
        return group_ended(&up->responders);
    case UP_BROKER_LEAVES:
        return broker_ended(up);
    default:
        return false;
    }
}

/* Also called when there is nothing to do: it only looks. */
static void advance(struct up *up)
{
    while (up->phase < UP_ENDED && phase_is_over(up))
        phase_enter(up, up->phase + 1);
}

static void group_of_phase_kill(struct up *up)
{
    group_stop(&up->gateways, SIGKILL);
    if (up->phase >= UP_NODES_LEAVE || up->hurry) {
        group_stop(&up->nodes_group, SIGKILL);
        group_stop(&up->watchers, SIGKILL);
    }
    if (up->phase >= UP_RESPONDERS_LEAVE || up->hurry)
        group_stop(&up->responders, SIGKILL);
    if (up->phase >= UP_BROKER_LEAVES || up->hurry)
        broker_stop(up, SIGKILL);
}

static void deadline_passed(void *arg)
{
    struct up *up = arg;
    bool draining = up->phase <= UP_DRAINS && !up->hurry;
    group_of_phase_kill(up);
    if (draining) {
        up_say(up, "the drain's time is up: what is still queued waits on disk for the next start");
        phase_enter(up, UP_NODES_LEAVE);
    }
    loop_timer_start(up->deadline, HURRY_MS, 0); /* what starts to leave late is killed as well */
    advance(up);
}

static void phase_enter(struct up *up, enum up_phase phase)
{
    up->phase = phase;
    uint64_t leave_ms = up->hurry ? HURRY_MS : LEAVE_MS;
    switch (phase) {
    case UP_GATEWAYS_LEAVE:
        group_stop(&up->gateways, SIGTERM);
        loop_timer_start(up->tick, TICK_DRAIN_MS, TICK_DRAIN_MS);
        break;
    case UP_NODES_LEAVE:
        group_stop(&up->nodes_group, SIGTERM);
        group_stop(&up->watchers, SIGTERM);
        loop_timer_start(up->deadline, leave_ms, 0);
        break;
    case UP_RESPONDERS_LEAVE:
        group_stop(&up->responders, SIGTERM);
        loop_timer_start(up->deadline, leave_ms, 0);
        break;
    case UP_BROKER_LEAVES:
        broker_stop(up, SIGTERM);
        loop_timer_start(up->deadline, leave_ms, 0);
        break;
    case UP_ENDED:
        loop_stop(up->loop);
        break;
    default:
        break;
    }
}

/* Everything at once; for a failed start and for people who press Ctrl-C twice. */
static void stop_in_a_hurry(struct up *up)
{
    if (up->hurry)
        return;
    up->hurry = true;
    group_stop(&up->gateways, SIGTERM);
    group_stop(&up->nodes_group, SIGTERM);
    group_stop(&up->watchers, SIGTERM);
    group_stop(&up->responders, SIGTERM);
    if (up->phase < UP_GATEWAYS_LEAVE)
        phase_enter(up, UP_GATEWAYS_LEAVE);
    loop_timer_start(up->deadline, HURRY_MS, 0);
    advance(up);
}

static void start_failed(struct up *up, int status, const char *sentence)
{
    if (up->phase >= UP_GATEWAYS_LEAVE)
        return;
    fprintf(stderr, "wyvern: %s\n", sentence);
    up->status = status == EX_OK ? EX_SOFTWARE : status;
    stop_in_a_hurry(up);
}

/* One short local call; a gateway that is busy is asked again. */
static bool gateway_ready(const struct up *up, unsigned i)
{
    char url[160];
    struct http_result result;
    up_gateway_url(up, i, url);
    strncat(url, "/ready", sizeof url - strlen(url) - 1);
    struct http_call call = {
        .method = "GET", .url = url, .connect_ms = READY_CALL_MS, .total_ms = READY_CALL_MS};
    http_result_init(&result);
    bool ready = http_call_run(&call, &result) == ERR_OK && result.status == 200;
    http_result_done(&result);
    return ready;
}

/* A gateway says so to everybody, who may have sent prompts before the next look from here. */
static bool may_have_accepted(const struct up *up)
{
    for (unsigned i = 0; i < up->gateways.count; i++)
        if (gateway_ready(up, i))
            return true;
    return false;
}

static void signalled(void *arg, int signum)
{
    struct up *up = arg;
    (void)signum;
    if (up->phase >= UP_GATEWAYS_LEAVE) {
        up_say(up, "stopping at once");
        if (up->hurry)
            group_of_phase_kill(up);
        else
            stop_in_a_hurry(up);
        return;
    }
    if (up->phase < UP_RUNS && !may_have_accepted(up)) {
        up_say(up, "stopping");
        stop_in_a_hurry(up);
        return;
    }
    up_say(up, "stopping: open replies end first (Ctrl-C again: at once)");
    uint64_t drain_ms = (uint64_t)up->settings->drain_timeout_s * MS_PER_S;
    loop_timer_start(up->deadline, drain_ms > HURRY_MS ? drain_ms : HURRY_MS, 0);
    phase_enter(up, UP_GATEWAYS_LEAVE);
    advance(up);
}

/* --- running --------------------------------------------------------------------------------- */

static void say_where(const struct up *up)
{
    char url[128], host[NET_HOST_MAX], in_url[NET_HOST_MAX + 2];
    int port;
    double seconds = (double)(clock_mono_ns() - up->started_ns) / (double)NS_PER_S;
    for (unsigned i = 0; i < up->gateways.count; i++) {
        up_gateway_url(up, i, url);
        up_say(up, "API      %s/v1%s%s%s", url, i ? "" : "   (console: ", i ? "" : url,
               i ? "" : "/)");
    }
    for (unsigned i = 0; i < up->nodes_group.count; i++) {
        up_net_metrics(up, i, host, &port);
        net_url_host(in_url, host);
        if (port > 0)
            up_say(up, "metrics  http://%s:%d/metrics   (node%u)", in_url, port, i + 1);
    }
    up_watch_say_where(up);
    up_say(up, "logs     %s/logs", up->state_dir);
    if (up->join_host[0])
        up_say(up, "join     wyvern node --join %s/join.ini   (secret: copy it to the other node)",
               up->state_dir);
    up_say(up, "ready    after %.1f s; Ctrl-C stops", seconds);
}

static void look_ready(struct up *up)
{
    if (!group_ready(&up->nodes_group))
        return; /* spares the calls */
    for (unsigned i = 0; i < up->gateways.count; i++)
        if (!gateway_ready(up, i))
            return;
    if (!up_watch_ready(up))
        return;
    up->phase = UP_RUNS;
    loop_timer_stop(up->tick);
    say_where(up);
}

static void child_gone(void *arg, struct child *child)
{
    struct up *up = arg;
    if (child_given_up(child))
        start_failed(up, child_exit_status(child), child_reason(child));
    advance(up);
}

/* A node that says why it can't start needs no further tries: it made its own. */
static void node_died(void *arg, struct child *child, int status)
{
    struct up *up = arg;
    (void)status;
    if (up->phase == UP_STARTS && child_fatal(child)[0])
        start_failed(up, child_exit_status(child), child_fatal(child));
}

/* The service goes on without them, once it runs. */
static void watcher_gone(void *arg, struct child *child)
{
    struct up *up = arg;
    if (child_given_up(child) && up->phase == UP_RUNS)
        up_say(up, "%s", child_reason(child));
    else if (child_given_up(child))
        start_failed(up, child_exit_status(child), child_reason(child));
    advance(up);
}

static void start_roles(struct up *up)
{
    struct child_events events = {.on_exit = node_died, .on_end = child_gone, .arg = up};
    up->phase = UP_STARTS;
    loop_timer_start(up->tick, TICK_MS, TICK_MS);
    up_say(up, "loading %s on %u worker%s", up->model_name, up->workers,
           up->workers == 1 ? "" : "s");
    enum err err = up_start_roles(up, &events);
    events = (struct child_events){.on_end = watcher_gone, .arg = up};
    if (err == ERR_OK)
        err = up_watch_start(up, &events);
    if (err != ERR_OK)
        start_failed(up, err_exit_status(err), err_text());
}

static void look_broker(struct up *up)
{
    struct stream_limits limits = {.max_queue = (unsigned)up->settings->max_queue,
                                   .max_reply_s = (unsigned)up->settings->max_reply_s,
                                   .keep_hours = (unsigned)up->settings->keep_hours,
                                   .keep_files_hours = (unsigned)up->settings->keep_files_hours,
                                   .store_bytes = up->store_bytes};
    if (!broker_answers(up->broker))
        return;
    enum err err = streams_setup(&up->setup, &limits);
    bool patient = clock_mono_ns() - up->started_ns < STREAMS_TRIES_MS * NS_PER_MS;
    if (err == ERR_UNAVAILABLE && patient)
        return; /* it has only just come up */
    if (err != ERR_OK)
        start_failed(up, err_exit_status(err), err_text());
    else
        start_roles(up);
}

static void tick(void *arg)
{
    struct up *up = arg;
    if (up->phase == UP_BROKER_STARTS)
        look_broker(up);
    else if (up->phase == UP_STARTS)
        look_ready(up);
    else
        advance(up);
}

/* --- life ------------------------------------------------------------------------------------ */

/* As nohup leaves it. */
static bool hangup_ignored(void)
{
    struct sigaction action;
    return sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static enum err up_open(struct up *up)
{
    struct child_events events = {.on_end = child_gone, .arg = up};
    enum err err = loop_new(&up->loop);
    if (err == ERR_OK)
        err = loop_timer_new(&up->tick, up->loop, tick, up);
    if (err == ERR_OK)
        err = loop_timer_new(&up->deadline, up->loop, deadline_passed, up);
    if (err == ERR_OK)
        err = loop_signal(up->loop, SIGINT, signalled, up);
    if (err == ERR_OK)
        err = loop_signal(up->loop, SIGTERM, signalled, up);
    if (err == ERR_OK && !hangup_ignored())
        err = loop_signal(up->loop, SIGHUP, signalled, up); /* its terminal was closed */
    if (err == ERR_OK)
        err = up_start_broker(up, &events);
    if (err != ERR_OK)
        return err;
    up_say(up, "broker at %s", broker_url(up->broker));
    loop_timer_start(up->tick, TICK_FAST_MS, TICK_FAST_MS);
    return ERR_OK;
}

static void up_free(struct up *up)
{
    group_free(&up->gateways);
    group_free(&up->nodes_group);
    group_free(&up->responders);
    group_free(&up->watchers);
    broker_free(up->broker);
    join_done(&up->setup);
    loop_timer_free(up->tick);
    loop_timer_free(up->deadline);
    if (up->loop)
        loop_free(up->loop);
    netns_keeper_finish(&up->keeper);
    up_unlock(up);
    free(up);
}

int role_up(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct up *up = calloc(1, sizeof *up);
    if (!up)
        return EX_OSERR;
    up->settings = settings;
    up->lock_fd = -1;
    up->started_ns = clock_mono_ns();
    enum err err = state_dir_prepare(up->state_dir, settings->state_dir);
    if (err == ERR_OK)
        err = up_lock(up);
    if (err == ERR_OK)
        err = up_check(up);
    if (err == ERR_OK)
        err = up_net_prepare(up);
    if (err == ERR_OK)
        err = up_open(up);
    if (err == ERR_OK) {
        loop_run(up->loop);
    } else {
        fprintf(stderr, "wyvern: %s\n", err_text());
        up->status = err_exit_status(err);
    }
    int status = up->status;
    up_free(up);
    if (status == EX_OK && !settings->quiet)
        fprintf(stderr, "wyvern: stopped\n");
    return status;
}
