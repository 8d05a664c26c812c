/*
 * The inference worker: one model on one device, pulling greedily from the prompt queue.
 *
 * It asks the broker for as many prompts as it has free slots, never more, and asks again the
 * moment a slot is free.  Asked to leave, it asks for nothing and finishes what it holds.
 */
#include "roles/infer/infer.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/proc.h"
#include "roles/roles.h"
#include "wire/subject.h"

#define TICK_MS       500
#define PEER_FORGET_S 3600
#define ECHO_MS       (2 * PRESENCE_INTERVAL_MS)

/* ---- who is there ---- */

static struct peer *peer_find(struct infer *infer, const char *boot)
{
    struct peer *peer;
    HASH_FIND_STR(infer->peers, boot, peer);
    return peer;
}

static struct peer *peer_add(struct infer *infer, const char *boot)
{
    struct peer *peer = peer_find(infer, boot);
    if (peer != NULL)
        return peer;
    peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        return NULL;
    snprintf(peer->boot, sizeof peer->boot, "%s", boot);
    peer->heard_ns = clock_mono_ns();
    HASH_ADD_STR(infer->peers, boot, peer);
    return peer;
}

/* Looked at each tick, and its last sign may be a second old: so work of a gateway that died is
 * dropped within PRESENCE_GONE_MS of its death. */
#define SILENT_MAX_MS (PRESENCE_GONE_MS - 2 * TICK_MS)

static bool is_gone(const struct peer *peer)
{
    return peer->silent_ms > SILENT_MAX_MS;
}

bool infer_owner_gone(struct infer *infer, const char *gateway)
{
    const struct peer *peer = peer_add(infer, gateway);
    return peer != NULL && is_gone(peer);
}

bool infer_is_alive(struct infer *infer, const char *boot)
{
    const struct peer *peer = peer_find(infer, boot);
    return peer != NULL && !is_gone(peer);
}

static void on_presence(void *arg, const struct bus_message *message)
{
    struct infer *infer = arg;
    struct presence presence;
    if (presence_decode(&presence, message->data, message->len) != ERR_OK)
        return;
    struct peer *peer = peer_add(infer, presence.boot);
    if (peer == NULL)
        return;
    peer->heard_ns = clock_mono_ns();
    peer->silent_ms = presence.leaving ? PRESENCE_GONE_MS + 1 : 0;
}

/* Silence counts only while we could have heard: while our own presence comes back to us.  A worker
 * that slept, or whose broker did, has not been left by anybody. */
static void peers_tick(struct infer *infer)
{
    int64_t now_ns = clock_mono_ns();
    int64_t elapsed_ms = (now_ns - infer->ticked_ns) / NS_PER_MS;
    const struct peer *self = peer_find(infer, infer->presence.boot);
    struct peer *peer, *next;
    bool deaf = self == NULL || now_ns - self->heard_ns > ECHO_MS * NS_PER_MS;
    if (elapsed_ms > 2 * TICK_MS || deaf)
        elapsed_ms = 0;
    HASH_ITER(hh, infer->peers, peer, next)
    {
        if (!is_gone(peer))
            peer->silent_ms = deaf ? 0 : peer->silent_ms + elapsed_ms;
        if (now_ns - peer->heard_ns > PEER_FORGET_S * NS_PER_S) {
            HASH_DELETE(hh, infer->peers, peer);
            free(peer);
        }
    }
    infer->ticked_ns = now_ns;
}

/* ---- presence, ticks, signals ---- */

static void refresh_presence(void *arg)
{
    struct infer *infer = arg;
    struct presence_work *work = &infer->presence.work;
    unsigned active = jobs_occupying(infer);
    jobs_count_time(infer);
    infer->presence.active = active;
    work->waiting = active > infer->counted ? active - infer->counted : 0;
    if (infer->model == NULL)
        return;
    struct engine_figures figures = model_figures(infer->model);
    work->kv_used = figures.kv_used;
    work->prefill_s = figures.prefill_s;
    work->decode_s = figures.decode_s;
}

static void set_state(struct infer *infer, const char *state)
{
    snprintf(infer->presence.state, sizeof infer->presence.state, "%s", state);
    teller_tell(infer->teller);
}

static void on_tick(void *arg)
{
    struct infer *infer = arg;
    infer->pausing = infer->batch_pausing = false;
    peers_tick(infer);
    jobs_tick(infer);
    jobs_heartbeat(infer);
    infer_kick(infer);
}

static void on_signal(void *arg, int signum)
{
    struct infer *infer = arg;
    if (infer->leaving)
        return;
    log_info("worker.leaving signal=%d holds=%u", signum, jobs_occupying(infer));
    infer->leaving = true;
    bus_pulls_end(infer->bus);
    set_state(infer, "draining");
    if (!infer->ready) {
        loop_stop(infer->loop); /* still loading: nothing is held */
        return;
    }
    infer_kick(infer);
}

static void on_bus_state(void *arg, bool connected)
{
    struct infer *infer = arg;
    log_info("broker.%s", connected ? "connected" : "away");
    infer->away_since_ns = connected ? 0 : clock_mono_ns();
    if (!connected)
        return;
    teller_tell(infer->teller);
    jobs_reconnected(infer);
    jobs_heartbeat(infer);
    infer_kick(infer);
}

static void on_claim(void *arg, const struct bus_message *message)
{
    struct infer *infer = arg;
    struct subject_parts parts;
    struct claim claim;
    if (subject_parse(&parts, message->subject) != SUBJECT_CLAIM ||
        claim_decode(&claim, message->data, message->len) != ERR_OK)
        return;
    if (claim.kind == CLAIM_TOMBSTONE)
        job_tombstone(infer, parts.id, &claim);
}

/* ---- the model ---- */

static void on_loaded(void *arg, const struct engine_info *info)
{
    struct infer *infer = arg;
    infer->slots = info->slots;
    infer->presence.slots = info->slots;
    infer->presence.context = info->context;
    snprintf(infer->presence.arch, sizeof infer->presence.arch, "%s", info->arch);
    infer->ready = !infer->leaving;
    log_info("model.loaded name=\"%s\" arch=%s slots=%u context=%u model_bytes=%llu kv_bytes=%llu "
             "compute_bytes=%llu",
             info->name, info->arch, info->slots, info->context,
             (unsigned long long)info->model_bytes, (unsigned long long)info->kv_bytes,
             (unsigned long long)info->compute_bytes);
    proc_report("ready");
    set_state(infer, infer->leaving ? "draining" : "ready");
    infer_kick(infer);
}

static void on_model_failed(void *arg, enum err err, const char *text)
{
    struct infer *infer = arg;
    log_error("model.failed why=\"%s\"", text);
    if (!infer->ready)
        proc_report("fatal %s", text);
    infer->exit_status = err_exit_status(err);
    loop_stop(infer->loop);
}

static void on_event(void *arg, uint64_t run, const struct engine_event *event)
{
    job_event(arg, run, event);
}

static void on_step_done(void *arg)
{
    struct infer *infer = arg;
    bus_hold(infer->bus); /* one write for all that the step brought */
    jobs_flush(infer);
    bus_release(infer->bus);
    infer_kick(infer);
}

/* ---- starting ---- */

static void describe(struct infer *infer)
{
    struct presence *presence = &infer->presence;
    const struct settings *settings = infer->settings;
    snprintf(presence->role, sizeof presence->role, "infer");
    snprintf(presence->node, sizeof presence->node, "%s",
             settings->node != NULL ? settings->node : "node1");
    snprintf(presence->name, sizeof presence->name, "%s",
             settings->name != NULL ? settings->name : "infer-0");
    snprintf(presence->device, sizeof presence->device, "%s",
             settings->device != NULL ? settings->device : "cpu:0");
    snprintf(presence->model, sizeof presence->model, "%s", infer->join.model);
    snprintf(presence->state, sizeof presence->state, "loading");
    presence->pid = getpid();
    presence->slots = (unsigned)settings->slots;
    id_random(presence->boot, TAG_LEN);
    presence->work = (struct presence_work){.known = true, .kv_used = -1};
}

static enum err open_bus(struct infer *infer)
{
    char client[PRESENCE_NAME_MAX + 16];
    snprintf(client, sizeof client, "infer.%s", infer->presence.name);
    const struct bus_config config = {
        .join = &infer->join,
        .client_name = client,
        .role = "infer",
        .wait = true,
        .on_state = on_bus_state,
        .arg = infer,
    };
    enum err err = bus_open(&infer->bus, infer->loop, &config);
    if (err == ERR_OK)
        err = teller_new(&infer->teller, infer->bus, infer->loop, &infer->presence,
                         refresh_presence, infer);
    if (err == ERR_OK)
        err = endings_new(&infer->endings, infer->bus, infer->loop);
    if (err == ERR_OK)
        err = bus_subscribe(&infer->claims, infer->bus, "live.*.*.c", on_claim, infer);
    if (err == ERR_OK)
        err = bus_subscribe(&infer->gateways, infer->bus, "state.gateway.>", on_presence, infer);
    if (err == ERR_OK)
        err = bus_subscribe(&infer->workers, infer->bus, "state.infer.>", on_presence, infer);
    if (err == ERR_OK && !bus_connected(infer->bus))
        infer->away_since_ns = clock_mono_ns();
    return err;
}

static enum err start_model(struct infer *infer, char path[PATH_MAX])
{
    const struct settings *settings = infer->settings;
    const char *model = settings->model;
    if (model == NULL && infer->join.model_file != NULL)
        model = infer->join.model_file;
    if (model != NULL && strncmp(model, "fake:", 5) == 0) {
        snprintf(path, PATH_MAX, "%s", model);
    } else {
        /* The supervisor checked the sum before it started us. */
        enum err err = model_find(path, model, NULL);
        if (err != ERR_OK)
            return err;
    }
    const struct engine_config config = {
        .model = path,
        .device = infer->presence.device,
        .chat_template = settings->chat_template,
        .slots = (unsigned)settings->slots,
        .context = (unsigned)settings->context,
        .threads = (unsigned)settings->threads,
    };
    const struct model_callbacks callbacks = {on_loaded, on_model_failed, on_event, on_step_done,
                                              infer};
    return model_thread_start(&infer->model, infer->loop, &config, &callbacks);
}

int role_infer(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    static char path[PATH_MAX]; /* borrowed by the model's thread */
    struct infer infer = {.settings = settings};
    signal(SIGPIPE, SIG_IGN);
    enum err err = join_read(&infer.join, settings->join, "infer");
    if (err == ERR_OK) {
        describe(&infer);
        proc_report("boot %s", infer.presence.boot);
        log_init(infer.presence.name, settings->log_level);
        engine_log_init();
        err = loop_new(&infer.loop);
    }
    if (err == ERR_OK)
        err = loop_signal(infer.loop, SIGTERM, on_signal, &infer);
    if (err == ERR_OK)
        err = loop_signal(infer.loop, SIGINT, on_signal, &infer);
    if (err == ERR_OK)
        err = loop_timer_new(&infer.tick, infer.loop, on_tick, &infer);
    if (err == ERR_OK)
        err = loop_timer_new(&infer.quiet, infer.loop, infer_quiet, &infer);
    if (err == ERR_OK)
        err = open_bus(&infer);
    if (err == ERR_OK)
        err = start_model(&infer, path);
    if (err == ERR_OK) {
        loop_timer_start(infer.tick, 0, TICK_MS);
        loop_run(infer.loop);
        log_info("worker.left");
    } else {
        log_error("worker.not_started why=\"%s\"", err_text());
        proc_report("fatal %s", err_text());
        infer.exit_status = err_exit_status(err);
    }
    /* The model's thread first: it borrows the jobs' prompts. */
    model_thread_stop(infer.model);
    infer.model = NULL; /* its figures have been told */
    endings_free(infer.endings);
    teller_free(infer.teller);
    infer.teller = NULL; /* closing the bus still ends fetches */
    bus_close(infer.bus);
    jobs_free(&infer);
    struct peer *peer, *next;
    HASH_ITER(hh, infer.peers, peer, next)
    {
        HASH_DELETE(hh, infer.peers, peer);
        free(peer);
    }
    loop_timer_free(infer.tick);
    loop_timer_free(infer.quiet);
    loop_free(infer.loop);
    join_done(&infer.join);
    return infer.exit_status;
}
