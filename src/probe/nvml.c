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
    INVALID_ARGUMENT = 2,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    LIB_RM_VERSION_MISMATCH = 18,
};

/* nvmlClockType_t, nvmlTemperatureSensors_t, nvmlMemoryErrorType_t, nvmlEccCounterType_t,
 * nvmlEventTypeXidCriticalError */
enum { CLOCK_SM = 1, CLOCK_MEMORY = 2 };
enum { SENSOR_GPU = 0 };
enum { ERRORS_CORRECTED = 0, ERRORS_UNCORRECTED = 1, COUNTED_SINCE_MADE = 1 };
#define EVENT_XID 8ULL

#define RETRY_FIRST_MS 250
#define RETRY_MOST_MS  60000
#define EVENTS_MOST    64   /* taken at one reading; more wait for the next */
#define MILLI          1e-3 /* power comes in mW, energy in mJ */
#define MEGA           1e6  /* clocks come in MHz */

typedef struct nvml_device *device_handle; /* nvmlDevice_t */

struct utilization { /* nvmlUtilization_t */
    unsigned gpu, memory;
};

struct memory { /* nvmlMemory_t */
    unsigned long long total, free, used;
};

typedef struct nvml_event_set *event_set; /* nvmlEventSet_t */

struct event { /* nvmlEventData_t */
    device_handle device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
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
    int (*device_power)(device_handle, unsigned *);
    int (*device_power_limit)(device_handle, unsigned *);
    int (*device_energy)(device_handle, unsigned long long *);
    int (*device_temperature)(device_handle, int, unsigned *);
    int (*device_clock)(device_handle, int, unsigned *);
    int (*device_ecc)(device_handle, int, int, unsigned long long *);
    int (*driver_version)(char *, unsigned);
    int (*events_make)(event_set *);
    int (*events_register)(device_handle, unsigned long long, event_set);
    int (*events_wait)(event_set, struct event *, unsigned);
    int (*events_free)(event_set);
};

/* What was seen of the GPU at an index. */
struct known_gpu {
    char uuid[GPU_TEXT_MAX];  /* last seen; "" */
    device_handle registered; /* that reports errors to our event set */
    bool asked;               /* whether it would */
};

/* Errors outlive a restart of the library, as counters must. */
struct error_count {
    char uuid[GPU_TEXT_MAX];
    struct gpu_xid errors[GPU_MAX_XIDS];
    unsigned count;
};

struct nvml {
    void *library;
    struct functions call;
    bool started;
    unsigned retry_ms;         /* pause before the next start; 0: nothing is wrong */
    int64_t retry_at_ns;       /* no start before */
    event_set events;          /* NULL: the library has none */
    char driver[GPU_TEXT_MAX]; /* its version; "" */
    struct known_gpu known[NVML_MAX_GPUS];
    struct error_count errors[NVML_MAX_GPUS];
    unsigned error_count;
    struct gpu_reading fresh[NVML_MAX_GPUS]; /* the reading under way */
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
    SYMBOL("nvmlDeviceGetPowerUsage", device_power, false),
    SYMBOL("nvmlDeviceGetEnforcedPowerLimit", device_power_limit, false),
    SYMBOL("nvmlDeviceGetTotalEnergyConsumption", device_energy, false),
    SYMBOL("nvmlDeviceGetTemperature", device_temperature, false),
    SYMBOL("nvmlDeviceGetClockInfo", device_clock, false),
    SYMBOL("nvmlDeviceGetTotalEccErrors", device_ecc, false),
    SYMBOL("nvmlSystemGetDriverVersion", driver_version, false),
    SYMBOL("nvmlEventSetCreate", events_make, false),
    SYMBOL("nvmlDeviceRegisterEvents", events_register, false),
    SYMBOL("nvmlEventSetWait_v2", events_wait, false),
    SYMBOL("nvmlEventSetFree", events_free, false),
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

/* Once the library runs: its version, and an event set for errors.  Without them it goes too. */
static void prepare(struct nvml *nvml)
{
    const struct functions *call = &nvml->call;
    char text[GPU_TEXT_MAX] = "";

    nvml->driver[0] = '\0';
    if (call->driver_version != NULL && call->driver_version(text, sizeof text) == SUCCESS) {
        text[sizeof text - 1] = '\0';
        gpu_text_copy(nvml->driver, text);
    }
    if (call->events_make != NULL && call->events_register != NULL && call->events_wait != NULL &&
        call->events_free != NULL && call->events_make(&nvml->events) != SUCCESS)
        nvml->events = NULL;
}

static int library_start(struct nvml *nvml)
{
    int code = nvml->call.init();

    nvml->started = code == SUCCESS;
    if (nvml->started)
        prepare(nvml);
    return code;
}

static void library_stop(struct nvml *nvml)
{
    if (!nvml->started)
        return;
    if (nvml->events != NULL)
        nvml->call.events_free(nvml->events);
    nvml->events = NULL;
    for (size_t i = 0; i < NVML_MAX_GPUS; i++) {
        nvml->known[i].registered = NULL;
        nvml->known[i].asked = false;
    }
    nvml->call.shutdown();
    nvml->started = false;
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
    code = library_start(nvml);
    if (code != SUCCESS)
        err = err_set(code == DRIVER_NOT_LOADED ? ERR_NOT_FOUND : ERR_UNAVAILABLE,
                      "the NVIDIA library can't start: %s (%d)", error_text(nvml, code), code);
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
    library_stop(nvml);
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
    library_stop(nvml);
    code = library_start(nvml);
    if (code == SUCCESS)
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

    library_stop(nvml);
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

/* We may not, or can't, look at it; every other failure is one of the GPU itself. */
static bool is_gpu_hidden(int code)
{
    return code == INVALID_ARGUMENT || code == NO_PERMISSION || code == NOT_FOUND;
}

/* ---- figures: each function answers what the library did, which is SUCCESS where it lacks it ----
 */

typedef int figure_fn(const struct functions *call, device_handle device,
                      struct gpu_reading *reading);

static int read_name(const struct functions *call, device_handle device,
                     struct gpu_reading *reading)
{
    char name[GPU_TEXT_MAX] = "";
    int code = call->device_name != NULL ? call->device_name(device, name, sizeof name) : SUCCESS;

    name[sizeof name - 1] = '\0';
    if (code == SUCCESS)
        gpu_text_copy(reading->name, name);
    return code;
}

static int read_utilization(const struct functions *call, device_handle device,
                            struct gpu_reading *reading)
{
    struct utilization utilization = {0, 0};
    int code;

    if (call->device_utilization == NULL)
        return SUCCESS;
    code = call->device_utilization(device, &utilization);
    if (code == SUCCESS) {
        gpu_figure_set(reading, GPU_BUSY_PERCENT, utilization.gpu);
        gpu_figure_set(reading, GPU_MEMORY_BUSY_PERCENT, utilization.memory);
    }
    return code;
}

static int read_memory(const struct functions *call, device_handle device,
                       struct gpu_reading *reading)
{
    struct memory memory = {0, 0, 0};
    int code;

    if (call->device_memory == NULL)
        return SUCCESS;
    code = call->device_memory(device, &memory);
    if (code == SUCCESS)
        gpu_memory_set(reading, memory.total, memory.used, memory.free);
    return code;
}

static int read_power(const struct functions *call, device_handle device,
                      struct gpu_reading *reading)
{
    unsigned milliwatts = 0;
    int code;

    if (call->device_power == NULL)
        return SUCCESS;
    code = call->device_power(device, &milliwatts);
    if (code == SUCCESS)
        gpu_figure_set(reading, GPU_POWER_WATTS, milliwatts * MILLI);
    return code;
}

static int read_power_limit(const struct functions *call, device_handle device,
                            struct gpu_reading *reading)
{
    unsigned milliwatts = 0;
    int code;

    if (call->device_power_limit == NULL)
        return SUCCESS;
    code = call->device_power_limit(device, &milliwatts);
    if (code == SUCCESS)
        gpu_figure_set(reading, GPU_POWER_LIMIT_WATTS, milliwatts * MILLI);
    return code;
}

static int read_energy(const struct functions *call, device_handle device,
                       struct gpu_reading *reading)
{
    unsigned long long millijoules = 0;
    int code;

    if (call->device_energy == NULL)
        return SUCCESS;
    code = call->device_energy(device, &millijoules);
    if (code == SUCCESS)
        gpu_figure_set(reading, GPU_ENERGY_JOULES, (double)millijoules * MILLI);
    return code;
}

static int read_temperature(const struct functions *call, device_handle device,
                            struct gpu_reading *reading)
{
    unsigned celsius = 0;
    int code;

    if (call->device_temperature == NULL)
        return SUCCESS;
    code = call->device_temperature(device, SENSOR_GPU, &celsius);
    if (code == SUCCESS)
        gpu_figure_set(reading, GPU_TEMPERATURE_CELSIUS, celsius);
    return code;
}

static int read_clock(const struct functions *call, device_handle device,
                      struct gpu_reading *reading, int clock, enum gpu_figure figure)
{
    unsigned megahertz = 0;
    int code;

    if (call->device_clock == NULL)
        return SUCCESS;
    code = call->device_clock(device, clock, &megahertz);
    if (code == SUCCESS)
        gpu_figure_set(reading, figure, megahertz * MEGA);
    return code;
}

static int read_clock_sm(const struct functions *call, device_handle device,
                         struct gpu_reading *reading)
{
    return read_clock(call, device, reading, CLOCK_SM, GPU_CLOCK_SM_HERTZ);
}

static int read_clock_memory(const struct functions *call, device_handle device,
                             struct gpu_reading *reading)
{
    return read_clock(call, device, reading, CLOCK_MEMORY, GPU_CLOCK_MEMORY_HERTZ);
}

static int read_ecc(const struct functions *call, device_handle device, struct gpu_reading *reading,
                    int kind, enum gpu_figure figure)
{
    unsigned long long errors = 0;
    int code;

    if (call->device_ecc == NULL)
        return SUCCESS;
    code = call->device_ecc(device, kind, COUNTED_SINCE_MADE, &errors);
    if (code == SUCCESS)
        gpu_figure_set(reading, figure, (double)errors);
    return code;
}

static int read_ecc_corrected(const struct functions *call, device_handle device,
                              struct gpu_reading *reading)
{
    return read_ecc(call, device, reading, ERRORS_CORRECTED, GPU_ECC_CORRECTED);
}

static int read_ecc_uncorrected(const struct functions *call, device_handle device,
                                struct gpu_reading *reading)
{
    return read_ecc(call, device, reading, ERRORS_UNCORRECTED, GPU_ECC_UNCORRECTED);
}

static figure_fn *const figure_fns[] = {
    read_name,         read_utilization,   read_memory,          read_power,
    read_power_limit,  read_energy,        read_temperature,     read_clock_sm,
    read_clock_memory, read_ecc_corrected, read_ecc_uncorrected,
};

/* A figure that can't be had (not supported under MIG, not permitted, …) is left out; the code
 * tells when the GPU or the driver was lost. */
static int read_figures(const struct nvml *nvml, device_handle device, struct gpu_reading *reading)
{
    for (size_t i = 0; i < sizeof figure_fns / sizeof *figure_fns; i++) {
        int code = figure_fns[i](&nvml->call, device, reading);
        if (is_gpu_lost(code) || is_driver_gone(code))
            return code;
    }
    return SUCCESS;
}

/* Asks once for a GPU's errors.  Some can't tell, which is as well. */
static void register_errors(struct nvml *nvml, struct known_gpu *known, device_handle device)
{
    if (nvml->events == NULL || (known->asked && known->registered == device))
        return;
    known->asked = true;
    known->registered = device;
    if (nvml->call.events_register(device, EVENT_XID, nvml->events) != SUCCESS)
        known->registered = NULL;
}

/* One GPU → reading; its uuid stays "" when nothing can be said of it.  One that was seen before
 * and does not answer any more is down, whatever the failure: after a GPU fell off the bus, a
 * library that is started anew calls it an unknown error. */
static int read_gpu(struct nvml *nvml, unsigned index, struct gpu_reading *reading)
{
    struct known_gpu *known = &nvml->known[index];
    device_handle device = NULL;
    char uuid[GPU_TEXT_MAX] = "";
    int code = nvml->call.device_by_index(index, &device);

    gpu_reading_init(reading, index, "nvidia");
    if (code == SUCCESS)
        code = nvml->call.device_uuid(device, uuid, sizeof uuid);
    if (code == SUCCESS) {
        uuid[sizeof uuid - 1] = '\0';
        gpu_text_copy(known->uuid, uuid);
        register_errors(nvml, known, device);
        memcpy(reading->driver, nvml->driver, sizeof reading->driver);
        code = read_figures(nvml, device, reading);
    }
    if (!is_gpu_hidden(code))
        memcpy(reading->uuid, known->uuid, sizeof reading->uuid);
    if (code == SUCCESS)
        reading->up = true;
    else /* nothing else of it counts */
        gpu_figures_clear(reading);
    return code;
}

/* ---- errors that the driver reports ---- */

static struct error_count *errors_of(struct nvml *nvml, const char *uuid)
{
    for (unsigned i = 0; i < nvml->error_count; i++)
        if (strcmp(nvml->errors[i].uuid, uuid) == 0)
            return &nvml->errors[i];
    if (nvml->error_count == NVML_MAX_GPUS)
        return NULL;
    memcpy(nvml->errors[nvml->error_count].uuid, uuid, GPU_TEXT_MAX);
    return &nvml->errors[nvml->error_count++];
}

static void count_error(struct nvml *nvml, const char *uuid, unsigned long long xid)
{
    struct error_count *errors = errors_of(nvml, uuid);
    unsigned i = 0;

    if (errors == NULL || xid > UINT16_MAX)
        return;
    while (i < errors->count && errors->errors[i].xid != xid)
        i++;
    if (i == GPU_MAX_XIDS)
        return;
    if (i == errors->count)
        errors->errors[errors->count++] = (struct gpu_xid){.xid = (unsigned)xid};
    errors->errors[i].count++;
}

/* Takes what has happened, without waiting. */
static void take_events(struct nvml *nvml)
{
    for (unsigned taken = 0; nvml->events != NULL && taken < EVENTS_MOST; taken++) {
        struct event event = {0};
        if (nvml->call.events_wait(nvml->events, &event, 0) != SUCCESS)
            return; /* mostly: nothing happened */
        for (size_t i = 0; (event.type & EVENT_XID) != 0 && i < NVML_MAX_GPUS; i++) {
            if (nvml->known[i].registered != NULL && nvml->known[i].registered == event.device) {
                count_error(nvml, nvml->known[i].uuid, event.data);
                break;
            }
        }
    }
}

static void show_errors(const struct nvml *nvml, struct gpu_reading *reading)
{
    for (unsigned i = 0; i < nvml->error_count; i++) {
        const struct error_count *errors = &nvml->errors[i];
        if (strcmp(errors->uuid, reading->uuid) == 0) {
            memcpy(reading->xids, errors->errors, sizeof reading->xids);
            reading->xid_count = errors->count;
        }
    }
}

/* Is it up under another index?  Then what was known of this one is old. */
static bool is_up_elsewhere(const struct gpu_reading *readings, unsigned count, unsigned which)
{
    for (unsigned i = 0; i < count; i++)
        if (i != which && readings[i].up && strcmp(readings[i].uuid, readings[which].uuid) == 0)
            return true;
    return false;
}

enum err nvml_read(struct nvml *nvml, struct gpu_reading *readings, unsigned *count)
{
    struct gpu_reading *fresh = nvml->fresh;
    unsigned there = 0, filled = 0, kept = 0;
    bool lost = false;
    enum err err = restart_when_due(nvml);
    int code;

    if (err != ERR_OK)
        return err;
    code = nvml->call.device_count(&there);
    if (code != SUCCESS)
        return give_up_for_now(nvml, code);
    for (unsigned i = 0; i < there && i < NVML_MAX_GPUS; i++) {
        code = read_gpu(nvml, i, &fresh[filled]);
        if (is_driver_gone(code))
            return give_up_for_now(nvml, code);
        if (fresh[filled].uuid[0] != '\0')
            filled++;
    }
    take_events(nvml);
    for (unsigned i = 0; i < filled; i++) {
        if (!fresh[i].up && is_up_elsewhere(fresh, filled, i))
            continue;
        lost = lost || !fresh[i].up;
        show_errors(nvml, &fresh[i]);
        readings[kept++] = fresh[i];
    }
    if (!lost)
        nvml->retry_ms = 0;
    else if (nvml->retry_ms == 0 || clock_mono_ns() >= nvml->retry_at_ns)
        plan_restart(nvml);
    *count = kept;
    return ERR_OK;
}
