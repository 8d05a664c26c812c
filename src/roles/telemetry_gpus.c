/*
 * telemetry_gpus.c - the node's GPUs, and the jobs that run on them, as metrics.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "probe/amdgpu.h"
#include "probe/node.h"
#include "probe/nvml.h"
#include "roles/telemetry.h"

#define GPU_RETRY_POLLS 60 /* between two looks for a GPU where there was none */
#define MIB             (1 << 20)
#define PERCENT         100

#define HOST_GPU_LABELS                                                                            \
    {                                                                                              \
        "hostname", "gpu_index", "uuid"                                                            \
    }
#define GPU_LABELS                                                                                 \
    {                                                                                              \
        "gpu_index", "uuid"                                                                        \
    }

const struct metric telemetry_gpu_rows[GPU_ROWS_END] = {
    [GPU_UTILIZATION] = {.name = "gpu_utilization",
                         .type = METRIC_GAUGE,
                         .help = "GPU utilization percentage",
                         .labels = HOST_GPU_LABELS},
    [GPU_MEMORY_UTILIZATION] = {.name = "gpu_memory_utilization",
                                .type = METRIC_GAUGE,
                                .help = "GPU memory utilization percentage (time the memory was "
                                        "busy)",
                                .labels = HOST_GPU_LABELS},
    [GPU_MEMORY_USED] = {.name = "gpu_memory_used",
                         .type = METRIC_GAUGE,
                         .help = "GPU memory used in MiB",
                         .labels = HOST_GPU_LABELS},
    [GPU_MEMORY_FREE] = {.name = "gpu_memory_free",
                         .type = METRIC_GAUGE,
                         .help = "GPU memory free in MiB",
                         .labels = HOST_GPU_LABELS},
    [GPU_MEMORY_TOTAL] = {.name = "gpu_memory_total",
                          .type = METRIC_GAUGE,
                          .help = "GPU memory total in MiB",
                          .labels = HOST_GPU_LABELS},
    [GPU_UP] = {.name = "wyvern_gpu_up",
                .type = METRIC_GAUGE,
                .help = "1 while the GPU answers, 0 when it was lost",
                .labels = HOST_GPU_LABELS},
    [GPU_INFO] = {.name = "wyvern_gpu_info",
                  .type = METRIC_GAUGE,
                  .help = "A GPU of this node: its name, maker and driver's version",
                  .labels = {"gpu_index", "uuid", "name", "vendor", "driver"}},
    [GPU_UTILIZATION_RATIO] = {.name = "wyvern_gpu_utilization_ratio",
                               .type = METRIC_GAUGE,
                               .help = "Part of the time in which the GPU was busy, 0 to 1",
                               .labels = GPU_LABELS},
    [GPU_MEMORY_BUSY_RATIO] = {.name = "wyvern_gpu_memory_busy_ratio",
                               .type = METRIC_GAUGE,
                               .help = "Part of the time in which the GPU's memory was read or "
                                       "written, 0 to 1",
                               .labels = GPU_LABELS},
    [GPU_MEMORY_USED_SIZE] = {.name = "wyvern_gpu_memory_used_bytes",
                              .type = METRIC_GAUGE,
                              .help = "GPU memory in use",
                              .labels = GPU_LABELS},
    [GPU_MEMORY_FREE_SIZE] = {.name = "wyvern_gpu_memory_free_bytes",
                              .type = METRIC_GAUGE,
                              .help = "GPU memory that is free",
                              .labels = GPU_LABELS},
    [GPU_MEMORY_WHOLE_SIZE] = {.name = "wyvern_gpu_memory_size_bytes",
                               .type = METRIC_GAUGE,
                               .help = "GPU memory in all",
                               .labels = GPU_LABELS},
    [GPU_POWER] = {.name = "wyvern_gpu_power_watts",
                   .type = METRIC_GAUGE,
                   .help = "Power that the GPU draws",
                   .labels = GPU_LABELS},
    [GPU_POWER_LIMIT] = {.name = "wyvern_gpu_power_limit_watts",
                         .type = METRIC_GAUGE,
                         .help = "Power that the GPU may draw",
                         .labels = GPU_LABELS},
    [GPU_ENERGY] = {.name = "wyvern_gpu_energy_joules_total",
                    .type = METRIC_COUNTER,
                    .help = "Energy that the GPU has used since its driver was loaded",
                    .labels = GPU_LABELS},
    [GPU_TEMPERATURE] = {.name = "wyvern_gpu_temperature_celsius",
                         .type = METRIC_GAUGE,
                         .help = "Temperature of the GPU's chip",
                         .labels = GPU_LABELS},
    [GPU_CLOCK] = {.name = "wyvern_gpu_clock_hertz",
                   .type = METRIC_GAUGE,
                   .help = "Present clock of the GPU's cores (sm) and of its memory (memory)",
                   .labels = {"gpu_index", "uuid", "clock"}},
    [GPU_ECC_ERRORS] = {.name = "wyvern_gpu_ecc_errors_total",
                        .type = METRIC_COUNTER,
                        .help = "Errors that the GPU's memory has corrected or could not correct, "
                                "as the GPU counts them",
                        .labels = {"gpu_index", "uuid", "severity"}},
    [GPU_XID_ERRORS] = {.name = "wyvern_gpu_xid_errors_total",
                        .type = METRIC_COUNTER,
                        .help =
                            "Errors that NVIDIA's driver reported since this worker's start, by "
                            "their number",
                        .labels = {"gpu_index", "uuid", "xid"}},
    [GPU_JOB_INFO] = {.name = "wyvern_gpu_job_info",
                      .type = METRIC_GAUGE,
                      .help = "A job of the cluster's scheduler on this GPU",
                      .labels = {"gpu_index", "uuid", "hpc_job"}},
};

/* ---- reading, in the collectors' threads ---- */

struct nvml_source {
    struct nvml *nvml;
    uint64_t polls;
    bool was_there;
};

/* No GPU is normal; it is looked for again now and then, should a driver come. */
static enum poll_answer read_nvml(void *state, void *out)
{
    struct nvml_source *source = state;
    struct gpu_list *list = out;
    enum err err = ERR_OK;

    if (source->nvml == NULL) {
        if (source->polls++ % GPU_RETRY_POLLS == 0)
            err = nvml_open(&source->nvml, NULL);
        else
            return source->was_there ? POLL_FAILED : POLL_NOTHING;
        source->was_there = source->was_there || err == ERR_UNAVAILABLE;
        if (err != ERR_OK)
            return source->was_there ? POLL_FAILED : POLL_NOTHING;
    }
    return nvml_read(source->nvml, list->gpus, &list->count) == ERR_OK ? POLL_WELL : POLL_FAILED;
}

static void close_nvml(void *state)
{
    struct nvml_source *source = state;

    nvml_close(source->nvml);
    free(source);
}

struct amdgpu_source {
    const char *sysfs;
    bool was_there;
};

static enum poll_answer read_amdgpu(void *state, void *out)
{
    struct amdgpu_source *source = state;
    enum err err = amdgpu_read(source->sysfs, out);

    source->was_there = source->was_there || err == ERR_OK;
    if (err == ERR_OK)
        return POLL_WELL;
    return err == ERR_NOT_FOUND && !source->was_there ? POLL_NOTHING : POLL_FAILED;
}

static enum poll_answer read_jobs(void *state, void *out)
{
    return jobs_read(state, out) == ERR_OK ? POLL_WELL : POLL_FAILED;
}

static enum err collect_nvml(struct telemetry *telemetry)
{
    struct poller_config config = {
        .read = read_nvml, .done = close_nvml, .size = sizeof(struct gpu_list)};

    config.state = calloc(1, sizeof(struct nvml_source));
    if (config.state == NULL)
        return err_set(ERR_NOMEM, "no memory for GPUs");
    return telemetry_collect(telemetry, COLLECT_NVML, "nvml", &config);
}

static enum err collect_amdgpu(struct telemetry *telemetry)
{
    struct poller_config config = {
        .read = read_amdgpu, .done = free, .size = sizeof(struct gpu_list)};
    struct amdgpu_source *source = calloc(1, sizeof *source);

    if (source == NULL)
        return err_set(ERR_NOMEM, "no memory for GPUs");
    source->sysfs = telemetry->settings->sysfs;
    config.state = source;
    return telemetry_collect(telemetry, COLLECT_AMDGPU, "amdgpu", &config);
}

enum err collect_gpus(struct telemetry *telemetry)
{
    const char *jobs = telemetry->settings->job_mapping;
    enum err err = collect_nvml(telemetry);

    if (err == ERR_OK)
        err = collect_amdgpu(telemetry);
    if (err == ERR_OK && jobs != NULL)
        err = telemetry_collect(telemetry, COLLECT_JOBS, "jobs",
                                &(struct poller_config){.read = read_jobs,
                                                        .state = (void *)jobs,
                                                        .size = sizeof(struct job_reading)});
    return err;
}

/* ---- showing ---- */

/* The original's five: whole percents and MiB. */
static void show_original(struct telemetry *telemetry, const struct gpu_reading *gpu,
                          const char *index)
{
    const char *const labels[] = {telemetry->hostname, index, gpu->uuid};

    telemetry_set(telemetry, GPU_UP, labels, gpu->up);
    telemetry_set(telemetry, GPU_UTILIZATION, labels, gpu->figures[GPU_BUSY_PERCENT]);
    telemetry_set(telemetry, GPU_MEMORY_UTILIZATION, labels, gpu->figures[GPU_MEMORY_BUSY_PERCENT]);
    telemetry_set(telemetry, GPU_MEMORY_USED, labels,
                  floor(gpu->figures[GPU_MEMORY_USED_BYTES] / MIB));
    telemetry_set(telemetry, GPU_MEMORY_FREE, labels,
                  floor(gpu->figures[GPU_MEMORY_FREE_BYTES] / MIB));
    telemetry_set(telemetry, GPU_MEMORY_TOTAL, labels,
                  floor(gpu->figures[GPU_MEMORY_TOTAL_BYTES] / MIB));
}

/* Which row shows a figure, with which last label, in which unit. */
static const struct shown {
    enum gpu_row row;
    const char *label;
    double scale;
} shown[GPU_FIGURE_COUNT] = {
    [GPU_BUSY_PERCENT] = {GPU_UTILIZATION_RATIO, NULL, PERCENT},
    [GPU_MEMORY_BUSY_PERCENT] = {GPU_MEMORY_BUSY_RATIO, NULL, PERCENT},
    [GPU_MEMORY_TOTAL_BYTES] = {GPU_MEMORY_WHOLE_SIZE, NULL, 1},
    [GPU_MEMORY_USED_BYTES] = {GPU_MEMORY_USED_SIZE, NULL, 1},
    [GPU_MEMORY_FREE_BYTES] = {GPU_MEMORY_FREE_SIZE, NULL, 1},
    [GPU_POWER_WATTS] = {GPU_POWER, NULL, 1},
    [GPU_POWER_LIMIT_WATTS] = {GPU_POWER_LIMIT, NULL, 1},
    [GPU_ENERGY_JOULES] = {GPU_ENERGY, NULL, 1},
    [GPU_TEMPERATURE_CELSIUS] = {GPU_TEMPERATURE, NULL, 1},
    [GPU_CLOCK_SM_HERTZ] = {GPU_CLOCK, "sm", 1},
    [GPU_CLOCK_MEMORY_HERTZ] = {GPU_CLOCK, "memory", 1},
    [GPU_ECC_CORRECTED] = {GPU_ECC_ERRORS, "corrected", 1},
    [GPU_ECC_UNCORRECTED] = {GPU_ECC_ERRORS, "uncorrected", 1},
};

static void show_gpu(struct telemetry *telemetry, const struct gpu_reading *gpu)
{
    char index[16], xid[16];
    const char *const info[] = {index, gpu->uuid, gpu->name, gpu->vendor, gpu->driver};

    snprintf(index, sizeof index, "%u", gpu->index);
    show_original(telemetry, gpu, index);
    if (gpu->up)
        telemetry_set(telemetry, GPU_INFO, info, 1);
    for (size_t i = 0; i < GPU_FIGURE_COUNT; i++) {
        const char *const labels[] = {index, gpu->uuid, shown[i].label};
        telemetry_set(telemetry, shown[i].row, labels, gpu->figures[i] / shown[i].scale);
    }
    for (unsigned i = 0; i < gpu->xid_count; i++) {
        const char *const labels[] = {index, gpu->uuid, xid};
        snprintf(xid, sizeof xid, "%u", gpu->xids[i].xid);
        telemetry_set(telemetry, GPU_XID_ERRORS, labels, (double)gpu->xids[i].count);
    }
}

/* While the driver does not answer, the GPUs that it last told of are down. */
static void show_list(struct telemetry *telemetry, const struct collector *collector)
{
    struct gpu_list *list = collector->latest;

    for (unsigned i = 0; list != NULL && i < list->count; i++) {
        struct gpu_reading *gpu = &list->gpus[i];
        if (collector->news.answer != POLL_WELL) {
            gpu->up = false;
            gpu_figures_clear(gpu);
        }
        show_gpu(telemetry, gpu);
    }
}

/* Jobs name GPUs by index alone; where makers share a node, NVIDIA's index is meant. */
static const struct gpu_reading *find_gpu(const struct telemetry *telemetry, unsigned index)
{
    static const enum collector_id makers[] = {COLLECT_NVML, COLLECT_AMDGPU};

    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) {
        const struct gpu_list *list = telemetry->collectors[makers[i]].latest;
        for (unsigned k = 0; k < list->count; k++)
            if (list->gpus[k].index == index)
                return &list->gpus[k];
    }
    return NULL;
}

static void show_jobs(struct telemetry *telemetry)
{
    const struct collector *collector = &telemetry->collectors[COLLECT_JOBS];
    const struct job_reading *jobs = collector->latest;

    if (jobs == NULL || collector->news.answer != POLL_WELL)
        return;
    for (unsigned i = 0; i < jobs->count; i++) {
        const struct gpu_reading *gpu = find_gpu(telemetry, jobs->jobs[i].gpu_index);
        char index[16];
        if (gpu == NULL)
            continue;
        snprintf(index, sizeof index, "%u", gpu->index);
        const char *const labels[] = {index, gpu->uuid, jobs->jobs[i].job};
        telemetry_set(telemetry, GPU_JOB_INFO, labels, 1);
    }
}

void show_gpus(struct telemetry *telemetry)
{
    for (size_t row = 0; row < GPU_ROWS_END; row++)
        metrics_clear(telemetry->metrics, row);
    show_list(telemetry, &telemetry->collectors[COLLECT_NVML]);
    show_list(telemetry, &telemetry->collectors[COLLECT_AMDGPU]);
    show_jobs(telemetry);
}
