#include "roles/devices.h"

#include <stdio.h>
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

static void gpus_list(struct device_list *out)
{
    struct nvml *nvml;
    struct gpu_reading readings[NVML_MAX_GPUS];
    unsigned count = 0;
    if (nvml_open(&nvml, NULL) != ERR_OK)
        return; /* no NVIDIA GPU here, which is normal */
    enum err err = nvml_read(nvml, readings, &count);
    if (err != ERR_OK)
        log_warn("devices.unreadable reason=\"%s\"", err_text());
    if (count > 0 && !engine_can_offload()) {
        log_warn("devices.unused gpus=%u reason=\"this build of the model runtime is for CPUs\"",
                 count);
        count = 0;
    }
    for (unsigned i = 0; err == ERR_OK && i < count && out->count < DEVICES_MAX; i++)
        if (readings[i].up)
            snprintf(out->names[out->count++], DEVICE_MAX, "gpu:%s", readings[i].uuid);
    nvml_close(nvml);
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
