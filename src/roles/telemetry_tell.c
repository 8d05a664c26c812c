/*
 * telemetry_tell.c - what the status shows of a node: its GPUs, CPUs and memory, in the telemetry
 * worker's presence.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "probe/gpu.h"
#include "probe/node.h"
#include "roles/telemetry.h"

static double known(double value)
{
    return isnan(value) ? -1 : value;
}

static double known_percent(double value)
{
    return isnan(value) || value < 0 || value > 100 ? -1 : value / 100;
}

static void tell_gpu(struct presence *presence, const struct gpu_reading *gpu)
{
    struct presence_gpu *told = &presence->gpus[presence->gpu_count++];

    *told = (struct presence_gpu){
        .index = gpu->index,
        .busy = known_percent(gpu->figures[GPU_BUSY_PERCENT]),
        .memory_used = known(gpu->figures[GPU_MEMORY_USED_BYTES]),
        .memory_total = known(gpu->figures[GPU_MEMORY_TOTAL_BYTES]),
        .power_w = known(gpu->figures[GPU_POWER_WATTS]),
        .temperature_c = known(gpu->figures[GPU_TEMPERATURE_CELSIUS]),
    };
    snprintf(told->name, sizeof told->name, "%.*s", (int)sizeof told->name - 1, gpu->name);
}

/* A list that could not be read anew says nothing of now. */
static void tell_gpus(struct presence *presence, const struct collector *collector)
{
    const struct gpu_list *list = collector->latest;

    if (list == NULL || collector->news.answer != POLL_WELL)
        return;
    for (unsigned i = 0; i < list->count && presence->gpu_count < PRESENCE_GPUS_MAX; i++)
        if (list->gpus[i].up)
            tell_gpu(presence, &list->gpus[i]);
}

/* Share of the time since the last call that was neither idle nor spent waiting for a disk. */
static double cpu_busy(double told[NODE_CPU_MODES], const double seconds[NODE_CPU_MODES])
{
    double all = 0, idle = 0;

    for (size_t i = 0; i < NODE_CPU_MODES; i++) {
        double spent = fmax(0, seconds[i] - told[i]);
        bool waits =
            strcmp(node_cpu_modes[i], "idle") == 0 || strcmp(node_cpu_modes[i], "iowait") == 0;
        if (isnan(seconds[i]))
            return -1;
        all += spent;
        idle += waits ? spent : 0;
    }
    return all > 0 ? (all - idle) / all : -1;
}

static void tell_host(struct telemetry *telemetry, const struct collector *collector)
{
    const struct node_reading *node = collector->latest;
    struct presence_host *host = &telemetry->presence.host;
    double busy;

    host->known = node != NULL && collector->news.readings > 0 && !collector->news.hangs;
    if (!host->known)
        return;
    busy = cpu_busy(telemetry->cpu_told, node->cpu_seconds);
    if (busy >= 0) { /* else nothing was read since: the last one stands */
        host->cpu_busy = busy;
        memcpy(telemetry->cpu_told, node->cpu_seconds, sizeof telemetry->cpu_told);
    }
    host->memory_total = known(node->memory_size_bytes);
    host->memory_used = known(node->memory_size_bytes - node->memory_available_bytes);
}

void telemetry_refresh(void *arg)
{
    struct telemetry *telemetry = arg;

    telemetry->presence.gpu_count = 0;
    tell_gpus(&telemetry->presence, &telemetry->collectors[COLLECT_NVML]);
    tell_gpus(&telemetry->presence, &telemetry->collectors[COLLECT_AMDGPU]);
    tell_host(telemetry, &telemetry->collectors[COLLECT_HOST]);
}
