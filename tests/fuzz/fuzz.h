/*
 * fuzz.h - what the fuzz targets share: a folder for files, the limit on memory, and mutators that
 * keep a format's framing while its numbers lie.
 *
 * Memory: what lives at once because of one input must stay within FUZZ_BASE plus a factor for each
 * of its bytes.  The factors say what a format may cost: a pickle's opcode of one byte becomes a
 * value of 32 in an array that doubles, a JSON "{}" a hash table of 200, a GGUF's tensor of 60
 * bytes several descriptions of 400, a block of 2 KB its nodes in a graph.  What an input merely
 * claims may cost nothing.
 */
#ifndef WYVERN_TESTS_FUZZ_H
#define WYVERN_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define FUZZ_BASE (256u << 10) /* buffers of stdio, libzip, ggml: whatever the input says */

/* libzip takes places for 65,536 more files at once where an archive's list is longer than its
 * count. */
#define FUZZ_ZIP (2u << 20)

/* From here on live memory is counted; more than base + factor × size ends the process. */
void fuzz_begin(size_t base, size_t size, size_t factor);
/* Back to no limit. */
void fuzz_end(void);

/* A folder of this process alone, removed at its end. */
const char *fuzz_folder(void);
/* Writes a file into it; its path stays valid until the next call. */
const char *fuzz_write(const char *name, const uint8_t *data, size_t size);
void fuzz_unlink(const char *name);

/* Changes data in place and returns its new size; 0: it is none of the format. */
typedef size_t fuzz_mutate_fn(uint8_t *data, size_t size, size_t max);
/* The target's own. */
extern fuzz_mutate_fn *const fuzz_mutator;

fuzz_mutate_fn fuzz_mutate_binary;      /* a number somewhere becomes an extreme one */
fuzz_mutate_fn fuzz_mutate_text;        /* a decimal number becomes an extreme one */
fuzz_mutate_fn fuzz_mutate_safetensors; /* the header changes, its length stays true */
fuzz_mutate_fn fuzz_mutate_zip;         /* a file in it changes, its checksum stays true */
fuzz_mutate_fn fuzz_mutate_gguf;        /* one number of the header lies */
fuzz_mutate_fn fuzz_mutate_image;       /* one file of an image, by its kind */

/* An image is a folder as one text of bytes: each file begins with FUZZ_MARK and the letter of its
 * name, 'a' being the first of fuzz_names. */
#define FUZZ_MARK  "\xFF\xF0"
#define FUZZ_NAMES 14
extern const char *const fuzz_names[FUZZ_NAMES];
/* Writes the files; fuzz_clear_image removes them. */
void fuzz_write_image(const uint8_t *data, size_t size);
void fuzz_clear_image(void);

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#endif
