/*
 * telemetry.h - what the telemetry worker's files share; for this role alone.
 *
 *   telemetry.c          loop, HTTP, broker, figures of the worker itself
 *   telemetry_gpus.c     GPUs, and the jobs that run on them
 *   telemetry_node.c     CPUs, memory, load, network and disk of this node
 *   telemetry_workers.c  what the node's inference workers say of themselves
 *
 * Each of the four has a section of the metric rows; telemetry.c makes one table of them.
 */
#ifndef WYVERN_ROLES_TELEMETRY_H
#define WYVERN_ROLES_TELEMETRY_H

#include <stdbool.h>
#include <stddef.h>

#include "bus/bus.h"
#include "bus/teller.h"
#include "config/settings.h"
#include "http/server.h"
#include "metrics/family.h"
#include "probe/nvml.h"
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
    GPU_ROWS_END
};

enum node_row {
    SYSTEM_LOAD_AVERAGE = GPU_ROWS_END, /* the original's */
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
    WORKER_ROWS_END
};

enum self_row { BUILD_INFO = WORKER_ROWS_END, BROKER_CONNECTED, POLL_SECONDS, ROW_COUNT };

/* Sections of the table; the first row of each is the end of the one before. */
extern const struct metric telemetry_gpu_rows[GPU_ROWS_END];
extern const struct metric telemetry_node_rows[NODE_ROWS_END - GPU_ROWS_END];
extern const struct metric telemetry_worker_rows[WORKER_ROWS_END - NODE_ROWS_END];

struct telemetry {
    const struct settings *settings;
    struct join join;
    struct loop *loop;
    struct bus *bus;
    struct bus_subscription *workers;
    struct http_server *server;
    struct loop_timer *tick;
    struct teller *teller;
    struct metrics *metrics;
    struct nvml *nvml;
    struct tally tally;
    struct presence presence;
    char hostname[PRESENCE_TEXT_MAX];
    unsigned polls;
    bool told_no_gpu, gpu_gone, told_full, incomplete;
};

/* telemetry.c: sets a series; NaN is nothing known: no series.  What can't be kept is told once. */
void telemetry_set(struct telemetry *telemetry, size_t row, const char *const *labels,
                   double value);
void telemetry_keep(struct telemetry *telemetry, enum err err);

/* What was read last → series. */
void show_gpus(struct telemetry *telemetry);
void show_node(struct telemetry *telemetry);
void show_workers(struct telemetry *telemetry);

/* A message of one of the node's inference workers (state.infer.<node>.*). */
void hear_worker(void *arg, const struct bus_message *message);

#endif
