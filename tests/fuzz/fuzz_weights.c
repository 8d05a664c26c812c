/* A file of weights: WEIGHTS says which name it has, MUTATE who changes it.  Whatever is listed is
 * read. */
#include <stdlib.h>

#include "convert/checkpoint.h"
#include "fuzz.h"

fuzz_mutate_fn *const fuzz_mutator = MUTATE;

static void read_tensors(struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->tensors.count; i++) {
        const struct tensor *tensor = &checkpoint->tensors.items[i];
        if (tensor->dtype == DTYPE_OTHER)
            continue;
        float *values = malloc(tensor->count * sizeof *values);
        if (values == NULL ||
            checkpoint_read(checkpoint, tensor, 0, tensor->count, values) != ERR_OK)
            i = checkpoint->tensors.count;
        free(values);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct checkpoint *checkpoint;

    fuzz_write(WEIGHTS, data, size);
    fuzz_begin(FUZZ_BASE + FUZZ_ZIP, size, 128);
    if (checkpoint_open(&checkpoint, fuzz_folder()) == ERR_OK) {
        read_tensors(checkpoint);
        checkpoint_free(checkpoint);
    }
    fuzz_end();
    return 0;
}
