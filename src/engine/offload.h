/*
 * offload.h - can this build of the model runtime use GPUs at all?
 */
#ifndef WYVERN_ENGINE_OFFLOAD_H
#define WYVERN_ENGINE_OFFLOAD_H

#include <stdbool.h>

/* May take a moment where it can: the runtime looks for its devices. */
bool engine_can_offload(void);

#endif
