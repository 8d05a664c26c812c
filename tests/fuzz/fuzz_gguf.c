/* Loading a GGUF: the look at its header for any architecture, and this engine's own loading as
 * `wyvern infer` does it, with a run if it opens.  llama.cpp's loading is not ours to fuzz. */
#include <stdbool.h>
#include <string.h>

#include "engine/model_file.h"
#include "engine/ops.h"
#include "engine_run.h"
#include "fuzz.h"

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_gguf;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool warm;
    struct model_file file;
    const char *path = fuzz_write("model.gguf", data, size);

    if (warm) /* the first time ggml looks for its backends and keeps them */
        fuzz_begin(FUZZ_BASE, size, 512);
    if (model_file_check(&file, path) == ERR_OK && strcmp(file.arch, BLENDERBOT_ARCH) == 0) {
        (void)engine_run(path);
        warm = true;
    }
    fuzz_end();
    fuzz_unlink("model.gguf");
    return 0;
}
