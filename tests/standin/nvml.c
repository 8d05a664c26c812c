/*
 * nvml.c - stands in for libnvidia-ml.so.1 where there is no GPU.  It does what the lines of the
 * file named in STANDIN_NVML say, read anew at each call:
 *
 *   init CODE               what nvmlInit_v2 answers
 *   count N | count_code C  GPUs, or the failure
 *   I handle CODE           what asking for GPU I's handle answers; so: uuid_code, name_code,
 *                           util_code, memory_code
 *   I uuid TEXT             default "GPU-I"
 *   I util GPU MEMORY       percent
 *   I memory TOTAL USED FREE  bytes
 *
 * Starts and shutdowns are noted in the file of that name plus ".calls".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nvml_device {
    int index;
};
struct utilization {
    unsigned gpu, memory;
};
struct memory {
    unsigned long long total, free, used;
};

static struct nvml_device devices[128];

/* The rest of the line that begins with key, in out; 0 when there is none. */
static int look_up(const char *key, char *out, size_t cap)
{
    const char *path = getenv("STANDIN_NVML");
    FILE *file = path != NULL ? fopen(path, "r") : NULL;
    char line[256];
    size_t len = strlen(key);
    int found = 0;

    if (file == NULL)
        return 0;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, key, len) == 0 && line[len] == ' ') {
            snprintf(out, cap, "%s", line + len + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
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
    int code = code_of("count_code", 0);
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

int nvmlDeviceGetName(struct nvml_device *device, char *out, unsigned cap)
{
    snprintf(out, cap, "Stand-in %d", device->index);
    return device_code(device, "name_code");
}

int nvmlDeviceGetUtilizationRates(struct nvml_device *device, struct utilization *out)
{
    char text[256];
    int code = device_code(device, "util_code");

    if (code != 0 || !device_text(device, "util", text, sizeof text))
        return code != 0 ? code : 3;
    return sscanf(text, "%u %u", &out->gpu, &out->memory) == 2 ? 0 : 999;
}

int nvmlDeviceGetMemoryInfo(struct nvml_device *device, struct memory *out)
{
    char text[256];
    int code = device_code(device, "memory_code");

    if (code != 0 || !device_text(device, "memory", text, sizeof text))
        return code != 0 ? code : 3;
    return sscanf(text, "%llu %llu %llu", &out->total, &out->used, &out->free) == 3 ? 0 : 999;
}
