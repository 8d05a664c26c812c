/*
 * device.h - which of the model runtime's devices a name means.  Private to src/engine/.
 */
#ifndef WYVERN_ENGINE_DEVICE_H
#define WYVERN_ENGINE_DEVICE_H

#include <ggml-backend.h>

#include "base/err.h"

/* NULL or "cpu…": the CPU.  "gpu:ID": the GPU with this UUID ("GPU-…", "MIG-…"), or the runtime's
 * own name or PCI address of one ("Vulkan0", "0000:c1:00.0").  ERR_UNSUPPORTED: there is none. */
MUST_USE enum err device_find(ggml_backend_dev_t *out, const char *device);

/* Has the device room for a model as large as the file?  Asked before it is read: a node that runs
 * out of memory half-way takes others with it.  ERR_NOMEM says how much is there. */
MUST_USE enum err device_check_room(ggml_backend_dev_t device, const char *model_path);

/* Can the backend compute all of the graph?  ERR_UNSUPPORTED names what it can't: the runtime
 * would end the process over it. */
MUST_USE enum err device_check_graph(ggml_backend_t backend, struct ggml_cgraph *graph);

#endif
