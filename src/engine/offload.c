#include "engine/offload.h"

#include <llama.h>

bool engine_can_offload(void)
{
    return llama_supports_gpu_offload();
}
