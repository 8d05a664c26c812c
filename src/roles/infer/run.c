/*
 * The model at work on a job, and its pieces on their way to the broker.
 */
#include "roles/infer/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "roles/infer/ask.h"

#define NO_ROOM_MS   5000                /* a reply that can't be stored for this long ends */
#define APPEND_BYTES ((size_t)256 << 10) /* of pieces in one message, before they are quoted */

/* ---- the model ---- */

bool job_is_suspect(const struct job *job)
{
    return job->claim.deaths >= DEATHS_ALONE && job->state <= JOB_BROKEN && !job->ended;
}

bool job_may_start(const struct job *job)
{
    const struct job *other, *next;
    HASH_ITER(by_id, job->infer->jobs_by_id, other, next)
    {
        if (other == job)
            continue;
        if (job_is_suspect(job) ? other->in_model
                                : job_is_suspect(other) && other->state != JOB_ALONE)
            return false;
    }
    return true;
}

void job_fail(struct job *job, enum err err, const char *code, int status, const char *text)
{
    job->ended = true;
    job->error = err;
    job->error_code = code;
    job->error_status = status;
    snprintf(job->error_text, sizeof job->error_text, "%s", text);
}

void job_too_long(struct job *job)
{
    job_fail(job, ERR_LIMIT, "reply_too_long", 500,
             job->kept.logprobs.len > 0 ? "the reply with its logprobs grew beyond its bound"
                                        : "the reply grew beyond its bound");
}

static void on_buried(void *arg, enum err err, uint64_t sequence)
{
    struct job *job = arg;
    (void)sequence;
    if (!job_back(job))
        return;
    if (err != ERR_OK)
        log_warn("job.unburied prompt=%s why=\"%s\"", job->id, err_text());
    job_flush(job);
}

/* It killed DEATHS_MAX workers: no other shall die of it. */
static void job_bury(struct job *job)
{
    char text[128];
    snprintf(text, sizeof text, "%u inference workers died while they worked on this prompt",
             job->claim.deaths);
    log_warn("job.dead_letter prompt=%s deaths=%u trace_id=%s", job->id, job->claim.deaths,
             job->trace_id);
    job_fail(job, ERR_INTERNAL, "worker_died", 500, text);
    job->state = JOB_RUNNING;
    enum err err = prompts_bury(job->infer->bus, job->id, job->raw, job->raw_len, on_buried, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

void job_stop_model(struct job *job)
{
    if (!job->in_model || job->cancelling)
        return;
    if (model_cancel(job->infer->model, job->run) == ERR_OK)
        job->cancelling = true;
    else
        log_error("job.uncancelled prompt=%s why=\"%s\"", job->id, err_text());
}

void job_start_model(struct job *job)
{
    struct infer *infer = job->infer;
    const struct model_resume resume = {
        .tokens = job->kept.tokens,
        .token_count = job->kept.token_count,
        .text = buf_text(&job->kept.text),
        .pieces = job->kept.count,
    };
    job->run = ++infer->next_run;
    enum err err = model_start(infer->model, job->run, &job->prompt, &resume);
    if (err != ERR_OK) {
        job_fail(job, err, "engine_error", 500, err_text());
        return;
    }
    job->in_model = job->started = true;
    HASH_ADD(by_run, infer->jobs_by_run, run, sizeof job->run, job);
    jobs_count_time(infer);
}

void job_go(struct job *job)
{
    if (job->claim.deaths >= DEATHS_MAX) {
        job_bury(job);
        return;
    }
    if (!job_may_start(job)) {
        job->state = JOB_ALONE;
        return;
    }
    job->state = JOB_RUNNING;
    if (!job->ended)
        job_start_model(job);
    job_flush(job);
}

/* All texts of a reply of several, as its record has them. */
static enum err keep_choices(struct job *job, const struct engine_event *event)
{
    json_decref(job->choices);
    job->choices = json_array();
    for (size_t i = 0; i < event->sequence_count; i++) {
        const struct engine_sequence *one = &event->sequences[i];
        json_t *choice =
            json_pack("{s:s%, s:s, s:i}", "text", one->text, one->text_len, "finish_reason",
                      engine_finish_name(one->finish), "tokens", (int)one->reply_tokens);
        if (json_array_append_new(job->choices, choice) != 0)
            return err_set(ERR_NOMEM, "out of memory");
    }
    return ERR_OK;
}

static enum err keep_result(struct job *job, const struct engine_event *event)
{
    json_t *result = NULL;
    if (task_makes_text(job->prompt.task))
        return ERR_OK;
    enum err err = result_make(&result, job->prompt.task, event);
    if (err != ERR_OK)
        return err;
    json_decref(job->result);
    job->result = result;
    return ERR_OK;
}

static void job_model_ended(struct job *job, const struct engine_event *event)
{
    job->ended = true;
    job->finish = event->finish;
    job->prompt_tokens = event->prompt_tokens;
    job->reply_tokens = event->reply_tokens;
    job->cached_tokens = event->cached_tokens;
    job->truncated_tokens = event->truncated_tokens;
    job->timings = event->timings;
    enum err err = event->error;
    if (err == ERR_OK && event->sequence_count > 1)
        err = keep_choices(job, event);
    if (err == ERR_OK)
        err = keep_result(job, event);
    if (err != ERR_OK && event->error == ERR_OK)
        job_fail(job, err, "engine_error", 500, err_text());
    else if (event->error == ERR_LIMIT)
        job_fail(job, event->error, "context_length_exceeded", 400, event->error_text);
    else if (event->error == ERR_INVALID || event->error == ERR_UNSUPPORTED)
        job_fail(job, event->error, "invalid_prompt", 400, event->error_text);
    else if (event->error != ERR_OK)
        job_fail(job, event->error, "engine_error", 500,
                 event->error_text != NULL ? event->error_text : "the engine failed");
}

void job_event(struct infer *infer, uint64_t run, const struct engine_event *event)
{
    struct job *job;
    HASH_FIND(by_run, infer->jobs_by_run, &run, sizeof run, job);
    if (job == NULL)
        return;
    if (job->cancelling) {
        if (event->error != ERR_CANCELLED)
            return; /* made before the model heard of it */
        HASH_DELETE(by_run, infer->jobs_by_run, job);
        jobs_count_time(infer);
        job->in_model = job->cancelling = false;
        if (job->restart && job->state == JOB_CLAIMING)
            job_begin_again(job);
        job_try_free(job);
        infer_kick(infer);
        return;
    }
    bool piece_of_text = task_makes_text(job->prompt.task);
    if (piece_of_text)
        infer->presence.reply_tokens_total += event->token_count; /* at once: people watch */
    if (piece_of_text && event->text != NULL) {
        const struct piece piece = {
            .text = event->text,
            .text_len = event->text_len,
            .tokens = event->tokens,
            .token_count = event->token_count,
            .logprobs = event->logprobs,
            .logprobs_len = event->logprobs_len,
        };
        if (kept_add(&job->kept, &piece) != ERR_OK) {
            job_too_long(job);
            job_stop_model(job);
        }
    }
    if (event->last) {
        HASH_DELETE(by_run, infer->jobs_by_run, job);
        jobs_count_time(infer);
        job->in_model = false;
        job_model_ended(job, event);
        job_try_free(job);
    }
}

/* ---- storing pieces ---- */

static void on_appended(void *arg, enum err err, uint64_t sequence);

struct append { /* what one append carried */
    struct job *job;
    size_t upto;
    bool final;
};

void job_flush(struct job *job)
{
    if (job->state != JOB_RUNNING || job->appending || job->pending > 0)
        return;
    size_t count = job->kept.count - job->stored;
    if (count == 0 && !job->ended)
        return;
    if (count > 0)
        count = kept_fitting(&job->kept, job->stored, PIECES_MAX, APPEND_BYTES);
    struct piece items[PIECES_MAX];
    kept_slice(&job->kept, job->stored, count, items);
    struct append *append = malloc(sizeof *append);
    if (append == NULL)
        return; /* the next step tries again */
    *append = (struct append){job, job->stored + count, false};
    append->final = job->ended && append->upto == job->kept.count;
    struct pieces pieces = {.first = job->stored, .items = items, .count = count};
    /* A failed reply is not whole: its last append only proves that the claim is still ours. */
    pieces.done = append->final && job->error == ERR_OK;
    memcpy(pieces.nonce, job->claim.nonce, sizeof pieces.nonce);
    enum err err = tokens_append(job->infer->bus, job->prompt.gateway, job->id, job->fence, &pieces,
                                 on_appended, append);
    if (err != ERR_OK)
        free(append);
    if (err == ERR_LIMIT) { /* one piece alone is more than a message holds */
        job_stop_model(job);
        job_too_long(job);
        job_finish(job);
        return;
    }
    if (err != ERR_OK) {
        job_broken(job);
        return;
    }
    job->appending = true;
    job->pending++;
}

void job_no_room(struct job *job)
{
    int64_t now_ns = clock_mono_ns();
    if (job->no_room_ns == 0) {
        log_error("job.no_room prompt=%s why=\"%s\"", job->id, err_text());
        job->no_room_ns = now_ns;
    }
    if (now_ns - job->no_room_ns < NO_ROOM_MS * NS_PER_MS) {
        job_broken(job);
        return;
    }
    job_stop_model(job);
    job_fail(job, ERR_FULL, "storage_full", 503, "the broker's disk space is used up");
    job_finish(job);
}

static void on_appended(void *arg, enum err err, uint64_t sequence)
{
    struct append append = *(struct append *)arg;
    struct job *job = append.job;
    (void)sequence;
    free(arg);
    job->appending = false;
    if (!job_back(job) || job->state != JOB_RUNNING)
        return;
    if (err == ERR_EXISTS) {
        job_sync(job); /* fenced: see who took it */
    } else if (err == ERR_FULL) {
        job_no_room(job);
    } else if (err != ERR_OK) {
        job_broken(job);
    } else {
        job->stored = append.upto;
        job->no_room_ns = 0;
        if (append.final)
            job_finish(job);
        else
            job_flush(job);
    }
}
