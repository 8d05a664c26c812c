/*
 * One prompt in a worker's hands, from its delivery to its end.
 *
 * The states, and what leads on:
 *
 *   CLAIMING  a claim, or a look at who claimed, is on its way
 *   LOADING   a takeover reads the record and what its predecessor stored
 *   ALONE     it killed two workers: waits until nothing else runs here
 *   RUNNING   we hold the claim; pieces are stored under its fence as they come
 *   BROKEN    something could not be said to the broker: looks again when it can (job_sync)
 *   ENDING    the whole reply is stored; its ending is with the response workers
 *   CANCELLING a tombstone stands: the cancelled ending is with the response workers
 *   ACKING    the record exists; the prompt leaves its queue
 *   GONE      nothing more to do but to wait for callbacks still under way
 *
 * The model may work on a job in CLAIMING (first delivery: prefill while the claim travels),
 * RUNNING and BROKEN.  A job is freed when it is GONE, no bus operation of its is under way
 * (`pending`) and the model has let go of its prompt (`in_model`).
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/proc.h"
#include "bus/replies.h"
#include "roles/infer.h"
#include "roles/infer_kept.h"
#include "wire/reply.h"

#define DEATHS_ALONE 2 /* workers that died with it: from here on it runs alone */
#define DEATHS_MAX   3 /* and here it is a dead letter */

enum job_state {
    JOB_CLAIMING,
    JOB_LOADING,
    JOB_ALONE,
    JOB_RUNNING,
    JOB_BROKEN,
    JOB_ENDING,
    JOB_CANCELLING,
    JOB_ACKING,
    JOB_GONE,
};

struct job {
    struct infer *infer;
    char id[ID_SIZE];
    char ack[PROMPTS_ACK_MAX];
    struct prompt prompt;
    char *raw; /* the message as it came, for the dead letter */
    size_t raw_len;
    double accepted_at;
    enum job_state state;
    unsigned pending; /* bus operations under way that name this job */
    /* the claim */
    struct claim claim;
    uint64_t fence;
    bool held; /* our claim was acknowledged at least once */
    bool fast; /* first delivery: claimed without looking, the model already at work */
    /* the model */
    uint64_t run; /* key in jobs_by_run while in_model */
    bool in_model, cancelling, restart;
    bool started; /* the model has begun: what is kept is ours */
    bool ended;   /* the model has brought the last piece, or an error */
    enum err error;
    char error_text[256];
    const char *error_code;
    int error_status;
    enum engine_finish finish;
    unsigned prompt_tokens, reply_tokens, cached_tokens;
    struct engine_timings timings;
    /* pieces */
    struct kept kept;
    size_t stored; /* acknowledged by the broker */
    size_t found;  /* counted by a read */
    size_t found_text;
    bool appending, found_done;
    UT_hash_handle by_run, by_id;
};

static void job_sync(struct job *job);
static void job_flush(struct job *job);
static void job_finish(struct job *job);
static void job_cancelled(struct job *job, const char *reason, bool tombstone);

/* ---- coming and going ---- */

static void job_try_free(struct job *job)
{
    struct infer *infer = job->infer;
    if (job->state != JOB_GONE || job->pending > 0 || job->in_model)
        return;
    HASH_DELETE(by_id, infer->jobs_by_id, job);
    kept_done(&job->kept);
    prompt_done(&job->prompt);
    free(job->raw);
    free(job);
    infer_kick(infer);
}

static void job_stop_model(struct job *job)
{
    if (!job->in_model || job->cancelling)
        return;
    if (model_cancel(job->infer->model, job->run) == ERR_OK)
        job->cancelling = true;
    else
        log_error("job.uncancelled prompt=%s why=\"%s\"", job->id, err_text());
}

/* Nothing more is to be done about this job by us. */
static void job_drop(struct job *job)
{
    if (job->state != JOB_GONE)
        proc_report("-%s", job->ack);
    job->state = JOB_GONE;
    job_stop_model(job);
    job_try_free(job);
}

/* A bus operation's callback begins with this: false when the job only waits to be freed. */
static bool job_back(struct job *job)
{
    job->pending--;
    if (job->state != JOB_GONE)
        return true;
    job_try_free(job);
    return false;
}

static void job_broken(struct job *job)
{
    log_debug("job.broken prompt=%s why=\"%s\"", job->id, err_text());
    job->state = JOB_BROKEN;
}

static bool job_counts_as_running(const struct job *job)
{
    return job->in_model;
}

static bool job_occupies(const struct job *job)
{
    if (job->in_model)
        return true;
    return job->state <= JOB_BROKEN && !job->ended;
}

/* ---- the model ---- */

static bool may_start(const struct job *job)
{
    const struct job *other, *next;
    HASH_ITER(by_id, job->infer->jobs_by_id, other, next)
    {
        if (other == job || !job_counts_as_running(other))
            continue;
        if (job->claim.deaths >= DEATHS_ALONE || other->claim.deaths >= DEATHS_ALONE)
            return false;
    }
    return true;
}

static void job_fail(struct job *job, enum err err, const char *code, int status, const char *text)
{
    job->ended = true;
    job->error = err;
    job->error_code = code;
    job->error_status = status;
    snprintf(job->error_text, sizeof job->error_text, "%s", text);
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
    log_warn("job.dead_letter prompt=%s deaths=%u", job->id, job->claim.deaths);
    job_fail(job, ERR_INTERNAL, "worker_died", 500, text);
    job->state = JOB_RUNNING;
    enum err err = prompts_bury(job->infer->bus, job->id, job->raw, job->raw_len, on_buried, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

static void job_start_model(struct job *job)
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
}

/* The claim is ours and what was stored before is known: generate the rest. */
static void job_go(struct job *job)
{
    if (job->claim.deaths >= DEATHS_MAX) {
        job_bury(job);
        return;
    }
    if (!may_start(job)) {
        job->state = JOB_ALONE;
        return;
    }
    job->state = JOB_RUNNING;
    if (!job->ended)
        job_start_model(job);
    job_flush(job);
}

static void job_model_ended(struct job *job, const struct engine_event *event)
{
    job->ended = true;
    job->finish = event->finish;
    job->prompt_tokens = event->prompt_tokens;
    job->reply_tokens = event->reply_tokens;
    job->cached_tokens = event->cached_tokens;
    job->timings = event->timings;
    if (event->error == ERR_LIMIT)
        job_fail(job, event->error, "context_length_exceeded", 400, event->error_text);
    else if (event->error == ERR_INVALID || event->error == ERR_UNSUPPORTED)
        job_fail(job, event->error, "invalid_prompt", 400, event->error_text);
    else if (event->error != ERR_OK)
        job_fail(job, event->error, "engine_error", 500,
                 event->error_text != NULL ? event->error_text : "the engine failed");
}

/* Forgets what the model made before somebody else's claim was known, and looks who that is. */
static void job_begin_again(struct job *job)
{
    kept_clear(&job->kept);
    job->restart = job->started = job->ended = false;
    job->error = ERR_OK;
    job_sync(job);
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
        job->in_model = job->cancelling = false;
        if (job->restart && job->state == JOB_CLAIMING)
            job_begin_again(job);
        job_try_free(job);
        infer_kick(infer);
        return;
    }
    if (event->text != NULL) {
        const struct piece piece = {event->text, event->text_len, event->tokens,
                                    event->token_count};
        if (kept_add(&job->kept, &piece) != ERR_OK) {
            job_fail(job, ERR_LIMIT, "reply_too_long", 500, "the reply grew beyond its bound");
            job_stop_model(job);
        }
    }
    if (event->last) {
        HASH_DELETE(by_run, infer->jobs_by_run, job);
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

static void job_flush(struct job *job)
{
    if (job->state != JOB_RUNNING || job->appending || job->pending > 0)
        return;
    size_t count = job->kept.count - job->stored;
    if (count == 0 && !job->ended)
        return;
    if (count > PIECES_MAX)
        count = PIECES_MAX;
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
    if (err != ERR_OK) {
        free(append);
        job_broken(job);
        return;
    }
    job->appending = true;
    job->pending++;
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
        log_error("job.no_room prompt=%s why=\"%s\"", job->id, err_text());
        job_broken(job);
    } else if (err != ERR_OK) {
        job_broken(job);
    } else {
        job->stored = append.upto;
        if (append.final)
            job_finish(job);
        else
            job_flush(job);
    }
}

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

static void job_acknowledge(struct job *job)
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
        presence->reply_tokens_total += job->reply_tokens;
        presence->failed_total += job->error != ERR_OK;
        count_latency(presence, clock_wall() - job->accepted_at);
    }
    job_acknowledge(job);
}

static void job_finish(struct job *job)
{
    const struct infer *infer = job->infer;
    const char *finish = engine_finish_name(job->finish);
    const struct reply ending = {
        .id = job->id,
        .gateway = job->prompt.gateway,
        .prompter = job->prompt.prompter,
        .model = job->prompt.model,
        .response_id = "",
        .status = job->error == ERR_OK ? REPLY_COMPLETED : REPLY_FAILED,
        .finish_reason = finish != NULL && job->error == ERR_OK ? finish : "",
        .text = buf_text(&job->kept.text),
        .pieces = job->kept.count,
        .error_code = job->error != ERR_OK ? job->error_code : "",
        .error_text = job->error_text,
        .error_status = job->error != ERR_OK ? job->error_status : 0,
        .prompt_tokens = job->prompt_tokens,
        .reply_tokens = job->reply_tokens,
        .cached_tokens = job->cached_tokens,
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
        .detached = job->prompt.detached,
    };
    job->state = JOB_ENDING;
    log_info("job.done prompt=%s status=%s tokens=%u attempt=%u", job->id,
             reply_status_name(ending.status), job->reply_tokens, job->claim.attempt);
    if (endings_put(infer->endings, &ending, on_recorded, job) == ERR_OK)
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

/* Ends the prompt without a whole reply. */
static void job_cancelled(struct job *job, const char *reason, bool tombstone)
{
    const struct cancel_spec spec = {
        .id = job->id,
        .gateway = job->prompt.gateway,
        .prompter = job->prompt.prompter,
        .model = job->prompt.model,
        .reason = reason,
        .tombstone = tombstone,
        .fenced = true, /* a worker that has lost its claim meanwhile must not end another's work */
        .fence = job->fence,
        .keep_in_queue = true,
        .detached = job->prompt.detached,
        .accepted_at = job->accepted_at,
    };
    log_info("job.cancelled prompt=%s reason=%s", job->id, reason);
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

/* ---- claiming, and finding out where things stand ---- */

static bool is_ours(const struct job *job, const struct claim *claim)
{
    return strcmp(claim->nonce, job->claim.nonce) == 0 ||
           (job->claim.previous[0] != '\0' && strcmp(claim->nonce, job->claim.previous) == 0);
}

static void on_stored_piece(void *arg, const struct pieces *pieces)
{
    struct job *job = arg;
    job->found_done |= pieces->done;
    for (size_t i = 0; i < pieces->count && job->state != JOB_GONE; i++) {
        job->found++;
        job->found_text += pieces->items[i].text_len;
        if (!job->started && kept_add(&job->kept, &pieces->items[i]) != ERR_OK)
            job_fail(job, ERR_LIMIT, "reply_too_long", 500, "the reply grew beyond its bound");
    }
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
        job->state = JOB_RUNNING;
        job_flush(job);
        return;
    }
    if (job->kept.count > 0)
        log_info("job.takeover prompt=%s pieces=%zu attempt=%u deaths=%u", job->id, job->kept.count,
                 job->claim.attempt, job->claim.deaths);
    if (job->found_done)
        job_adopt_whole(job);
    job_go(job);
}

static void job_read_stored(struct job *job)
{
    job->found = job->found_text = 0;
    job->found_done = false;
    if (!job->started)
        kept_clear(&job->kept);
    enum err err = tokens_read(job->infer->bus, job->prompt.gateway, job->id, on_stored_piece,
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
        if (job->in_model && !job->held) {
            job->restart = true;
            job_stop_model(job);
        } else if (job->started && !job->held) {
            job_begin_again(job);
        } else {
            job_sync(job);
        }
    } else {
        job->fast = false;
        job_broken(job);
    }
}

static void job_claim(struct job *job, uint64_t expected)
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

static void take_over(struct job *job, const struct claim *before, uint64_t sequence)
{
    job->claim.deaths = before->deaths + (before->kind == CLAIM_HELD);
    job->claim.attempt = before->attempt + 1;
    job->claim.started_at = before->started_at;
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
        log_warn("job.lost prompt=%s to=%s", job->id, claim->worker);
        job_drop(job);
    } else {
        take_over(job, claim, sequence);
    }
}

/* Looks who holds the prompt now and goes on from there. */
static void job_sync(struct job *job)
{
    job->state = JOB_CLAIMING;
    enum err err =
        tokens_last_claim(job->infer->bus, job->prompt.gateway, job->id, on_last_claim, job);
    if (err == ERR_OK)
        job->pending++;
    else
        job_broken(job);
}

static struct job *job_new(struct infer *infer, const struct prompt_delivery *delivery)
{
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return NULL;
    job->raw = malloc(delivery->len + 1);
    if (job->raw == NULL || prompt_decode(&job->prompt, delivery->data, delivery->len) != ERR_OK) {
        free(job->raw);
        free(job);
        return NULL;
    }
    memcpy(job->raw, delivery->data, delivery->len);
    job->raw_len = delivery->len;
    job->infer = infer;
    job->accepted_at = delivery->accepted_at;
    job->claim.attempt = 1;
    snprintf(job->id, sizeof job->id, "%s", job->prompt.id);
    snprintf(job->ack, sizeof job->ack, "%s", delivery->ack);
    kept_init(&job->kept, REPLY_BYTES_MAX / 2);
    return job;
}

static void on_rejected(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)err;
    (void)sequence;
}

void job_begin(struct infer *infer, const struct prompt_delivery *delivery)
{
    struct job *job = job_new(infer, delivery), *other;
    if (job == NULL) {
        /* Only a prompt of another version, or of no gateway of ours, can't be read. */
        log_error("job.unreadable why=\"%s\"", err_text());
        if (prompts_ack(infer->bus, delivery->ack, on_rejected, NULL) != ERR_OK)
            log_warn("job.unreadable_kept why=\"%s\"", err_text());
        return;
    }
    HASH_FIND(by_id, infer->jobs_by_id, job->id, strlen(job->id), other);
    if (other != NULL) {
        /* The broker did not hear our heartbeats and gave it out again: to us.  What went before
         * goes on, under the new delivery. */
        proc_report("-%s", other->ack);
        snprintf(other->ack, sizeof other->ack, "%s", delivery->ack);
        proc_report("+%s", other->ack);
        kept_done(&job->kept);
        prompt_done(&job->prompt);
        free(job->raw);
        free(job);
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
        else if (job->state == JOB_ALONE && may_start(job))
            job_go(job);
        else if ((job->state == JOB_RUNNING || job->state == JOB_ALONE) &&
                 bus_connected(infer->bus) && !job->prompt.detached &&
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
        if (job->state == JOB_RUNNING && job->pending == 0)
            job_sync(job);
    }
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
        if (job->claim.deaths >= DEATHS_ALONE && job_occupies(job))
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
        kept_done(&job->kept);
        prompt_done(&job->prompt);
        free(job->raw);
        free(job);
    }
}
