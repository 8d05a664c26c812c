#include "probe/host.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define KIB 1024

void host_name(char *out, int cap)
{
    char name[256] = "";

    if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0')
        snprintf(name, sizeof name, "localhost");
    snprintf(out, (size_t)cap, "%s", name);
}

unsigned host_cpus(void)
{
    /* the kernel refuses a mask smaller than its own: double it until it fits */
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        int count = -1;
        if (set == NULL)
            break;
        if (sched_getaffinity(0, size, set) == 0)
            count = CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (count > 0)
            return (unsigned)count;
        if (errno != EINVAL)
            break;
    }
    return 1;
}

/* "Name:   123 kB" lines of a /proc file: finds each name's bytes.  What is not found stays. */
static enum err read_sizes(const char *path, const char *const *names, uint64_t **sizes,
                           size_t count)
{
    char line[256];
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't read %s: %s", path,
                       strerror(errno));
    while (fgets(line, sizeof line, file) != NULL) {
        for (size_t i = 0; i < count; i++) {
            size_t len = strlen(names[i]);
            if (strncmp(line, names[i], len) == 0 && line[len] == ':')
                *sizes[i] = strtoull(line + len + 1, NULL, 10) * KIB;
        }
    }
    fclose(file);
    return ERR_OK;
}

enum err host_memory(uint64_t *total_bytes, uint64_t *available_bytes)
{
    static const char *const names[] = {"MemTotal", "MemAvailable"};
    uint64_t total = 0, available = 0;
    enum err err = read_sizes("/proc/meminfo", names, (uint64_t *[]){&total, &available}, 2);

    if (err == ERR_OK && total == 0)
        err = err_set(ERR_OS, "/proc/meminfo lacks MemTotal");
    if (err == ERR_OK) {
        *total_bytes = total;
        *available_bytes = available;
    }
    return err;
}

enum err host_resident(int pid, uint64_t *bytes)
{
    static const char *const names[] = {"RssAnon"};
    char path[64];
    uint64_t resident = UINT64_MAX;
    enum err err;

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    err = read_sizes(path, names, (uint64_t *[]){&resident}, 1);
    if (err == ERR_OK && resident == UINT64_MAX) /* a zombie has no memory */
        err = err_set(ERR_NOT_FOUND, "process %d has ended", pid);
    if (err == ERR_OK)
        *bytes = resident;
    return err;
}

enum err host_started(int pid, double *seconds)
{
    char path[64], line[1024] = "";
    unsigned long long ticks = 0;
    FILE *file;

    snprintf(path, sizeof path, pid > 0 ? "/proc/%d/stat" : "/proc/self/stat", pid);
    file = fopen(path, "re");
    if (file == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't read %s: %s", path,
                       strerror(errno));
    bool whole = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    /* the 22nd field; the second, a name in brackets, may hold anything */
    const char *at = strrchr(line, ')');
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    if (!whole || at == NULL || sscanf(at, " %llu", &ticks) != 1)
        return err_set(ERR_OS, "%s is not as it should be", path);
    *seconds = (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return ERR_OK;
}

enum err host_disk_free(const char *path, uint64_t *free_bytes)
{
    struct statvfs info;

    if (statvfs(path, &info) != 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't look at the disk of %s: %s",
                       path, strerror(errno));
    *free_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return ERR_OK;
}
