/* The small files of a checkpoint: configurations and vocabulary, from an image. */
#include <gguf.h>

#include "convert/hf_config.h"
#include "convert/vocab.h"
#include "fuzz.h"

#define VOCAB_MAX 4096 /* `wyvern convert` compares with the weights first */

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_image;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hf_config config;

    fuzz_write_image(data, size);
    fuzz_begin(FUZZ_BASE, size, 256);
    struct gguf_context *gguf = gguf_init_empty();
    enum err err = hf_config_read(&config, gguf, fuzz_folder());
    if (err == ERR_OK && config.vocab <= VOCAB_MAX)
        err = vocab_read(gguf, fuzz_folder(), &config);
    gguf_free(gguf);
    fuzz_end();
    fuzz_clear_image();
    return 0;
}
