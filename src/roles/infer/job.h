/*
 * job.h - private to the inference worker: one prompt in its hands, from its delivery to its end.
 *
 * job.c makes, frees and watches jobs; claim.c finds out who holds a prompt and claims it; run.c
 * has the model work on it and stores the pieces; end.c brings it to its end; refuse.c ends what
 * can't be read.  Loop's thread only.
 *
 * The states, and what leads on:
 *
 *   CLAIMING  a claim, or a look at who claimed, is on its way
 *   LOADING   a takeover reads the record and what its predecessor stored
 *   ALONE     a suspect is here: it waits for the others to end, or others for it
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
#ifndef WYVERN_ROLES_INFER_JOB_H
#define WYVERN_ROLES_INFER_JOB_H

#include "roles/infer/infer.h"
#include "roles/infer/kept.h"

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
    char trace_id[ID_SIZE]; /* of the client's request; "" from an older gateway */
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
    unsigned prompt_tokens, reply_tokens, cached_tokens, truncated_tokens;
    struct engine_timings timings;
    json_t *choices; /* of a reply of several texts; else NULL */
    json_t *result;  /* of a task that makes no text; else NULL */
    /* pieces */
    struct kept kept;
    size_t stored; /* acknowledged by the broker */
    size_t found;  /* counted by a read */
    size_t found_text;
    int64_t no_room_ns; /* since when the broker has had no room for it; 0: it has */
    bool appending, found_done;
    UT_hash_handle by_run, by_id;
};

/* job.c */
void job_try_free(struct job *job);
/* Nothing more is to be done about this job by us. */
void job_drop(struct job *job);
/* A bus operation's callback begins with this: false when the job only waits to be freed. */
bool job_back(struct job *job);
/* Something could not be said to the broker: jobs_tick looks again. */
void job_broken(struct job *job);

/* refuse.c */
/* Ends a prompt that this worker does not understand (err_text says why). */
void job_refuse(struct infer *infer, const struct prompt_delivery *delivery, enum err err);

/* claim.c */
/* Looks who holds the prompt now and goes on from there. */
void job_sync(struct job *job);
/* Claims; expected is the sequence of the claim before, 0 for none. */
void job_claim(struct job *job, uint64_t expected);
/* Forgets what the model made before somebody else's claim was known, and looks who that is. */
void job_begin_again(struct job *job);

/* run.c */
/* The claim is ours and what was stored before is known: generate the rest. */
void job_go(struct job *job);
/* A suspect killed DEATHS_ALONE workers.  It runs with nothing else in the model, so that no other
 * prompt dies of it; and it waits for that without a claim, so that a death meanwhile is not its.
 */
bool job_is_suspect(const struct job *job);
bool job_may_start(const struct job *job);
void job_start_model(struct job *job);
void job_stop_model(struct job *job);
/* Stores what the model has brought and is not stored yet. */
void job_flush(struct job *job);
/* The broker has no room for it now: tries again for a while, then ends it. */
void job_no_room(struct job *job);
/* A reply, or its logprobs, outgrew what a record holds: ends it with an error. */
void job_too_long(struct job *job);
/* Ends the reply with an error instead of a whole text. */
void job_fail(struct job *job, enum err err, const char *code, int status, const char *text);

/* end.c */
void job_finish(struct job *job);
void job_acknowledge(struct job *job);
/* Ends the prompt without a whole reply; tombstone: put one first. */
void job_cancelled(struct job *job, const char *reason, bool tombstone);

#endif
