/*
 * gpu.h - what is known of one GPU, whoever made it.
 *
 * A figure that could not be had, or that can't be true (a driver's -1, more memory used than
 * there is), is NaN: shown nowhere, rather than shown wrong.
 */
#ifndef WYVERN_PROBE_GPU_H
#define WYVERN_PROBE_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GPU_TEXT_MAX 96
#define GPU_MAX_XIDS 16
#define GPU_MAX      64 /* of one vendor, in one node */

enum gpu_figure {
    GPU_BUSY_PERCENT,
    GPU_MEMORY_BUSY_PERCENT, /* time the memory was busy, not how full it is */
    GPU_MEMORY_TOTAL_BYTES,
    GPU_MEMORY_USED_BYTES,
    GPU_MEMORY_FREE_BYTES,
    GPU_POWER_WATTS,
    GPU_POWER_LIMIT_WATTS,
    GPU_ENERGY_JOULES, /* since the driver was loaded */
    GPU_TEMPERATURE_CELSIUS,
    GPU_CLOCK_SM_HERTZ,
    GPU_CLOCK_MEMORY_HERTZ,
    GPU_ECC_CORRECTED, /* errors so far */
    GPU_ECC_UNCORRECTED,
    GPU_FIGURE_COUNT
};

/* How often the driver reported an error, by its number, since we look. */
struct gpu_xid {
    unsigned xid;
    uint64_t count;
};

struct gpu_reading {
    unsigned index; /* the driver's, not CUDA's; not stable: key on uuid */
    char uuid[GPU_TEXT_MAX];
    char name[GPU_TEXT_MAX];
    char driver[GPU_TEXT_MAX]; /* its version; "" when unknown */
    const char *vendor;        /* "nvidia", "amd" */
    bool up;                   /* false: lost; only index, uuid and xids count */
    double figures[GPU_FIGURE_COUNT];
    struct gpu_xid xids[GPU_MAX_XIDS];
    unsigned xid_count;
};

struct gpu_list {
    unsigned count;
    struct gpu_reading gpus[GPU_MAX];
};

/* All figures NaN, no texts. */
void gpu_reading_init(struct gpu_reading *reading, unsigned index, const char *vendor);
/* Forgets every figure. */
void gpu_figures_clear(struct gpu_reading *reading);
/* Takes a figure in its own unit, unless it can't be true. */
void gpu_figure_set(struct gpu_reading *reading, enum gpu_figure figure, double value);
/* The three figures of memory, which must go together. */
void gpu_memory_set(struct gpu_reading *reading, uint64_t total, uint64_t used, uint64_t free);
/* Copies a driver's text; what is not printable ASCII becomes '?', blanks around it go. */
void gpu_text_copy(char out[GPU_TEXT_MAX], const char *text);

#endif
