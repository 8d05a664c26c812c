#include "roles/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/offload.h"
#include "probe/host.h"
#include "probe/nvml.h"

static enum err names_split(struct device_list *out, const char *wanted)
{
    while (*wanted) {
        size_t len = strcspn(wanted, ",");
        bool known = strncmp(wanted, "cpu:", 4) == 0 || strncmp(wanted, "gpu:", 4) == 0;
        if (!known || len <= 4 || len >= DEVICE_MAX)
            return err_set(ERR_USAGE, "--device \"%.*s\" is neither cpu:N nor gpu:UUID", (int)len,
                           wanted);
        if (out->count == DEVICES_MAX)
            return err_set(ERR_USAGE, "--device lists more than %d devices", DEVICES_MAX);
        memcpy(out->names[out->count], wanted, len);
        out->names[out->count++][len] = '\0';
        wanted += len + (wanted[len] == ',');
    }
    return ERR_OK;
}

static void gpu_add(struct device_list *out, const char *uuid, size_t len)
{
    if (out->count < DEVICES_MAX && len < DEVICE_MAX - sizeof "gpu:")
        snprintf(out->names[out->count++], DEVICE_MAX, "gpu:%.*s", (int)len, uuid);
}

/* The GPU that one entry of CUDA_VISIBLE_DEVICES names: its place, or the beginning of its UUID. */
static const struct gpu_reading *gpu_find(const struct gpu_reading *gpus, unsigned count,
                                          const char *entry, size_t len)
{
    if (len > 0 && len < 6 && strspn(entry, "0123456789") >= len)
        return (unsigned)atoi(entry) < count ? &gpus[atoi(entry)] : NULL;
    for (unsigned i = 0; i < count && len > 4 && strncmp(entry, "GPU-", 4) == 0; i++)
        if (strncmp(gpus[i].uuid, entry, len) == 0)
            return &gpus[i];
    return NULL;
}

/* The cluster's scheduler, or whoever started us, gave us some of the GPUs.  By CUDA's own rules:
 * the first entry that names nothing ends the list. */
static void gpus_take_shown(struct device_list *out, const struct gpu_reading *gpus, unsigned count,
                            const char *shown)
{
    for (;; shown++) {
        size_t len = strcspn(shown, ",");
        const struct gpu_reading *gpu = gpu_find(gpus, count, shown, len);
        if (len > 4 && strncmp(shown, "MIG-", 4) == 0)
            gpu_add(out, shown, len);
        else if (gpu == NULL)
            return;
        else if (gpu->up)
            gpu_add(out, gpu->uuid, strlen(gpu->uuid));
        shown += len;
        if (*shown == '\0')
            return;
    }
}

static void gpus_list(struct device_list *out)
{
    const char *shown = getenv("CUDA_VISIBLE_DEVICES");
    struct nvml *nvml;
    struct gpu_reading readings[NVML_MAX_GPUS];
    unsigned count = 0;
    if (nvml_open(&nvml, NULL) != ERR_OK)
        return; /* no NVIDIA GPU here, which is normal */
    enum err err = nvml_read(nvml, readings, &count);
    nvml_close(nvml);
    if (err != ERR_OK) {
        log_warn("devices.unreadable reason=\"%s\"", err_text());
        return;
    }
    if (count > 0 && !engine_can_offload()) {
        log_warn("devices.unused gpus=%u reason=\"this build of the model runtime is for CPUs\"",
                 count);
        return;
    }
    if (shown != NULL) {
        gpus_take_shown(out, readings, count, shown);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        if (readings[i].up)
            gpu_add(out, readings[i].uuid, strlen(readings[i].uuid));
}

enum err device_list_fill(struct device_list *out, const char *wanted)
{
    out->count = 0;
    if (wanted && *wanted)
        return names_split(out, wanted);
    gpus_list(out);
    return ERR_OK;
}

void device_list_take(const struct device_list *list, size_t i, char out[DEVICE_MAX])
{
    if (list->count == 0)
        snprintf(out, DEVICE_MAX, "cpu:%zu", i);
    else
        memcpy(out, list->names[i % list->count], DEVICE_MAX);
}

unsigned device_list_workers(const struct device_list *list)
{
    unsigned cpus = host_cpus();
    if (list->count > 0)
        return (unsigned)list->count;
    return cpus > 3 ? cpus / 2 : 1;
}
