/* This engine's loading: a GGUF, opened as `wyvern infer` does, and run if it opens. */
#include <stdbool.h>
#include <string.h>

#include "engine_run.h"
#include "fuzz.h"

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_gguf;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool warm;
    if (memmem(data, size, "llama", 5) != NULL)
        return 0; /* model_file_check is fuzzed by all others; llama.cpp itself is not ours */
    const char *path = fuzz_write("model.gguf", data, size);
    if (warm) /* the first time ggml looks for its backends and keeps them */
        fuzz_begin(size, 512);
    warm = true;
    (void)engine_run(path);
    fuzz_end();
    fuzz_unlink("model.gguf");
    return 0;
}
