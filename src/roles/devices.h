/*
 * devices.h - the list of devices that inference workers take theirs from.
 */
#ifndef WYVERN_ROLES_DEVICES_H
#define WYVERN_ROLES_DEVICES_H

#include <stddef.h>

#include "base/err.h"

#define DEVICE_MAX  112 /* "gpu:" and an NVML UUID */
#define DEVICES_MAX 256

struct device_list {
    size_t count; /* 0: no GPUs; workers share the CPUs */
    char names[DEVICES_MAX][DEVICE_MAX];
};

/* wanted: names with commas between them, or NULL: the GPUs of this machine, of them those that
 * CUDA_VISIBLE_DEVICES leaves us. */
MUST_USE enum err device_list_fill(struct device_list *out, const char *wanted);
/* Device of worker i: entries in turn; "cpu:<i>" of an empty list. */
void device_list_take(const struct device_list *list, size_t i, char out[DEVICE_MAX]);
/* What --workers 0 means here: one per GPU, else one per two CPUs. */
unsigned device_list_workers(const struct device_list *list);

#endif
