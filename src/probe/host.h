/*
 * host.h - figures of this host from /proc.  Any thread.
 */
#ifndef WYVERN_PROBE_HOST_H
#define WYVERN_PROBE_HOST_H

#include <stdint.h>

#include "base/err.h"

void host_name(char *out, int cap);
unsigned host_cpus(void); /* CPUs this process may run on */
MUST_USE enum err host_memory(uint64_t *total_bytes, uint64_t *available_bytes);
/* Resident bytes of a process, without what it shares from files (RssAnon). */
MUST_USE enum err host_resident(int pid, uint64_t *bytes);
MUST_USE enum err host_disk_free(const char *path, uint64_t *free_bytes);

/* When a process started, in seconds since the machine did; pid 0: this one.  ERR_NOT_FOUND: there
 * is none. */
MUST_USE enum err host_started(int pid, double *seconds);

#endif
