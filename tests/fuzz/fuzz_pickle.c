/* The unpickler alone. */
#include "convert/pickle.h"
#include "fuzz.h"

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_binary;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pickle pickle;
    size_t used;

    fuzz_begin(FUZZ_BASE, size, 128);
    if (pickle_read(&pickle, (const char *)data, size, &used, "input") == ERR_OK)
        pickle_done(&pickle);
    fuzz_end();
    return 0;
}
