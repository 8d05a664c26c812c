/*
 * Pulling from the prompt queue, as much as there are free slots, and leaving when nothing is held.
 *
 * Two lanes.  A fetch of the main lane is open whenever a slot is free, and waits at the broker for
 * what comes.  The batch lane is asked, for one prompt at a time, only while the main lane is quiet
 * (its fetch has been waiting for QUIET_MS and brought nothing), and never for the last free slot
 * of several.  So batches fill what nobody else wants, and the next person finds a slot.
 *
 * The open fetch of the main lane was made for slots of which a batch has perhaps taken one since:
 * what it brings beyond the free ones goes back, to another worker or to be the first to come when
 * a slot is free.
 */
#include "roles/infer/infer.h"

#include "base/clock.h"
#include "base/log.h"

#define LEAVE_BLIND_MS 5000 /* leaving without a broker: what we hold can't be stored, go */
#define FETCH_AT_ONCE  64
#define QUIET_MS       10
#define BATCH_BACK_MS  100 /* a batch's prompt that came too late for its slot: others first */

static bool has_room(const struct infer *infer)
{
    return !infer->leaving && !jobs_suspect_here(infer) && jobs_occupying(infer) < infer->slots;
}

/* Slots that a batch may have: one of several is kept for people. */
static unsigned batch_slots(const struct infer *infer)
{
    return infer->slots > 1 ? infer->slots - 1 : infer->slots;
}

static void on_fetched(void *arg, const struct prompt_delivery *delivery)
{
    struct infer *infer = arg;
    infer->pulling--;
    infer->main_ns = clock_mono_ns();
    if (has_room(infer))
        job_begin(infer, delivery);
    else
        prompts_hand_back(infer->bus, delivery->ack, 0);
}

static void on_fetch_end(void *arg, enum err err, unsigned missing)
{
    struct infer *infer = arg;
    infer->pulling -= missing;
    if (err != ERR_OK && err != ERR_CANCELLED) {
        log_debug("fetch.failed why=\"%s\"", err_text());
        infer->pausing = true; /* until the next tick: no hot loop on a broker in trouble */
    }
    infer_kick(infer);
}

static void on_batch_fetched(void *arg, const struct prompt_delivery *delivery)
{
    struct infer *infer = arg;
    infer->pulling_batch = false;
    if (has_room(infer) && jobs_occupying(infer) < batch_slots(infer))
        job_begin(infer, delivery);
    else
        prompts_hand_back(infer->bus, delivery->ack, BATCH_BACK_MS);
}

static void on_batch_end(void *arg, enum err err, unsigned missing)
{
    struct infer *infer = arg;
    (void)missing;
    infer->pulling_batch = false;
    if (err != ERR_OK && err != ERR_CANCELLED) {
        log_debug("fetch.failed lane=%s why=\"%s\"", LANE_BATCH, err_text());
        infer->batch_pausing = true;
    }
    infer_kick(infer);
}

static void pull_main(struct infer *infer, unsigned occupied)
{
    unsigned taken = occupied + infer->pulling;
    if (taken >= infer->slots)
        return;
    unsigned want = infer->slots - taken;
    if (want > FETCH_AT_ONCE)
        want = FETCH_AT_ONCE;
    if (infer->pulling == 0)
        infer->main_ns = clock_mono_ns(); /* nobody listened until now */
    if (prompts_fetch(infer->bus, infer->join.model, LANE_MAIN, want, on_fetched, on_fetch_end,
                      infer) == ERR_OK)
        infer->pulling += want;
    else
        infer->pausing = true;
}

static void pull_batch(struct infer *infer, unsigned occupied)
{
    if (infer->pulling_batch || infer->batch_pausing || occupied >= batch_slots(infer))
        return;
    int64_t quiet_ms = (clock_mono_ns() - infer->main_ns) / NS_PER_MS;
    if (quiet_ms < QUIET_MS) {
        loop_timer_start(infer->quiet, (unsigned)(QUIET_MS - quiet_ms), 0);
        return;
    }
    if (prompts_fetch(infer->bus, infer->join.model, LANE_BATCH, 1, on_batch_fetched, on_batch_end,
                      infer) == ERR_OK)
        infer->pulling_batch = true;
    else
        infer->batch_pausing = true;
}

void infer_quiet(void *arg)
{
    infer_kick(arg);
}

static bool may_leave(struct infer *infer)
{
    if (infer->jobs_by_id == NULL && infer->pulling == 0 && !infer->pulling_batch &&
        endings_count(infer->endings) == 0)
        return true;
    return infer->away_since_ns != 0 &&
           clock_mono_ns() - infer->away_since_ns > LEAVE_BLIND_MS * NS_PER_MS;
}

void infer_kick(struct infer *infer)
{
    unsigned occupied = jobs_occupying(infer);
    if (infer->teller != NULL && occupied != infer->presence.active)
        teller_tell_soon(infer->teller);
    if (infer->leaving) {
        if (may_leave(infer))
            loop_stop(infer->loop);
        return;
    }
    if (!infer->ready || infer->pausing || !bus_connected(infer->bus) || occupied >= infer->slots ||
        jobs_suspect_here(infer))
        return;
    pull_main(infer, occupied);
    if (infer->pulling > 0)
        pull_batch(infer, occupied);
}
