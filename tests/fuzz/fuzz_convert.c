/* A whole conversion from the image of a folder; its first byte is the weight type.  What converts
 * must load. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "convert/convert.h"
#include "engine_run.h"
#include "fuzz.h"

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_image;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", NULL};
    struct convert_report report;
    char out[4096];

    if (size == 0)
        return 0;
    fuzz_write_image(data + 1, size - 1);
    snprintf(out, sizeof out, "%s/out.gguf", fuzz_folder());
    fuzz_begin(FUZZ_BASE + FUZZ_ZIP, size, 256);
    enum err err = convert_checkpoint(fuzz_folder(), out, types[data[0] % 7], NULL, NULL, &report);
    fuzz_end();
    struct stat info;
    if ((stat(out, &info) == 0) != (err == ERR_OK)) {
        fprintf(stderr, "fuzz: %s: %s\n", err_name(err), err_text());
        abort();
    }
    if (err == ERR_OK) {
        err = engine_run(out);
        if (err != ERR_OK && err != ERR_NOMEM) {
            fprintf(stderr, "fuzz: it converts and does not load: %s\n", err_text());
            abort();
        }
        fuzz_unlink("out.gguf");
    }
    fuzz_clear_image();
    return 0;
}
