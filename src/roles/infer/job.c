#include "roles/infer/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/proc.h"
#include "bus/replies.h"
#include "wire/trace.h"

#define AGAIN_MS     100  /* a prompt that we have only just let go of comes again after this */
#define NO_MEMORY_MS 1000 /* and one that we had no memory for */

/* ---- coming and going ---- */

static void job_release(struct job *job)
{
    kept_done(&job->kept);
    prompt_done(&job->prompt);
    json_decref(job->choices);
    json_decref(job->result);
    free(job->raw);
    free(job);
}

void job_try_free(struct job *job)
{
    struct infer *infer = job->infer;
    if (job->state != JOB_GONE || job->pending > 0 || job->in_model)
        return;
    HASH_DELETE(by_id, infer->jobs_by_id, job);
    job_release(job);
    infer_kick(infer);
}

void job_drop(struct job *job)
{
    if (job->state != JOB_GONE)
        proc_report("-%s", job->ack);
    job->state = JOB_GONE;
    job_stop_model(job);
    job_try_free(job);
}

bool job_back(struct job *job)
{
    job->pending--;
    if (job->state != JOB_GONE)
        return true;
    job_try_free(job);
    return false;
}

void job_broken(struct job *job)
{
    log_debug("job.broken prompt=%s why=\"%s\"", job->id, err_text());
    job->fast = false; /* the next claim comes after a look */
    job->state = JOB_BROKEN;
}

static bool job_occupies(const struct job *job)
{
    if (job->in_model)
        return true;
    return job->state <= JOB_BROKEN && !job->ended;
}

static enum err job_new(struct job **out, struct infer *infer,
                        const struct prompt_delivery *delivery)
{
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL || (job->raw = malloc(delivery->len + 1)) == NULL) {
        free(job);
        return err_set(ERR_NOMEM, "out of memory");
    }
    enum err err = prompt_decode(&job->prompt, delivery->data, delivery->len);
    if (err != ERR_OK) {
        free(job->raw);
        free(job);
        return err;
    }
    memcpy(job->raw, delivery->data, delivery->len);
    job->raw_len = delivery->len;
    job->infer = infer;
    job->accepted_at = delivery->accepted_at;
    job->claim.attempt = 1;
    snprintf(job->id, sizeof job->id, "%s", job->prompt.id);
    trace_id_of(job->trace_id, job->prompt.traceparent);
    snprintf(job->ack, sizeof job->ack, "%s", delivery->ack);
    kept_init(&job->kept, REPLY_BYTES_MAX / 2, REPLY_BYTES_MAX);
    *out = job;
    return ERR_OK;
}

/* The broker did not hear our heartbeats and gave a prompt out again: to us, who hold it. */
static void job_again(struct job *job, const struct prompt_delivery *delivery)
{
    if (job->state == JOB_GONE) {
        /* It only waits for its callbacks: whoever gets it after those begins anew. */
        prompts_hand_back(job->infer->bus, delivery->ack, AGAIN_MS);
        return;
    }
    /* What went before goes on, under the new delivery. */
    proc_report("-%s", job->ack);
    snprintf(job->ack, sizeof job->ack, "%s", delivery->ack);
    proc_report("+%s", job->ack);
}

void job_begin(struct infer *infer, const struct prompt_delivery *delivery)
{
    struct job *job, *other;
    enum err err = job_new(&job, infer, delivery);
    if (err == ERR_NOMEM) {
        log_error("job.no_memory");
        prompts_hand_back(infer->bus, delivery->ack, NO_MEMORY_MS);
        return;
    }
    if (err != ERR_OK) {
        job_refuse(infer, delivery, err);
        return;
    }
    HASH_FIND(by_id, infer->jobs_by_id, job->id, strlen(job->id), other);
    if (other != NULL) {
        job_again(other, delivery);
        job_release(job);
        return;
    }
    HASH_ADD(by_id, infer->jobs_by_id, id, strlen(job->id), job);
    proc_report("+%s", job->ack);
    infer_owner_gone(infer, job->prompt.gateway); /* from now on its silence counts */
    if (delivery->delivered == 1) {
        job->fast = true;
        job_claim(job, 0);
        if (job->state == JOB_CLAIMING)
            job_start_model(job);
    } else {
        job_sync(job);
    }
}

/* ---- all of them ---- */

void jobs_flush(struct infer *infer)
{
    struct job *job, *next;
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        job_flush(job);
    }
}

void jobs_heartbeat(struct infer *infer)
{
    struct job *job, *next;
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        if (job->state != JOB_GONE)
            prompts_working(infer->bus, job->ack);
    }
}

void jobs_tick(struct infer *infer)
{
    struct job *job, *next;
    double now = clock_wall();
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        if (job->state == JOB_BROKEN && bus_connected(infer->bus) && job->pending == 0 &&
            !job->cancelling)
            job_sync(job);
        else if (job->state == JOB_ALONE && job_may_start(job))
            job_is_suspect(job) ? job_sync(job) : job_go(job);
        else if (job->state == JOB_RUNNING && bus_connected(infer->bus) && !job->prompt.detached &&
                 infer_owner_gone(infer, job->prompt.gateway))
            job_cancelled(job, "owner_gone", true);
        else if (job->state == JOB_RUNNING && !job->ended &&
                 now - job->claim.started_at > infer->settings->max_reply_s) {
            job_fail(job, ERR_TIMEOUT, "reply_timeout", 504, "the reply took longer than allowed");
            job_stop_model(job);
            job_flush(job);
        }
    }
}

void jobs_reconnected(struct infer *infer)
{
    /* What was not synced may be gone: nothing is appended before we have looked. */
    struct job *job, *next;
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        bool broken = job->state == JOB_BROKEN && !job->cancelling;
        if ((job->state == JOB_RUNNING || broken) && job->pending == 0)
            job_sync(job);
    }
}

void jobs_count_time(struct infer *infer)
{
    struct presence_work *work = &infer->presence.work;
    int64_t now_ns = clock_mono_ns();
    if (infer->counted > 0) {
        double seconds = (double)(now_ns - infer->counted_ns) / (double)NS_PER_S;
        work->busy_s += seconds;
        work->slot_s += seconds * infer->counted;
    }
    infer->counted_ns = now_ns;
    infer->counted = HASH_CNT(by_run, infer->jobs_by_run);
}

unsigned jobs_occupying(const struct infer *infer)
{
    const struct job *job, *next;
    unsigned count = 0;
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        count += job_occupies(job);
    }
    return count;
}

bool jobs_suspect_here(const struct infer *infer)
{
    const struct job *job, *next;
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        if (job_is_suspect(job))
            return true;
    }
    return false;
}

void jobs_free(struct infer *infer)
{
    struct job *job, *next;
    HASH_ITER(by_id, infer->jobs_by_id, job, next)
    {
        if (job->in_model)
            HASH_DELETE(by_run, infer->jobs_by_run, job);
        HASH_DELETE(by_id, infer->jobs_by_id, job);
        job_release(job);
    }
}
