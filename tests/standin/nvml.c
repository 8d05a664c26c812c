/*
 * nvml.c - stands in for libnvidia-ml.so.1 where there is no GPU.  It does what the lines of the
 * file named in STANDIN_NVML say; a changed file counts from the next call on:
 *
 *   init CODE               what nvmlInit_v2 answers
 *   count N | count_code C  GPUs, or the failure
 *   driver TEXT | driver_code C
 *   hang MS                 how long asking for the count takes
 *   events_code C           what making an event set answers
 *   xid NUMBER I XID        GPU I reports an error; told once, when NUMBER is above all before
 *   I handle CODE           what asking for GPU I's handle answers; so: uuid_code, name_code,
 *                           util_code, memory_code, power_code, limit_code, energy_code,
 *                           temperature_code, clock_code, ecc_code, register_code
 *   I uuid TEXT             default "GPU-I"
 *   I name TEXT             default "Stand-in I"
 *   I util GPU MEMORY       percent
 *   I memory TOTAL USED FREE  bytes
 *   I power MILLIWATTS; I limit MILLIWATTS; I energy MILLIJOULES; I temperature CELSIUS
 *   I clock SM MEMORY       MHz
 *   I ecc CORRECTED UNCORRECTED
 *
 * Figures without a line are not supported (3).  Starts and shutdowns are noted in the file of that
 * name plus ".calls".  STANDIN_OLD leaves out what a library of long ago lacks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define TEXT_BYTES (64 << 10)

struct nvml_device {
    int index;
};
struct nvml_event_set {
    char unused;
};
struct event {
    struct nvml_device *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};
struct utilization {
    unsigned gpu, memory;
};
struct memory {
    unsigned long long total, free, used;
};

static struct nvml_device devices[128];

/* The script, read anew when it changed.  A file's time is coarse: one that is hardly older than
 * that is read in any case. */
static const char *script(void)
{
    static char text[TEXT_BYTES];
    static struct timespec seen;
    const char *path = getenv("STANDIN_NVML");
    struct stat info;
    struct timespec now;
    FILE *file;

    if (path == NULL || stat(path, &info) != 0)
        return "";
    clock_gettime(CLOCK_REALTIME, &now);
    if (info.st_mtim.tv_sec == seen.tv_sec && info.st_mtim.tv_nsec == seen.tv_nsec &&
        now.tv_sec - seen.tv_sec > 1)
        return text;
    file = fopen(path, "r");
    if (file == NULL)
        return "";
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    seen = info.st_mtim;
    return text;
}

/* The rest of the line that begins with key, in out; 0 when there is none. */
static int look_up(const char *key, char *out, size_t cap)
{
    size_t len = strlen(key);

    for (const char *line = script(); *line != '\0';) {
        size_t size = strcspn(line, "\n");
        if (size > len && strncmp(line, key, len) == 0 && line[len] == ' ') {
            snprintf(out, cap, "%.*s", (int)(size - len - 1), line + len + 1);
            return 1;
        }
        line += size + (line[size] == '\n');
    }
    return 0;
}

static int code_of(const char *key, int fallback)
{
    char text[256];
    return look_up(key, text, sizeof text) ? atoi(text) : fallback;
}

static int device_code(const struct nvml_device *device, const char *what)
{
    char key[64];
    snprintf(key, sizeof key, "%d %s", device->index, what);
    return code_of(key, 0);
}

static int device_text(const struct nvml_device *device, const char *what, char *out, size_t cap)
{
    char key[64];
    snprintf(key, sizeof key, "%d %s", device->index, what);
    return look_up(key, out, cap);
}

/* At most three numbers of a figure's line: 0, 3 without a line, or the code that was asked for. */
static int device_numbers(const struct nvml_device *device, const char *what,
                          unsigned long long numbers[3])
{
    char text[256], key[32];
    int code;

    snprintf(key, sizeof key, "%s_code", what);
    code = device_code(device, key);
    if (code != 0 || !device_text(device, what, text, sizeof text))
        return code != 0 ? code : 3;
    return sscanf(text, "%llu %llu %llu", &numbers[0], &numbers[1], &numbers[2]) > 0 ? 0 : 999;
}

static void note(const char *call)
{
    const char *path = getenv("STANDIN_NVML");
    char name[512];
    FILE *file;

    snprintf(name, sizeof name, "%s.calls", path != NULL ? path : "/dev/null");
    file = path != NULL ? fopen(name, "a") : NULL;
    if (file != NULL) {
        fprintf(file, "%s\n", call);
        fclose(file);
    }
}

int nvmlInit_v2(void)
{
    note("init");
    return code_of("init", 0);
}

int nvmlShutdown(void)
{
    note("shutdown");
    return 0;
}

const char *nvmlErrorString(int code)
{
    return code == 9 ? "Driver Not Loaded" : "stand-in error";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int code = code_of("count_code", 0), hang_ms = code_of("hang", 0);
    struct timespec pause = {.tv_sec = hang_ms / 1000, .tv_nsec = hang_ms % 1000 * 1000000L};

    if (hang_ms > 0)
        nanosleep(&pause, NULL);
    if (code == 0)
        *count = (unsigned)code_of("count", 0);
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct nvml_device **device)
{
    if (index >= sizeof devices / sizeof *devices)
        return 2;
    devices[index].index = (int)index;
    *device = &devices[index];
    return device_code(*device, "handle");
}

int nvmlDeviceGetUUID(struct nvml_device *device, char *out, unsigned cap)
{
    if (!device_text(device, "uuid", out, cap))
        snprintf(out, cap, "GPU-%d", device->index);
    return device_code(device, "uuid_code");
}

#ifndef STANDIN_OLD
int nvmlDeviceGetName(struct nvml_device *device, char *out, unsigned cap)
{
    if (!device_text(device, "name", out, cap))
        snprintf(out, cap, "Stand-in %d", device->index);
    return device_code(device, "name_code");
}

int nvmlDeviceGetUtilizationRates(struct nvml_device *device, struct utilization *out)
{
    unsigned long long numbers[3] = {0};
    int code = device_numbers(device, "util", numbers);

    *out = (struct utilization){(unsigned)numbers[0], (unsigned)numbers[1]};
    return code;
}
#endif

int nvmlDeviceGetMemoryInfo(struct nvml_device *device, struct memory *out)
{
    unsigned long long numbers[3] = {0};
    int code = device_numbers(device, "memory", numbers);

    *out = (struct memory){.total = numbers[0], .used = numbers[1], .free = numbers[2]};
    return code;
}

#ifndef STANDIN_OLD
static int device_number(const struct nvml_device *device, const char *what, unsigned *out)
{
    unsigned long long numbers[3] = {0};
    int code = device_numbers(device, what, numbers);

    *out = (unsigned)numbers[0];
    return code;
}

int nvmlDeviceGetPowerUsage(struct nvml_device *device, unsigned *out)
{
    return device_number(device, "power", out);
}

int nvmlDeviceGetEnforcedPowerLimit(struct nvml_device *device, unsigned *out)
{
    return device_number(device, "limit", out);
}

int nvmlDeviceGetTotalEnergyConsumption(struct nvml_device *device, unsigned long long *out)
{
    unsigned long long numbers[3] = {0};
    int code = device_numbers(device, "energy", numbers);

    *out = numbers[0];
    return code;
}

int nvmlDeviceGetTemperature(struct nvml_device *device, int sensor, unsigned *out)
{
    return sensor == 0 ? device_number(device, "temperature", out) : 2;
}

int nvmlDeviceGetClockInfo(struct nvml_device *device, int clock, unsigned *out)
{
    unsigned long long numbers[3] = {0};
    int code = device_numbers(device, "clock", numbers);

    *out = (unsigned)numbers[clock == 2];
    return clock == 1 || clock == 2 ? code : 2;
}

int nvmlDeviceGetTotalEccErrors(struct nvml_device *device, int kind, int counter,
                                unsigned long long *out)
{
    unsigned long long numbers[3] = {0};
    int code = device_numbers(device, "ecc", numbers);

    *out = numbers[kind == 1];
    return counter == 1 ? code : 2;
}

int nvmlSystemGetDriverVersion(char *out, unsigned cap)
{
    if (!look_up("driver", out, cap))
        snprintf(out, cap, "570.1");
    return code_of("driver_code", 0);
}

/* ---- errors ---- */

int nvmlEventSetCreate(struct nvml_event_set **out)
{
    int code = code_of("events_code", 0);

    if (code == 0)
        *out = calloc(1, sizeof **out);
    return code;
}

int nvmlDeviceRegisterEvents(struct nvml_device *device, unsigned long long types,
                             struct nvml_event_set *set)
{
    (void)set;
    return types == 8 ? device_code(device, "register_code") : 2;
}

int nvmlEventSetWait_v2(struct nvml_event_set *set, struct event *out, unsigned wait_ms)
{
    static long told; /* outlives the set */
    const char *line = script();

    (void)set;
    while (wait_ms == 0 && *line != '\0') {
        long number;
        unsigned index, xid;
        if (sscanf(line, "xid %ld %u %u", &number, &index, &xid) == 3 && number > told) {
            told = number;
            *out = (struct event){.device = &devices[index % 128], .type = 8, .data = xid};
            return 0;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return 10; /* nothing came in time */
}

int nvmlEventSetFree(struct nvml_event_set *set)
{
    free(set);
    return 0;
}
#endif
