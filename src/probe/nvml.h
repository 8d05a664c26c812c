/*
 * nvml.h - NVIDIA GPUs through libnvidia-ml.so.1, opened at run time.
 *
 * One thread owns a handle.  No library, or a library without a driver, is normal: nvml_open then
 * answers ERR_NOT_FOUND, and err_text() says why; a driver that is there and refuses is
 * ERR_UNAVAILABLE.  Source of names and structs: NVML API Reference.
 */
#ifndef WYVERN_PROBE_NVML_H
#define WYVERN_PROBE_NVML_H

#include "base/err.h"
#include "probe/gpu.h"

#define NVML_MAX_GPUS GPU_MAX

struct nvml;

/* library: file to open; NULL: libnvidia-ml.so.1, then libnvidia-ml.so. */
MUST_USE enum err nvml_open(struct nvml **out, const char *library);
void nvml_close(struct nvml *nvml);
/* Fills at most NVML_MAX_GPUS readings, and counts the errors (XIDs) that the driver reported since
 * the first reading; GPUs that we may not look at are left out.  A GPU that was seen and answers no
 * more is up = false while the library is started anew now and then, the others go on.
 * ERR_UNAVAILABLE: the driver is gone for now, readings and count are as they were; the handle
 * heals itself at a later call, with back-off. */
MUST_USE enum err nvml_read(struct nvml *nvml, struct gpu_reading *readings, unsigned *count);

#endif
