/*
 * The response worker: takes endings greedily from the response queue, creates the record that
 * decides how each prompt ended, tells who put the ending, and counts usage.  It also ends prompts
 * that waited too long.
 *
 * Several run side by side; whoever creates the record first wins, and the others find it there.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "bus/bus.h"
#include "bus/endings.h"
#include "bus/prompts.h"
#include "bus/replies.h"
#include "bus/teller.h"
#include "bus/tokens.h"
#include "config/options.h"
#include "roles/forget.h"
#include "roles/roles.h"
#include "roles/stale.h"
#include "wire/presence.h"
#include "wire/trace.h"

#define TICK_MS        1000
#define FETCH_AT_ONCE  32
#define SWEEP_AT_ONCE  256 /* prompts looked at in one sweep */
#define LEAVE_BLIND_MS 5000

struct respond {
    const struct settings *settings;
    struct loop *loop;
    struct bus *bus;
    struct endings *endings;
    struct join join;
    struct presence presence;
    struct loop_timer *tick;
    struct teller *teller;
    struct forget *forget;
    struct stale *stale;
    unsigned working; /* records being made */
    bool fetching, pausing, leaving, sweeping;
    uint64_t sweep_from;
    unsigned swept;
    int64_t away_since_ns;
};

/* One ending on its way to becoming a record. */
struct work {
    struct respond *respond;
    char ack[PROMPTS_ACK_MAX];
    char answer_to[192];
    char id[ID_SIZE], gateway[TAG_SIZE];
    char trace_id[ID_SIZE];
    uint64_t prompt_tokens, reply_tokens;
    enum reply_status status;
};

static void kick(struct respond *respond);

static void work_end(struct work *work)
{
    struct respond *respond = work->respond;
    free(work);
    respond->working--;
    kick(respond);
}

static void on_purged(void *arg, enum err err, uint64_t sequence)
{
    struct work *work = arg;
    (void)sequence;
    if (err != ERR_OK) {
        log_debug("reply.unpurged prompt=%s why=\"%s\"", work->id, err_text());
        stale_expect(work->respond->stale);
    }
    work_end(work);
}

static void on_created(void *arg, enum err err, uint64_t sequence)
{
    struct work *work = arg;
    struct respond *respond = work->respond;
    (void)sequence;
    if (err != ERR_OK && err != ERR_EXISTS) {
        /* Not acknowledged: the ending comes again, here or to a colleague. */
        log_warn("reply.unrecorded prompt=%s why=\"%s\"", work->id, err_text());
        work_end(work);
        return;
    }
    if (err == ERR_OK) { /* usage counts once: where the record was created */
        respond->presence.replies_total++;
        respond->presence.prompt_tokens_total += work->prompt_tokens;
        respond->presence.reply_tokens_total += work->reply_tokens;
        respond->presence.failed_total += work->status == REPLY_FAILED;
        log_info("reply.recorded prompt=%s status=%s trace_id=%s", work->id,
                 reply_status_name(work->status), work->trace_id);
    }
    forget_heard_of(respond->forget, work->gateway);
    endings_answer(respond->bus, work->answer_to);
    responses_ack(respond->bus, work->ack);
    /* The record answers every resume from now on. */
    if (tokens_purge_pieces(respond->bus, work->gateway, work->id, on_purged, work) != ERR_OK) {
        stale_expect(respond->stale);
        work_end(work);
    }
}

static void on_ending(void *arg, const char *ack, const struct reply *ending)
{
    struct respond *respond = arg;
    struct work *work = calloc(1, sizeof *work);
    if (work == NULL)
        return;
    work->respond = respond;
    snprintf(work->ack, sizeof work->ack, "%s", ack);
    snprintf(work->answer_to, sizeof work->answer_to, "%s", ending->answer_to);
    snprintf(work->id, sizeof work->id, "%s", ending->id);
    snprintf(work->gateway, sizeof work->gateway, "%s", ending->gateway);
    work->prompt_tokens = ending->prompt_tokens;
    work->reply_tokens = ending->reply_tokens;
    work->status = ending->status;
    snprintf(work->trace_id, sizeof work->trace_id, "%s", ending->trace_id);
    char response_id[48];
    snprintf(response_id, sizeof response_id, "chatcmpl-%s", ending->id);
    struct reply record = *ending;
    record.response_id = response_id;
    record.responder = respond->presence.name;
    record.answer_to = "";
    respond->working++;
    if (replies_create(respond->bus, &record, on_created, work) != ERR_OK) {
        log_warn("reply.unrecorded prompt=%s why=\"%s\"", work->id, err_text());
        work_end(work);
    }
}

static void on_fetch_end(void *arg, enum err err)
{
    struct respond *respond = arg;
    respond->fetching = false;
    respond->pausing = err != ERR_OK && err != ERR_CANCELLED;
    kick(respond);
}

static void kick(struct respond *respond)
{
    if (respond->leaving) {
        bool blind = respond->away_since_ns != 0 &&
                     clock_mono_ns() - respond->away_since_ns > LEAVE_BLIND_MS * NS_PER_MS;
        bool idle =
            !respond->fetching && respond->working == 0 && endings_count(respond->endings) == 0;
        if (idle || blind)
            loop_stop(respond->loop);
        return;
    }
    if (respond->fetching || respond->pausing || !bus_connected(respond->bus))
        return;
    if (responses_fetch(respond->bus, FETCH_AT_ONCE, on_ending, on_fetch_end, respond) == ERR_OK)
        respond->fetching = true;
    else
        respond->pausing = true;
}

/* ---- expiry ---- */

static void sweep_next(struct respond *respond);

static void on_expired(void *arg, enum err err, uint64_t sequence)
{
    char *id = arg;
    (void)sequence;
    /* ERR_EXISTS: a worker has taken it, or it was cancelled. */
    if (err == ERR_OK)
        log_info("prompt.expired prompt=%s", id);
    else if (err != ERR_EXISTS)
        log_warn("prompt.unexpired prompt=%s why=\"%s\"", id, err_text());
    free(id);
}

static void expire(struct respond *respond, const struct prompt *prompt, double accepted_at)
{
    char trace_id[ID_SIZE];
    struct cancel_spec spec = cancel_spec_of(prompt, "expired", accepted_at, trace_id);
    spec.fenced = true; /* only what no worker holds */
    char *id = strdup(prompt->id);
    if (id == NULL || endings_cancel(respond->endings, &spec, on_expired, id) != ERR_OK)
        free(id); /* the next sweep tries again */
}

static void on_next(void *arg, enum err err, uint64_t sequence, double accepted_at,
                    const struct prompt *prompt)
{
    struct respond *respond = arg;
    respond->sweeping = false;
    /* Oldest first: the first young one ends the sweep.  One that can't be read is left to the
     * worker who gets it. */
    bool unreadable = err != ERR_OK && sequence != 0;
    if (!unreadable &&
        (err != ERR_OK || clock_wall() - accepted_at < respond->settings->max_wait_s))
        return;
    if (!unreadable)
        expire(respond, prompt, accepted_at);
    respond->sweep_from = sequence + 1;
    if (++respond->swept < SWEEP_AT_ONCE)
        sweep_next(respond);
}

static void sweep_next(struct respond *respond)
{
    if (respond->sweeping || respond->leaving || !bus_connected(respond->bus))
        return;
    if (prompts_next(respond->bus, respond->sweep_from, on_next, respond) == ERR_OK)
        respond->sweeping = true;
}

/* ---- ticks, signals ---- */

static void on_tick(void *arg)
{
    struct respond *respond = arg;
    respond->pausing = false;
    respond->sweep_from = 0;
    respond->swept = 0;
    sweep_next(respond);
    if (!respond->leaving) {
        forget_tick(respond->forget);
        stale_tick(respond->stale);
    }
    kick(respond);
}

static void on_signal(void *arg, int signum)
{
    struct respond *respond = arg;
    if (respond->leaving)
        return;
    log_info("worker.leaving signal=%d", signum);
    respond->leaving = true;
    bus_pulls_end(respond->bus);
    kick(respond);
}

static void on_bus_state(void *arg, bool connected)
{
    struct respond *respond = arg;
    log_info("broker.%s", connected ? "connected" : "away");
    respond->away_since_ns = connected ? 0 : clock_mono_ns();
    if (connected) {
        teller_tell(respond->teller);
        forget_reconnected(respond->forget);
        stale_expect(respond->stale);
        kick(respond);
    }
}

static enum err start(struct respond *respond)
{
    const struct settings *settings = respond->settings;
    struct presence *presence = &respond->presence;
    snprintf(presence->role, sizeof presence->role, "respond");
    snprintf(presence->node, sizeof presence->node, "%s",
             settings->node != NULL ? settings->node : "hub");
    snprintf(presence->name, sizeof presence->name, "%s",
             settings->name != NULL ? settings->name : "respond-0");
    presence->pid = getpid();
    id_random(presence->boot, TAG_LEN);
    log_init(presence->name, settings->log_level);
    enum err err = loop_new(&respond->loop);
    if (err == ERR_OK)
        err = loop_signal(respond->loop, SIGTERM, on_signal, respond);
    if (err == ERR_OK)
        err = loop_signal(respond->loop, SIGINT, on_signal, respond);
    if (err == ERR_OK)
        err = loop_timer_new(&respond->tick, respond->loop, on_tick, respond);
    char client[PRESENCE_NAME_MAX + 16];
    snprintf(client, sizeof client, "respond.%s", presence->name);
    const struct bus_config config = {
        .join = &respond->join,
        .client_name = client,
        .role = "respond",
        .wait = true,
        .on_state = on_bus_state,
        .arg = respond,
    };
    if (err == ERR_OK)
        err = bus_open(&respond->bus, respond->loop, &config);
    if (err == ERR_OK)
        err = teller_new(&respond->teller, respond->bus, respond->loop, presence, NULL, NULL);
    if (err == ERR_OK)
        err = endings_new(&respond->endings, respond->bus, respond->loop);
    if (err == ERR_OK)
        err = forget_new(&respond->forget, respond->bus);
    if (err == ERR_OK)
        err = stale_new(&respond->stale, respond->bus);
    return err;
}

int role_respond(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct respond respond = {.settings = settings};
    int status = EX_OK;
    signal(SIGPIPE, SIG_IGN);
    enum err err = join_read(&respond.join, settings->join, "respond");
    if (err == ERR_OK)
        err = start(&respond);
    if (err == ERR_OK) {
        loop_timer_start(respond.tick, 0, TICK_MS);
        loop_run(respond.loop);
        log_info("worker.left replies=%" PRIu64, respond.presence.replies_total);
    } else {
        log_error("worker.not_started why=\"%s\"", err_text());
        status = err_exit_status(err);
    }
    endings_free(respond.endings);
    teller_free(respond.teller);
    bus_close(respond.bus);
    forget_free(respond.forget);
    stale_free(respond.stale);
    loop_timer_free(respond.tick);
    loop_free(respond.loop);
    join_done(&respond.join);
    return status;
}
