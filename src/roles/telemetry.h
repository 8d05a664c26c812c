/*
 * telemetry.h - what the telemetry worker's files share; for this role alone.
 *
 *   telemetry.c          loop, HTTP, broker, figures of the worker itself
 *   telemetry_gpus.c     GPUs, and the jobs that run on them
 *   telemetry_node.c     CPUs, memory, load, network and disk of this node
 *   telemetry_tell.c     the few of these figures that the status shows
 *   telemetry_workers.c  what the node's inference workers say of themselves
 *
 * Each but telemetry_tell.c has a section of the metric rows; telemetry.c makes one table of them.
 */
#ifndef WYVERN_ROLES_TELEMETRY_H
#define WYVERN_ROLES_TELEMETRY_H

#include <stdbool.h>
#include <stddef.h>

#include "bus/bus.h"
#include "bus/teller.h"
#include "config/options.h"
#include "config/settings.h"
#include "http/server.h"
#include "metrics/family.h"
#include "probe/node.h"
#include "probe/poller.h"
#include "roles/tally.h"
#include "wire/presence.h"

enum gpu_row {
    /* of the original's seven */
    GPU_UTILIZATION,
    GPU_MEMORY_UTILIZATION,
    GPU_MEMORY_USED,
    GPU_MEMORY_FREE,
    GPU_MEMORY_TOTAL,
    /* ours */
    GPU_UP,
    GPU_INFO,
    GPU_UTILIZATION_RATIO,
    GPU_MEMORY_BUSY_RATIO,
    GPU_MEMORY_USED_SIZE,
    GPU_MEMORY_FREE_SIZE,
    GPU_MEMORY_WHOLE_SIZE,
    GPU_POWER,
    GPU_POWER_LIMIT,
    GPU_ENERGY,
    GPU_TEMPERATURE,
    GPU_CLOCK,
    GPU_ECC_ERRORS,
    GPU_XID_ERRORS,
    GPU_JOB_INFO,
    GPU_ROWS_END
};

enum node_row {
    SYSTEM_LOAD_AVERAGE = GPU_ROWS_END, /* the original's */
    NODE_CPU_SECONDS,
    NODE_CPUS,
    NODE_MEMORY_SIZE,
    NODE_MEMORY_AVAILABLE,
    NODE_LOAD1,
    NODE_LOAD5,
    NODE_LOAD15,
    NODE_NETWORK_RECEIVED,
    NODE_NETWORK_SENT,
    NODE_DISK_FREE,
    NODE_DISK_SIZE,
    NODE_ROWS_END
};

enum worker_row {
    REQUEST_LATENCY = NODE_ROWS_END, /* the original's */
    WORKER_INFO,                     /* from here on cleared and told anew at each scrape */
    WORKER_SLOTS,
    WORKER_ACTIVE,
    WORKER_PROMPTS,
    WORKER_FAILED,
    WORKER_PROMPT_TOKENS,
    WORKER_REPLY_TOKENS,
    WORKER_WAITING,
    WORKER_BUSY,
    WORKER_SLOT_TIME,
    WORKER_KV_USED,
    WORKER_CACHED_TOKENS,
    WORKER_PREFILL,
    WORKER_DECODE,
    WORKER_RESTARTS,
    WORKER_ROWS_END
};

enum self_row {
    BUILD_INFO = WORKER_ROWS_END,
    BROKER_CONNECTED,
    COLLECTOR_SUCCESS,
    COLLECTOR_DURATION,
    ROW_COUNT
};

/* Sections of the table; the first row of each is the end of the one before. */
extern const struct metric telemetry_gpu_rows[GPU_ROWS_END];
extern const struct metric telemetry_node_rows[NODE_ROWS_END - GPU_ROWS_END];
extern const struct metric telemetry_worker_rows[WORKER_ROWS_END - NODE_ROWS_END];

/* What is read each second, in a thread each. */
enum collector_id {
    COLLECT_NVML,
    COLLECT_AMDGPU,
    COLLECT_HOST,
    COLLECT_DISK,
    COLLECT_NETWORK,
    COLLECT_JOBS,
    COLLECTOR_COUNT
};

struct collector {
    const char *name; /* in metrics and logs */
    struct poller *poller;
    void *latest; /* what it read last; for collectors of GPUs a struct gpu_list, … */
    struct poller_news news;
    bool told_nothing, told_failed; /* in the log */
};

struct telemetry {
    const struct settings *settings;
    struct join join;
    struct loop *loop;
    struct bus *bus;
    struct bus_subscription *workers, *supervisor;
    struct http_server *server;
    struct loop_timer *tick;
    struct collector collectors[COLLECTOR_COUNT];
    struct teller *teller;
    struct metrics *metrics;
    struct tally tally;
    uint32_t restarts[PRESENCE_RESTARTS_MAX]; /* of the workers, by their supervisor */
    unsigned restart_count;
    int64_t restarts_ns; /* when it said so */
    struct presence presence;
    double cpu_told[NODE_CPU_MODES]; /* seconds, when our presence was said last */
    char hostname[PRESENCE_TEXT_MAX];
    bool told_full, incomplete;
};

/* telemetry.c: sets a series; NaN is nothing known: no series.  What can't be kept is told once. */
void telemetry_set(struct telemetry *telemetry, size_t row, const char *const *labels,
                   double value);
void telemetry_keep(struct telemetry *telemetry, enum err err);

/* telemetry_tell.c: brings the presence up to date; arg: struct telemetry. */
teller_refresh_fn telemetry_refresh;

/* telemetry_gpus.c, telemetry_node.c: begin to read. */
MUST_USE enum err collect_gpus(struct telemetry *telemetry);
MUST_USE enum err collect_node(struct telemetry *telemetry);
/* telemetry.c: begins one collector; takes config's state, also on failure. */
MUST_USE enum err telemetry_collect(struct telemetry *telemetry, enum collector_id id,
                                    const char *name, const struct poller_config *config);

/* What was read last → series. */
void show_gpus(struct telemetry *telemetry);
void show_node(struct telemetry *telemetry);
void show_workers(struct telemetry *telemetry);

/* A message of one of the node's inference workers (state.infer.<node>.*). */
void hear_worker(void *arg, const struct bus_message *message);
/* And of the node's supervisor (state.node.<node>.*). */
void hear_supervisor(void *arg, const struct bus_message *message);

#endif
