/*
 * mutate.c - mutators that know a format's frame, so that a lie gets past the first check.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "fuzz.h"

#define NUMBERS_MAX 4096

static uint32_t state; /* of this mutation; seeded by libFuzzer */

static uint32_t draw(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return below > 0 ? (state >> 8) % below : 0;
}

static uint64_t get(const uint8_t *data, size_t width)
{
    uint64_t number = 0;
    for (size_t i = width; i-- > 0;)
        number = number << 8 | data[i];
    return number;
}

static void put(uint8_t *data, size_t width, uint64_t number)
{
    for (size_t i = 0; i < width; i++)
        data[i] = (uint8_t)(number >> (8 * i));
}

static uint64_t extreme(uint64_t old)
{
    static const uint64_t numbers[] = {0,          1,          2,        UINT64_MAX,
                                       INT64_MAX,  1ull << 63, 1u << 31, INT32_MAX,
                                       UINT32_MAX, 1ull << 32, 1u << 20, 1u << 30,
                                       1ull << 40, 1ull << 62, 65536,    INT64_MAX / 16};
    uint32_t choice = draw(24);
    if (choice < 16)
        return numbers[choice];
    return choice < 18 ? old + 1 : choice < 20 ? old - 1 : choice < 22 ? old * 2 : old ^ draw(256);
}

size_t fuzz_mutate_binary(uint8_t *data, size_t size, size_t max)
{
    static const size_t widths[] = {1, 2, 4, 8};
    size_t width = widths[draw(4)];
    (void)max;
    if (size < width)
        return 0;
    uint8_t *at = data + draw((uint32_t)(size - width + 1));
    put(at, width, extreme(get(at, width)));
    return size;
}

size_t fuzz_mutate_text(uint8_t *data, size_t size, size_t max)
{
    char text[32];
    if (size == 0)
        return 0;
    size_t begin = draw((uint32_t)size), end;
    for (size_t tried = 0; data[begin] < '0' || data[begin] > '9'; tried++) {
        if (tried == size)
            return 0;
        begin = (begin + 1) % size;
    }
    for (end = begin; end < size && data[end] >= '0' && data[end] <= '9';)
        end++;
    uint64_t number = extreme(end - begin > 15 ? 7 : get(data + begin, 1) - '0');
    int len = draw(2) ? snprintf(text, sizeof text, "%llu", (unsigned long long)number)
                      : snprintf(text, sizeof text, "%lld", (long long)number);
    if (size - (end - begin) + (size_t)len > max)
        return 0;
    memmove(data + begin + len, data + end, size - end);
    memcpy(data + begin, text, (size_t)len);
    return size - (end - begin) + (size_t)len;
}

/* Text by libFuzzer's own means, or a number of it. */
static size_t mutate_json(uint8_t *data, size_t size, size_t max)
{
    size_t changed = draw(2) ? fuzz_mutate_text(data, size, max) : 0;
    return changed > 0 ? changed : LLVMFuzzerMutate(data, size, max);
}

size_t fuzz_mutate_safetensors(uint8_t *data, size_t size, size_t max)
{
    uint64_t len = size >= 8 ? get(data, 8) : UINT64_MAX;
    if (len > size - 8 || len == 0)
        return 0;
    size_t rest = size - 8 - (size_t)len, room = max - 8 - rest;
    uint8_t *header = malloc(room);
    if (header == NULL || room < len) {
        free(header);
        return 0;
    }
    memcpy(header, data + 8, (size_t)len);
    size_t changed = mutate_json(header, (size_t)len, room);
    memmove(data + 8 + changed, data + 8 + len, rest);
    memcpy(data + 8, header, changed);
    free(header);
    put(data, 8, changed);
    return 8 + changed + rest;
}

/* ---- zip ---- */

struct entry {
    size_t central, local, data, size;
};

/* The nth file by the central directory; false: there is no such, or it lies outside. */
static bool find_entry(const uint8_t *data, size_t size, uint32_t nth, struct entry *out)
{
    size_t at = 0;
    for (uint32_t seen = 0; at + 46 <= size; at++) {
        if (memcmp(data + at, "PK\1\2", 4) != 0 || seen++ != nth)
            continue;
        size_t local = get(data + at + 42, 4), len = get(data + at + 20, 4);
        if (local + 30 > size)
            return false;
        size_t begin = local + 30 + get(data + local + 26, 2) + get(data + local + 28, 2);
        *out = (struct entry){at, local, begin, len};
        return begin <= size && len <= size - begin;
    }
    return false;
}

size_t fuzz_mutate_zip(uint8_t *data, size_t size, size_t max)
{
    struct entry entry;
    (void)max;
    /* the first is the pickle, where there is the most to say */
    if (!find_entry(data, size, draw(3) ? 0 : draw(8), &entry) || entry.size == 0)
        return 0;
    uint8_t *content = data + entry.data;
    if (draw(2))
        fuzz_mutate_binary(content, entry.size, entry.size);
    else
        LLVMFuzzerMutate(content, entry.size, entry.size);
    uint32_t sum = (uint32_t)crc32(0, content, (unsigned)entry.size);
    put(data + entry.central + 16, 4, sum);
    put(data + entry.local + 14, 4, sum);
    return size;
}

/* ---- gguf ---- */

struct walk {
    const uint8_t *data;
    size_t size, at;
    size_t offsets[NUMBERS_MAX];
    uint8_t widths[NUMBERS_MAX];
    uint32_t count;
    bool broken;
};

static uint64_t take(struct walk *walk, size_t width)
{
    if (walk->broken || walk->size - walk->at < width) {
        walk->broken = true;
        return 0;
    }
    if (walk->count < NUMBERS_MAX && width <= 8) {
        walk->offsets[walk->count] = walk->at;
        walk->widths[walk->count++] = (uint8_t)width;
    }
    walk->at += width;
    return get(walk->data + walk->at - width, width);
}

static void skip(struct walk *walk, uint64_t bytes)
{
    if (bytes > walk->size - walk->at)
        walk->broken = true;
    else
        walk->at += (size_t)bytes;
}

static void walk_value(struct walk *walk, uint64_t type)
{
    static const uint8_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8)
        skip(walk, take(walk, 8));
    else if (type < sizeof widths && widths[type] > 0)
        take(walk, widths[type]);
    else
        walk->broken = true;
}

static void walk_gguf(struct walk *walk)
{
    skip(walk, 4);
    take(walk, 4);
    uint64_t tensors = take(walk, 8), keys = take(walk, 8);
    for (uint64_t i = 0; i < keys && !walk->broken; i++) {
        skip(walk, take(walk, 8));
        uint64_t type = take(walk, 4);
        if (type == 9) {
            type = take(walk, 4);
            uint64_t count = take(walk, 8);
            for (uint64_t k = 0; k < count && !walk->broken; k++)
                walk_value(walk, type);
        } else {
            walk_value(walk, type);
        }
    }
    for (uint64_t i = 0; i < tensors && !walk->broken; i++) {
        skip(walk, take(walk, 8));
        uint64_t dims = take(walk, 4);
        for (uint64_t d = 0; d < dims && !walk->broken; d++)
            take(walk, 8);
        take(walk, 4);
        take(walk, 8);
    }
}

size_t fuzz_mutate_gguf(uint8_t *data, size_t size, size_t max)
{
    static struct walk walk;
    (void)max;
    walk = (struct walk){.data = data, .size = size};
    walk_gguf(&walk);
    if (walk.count == 0)
        return 0;
    for (uint32_t lies = 1 + draw(2); lies > 0; lies--) {
        uint32_t i = draw(walk.count);
        uint8_t *at = data + walk.offsets[i];
        size_t width = walk.widths[i];
        put(at, width, draw(3) ? extreme(get(at, width)) : draw(40));
    }
    return size;
}

/* ---- images ---- */

static size_t mutate_file(unsigned name, uint8_t *data, size_t size, size_t max)
{
    const char *text = name < FUZZ_NAMES ? fuzz_names[name] : "";
    size_t changed = 0, len = strlen(text);
    if (len > 12 && strcmp(text + len - 12, ".safetensors") == 0)
        changed = fuzz_mutate_safetensors(data, size, max);
    else if (len > 4 && strcmp(text + len - 4, ".bin") == 0)
        changed = draw(2) ? fuzz_mutate_zip(data, size, max) : fuzz_mutate_binary(data, size, max);
    else
        changed = mutate_json(data, size, max);
    return changed > 0 ? changed : LLVMFuzzerMutate(data, size, max);
}

size_t fuzz_mutate_image(uint8_t *data, size_t size, size_t max)
{
    if (size < 3)
        return 0;
    /* the file that holds a random byte, or the first behind it */
    const uint8_t *at = data + draw((uint32_t)size);
    at = memmem(at, size - (size_t)(at - data), FUZZ_MARK, 2);
    if (at == NULL)
        at = memmem(data, size, FUZZ_MARK, 2);
    if (at == NULL || at + 3 >= data + size)
        return 0;
    size_t begin = (size_t)(at - data) + 3;
    const uint8_t *next = memmem(data + begin, size - begin, FUZZ_MARK, 2);
    size_t end = next != NULL ? (size_t)(next - data) : size, len = end - begin;
    size_t room = max - (size - len);
    uint8_t *file = malloc(room > 0 ? room : 1);
    if (file == NULL || room < len || len == 0) {
        free(file);
        return 0;
    }
    memcpy(file, data + begin, len);
    size_t changed = mutate_file((unsigned)at[2] - 'a', file, len, room);
    memmove(data + begin + changed, data + end, size - end);
    memcpy(data + begin, file, changed);
    free(file);
    return begin + changed + size - end;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    state = seed;
    draw(2);
    size_t changed = draw(4) ? fuzz_mutator(data, size, max) : 0;
    return changed > 0 ? changed : LLVMFuzzerMutate(data, size, max);
}
