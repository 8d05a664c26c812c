/* Fuzzes the converter's readers (clang's libFuzzer).  An input's first byte says what the rest is:
 * 0 a safetensors file, 1 a pytorch_model.bin, 2 a pickle.  tests/fuzz/seeds.py makes a corpus. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/checkpoint.h"
#include "convert/pickle.h"

#define READ_MAX 100000 /* elements: reading more finds nothing new */

static char folder[] = "/tmp/wyvern-fuzz-XXXXXX";

static void remove_folder(void)
{
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    if (mkdtemp(folder) == NULL)
        return 1;
    return atexit(remove_folder);
}

static void read_pickle(const uint8_t *data, size_t size)
{
    struct pickle pickle;
    size_t used;
    if (pickle_read(&pickle, (const char *)data, size, &used, "input") == ERR_OK)
        pickle_done(&pickle);
}

static void read_tensors(struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->tensors.count; i++) {
        const struct tensor *tensor = &checkpoint->tensors.items[i];
        if (tensor->dtype == DTYPE_OTHER || tensor->count > READ_MAX)
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
    static const char *const names[] = {"model.safetensors", "pytorch_model.bin"};
    struct checkpoint *checkpoint;
    char path[128];

    if (size == 0)
        return 0;
    if (data[0] % 3 == 2) {
        read_pickle(data + 1, size - 1);
        return 0;
    }
    snprintf(path, sizeof path, "%s/%s", folder, names[data[0] % 3]);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)size - 1)
        abort();
    close(fd);
    if (checkpoint_open(&checkpoint, folder) == ERR_OK) {
        read_tensors(checkpoint);
        checkpoint_free(checkpoint);
    }
    unlink(path);
    return 0;
}
