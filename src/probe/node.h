/*
 * node.h - CPUs, memory, load, network and disk of this host, and the jobs on its GPUs, from files
 * of the system.
 *
 * What can't be had is NaN or left out.  The folder (/proc) may be another one, for containers that
 * see the host's elsewhere, and for tests.  Any thread.
 */
#ifndef WYVERN_PROBE_NODE_H
#define WYVERN_PROBE_NODE_H

#include "base/err.h"

#define NODE_CPU_MODES    8
#define NODE_MAX_DEVICES  64
#define NODE_DEVICE_MAX   32
#define NODE_MAX_JOBS     256
#define NODE_MAX_GPU_JOBS 16 /* on one GPU */
#define NODE_JOB_MAX      64

extern const char *const node_cpu_modes[NODE_CPU_MODES];

struct node_reading {
    double cpu_seconds[NODE_CPU_MODES];
    double cpus; /* that are switched on */
    double memory_size_bytes, memory_available_bytes;
    double load[3]; /* 1, 5, 15 minutes */
};

/* Fails when something was not there; the rest is filled nevertheless. */
MUST_USE enum err node_read(const char *proc, struct node_reading *out);

struct disk_reading {
    double size_bytes, free_bytes; /* free: for us */
};

/* The file system that holds a path. */
MUST_USE enum err disk_read(const char *path, struct disk_reading *out);

struct network_reading {
    unsigned count;
    struct network_device {
        char name[NODE_DEVICE_MAX];
        double received_bytes, sent_bytes;
    } devices[NODE_MAX_DEVICES];
};

/* At most NODE_MAX_DEVICES; those with odd names or lines are left out. */
MUST_USE enum err network_read(const char *proc, struct network_reading *out);

struct job_reading {
    unsigned count;
    struct gpu_job {
        unsigned gpu_index;
        char job[NODE_JOB_MAX];
    } jobs[NODE_MAX_JOBS];
};

/* A folder as dcgm-exporter reads it: files named by GPU index, one job id a line.  Other files,
 * and ids that are no plain words, are left out. */
MUST_USE enum err jobs_read(const char *folder, struct job_reading *out);

#endif
