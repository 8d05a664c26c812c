#include "probe/node.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "probe/file.h"

#define KIB            1024
#define STAT_BYTES     1024 /* the first line of /proc/stat is what we want */
#define MEMINFO_BYTES  8192
#define NETWORK_BYTES  (32 << 10)
#define NETWORK_FIELDS 16 /* numbers in a line of /proc/net/dev */
#define JOBS_BYTES     4096
#define JOB_FILES_MAX  1024 /* entries of the folder that are looked at */

const char *const node_cpu_modes[NODE_CPU_MODES] = {"user",   "nice", "system",  "idle",
                                                    "iowait", "irq",  "softirq", "steal"};

/* Takes a whole number off *at, which then stands behind it. */
static bool take_number(const char **at, double *out)
{
    char *end;
    unsigned long long number;

    while (**at == ' ' || **at == '\t')
        (*at)++;
    if (!isdigit((unsigned char)**at))
        return false;
    errno = 0;
    number = strtoull(*at, &end, 10);
    if (errno != 0 || (*end != '\0' && !isspace((unsigned char)*end)))
        return false;
    *at = end;
    *out = (double)number;
    return true;
}

/* ---- CPUs, memory, load ---- */

/* The first line of /proc/stat, in ticks.  Modes that an old kernel lacks stay NaN. */
static enum err read_cpu_times(const char *proc, double seconds[NODE_CPU_MODES])
{
    char path[PATH_MAX], text[STAT_BYTES];
    const char *at = text;
    double ticks;
    long per_second = sysconf(_SC_CLK_TCK);
    enum err err;

    err = file_path(path, "%s/stat", proc);
    if (err == ERR_OK)
        err = file_read_text(path, text, sizeof text);
    if (err != ERR_OK)
        return err;
    if (strncmp(text, "cpu ", 4) != 0 || strchr(text, '\n') == NULL || per_second <= 0)
        return err_set(ERR_INVALID, "%s does not begin with the CPUs' line", path);
    at += 4;
    for (size_t i = 0; i < NODE_CPU_MODES && take_number(&at, &ticks); i++)
        seconds[i] = ticks / (double)per_second;
    return isnan(seconds[0]) ? err_set(ERR_INVALID, "%s has no times", path) : ERR_OK;
}

static double find_kib(const char *text, const char *name)
{
    const char *at = text;
    size_t len = strlen(name);
    double kib;

    while (at != NULL && (strncmp(at, name, len) != 0 || at[len] != ':')) {
        at = strchr(at, '\n');
        if (at != NULL)
            at++;
    }
    if (at == NULL)
        return NAN;
    at += len + 1;
    return take_number(&at, &kib) ? kib * KIB : NAN;
}

static enum err read_memory(const char *proc, struct node_reading *out)
{
    char path[PATH_MAX], text[MEMINFO_BYTES];
    double size, available;
    enum err err;

    err = file_path(path, "%s/meminfo", proc);
    if (err == ERR_OK)
        err = file_read_text(path, text, sizeof text);
    if (err != ERR_OK)
        return err;
    size = find_kib(text, "MemTotal");
    available = find_kib(text, "MemAvailable");
    if (!(size > 0))
        return err_set(ERR_INVALID, "%s lacks MemTotal", path);
    out->memory_size_bytes = size;
    if (!(available <= size))
        return err_set(ERR_INVALID, "%s lacks a sound MemAvailable", path);
    out->memory_available_bytes = available;
    return ERR_OK;
}

static enum err read_load(const char *proc, double load[3])
{
    char path[PATH_MAX], text[128], *at = text, *end;
    double now[3];
    enum err err;

    err = file_path(path, "%s/loadavg", proc);
    if (err == ERR_OK)
        err = file_read_text(path, text, sizeof text);
    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < 3; i++, at = end) {
        now[i] = strtod(at, &end);
        if (end == at || *end != ' ' || !(now[i] >= 0 && now[i] < 1e9))
            return err_set(ERR_INVALID, "%s is not three averages", path);
    }
    memcpy(load, now, sizeof now);
    return ERR_OK;
}

enum err node_read(const char *proc, struct node_reading *out)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    enum err times, memory, load;

    *out = (struct node_reading){
        .cpus = cpus > 0 ? (double)cpus : NAN,
        .memory_size_bytes = NAN,
        .memory_available_bytes = NAN,
        .load = {NAN, NAN, NAN},
    };
    for (size_t i = 0; i < NODE_CPU_MODES; i++)
        out->cpu_seconds[i] = NAN;
    times = read_cpu_times(proc, out->cpu_seconds);
    memory = read_memory(proc, out);
    load = read_load(proc, out->load);
    return times != ERR_OK ? times : memory != ERR_OK ? memory : load;
}

enum err disk_read(const char *path, struct disk_reading *out)
{
    struct statvfs info;

    if (statvfs(path, &info) != 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't look at the disk of %s: %s",
                       path, strerror(errno));
    if (info.f_blocks == 0 || info.f_bavail > info.f_blocks)
        return err_set(ERR_INVALID, "the disk of %s has no size", path);
    *out = (struct disk_reading){
        .size_bytes = (double)info.f_blocks * (double)info.f_frsize,
        .free_bytes = (double)info.f_bavail * (double)info.f_frsize,
    };
    return ERR_OK;
}

/* ---- network ---- */

/* Printable and without what would need quoting; other bytes can't be told from garbage. */
static bool is_plain_word(const char *text, size_t len, size_t cap)
{
    if (len == 0 || len >= cap)
        return false;
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~' || strchr("\"\\{}", text[i]) != NULL)
            return false;
    return true;
}

/* "  eth0: RECEIVED 7 more SENT 7 more" */
static bool take_device(const char *line, struct network_device *device)
{
    double fields[NETWORK_FIELDS];
    const char *colon = strrchr(line, ':'); /* a name may hold one, numbers never do */

    while (*line == ' ')
        line++;
    if (colon == NULL || colon < line ||
        !is_plain_word(line, (size_t)(colon - line), sizeof device->name))
        return false;
    memcpy(device->name, line, (size_t)(colon - line));
    device->name[colon - line] = '\0';
    colon++;
    for (size_t i = 0; i < NETWORK_FIELDS; i++)
        if (!take_number(&colon, &fields[i]))
            return false;
    device->received_bytes = fields[0];
    device->sent_bytes = fields[NETWORK_FIELDS / 2];
    return true;
}

enum err network_read(const char *proc, struct network_reading *out)
{
    char path[PATH_MAX], text[NETWORK_BYTES], *line = text, *end;
    unsigned lines = 0, count = 0;
    enum err err;

    err = file_path(path, "%s/net/dev", proc);
    if (err == ERR_OK)
        err = file_read_text(path, text, sizeof text);
    if (err != ERR_OK)
        return err;
    for (; (end = strchr(line, '\n')) != NULL; line = end + 1, lines++) {
        *end = '\0'; /* a last line that was cut has no newline, and does not count */
        if (lines >= 2 && count < NODE_MAX_DEVICES && take_device(line, &out->devices[count]))
            count++;
    }
    if (lines < 2)
        return err_set(ERR_INVALID, "%s lacks its heading", path);
    out->count = count;
    return ERR_OK;
}

/* ---- jobs ---- */

/* "0" … "999", the whole name. */
static bool is_gpu_index(const char *name, unsigned *index)
{
    size_t len = strlen(name);

    if (len == 0 || len > 3 || strspn(name, "0123456789") != len)
        return false;
    *index = (unsigned)atoi(name);
    return name[0] != '0' || len == 1; /* no "007" */
}

static void add_job(struct job_reading *out, unsigned index, const char *job, size_t len)
{
    unsigned same = 0;

    if (out->count == NODE_MAX_JOBS || !is_plain_word(job, len, NODE_JOB_MAX))
        return;
    for (unsigned i = 0; i < out->count; i++) {
        const struct gpu_job *known = &out->jobs[i];
        if (known->gpu_index != index)
            continue;
        if (strlen(known->job) == len && memcmp(known->job, job, len) == 0)
            return;
        same++;
    }
    if (same == NODE_MAX_GPU_JOBS)
        return;
    out->jobs[out->count].gpu_index = index;
    memcpy(out->jobs[out->count].job, job, len);
    out->jobs[out->count++].job[len] = '\0';
}

/* A file may vanish meanwhile: its job has ended. */
static void read_job_file(const char *path, unsigned index, struct job_reading *out)
{
    char text[JOBS_BYTES];
    struct stat info;

    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) ||
        file_read_text(path, text, sizeof text) != ERR_OK)
        return;
    for (const char *line = text; *line != '\0';) {
        size_t len = strcspn(line, "\n"), used = len;
        if (line[len] == '\0' && line + len == text + sizeof text - 1)
            return; /* cut by our bound: no whole id */
        while (used > 0 && isspace((unsigned char)line[used - 1]))
            used--;
        size_t blanks = strspn(line, " \t");
        if (used > blanks)
            add_job(out, index, line + blanks, used - blanks);
        line += len + (line[len] == '\n');
    }
}

enum err jobs_read(const char *folder, struct job_reading *out)
{
    char path[PATH_MAX];
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    unsigned seen = 0, index = 0;

    if (dir == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't read %s: %s", folder,
                       strerror(errno));
    out->count = 0;
    while (seen++ < JOB_FILES_MAX && (entry = readdir(dir)) != NULL) {
        if (!is_gpu_index(entry->d_name, &index))
            continue;
        if (file_path(path, "%s/%s", folder, entry->d_name) == ERR_OK)
            read_job_file(path, index, out);
    }
    closedir(dir);
    return ERR_OK;
}
