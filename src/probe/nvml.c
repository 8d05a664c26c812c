/*
 * nvml.c - the few functions of NVML that we call, found by dlsym, and what to do when they fail.
 *
 * The library is started once and stays so.  When it says that a GPU or the driver was lost, it is
 * shut down and started again, first after 250 ms, then after twice as long each time up to a
 * minute: a driver that is reloaded under us answers only to a fresh start.
 */
#include "probe/nvml.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* nvmlReturn_t */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    NO_PERMISSION = 4,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    LIB_RM_VERSION_MISMATCH = 18,
};

#define RETRY_FIRST_MS 250
#define RETRY_MOST_MS  60000

typedef struct nvml_device *device_handle; /* nvmlDevice_t */

struct utilization { /* nvmlUtilization_t */
    unsigned gpu, memory;
};

struct memory { /* nvmlMemory_t */
    unsigned long long total, free, used;
};

struct functions {
    int (*init)(void);
    int (*shutdown)(void);
    const char *(*error_string)(int);
    int (*device_count)(unsigned *);
    int (*device_by_index)(unsigned, device_handle *);
    int (*device_uuid)(device_handle, char *, unsigned);
    int (*device_name)(device_handle, char *, unsigned);
    int (*device_utilization)(device_handle, struct utilization *);
    int (*device_memory)(device_handle, struct memory *);
};

struct nvml {
    void *library;
    struct functions call;
    bool started;
    unsigned retry_ms;                        /* pause before the next start; 0: nothing is wrong */
    int64_t retry_at_ns;                      /* no start before */
    char uuids[NVML_MAX_GPUS][NVML_TEXT_MAX]; /* last seen at each index; "" */
};

struct symbol {
    const char *name;
    size_t offset; /* in struct functions */
    bool needed;
};

#define SYMBOL(name, member, needed)                                                               \
    {                                                                                              \
        name, offsetof(struct functions, member), needed                                           \
    }
static const struct symbol symbols[] = {
    SYMBOL("nvmlInit_v2", init, true),
    SYMBOL("nvmlShutdown", shutdown, true),
    SYMBOL("nvmlErrorString", error_string, false),
    SYMBOL("nvmlDeviceGetCount_v2", device_count, true),
    SYMBOL("nvmlDeviceGetHandleByIndex_v2", device_by_index, true),
    SYMBOL("nvmlDeviceGetUUID", device_uuid, true),
    SYMBOL("nvmlDeviceGetName", device_name, false),
    SYMBOL("nvmlDeviceGetUtilizationRates", device_utilization, false),
    SYMBOL("nvmlDeviceGetMemoryInfo", device_memory, false),
};

static enum err find_symbols(void *library, struct functions *call)
{
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *found = dlsym(library, symbols[i].name);
        if (found == NULL && symbols[i].needed)
            return err_set(ERR_NOT_FOUND, "the NVIDIA library lacks %s", symbols[i].name);
        memcpy((char *)call + symbols[i].offset, &found, sizeof found);
    }
    return ERR_OK;
}

static const char *error_text(const struct nvml *nvml, int code)
{
    const char *text = nvml->call.error_string != NULL ? nvml->call.error_string(code) : NULL;
    return text != NULL ? text : "unknown error";
}

enum err nvml_open(struct nvml **out, const char *library)
{
    struct nvml *nvml = calloc(1, sizeof *nvml);
    enum err err;
    int code;

    if (nvml == NULL)
        return err_set(ERR_NOMEM, "no memory for GPUs");
    nvml->library = dlopen(library != NULL ? library : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (nvml->library == NULL && library == NULL)
        nvml->library = dlopen("libnvidia-ml.so", RTLD_NOW | RTLD_LOCAL);
    if (nvml->library == NULL) {
        err = err_set(ERR_NOT_FOUND, "no NVIDIA library (%s)", dlerror());
        goto out;
    }
    err = find_symbols(nvml->library, &nvml->call);
    if (err != ERR_OK)
        goto out;
    code = nvml->call.init();
    if (code != SUCCESS) {
        err = err_set(ERR_NOT_FOUND, "the NVIDIA library can't start: %s (%d)",
                      error_text(nvml, code), code);
        goto out;
    }
    nvml->started = true;
out:
    if (err == ERR_OK)
        *out = nvml;
    else
        nvml_close(nvml);
    return err;
}

void nvml_close(struct nvml *nvml)
{
    if (nvml == NULL)
        return;
    if (nvml->started)
        nvml->call.shutdown();
    if (nvml->library != NULL)
        dlclose(nvml->library);
    free(nvml);
}

/* Something was lost: the next start is due after a pause that grows from time to time. */
static void plan_restart(struct nvml *nvml)
{
    nvml->retry_ms = nvml->retry_ms == 0 ? RETRY_FIRST_MS : nvml->retry_ms * 2;
    if (nvml->retry_ms > RETRY_MOST_MS)
        nvml->retry_ms = RETRY_MOST_MS;
    nvml->retry_at_ns = clock_mono_ns() + nvml->retry_ms * NS_PER_MS;
}

/* Starts the library when it is due. */
static enum err restart_when_due(struct nvml *nvml)
{
    int code;

    if (nvml->retry_ms == 0 || clock_mono_ns() < nvml->retry_at_ns)
        return nvml->started ? ERR_OK
                             : err_set(ERR_UNAVAILABLE, "the NVIDIA driver is gone for now");
    if (nvml->started)
        nvml->call.shutdown();
    code = nvml->call.init();
    nvml->started = code == SUCCESS;
    if (nvml->started)
        return ERR_OK;
    plan_restart(nvml);
    return err_set(ERR_UNAVAILABLE, "the NVIDIA library can't start again: %s (%d)",
                   error_text(nvml, code), code);
}

/* The whole library is of no more use. */
static enum err give_up_for_now(struct nvml *nvml, int code)
{
    enum err err = err_set(ERR_UNAVAILABLE, "the NVIDIA driver is gone: %s (%d)",
                           error_text(nvml, code), code);

    nvml->call.shutdown();
    nvml->started = false;
    plan_restart(nvml);
    return err;
}

static bool is_driver_gone(int code)
{
    return code == UNINITIALIZED || code == DRIVER_NOT_LOADED || code == LIB_RM_VERSION_MISMATCH;
}

static bool is_gpu_lost(int code)
{
    return code == GPU_IS_LOST || code == RESET_REQUIRED;
}

/* Figures of one GPU.  A figure that can't be had (not supported under MIG, not permitted, …) is
 * left out; the code tells when the GPU or the driver was lost. */
static int read_figures(const struct nvml *nvml, device_handle device, struct gpu_reading *reading)
{
    struct utilization utilization = {0, 0};
    struct memory memory = {0, 0, 0};
    int code = SUCCESS;

    if (nvml->call.device_name != NULL)
        code = nvml->call.device_name(device, reading->name, sizeof reading->name);
    reading->name[code == SUCCESS ? sizeof reading->name - 1 : 0] = '\0';
    if (is_gpu_lost(code) || is_driver_gone(code))
        return code;
    if (nvml->call.device_utilization != NULL) {
        code = nvml->call.device_utilization(device, &utilization);
        if (is_gpu_lost(code) || is_driver_gone(code))
            return code;
        reading->has_utilization = code == SUCCESS;
        reading->gpu_percent = utilization.gpu;
        reading->memory_percent = utilization.memory;
    }
    if (nvml->call.device_memory != NULL) {
        code = nvml->call.device_memory(device, &memory);
        if (is_gpu_lost(code) || is_driver_gone(code))
            return code;
        reading->has_memory = code == SUCCESS;
        reading->memory_total = memory.total;
        reading->memory_used = memory.used;
        reading->memory_free = memory.free;
    }
    return SUCCESS;
}

/* One GPU → reading; its uuid stays "" when nothing can be said of it. */
static int read_gpu(struct nvml *nvml, unsigned index, struct gpu_reading *reading)
{
    device_handle device = NULL;
    char uuid[NVML_TEXT_MAX] = "";
    int code = nvml->call.device_by_index(index, &device);

    *reading = (struct gpu_reading){.index = index};
    if (code == SUCCESS)
        code = nvml->call.device_uuid(device, uuid, sizeof uuid);
    if (code == SUCCESS) {
        uuid[sizeof uuid - 1] = '\0';
        memcpy(nvml->uuids[index], uuid, sizeof uuid);
        code = read_figures(nvml, device, reading);
    }
    if (code == SUCCESS || is_gpu_lost(code))
        memcpy(reading->uuid, nvml->uuids[index], sizeof reading->uuid);
    if (code == SUCCESS)
        reading->up = true;
    else if (is_gpu_lost(code)) /* nothing else of it counts */
        reading->has_utilization = reading->has_memory = false;
    return code;
}

enum err nvml_read(struct nvml *nvml, struct gpu_reading *readings, unsigned *count)
{
    unsigned there = 0, filled = 0;
    bool lost = false;
    enum err err = restart_when_due(nvml);
    int code;

    if (err != ERR_OK)
        return err;
    code = nvml->call.device_count(&there);
    if (code != SUCCESS)
        return give_up_for_now(nvml, code);
    for (unsigned i = 0; i < there && i < NVML_MAX_GPUS; i++) {
        code = read_gpu(nvml, i, &readings[filled]);
        if (is_driver_gone(code))
            return give_up_for_now(nvml, code);
        lost = lost || is_gpu_lost(code);
        if (readings[filled].uuid[0] != '\0')
            filled++;
    }
    if (!lost)
        nvml->retry_ms = 0;
    else if (nvml->retry_ms == 0 || clock_mono_ns() >= nvml->retry_at_ns)
        plan_restart(nvml);
    *count = filled;
    return ERR_OK;
}
