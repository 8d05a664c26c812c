/*
 * nvml.h - NVIDIA GPUs through libnvidia-ml.so.1, opened at run time.
 *
 * One thread owns a handle.  No library, or a library without a driver, is normal: nvml_open then
 * answers ERR_NOT_FOUND, and err_text() says why.  Source of names and structs: NVML API Reference.
 */
#ifndef WYVERN_PROBE_NVML_H
#define WYVERN_PROBE_NVML_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define NVML_TEXT_MAX 96
#define NVML_MAX_GPUS 64

struct nvml;

struct gpu_reading {
    unsigned index; /* NVML's, not CUDA's; not stable: key on uuid */
    char uuid[NVML_TEXT_MAX];
    char name[NVML_TEXT_MAX];
    bool up;              /* false: lost; only index and uuid count */
    bool has_utilization; /* each has_ says whether the figures behind it are real */
    unsigned gpu_percent;
    unsigned memory_percent; /* time the memory was busy, not how full it is */
    bool has_memory;
    uint64_t memory_total, memory_used, memory_free; /* bytes */
};

/* library: file to open; NULL: libnvidia-ml.so.1, then libnvidia-ml.so. */
MUST_USE enum err nvml_open(struct nvml **out, const char *library);
void nvml_close(struct nvml *nvml);
/* Fills at most NVML_MAX_GPUS readings; GPUs that we may not look at are left out.  A lost GPU is
 * up = false while the library is started anew now and then, the others go on.  ERR_UNAVAILABLE:
 * the driver is gone for now; the handle heals itself at a later call, with back-off. */
MUST_USE enum err nvml_read(struct nvml *nvml, struct gpu_reading *readings, unsigned *count);

#endif
