/*
 * Claiming, and finding out where things stand.
 */
#include "roles/infer/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/replies.h"
#include "roles/infer/ask.h"

#define HAND_BACK_MS 500 /* a second suspect here: perhaps another worker is free for it */

/* ---- claiming, and finding out where things stand ---- */

static bool is_ours(const struct job *job, const struct claim *claim)
{
    return strcmp(claim->nonce, job->claim.nonce) == 0 ||
           (job->claim.previous[0] != '\0' && strcmp(claim->nonce, job->claim.previous) == 0);
}

static bool on_stored_piece(void *arg, const struct pieces *pieces)
{
    struct job *job = arg;
    job->found_done |= pieces->done;
    for (size_t i = 0; i < pieces->count && job->state != JOB_GONE; i++) {
        job->found++;
        job->found_text += pieces->items[i].text_len;
        if (!job->started && kept_add(&job->kept, &pieces->items[i]) != ERR_OK)
            job_too_long(job);
    }
    return true;
}

/* A predecessor stored the whole reply and died before its ending was put. */
static void job_adopt_whole(struct job *job)
{
    int max = job->prompt.params.max_tokens;
    job->ended = true;
    job->reply_tokens = (unsigned)job->kept.token_count;
    job->finish = max >= 0 && job->kept.token_count >= (size_t)max ? ENGINE_FINISH_LENGTH
                                                                   : ENGINE_FINISH_STOP;
}

static void on_stored_read(void *arg, enum err err, const struct claim *latest, uint64_t sequence)
{
    struct job *job = arg;
    (void)latest;
    (void)sequence;
    if (!job_back(job) || job->state != JOB_LOADING)
        return;
    if (err != ERR_OK) {
        job_broken(job);
        return;
    }
    job->stored = job->found;
    if (job->started || job->ended) {
        /* Ours: all that is stored came from what we keep. */
        bool fits =
            job->found <= job->kept.count &&
            (job->found == 0 || job->kept.marks[job->found - 1].text_end == job->found_text);
        if (!fits) {
            log_error("job.store_differs prompt=%s stored=%zu kept=%zu", job->id, job->found,
                      job->kept.count);
            job_drop(job);
            return;
        }
        if (!job->in_model && !job->ended) {
            job_go(job); /* it was stopped for an ending that did not come about */
            return;
        }
        job->state = JOB_RUNNING;
        job_flush(job);
        return;
    }
    if (job->kept.count > 0)
        log_info("job.takeover prompt=%s pieces=%zu attempt=%u deaths=%u trace_id=%s", job->id,
                 job->kept.count, job->claim.attempt, job->claim.deaths, job->trace_id);
    /* Of several texts only the first was stored, and of a result nothing: the model makes the
     * others, or it, once more. */
    if (job->found_done && job->prompt.params.search.num_return_sequences <= 1 &&
        task_makes_text(job->prompt.task))
        job_adopt_whole(job);
    job_go(job);
}

static void job_read_stored(struct job *job)
{
    job->found = job->found_text = 0;
    job->found_done = false;
    if (!job->started)
        kept_clear(&job->kept);
    enum err err = tokens_read(job->infer->bus, job->prompt.gateway, job->id, NULL, on_stored_piece,
                               on_stored_read, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct job *job = arg;
    (void)sequence;
    (void)record;
    if (!job_back(job) || job->state != JOB_LOADING)
        return;
    if (err == ERR_OK) {
        job_stop_model(job);
        job_acknowledge(job); /* it ended; only its place in the queue was left */
    } else if (err == ERR_NOT_FOUND) {
        job_read_stored(job);
    } else {
        job_broken(job);
    }
}

/* Somebody claimed before us: what our model made without a claim may differ from what was stored,
 * and must not go on from there. */
static void job_restart(struct job *job)
{
    if (!job->in_model) {
        job_begin_again(job);
        return;
    }
    job->restart = true; /* once the model has let go of it */
    job_stop_model(job);
}

static void on_claimed(void *arg, enum err err, uint64_t sequence)
{
    struct job *job = arg;
    if (!job_back(job) || job->state != JOB_CLAIMING)
        return;
    if (err == ERR_OK) {
        job->fence = sequence;
        job->held = true;
        if (job->fast) {
            job->fast = false;
            job->state = JOB_RUNNING;
            job_flush(job);
            return;
        }
        job->state = JOB_LOADING;
        if (replies_get(job->infer->bus, job->prompt.gateway, job->id, on_record, job) == ERR_OK)
            job->pending++;
        else
            job_broken(job);
    } else if (err == ERR_EXISTS) {
        job->fast = false;
        if (job->started && !job->held)
            job_restart(job);
        else
            job_sync(job);
    } else if (err == ERR_FULL) {
        job_no_room(job);
    } else {
        job_broken(job);
    }
}

void job_claim(struct job *job, uint64_t expected)
{
    const struct presence *self = &job->infer->presence;
    struct claim *claim = &job->claim;
    /* Known to be a continuation of ours only if pieces of ours may have been stored. */
    if (job->held)
        memcpy(claim->previous, claim->nonce, sizeof claim->previous);
    else
        claim->previous[0] = '\0';
    id_random(claim->nonce, TAG_LEN);
    snprintf(claim->worker, sizeof claim->worker, "%s", self->name);
    snprintf(claim->node, sizeof claim->node, "%s", self->node);
    snprintf(claim->device, sizeof claim->device, "%s", self->device);
    snprintf(claim->boot, sizeof claim->boot, "%s", self->boot);
    if (claim->started_at <= 0)
        claim->started_at = clock_wall();
    job->state = JOB_CLAIMING;
    enum err err = tokens_claim(job->infer->bus, job->prompt.gateway, job->id, claim, expected,
                                on_claimed, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

static bool other_suspect_here(const struct job *job)
{
    const struct job *other, *next;
    HASH_ITER(by_id, job->infer->jobs_by_id, other, next)
    {
        if (other != job && job_is_suspect(other))
            return true;
    }
    return false;
}

static void take_over(struct job *job, const struct claim *before, uint64_t sequence)
{
    /* A worker that still lives merely lost the prompt: its heartbeats did not come through. */
    job->claim.deaths = before->deaths + !infer_is_alive(job->infer, before->boot);
    job->claim.attempt = before->attempt + 1;
    job->claim.started_at = before->started_at;
    if (job_is_suspect(job) && job->claim.deaths < DEATHS_MAX) {
        if (other_suspect_here(job)) {
            prompts_hand_back(job->infer->bus, job->ack, HAND_BACK_MS);
            job_drop(job);
            return;
        }
        if (!job_may_start(job)) {
            job->state = JOB_ALONE;
            return;
        }
    }
    job_claim(job, sequence);
}

static void on_last_claim(void *arg, enum err err, uint64_t sequence, const struct claim *claim)
{
    struct job *job = arg;
    if (!job_back(job) || job->state != JOB_CLAIMING)
        return;
    if (err == ERR_NOT_FOUND) {
        job_claim(job, 0);
    } else if (err != ERR_OK) {
        job_broken(job);
    } else if (claim->kind == CLAIM_TOMBSTONE) {
        job_cancelled(job, claim->reason, false);
    } else if (is_ours(job, claim)) {
        /* The one that readers know, whichever of ours it is. */
        memcpy(job->claim.nonce, claim->nonce, sizeof job->claim.nonce);
        job_claim(job, sequence);
    } else if (job->held) {
        log_warn("job.lost prompt=%s to=%s trace_id=%s", job->id, claim->worker, job->trace_id);
        job_drop(job);
    } else if (job->started) {
        job_restart(job);
    } else {
        take_over(job, claim, sequence);
    }
}

void job_sync(struct job *job)
{
    job->state = JOB_CLAIMING;
    enum err err =
        tokens_last_claim(job->infer->bus, job->prompt.gateway, job->id, on_last_claim, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

void job_begin_again(struct job *job)
{
    kept_clear(&job->kept);
    job->restart = job->started = job->ended = false;
    job->error = ERR_OK;
    job_sync(job);
}
