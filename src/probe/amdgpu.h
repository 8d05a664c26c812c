/*
 * amdgpu.h - AMD GPUs through the files that their driver keeps in /sys.  Any thread.
 */
#ifndef WYVERN_PROBE_AMDGPU_H
#define WYVERN_PROBE_AMDGPU_H

#include "base/err.h"
#include "probe/gpu.h"

/* sysfs: "/sys", or a tree like it.  ERR_NOT_FOUND: no AMD GPU is here, which is normal.  Indexes
 * count the AMD GPUs in the order of their card numbers.  A card whose files vanish meanwhile
 * lacks figures, or is left out. */
MUST_USE enum err amdgpu_read(const char *sysfs, struct gpu_list *out);

#endif
