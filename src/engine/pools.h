/*
 * pools.h - the CPU threads that compute: all of them, and one for crowded CPUs (sched/crowd.h says
 * when).  Private to src/engine/.  Pools last, since starting threads for each step costs more than
 * a small model's step.
 */
#ifndef WYVERN_ENGINE_POOLS_H
#define WYVERN_ENGINE_POOLS_H

struct ggml_threadpool;

struct pools {
    struct ggml_threadpool *many, *one; /* NULL: the runtime's own */
    void (*unmake)(struct ggml_threadpool *pool);
};

#define POOLS_MAX_THREADS 256

/* Threads to use when `wanted` is asked for: 0 means one per allowed CPU. */
unsigned pools_threads(unsigned wanted);

void pools_open(struct pools *pools, unsigned threads);
void pools_close(struct pools *pools); /* safe on zeroed memory; after those who use them */

/* The one for a step with so many threads; may be NULL. */
struct ggml_threadpool *pools_for(const struct pools *pools, unsigned threads);

#endif
