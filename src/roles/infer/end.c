/*
 * How a job ends: with a whole reply, with an error, or cancelled.
 */
#include "roles/infer/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "wire/reply.h"

/* ---- ending ---- */

static void on_acked(void *arg, enum err err, uint64_t sequence)
{
    struct job *job = arg;
    (void)sequence;
    if (!job_back(job))
        return;
    /* Unacknowledged, it comes to somebody again, who finds the record and acknowledges. */
    if (err != ERR_OK)
        log_info("job.unacknowledged prompt=%s why=\"%s\"", job->id, err_text());
    job_drop(job);
}

void job_acknowledge(struct job *job)
{
    job->state = JOB_ACKING;
    if (prompts_ack(job->infer->bus, job->ack, on_acked, job) == ERR_OK)
        job->pending++;
    else
        job_drop(job);
}

static void count_latency(struct presence *presence, double seconds)
{
    size_t bucket = 0;
    while (bucket < LATENCY_BUCKET_COUNT && seconds > presence_latency_bounds[bucket])
        bucket++;
    presence->latency_counts[bucket]++;
    presence->latency_sum += seconds;
}

static void on_recorded(void *arg, enum err err, uint64_t sequence)
{
    struct job *job = arg;
    struct presence *presence = &job->infer->presence;
    (void)sequence;
    if (!job_back(job))
        return;
    if (err == ERR_OK) {
        presence->prompts_total++;
        presence->prompt_tokens_total += job->prompt_tokens;
        presence->work.cached_tokens_total += job->cached_tokens;
        presence->failed_total += job->error != ERR_OK;
        count_latency(presence, clock_wall() - job->accepted_at);
    }
    job_acknowledge(job);
}

/* What of the reply its ending carries: should it not fit, it goes with less. */
enum extent {
    EXTENT_WHOLE,
    EXTENT_ASKED, /* what was asked, and nothing of what was said */
    EXTENT_BARE,
};

/* What a record keeps besides the text; made when the ending is. */
struct extras {
    json_t *cuts, *logprobs;
};

static void make_extras(struct extras *extras, const struct job *job)
{
    enum err err = ERR_OK;
    *extras = (struct extras){NULL, NULL};
    if (job->prompt.detached)
        err = kept_cuts(&job->kept, &extras->cuts);
    if (err == ERR_OK && job->choices == NULL)
        err = kept_logprobs(&job->kept, &extras->logprobs);
    if (err != ERR_OK)
        log_error("job.extras_lost prompt=%s why=\"%s\"", job->id, err_text());
}

static enum err put_ending(struct job *job, enum extent extent)
{
    const struct infer *infer = job->infer;
    const struct prompt *prompt = &job->prompt;
    const char *finish = engine_finish_name(job->finish);
    bool good = job->error == ERR_OK, whole = extent == EXTENT_WHOLE;
    bool asked = prompt->detached && extent <= EXTENT_ASKED;
    struct extras extras = {NULL, NULL};
    if (whole)
        make_extras(&extras, job);
    const struct reply ending = {
        .id = job->id,
        .gateway = prompt->gateway,
        .prompter = prompt->prompter,
        .model = prompt->model,
        .response_id = "",
        .status = good ? REPLY_COMPLETED : REPLY_FAILED,
        .finish_reason = finish != NULL && good ? finish : "",
        .text = whole ? buf_text(&job->kept.text) : "",
        .choices = good ? job->choices : NULL,
        .pieces = job->kept.count,
        .error_code = good ? "" : job->error_code,
        .error_text = job->error_text,
        .error_status = good ? 0 : job->error_status,
        .prompt_tokens = job->prompt_tokens,
        .reply_tokens = job->reply_tokens,
        .cached_tokens = job->cached_tokens,
        .truncated_tokens = job->truncated_tokens,
        .worker = infer->presence.name,
        .node = infer->presence.node,
        .device = infer->presence.device,
        .responder = "",
        .attempt = job->claim.attempt,
        .accepted_at = job->accepted_at,
        .started_at = job->claim.started_at,
        .finished_at = clock_wall(),
        .prompt_ms = job->timings.prompt_ms,
        .decode_ms = job->timings.decode_ms,
        .detached = prompt->detached,
        .owner = prompt->owner,
        .logprobs = extras.logprobs,
        .result = good ? job->result : NULL,
        .request = asked ? prompt->request : NULL,
        .messages = asked ? json_object_get(prompt->root, "messages") : NULL,
        .cuts = extras.cuts,
        .trace_id = job->trace_id,
    };
    enum err err = endings_put(infer->endings, &ending, on_recorded, job);
    json_decref(extras.cuts);
    json_decref(extras.logprobs);
    return err;
}

/* The ending is more than a message holds. */
static void job_shorten(struct job *job)
{
    if (job->error != ERR_OK)
        return;
    if (job->result == NULL)
        job_too_long(job);
    else
        job_fail(job, ERR_LIMIT, "input_too_large", 413,
                 "input: what it comes to is larger than an answer may be; ask with fewer or "
                 "shorter texts at once");
}

void job_finish(struct job *job)
{
    job->state = JOB_ENDING;
    enum extent extent = job->error != ERR_LIMIT ? EXTENT_WHOLE : EXTENT_ASKED; /* would not fit */
    enum err err = put_ending(job, extent);
    while (err == ERR_LIMIT && extent < EXTENT_BARE) {
        job_shorten(job);
        extent++;
        err = put_ending(job, extent);
    }
    log_info("job.done prompt=%s status=%s tokens=%u attempt=%u trace_id=%s", job->id,
             reply_status_name(job->error == ERR_OK ? REPLY_COMPLETED : REPLY_FAILED),
             job->reply_tokens, job->claim.attempt, job->trace_id);
    if (err == ERR_OK)
        job->pending++;
    else
        job_drop(job);
    infer_kick(job->infer);
}

static void on_cancelled(void *arg, enum err err, uint64_t sequence)
{
    struct job *job = arg;
    (void)sequence;
    if (!job_back(job))
        return;
    if (err == ERR_OK)
        job_acknowledge(job);
    else
        job_broken(job); /* the tombstone stands: the next look finds it */
}

void job_cancelled(struct job *job, const char *reason, bool tombstone)
{
    char trace_id[ID_SIZE];
    struct cancel_spec spec = cancel_spec_of(&job->prompt, reason, job->accepted_at, trace_id);
    spec.tombstone = tombstone;
    spec.fenced = true; /* a worker that has lost its claim must not end another's work */
    spec.fence = job->fence;
    spec.keep_in_queue = true;
    log_info("job.cancelled prompt=%s reason=%s trace_id=%s", job->id, reason, job->trace_id);
    job_stop_model(job);
    job->state = JOB_CANCELLING;
    enum err err = endings_cancel(job->infer->endings, &spec, on_cancelled, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

void job_tombstone(struct infer *infer, const char *id, const struct claim *claim)
{
    struct job *job;
    HASH_FIND(by_id, infer->jobs_by_id, id, strlen(id), job);
    if (job != NULL && job->state <= JOB_BROKEN)
        job_cancelled(job, claim->reason, false);
}
