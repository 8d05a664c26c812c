/*
 * presence.h - what each process says of itself every second, on state.<role>.<node>.<name>.
 *
 * One shape for all roles; a role fills what it has and leaves the rest 0 or "".  JSON on the wire.
 */
#ifndef WYVERN_WIRE_PRESENCE_H
#define WYVERN_WIRE_PRESENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define PRESENCE_NAME_MAX    64
#define PRESENCE_TEXT_MAX    256
#define PRESENCE_INTERVAL_MS 1000
#define PRESENCE_GONE_MS     5000 /* silent for this long: gone */
#define LATENCY_BUCKET_COUNT 14   /* bounds below; one more count for +Inf */

/* prometheus_client's default buckets, which the original's histogram had. */
extern const double presence_latency_bounds[LATENCY_BUCKET_COUNT];

/* What an inference worker has been doing since its start: none of it ever gets less. */
struct presence_work {
    bool known;       /* false: of an older version, which says nothing of this */
    unsigned waiting; /* held, but not with the model yet; also in active */
    double kv_used;   /* share of the cache that is in use, 0 … 1; negative: not known */
    double busy_s;    /* time with at least one prompt in the model */
    double slot_s;    /* the same, summed over prompts */
    double prefill_s; /* the model computed prompts */
    double decode_s;  /* the model computed further tokens */
    uint64_t cached_tokens_total; /* of prompts, found in the prefix cache */
};

#define PRESENCE_RESTARTS_MAX 256 /* workers of a node */
#define PRESENCE_GPUS_MAX     16  /* of a node that are told of here; /metrics has all */

/* What is not known is negative. */
struct presence_gpu {
    char name[40]; /* of the model, cut */
    unsigned index;
    double busy;                      /* 0 … 1 */
    double memory_used, memory_total; /* bytes */
    double power_w, temperature_c;
};

struct presence_host {
    bool known;
    double cpu_busy; /* share of all CPUs since it was said last, 0 … 1 */
    double memory_used, memory_total;
};

struct presence {
    char role[16]; /* "gateway", "infer", "respond", "telemetry", "node" */
    char node[PRESENCE_NAME_MAX];
    char name[PRESENCE_NAME_MAX]; /* unique among the role's processes */
    char boot[17];                /* random per start: figures below begin at 0 with it */
    int pid;
    bool leaving; /* said goodbye: drop it now, without waiting for PRESENCE_GONE_MS */
    char address[PRESENCE_NAME_MAX]; /* node */
    char url[PRESENCE_TEXT_MAX];     /* gateway: its API; telemetry: its metrics */
    /* infer */
    char device[PRESENCE_TEXT_MAX];
    char model[PRESENCE_TEXT_MAX];
    char state[16]; /* "loading", "ready", "draining" */
    char arch[32];  /* of its engine: "llama", "blenderbot", "fake"; "": not loaded yet, or older */
    unsigned slots, active, context;
    uint64_t prompts_total;
    /* seconds from acceptance to the reply's end, requests served by this process */
    uint64_t latency_counts[LATENCY_BUCKET_COUNT + 1]; /* not cumulative */
    double latency_sum;
    struct presence_work work;
    /* respond: of the records it created */
    uint64_t replies_total;
    /* telemetry: its node now */
    struct presence_host host;
    struct presence_gpu gpus[PRESENCE_GPUS_MAX];
    unsigned gpu_count;
    /* infer and respond */
    uint64_t prompt_tokens_total, reply_tokens_total, failed_total;
    /* node: how often each of its workers, infer-<node>-<i>, had to be started again; borrowed, and
     * read by presence_restarts() */
    const uint32_t *restarts;
    unsigned restart_count;
};

MUST_USE enum err presence_encode(const struct presence *presence, struct buf *out);
MUST_USE enum err presence_decode(struct presence *out, const char *data, size_t len);
/* The restarts of a node's presence; returns how many workers, 0 for anything else. */
unsigned presence_restarts(uint32_t out[PRESENCE_RESTARTS_MAX], const char *data, size_t len);
/* "state.<role>.<node>.<name>" (names encoded as tokens). */
void presence_subject(const struct presence *presence, char *out, int cap);

#endif
