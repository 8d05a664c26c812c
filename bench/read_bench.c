/*
 * read_bench.c - how fast this machine reads memory: threads sum up an array of floats far larger
 * than the caches.
 *
 *   read_bench THREADS [MIB]
 *
 * For each line on stdin: one line with GB/s (10⁹ bytes), all threads together.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

#define PASSES      3
#define LANES       64
#define MAX_THREADS 256

struct share {
    const float *from;
    size_t count; /* a multiple of LANES */
    float sum;    /* looked at, so that the loop is not left out */
};

static void *sum_up(void *arg)
{
    struct share *share = arg;
    float lanes[LANES] = {0};
    for (int pass = 0; pass < PASSES; pass++) {
        for (size_t i = 0; i < share->count; i += LANES) {
            for (size_t k = 0; k < LANES; k++)
                lanes[k] += share->from[i + k];
        }
    }
    for (size_t k = 0; k < LANES; k++)
        share->sum += lanes[k];
    return NULL;
}

static double measure(const float *numbers, size_t count, size_t threads)
{
    pthread_t ids[MAX_THREADS];
    struct share shares[MAX_THREADS];
    size_t part = count / threads / LANES * LANES;
    int64_t start_ns = clock_mono_ns();
    for (size_t i = 0; i < threads; i++) {
        shares[i] = (struct share){numbers + i * part, part, 0};
        if (pthread_create(&ids[i], NULL, sum_up, &shares[i]) != 0)
            abort();
    }
    for (size_t i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    double seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
    for (size_t i = 0; i < threads; i++) {
        if (shares[i].sum < 0) /* never: all numbers are 1 */
            abort();
    }
    return (double)(PASSES * threads * part * sizeof *numbers) / 1e9 / seconds;
}

int main(int argc, char **argv)
{
    size_t threads = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    size_t mib = argc > 2 ? strtoul(argv[2], NULL, 10) : 1024, count = (mib << 20) / sizeof(float);
    if (threads < 1 || threads > MAX_THREADS || mib < 1) {
        fputs("usage: read_bench THREADS [MIB]\n", stderr);
        return 64;
    }
    float *numbers = malloc(count * sizeof *numbers);
    if (numbers == NULL)
        return 69;
    for (size_t i = 0; i < count; i++)
        numbers[i] = 1;
    while (getchar() == '\n') {
        printf("%.2f\n", measure(numbers, count, threads));
        fflush(stdout);
    }
    free(numbers);
    return 0;
}
