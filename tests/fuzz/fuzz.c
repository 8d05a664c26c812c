/*
 * fuzz.c - the folder, the limit on memory, images.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <sanitizer/allocator_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const fuzz_names[FUZZ_NAMES] = {
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "part-1.safetensors",
    "part-1.bin",
};

static char folder[4000];

/* ---- memory ---- */

static atomic_bool counting;
static atomic_llong live, peak, most;
static size_t input;
static struct {
    long long bytes;
    size_t input;
} largest; /* of all inputs, for people */

static void on_malloc(const volatile void *block, size_t size)
{
    (void)block;
    if (!atomic_load(&counting))
        return;
    long long now = atomic_fetch_add(&live, (long long)size) + (long long)size;
    if (now > atomic_load(&peak))
        atomic_store(&peak, now);
    if (now <= atomic_load(&most))
        return;
    atomic_store(&counting, false);
    fprintf(stderr, "fuzz: %lld bytes live, %lld warranted by the input; the last %zu from\n", now,
            (long long)atomic_load(&most), size);
    __sanitizer_print_stack_trace();
    abort();
}

static void on_free(const volatile void *block)
{
    if (block != NULL && atomic_load(&counting))
        atomic_fetch_sub(&live, (long long)__sanitizer_get_allocated_size(block));
}

void fuzz_begin(size_t base, size_t size, size_t factor)
{
    input = size;
    atomic_store(&live, 0);
    atomic_store(&peak, 0);
    atomic_store(&most, (long long)(base + size * factor));
    atomic_store(&counting, true);
}

void fuzz_end(void)
{
    atomic_store(&counting, false);
    if (atomic_load(&peak) <= largest.bytes)
        return;
    largest.bytes = atomic_load(&peak);
    largest.input = input;
}

/* ---- the folder ---- */

static void remove_folder(void)
{
    fuzz_clear_image();
    rmdir(folder);
    fprintf(stderr, "fuzz: at most %lld bytes live, for an input of %zu\n", largest.bytes,
            largest.input);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *parent = getenv("TMPDIR");
    (void)argc, (void)argv;
    snprintf(folder, sizeof folder, "%s/wyvern-fuzz-XXXXXX", parent != NULL ? parent : P_tmpdir);
    if (mkdtemp(folder) == NULL || atexit(remove_folder) != 0 ||
        __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) == 0) {
        perror("fuzz: can't begin");
        exit(1);
    }
    return 0;
}

const char *fuzz_folder(void)
{
    return folder;
}

const char *fuzz_write(const char *name, const uint8_t *data, size_t size)
{
    static char path[sizeof folder + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
    return path;
}

void fuzz_unlink(const char *name)
{
    char path[sizeof folder + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

/* ---- images ---- */

void fuzz_write_image(const uint8_t *data, size_t size)
{
    const uint8_t *end = data + size;
    const uint8_t *at = memmem(data, size, FUZZ_MARK, 2);
    while (at != NULL && at + 3 <= end) {
        unsigned name = (unsigned)at[2] - 'a';
        const uint8_t *begin = at + 3;
        at = memmem(begin, (size_t)(end - begin), FUZZ_MARK, 2);
        size_t len = (size_t)((at != NULL ? at : end) - begin);
        if (name < FUZZ_NAMES)
            fuzz_write(fuzz_names[name], begin, len);
    }
}

void fuzz_clear_image(void)
{
    for (size_t i = 0; i < FUZZ_NAMES; i++)
        fuzz_unlink(fuzz_names[i]);
}
