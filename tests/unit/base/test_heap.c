/* A burst's memory goes back to the system once it is over, and is not given back twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/heap.h"

#define BLOCKS 512
#define BYTES  ((size_t)32 << 10)

static size_t resident(void)
{
    size_t all = 0, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%zu %zu", &all, &pages), 2);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void burst(void *blocks[BLOCKS], void *stay[BLOCKS])
{
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BYTES);
        stay[i] = malloc(64);
        assert_true(blocks[i] != NULL && stay[i] != NULL);
        memset(blocks[i], 1, BYTES);
        memset(stay[i], 2, 64);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
}

static void test_a_burst_is_given_back_once(void **state)
{
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    skip(); /* their heap is another */
#endif
#endif
    static void *blocks[BLOCKS], *stay[BLOCKS];
    struct heap heap = {0};
    (void)state;
    heap_settle(&heap);
    heap_settle(&heap);
    size_t before = resident();
    burst(blocks, stay);
    assert_true(resident() > before + BLOCKS * BYTES / 2); /* it lies between what stays */
    assert_false(heap_settle(&heap));                      /* perhaps it goes on */
    assert_true(heap_settle(&heap));
    assert_true(resident() < before + BLOCKS * BYTES / 2);
    assert_false(heap_settle(&heap)); /* what is free still counts, and was given back */
    for (size_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(((const unsigned char *)stay[i])[63], 2);
        free(stay[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_burst_is_given_back_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
