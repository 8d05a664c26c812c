/*
 * infer.h - private to the inference worker: what its files share.
 *
 * infer.c keeps the process's affairs; pull.c pulls prompts; job.c and its neighbours take
 * one prompt from delivery to its end; model.c is the thread that owns the model.  Everything here
 * is on the loop's thread.
 */
#ifndef WYVERN_ROLES_INFER_INFER_H
#define WYVERN_ROLES_INFER_INFER_H

#include <uthash.h>

#include "bus/bus.h"
#include "bus/endings.h"
#include "bus/prompts.h"
#include "bus/teller.h"
#include "bus/tokens.h"
#include "config/options.h"
#include "roles/infer/model.h"
#include "wire/presence.h"
#include "wire/prompt.h"

struct job;

struct peer { /* a process that we heard of: a gateway, or a worker */
    char boot[TAG_SIZE];
    int64_t silent_ms; /* beyond PRESENCE_GONE_MS: gone, or it said goodbye */
    int64_t heard_ns;
    UT_hash_handle hh;
};

struct infer {
    const struct settings *settings;
    struct loop *loop;
    struct bus *bus;
    struct endings *endings;
    struct model_thread *model;
    struct presence presence; /* also our name, node, device and figures */
    struct join join;
    struct loop_timer *tick;
    struct teller *teller;
    int64_t ticked_ns;
    int64_t counted_ns; /* up to here the time is in the figures */
    unsigned counted;   /* prompts that were in the model since then */
    struct bus_subscription *claims, *gateways, *workers;
    struct job *jobs_by_run; /* those the model works on */
    struct job *jobs_by_id;  /* all */
    struct peer *peers;
    uint64_t next_run;
    unsigned slots;
    unsigned pulling;         /* asked of the main lane, not here yet */
    bool pulling_batch;       /* one is asked of the batch lane */
    int64_t main_ns;          /* the main lane was last busy, or not listened to, then */
    struct loop_timer *quiet; /* it may be quiet by then */
    int64_t away_since_ns;    /* broker away since; 0: it is there */
    int report_fd;            /* pipe to the supervisor, -1: none */
    bool ready, leaving;
    bool pausing, batch_pausing; /* no fetch until the next tick */
    int exit_status;
};

/* pull.c: something changed that may let us fetch or leave. */
void infer_kick(struct infer *infer);
void infer_quiet(void *arg); /* of the timer of this name */
/* infer.c, for jobs. */
/* Is the gateway that owns a prompt gone?  The first question about one starts its clock. */
bool infer_owner_gone(struct infer *infer, const char *gateway);
/* Is the process with this boot known to be there? */
bool infer_is_alive(struct infer *infer, const char *boot);

/* job.c */
void job_begin(struct infer *infer, const struct prompt_delivery *delivery);
void job_event(struct infer *infer, uint64_t run, const struct engine_event *event);
/* A tombstone was heard for a prompt we may hold. */
void job_tombstone(struct infer *infer, const char *id, const struct claim *claim);
void jobs_flush(struct infer *infer);     /* store what the last step brought */
void jobs_heartbeat(struct infer *infer); /* tell the broker that we are at it */
void jobs_tick(struct infer *infer);      /* retry what failed, end what may not go on */
void jobs_reconnected(struct infer *infer);
unsigned jobs_occupying(const struct infer *infer); /* slots in use or spoken for */
/* Counts the time since the last call; to be called whenever jobs_by_run has changed. */
void jobs_count_time(struct infer *infer);
bool jobs_suspect_here(const struct infer *infer); /* a prompt that must run alone */
void jobs_free(struct infer *infer);

#endif
