/*
 * topmodel.h - what `wyvern top` knows of a service: taken from the gateway's /wyvern/status and
 * from everybody's /metrics.  Pure but for memory: no sockets, no clocks.  One thread.
 *
 * Times are seconds of one monotonic clock.  A figure that is not known is NAN.  All text came over
 * the network and may hold anything but broken UTF-8.  Everything is bounded; what is more than
 * that is counted as missed.
 */
#ifndef WYVERN_VERBS_TOPMODEL_H
#define WYVERN_VERBS_TOPMODEL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "verbs/topseries.h"

#define TOP_NODES_MAX    256
#define TOP_WORKERS_MAX  256 /* a node */
#define TOP_GPUS_MAX     64  /* a node */
#define TOP_GATEWAYS_MAX 16
#define TOP_NAME_SIZE    64
#define TOP_TEXT_SIZE    256
#define TOP_STALE_S      5.0 /* a figure this old is not shown any more */

struct top_worker {
    char id[TOP_NAME_SIZE], state[16], device[TOP_TEXT_SIZE], model[TOP_TEXT_SIZE];
    long long pid;
    double slots, active, prompts, failed, tokens;       /* the status' */
    double waiting, kv_usage, hit_tokens, prompt_tokens; /* its node's metrics' */
    double restarts;
    struct top_rate token_rate;
    struct top_trail busy; /* share of its slots */
    bool seen;
};

struct top_gpu {
    char index[16], uuid[TOP_NAME_SIZE], name[TOP_TEXT_SIZE];
    double up, utilization, memory_used, memory_size, power, power_limit, temperature;
    double percent, used_mib, size_mib; /* the original's names for three of them */
    struct top_trail busy;
    bool seen;
};

struct top_node {
    char name[TOP_NAME_SIZE], address[TOP_NAME_SIZE], metrics_url[TOP_TEXT_SIZE];
    double load1, load5, load15, old_load, cpus, memory_size, memory_available;
    double disk_free, disk_size;
    double cpu_idle_s, cpu_all_s, received, sent; /* sums while a reading comes in */
    struct top_rate idle_rate, cpu_rate, receive_rate, send_rate;
    struct top_trail busy;           /* CPU share */
    double metrics_s;                /* when they last came; NAN: never */
    char metrics_why[TOP_TEXT_SIZE]; /* why they did not; "": they did, or nobody asked */
    struct top_worker *workers;      /* owned */
    struct top_gpu *gpus;            /* owned */
    size_t worker_count, gpu_count;
    bool seen;
};

enum top_latency { TOP_TTFT, TOP_E2E, TOP_ITL, TOP_QUEUE_TIME, TOP_LATENCIES };

struct top_gateway {
    char id[TOP_NAME_SIZE], url[TOP_TEXT_SIZE];
    struct top_buckets latency[TOP_LATENCIES]; /* its last reading */
    double ended;                              /* replies, while a reading comes in */
    struct top_rate reply_rate;
    bool answers, seen;
};

struct top {
    char url[TOP_TEXT_SIZE], model[TOP_TEXT_SIZE];
    char why[512];   /* why there is no status; "": there is */
    double status_s; /* when it last came; NAN: never */
    bool connected;  /* the gateway to its broker */
    double waiting, in_flight, limit;
    size_t responders, missed_nodes, missed_workers;
    struct top_node *nodes[TOP_NODES_MAX]; /* owned; in the status' order */
    size_t node_count;
    struct top_gateway gateways[TOP_GATEWAYS_MAX];
    size_t gateway_count;
    struct top_window latency[TOP_LATENCIES];
    struct top_trail token_trail, waiting_trail, busy;
};

MUST_USE enum err top_new(struct top **out, const char *url);
void top_free(struct top *top);

/* What GET /wyvern/status answered.  ERR_INVALID: another thing than a status. */
MUST_USE enum err top_take_status(struct top *top, double now, const json_t *status);
/* It did not answer. */
void top_take_failure(struct top *top, const char *why);
/* What a node's or gateway's /metrics answered.  text[len] is a NUL. */
void top_take_node(struct top_node *node, double now, const char *text, size_t len);
void top_take_gateway(struct top *top, struct top_gateway *gateway, double now, const char *text,
                      size_t len);
/* Once a second: what is too old is forgotten, trails go on. */
void top_tick(struct top *top, double now);

struct top_node *top_node_find(const struct top *top, const char *name); /* or NULL */
struct top_gateway *top_gateway_find(struct top *top, const char *url);  /* or NULL */

/* Is the status there and not too old? */
bool top_is_fresh(const struct top *top, double now);

struct top_sums {
    size_t workers, ready, gpus;
    double slots, active, tokens_per_s, replies_per_s;
};
void top_sum(const struct top *top, struct top_sums *out);
double top_node_cpu(const struct top_node *node);        /* share; NAN */
double top_worker_hits(const struct top_worker *worker); /* share of prompt tokens; NAN */
/* Of the window; all_time: since the gateways began. */
void top_latency_of(const struct top *top, enum top_latency which, bool all_time,
                    struct top_buckets *out);

#endif
