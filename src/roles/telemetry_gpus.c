/*
 * telemetry_gpus.c - the node's GPUs as metrics.
 */
#include <stdio.h>

#include "base/log.h"
#include "roles/telemetry.h"

#define GPU_RETRY_POLLS 60 /* between two looks for a library that was not there */

#define GPU_LABELS                                                                                 \
    {                                                                                              \
        "hostname", "gpu_index", "uuid"                                                            \
    }

const struct metric telemetry_gpu_rows[GPU_ROWS_END] = {
    [GPU_UTILIZATION] = {.name = "gpu_utilization",
                         .type = METRIC_GAUGE,
                         .help = "GPU utilization percentage",
                         .labels = GPU_LABELS},
    [GPU_MEMORY_UTILIZATION] = {.name = "gpu_memory_utilization",
                                .type = METRIC_GAUGE,
                                .help = "GPU memory utilization percentage (time the memory was "
                                        "busy)",
                                .labels = GPU_LABELS},
    [GPU_MEMORY_USED] = {.name = "gpu_memory_used",
                         .type = METRIC_GAUGE,
                         .help = "GPU memory used in MiB",
                         .labels = GPU_LABELS},
    [GPU_MEMORY_FREE] = {.name = "gpu_memory_free",
                         .type = METRIC_GAUGE,
                         .help = "GPU memory free in MiB",
                         .labels = GPU_LABELS},
    [GPU_MEMORY_TOTAL] = {.name = "gpu_memory_total",
                          .type = METRIC_GAUGE,
                          .help = "GPU memory total in MiB",
                          .labels = GPU_LABELS},
    [GPU_UP] = {.name = "wyvern_gpu_up",
                .type = METRIC_GAUGE,
                .help = "1 while the GPU answers, 0 when it was lost",
                .labels = GPU_LABELS},
};

static void show_gpu(struct telemetry *telemetry, const struct gpu_reading *gpu)
{
    char index[16];
    const char *const labels[] = {telemetry->hostname, index, gpu->uuid};

    snprintf(index, sizeof index, "%u", gpu->index);
    telemetry_set(telemetry, GPU_UP, labels, gpu->up);
    if (gpu->has_utilization) {
        telemetry_set(telemetry, GPU_UTILIZATION, labels, gpu->gpu_percent);
        telemetry_set(telemetry, GPU_MEMORY_UTILIZATION, labels, gpu->memory_percent);
    }
    if (gpu->has_memory) { /* whole MiB, as the original has them */
        telemetry_set(telemetry, GPU_MEMORY_USED, labels, (double)(gpu->memory_used >> 20));
        telemetry_set(telemetry, GPU_MEMORY_FREE, labels, (double)(gpu->memory_free >> 20));
        telemetry_set(telemetry, GPU_MEMORY_TOTAL, labels, (double)(gpu->memory_total >> 20));
    }
}

/* No GPU is normal: said once, and looked for again now and then, should a driver come. */
static void open_gpus(struct telemetry *telemetry)
{
    if (telemetry->nvml != NULL || telemetry->polls % GPU_RETRY_POLLS != 0)
        return;
    if (nvml_open(&telemetry->nvml, NULL) == ERR_OK) {
        log_info("gpu.found");
    } else if (!telemetry->told_no_gpu) {
        telemetry->told_no_gpu = true;
        log_info("gpu.none why=\"%s\"", err_text());
    }
}

void show_gpus(struct telemetry *telemetry)
{
    struct gpu_reading readings[NVML_MAX_GPUS];
    unsigned count = 0;
    bool gone;

    open_gpus(telemetry);
    if (telemetry->nvml == NULL)
        return;
    gone = nvml_read(telemetry->nvml, readings, &count) != ERR_OK;
    if (gone && !telemetry->gpu_gone)
        log_warn("gpu.gone why=\"%s\"", err_text());
    else if (!gone && telemetry->gpu_gone)
        log_info("gpu.back count=%u", count);
    telemetry->gpu_gone = gone;
    for (size_t row = 0; row < GPU_ROWS_END; row++)
        metrics_clear(telemetry->metrics, row);
    for (unsigned i = 0; i < count; i++)
        show_gpu(telemetry, &readings[i]);
}
