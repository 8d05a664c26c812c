#include "engine/pools.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <sched.h>

/* How long a thread spins for its next work, from 0 to 100.  The runtime's 50 are 100 ms or more on
 * a CPU that another worker could use; from one step to the next it takes less than a tenth of
 * that. */
#define POLL 5

unsigned pools_threads(unsigned wanted)
{
    cpu_set_t set;
    unsigned threads = wanted;
    if (wanted == 0)
        threads = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    return threads < POOLS_MAX_THREADS ? threads : POOLS_MAX_THREADS;
}

void pools_open(struct pools *pools, unsigned threads)
{
    typedef struct ggml_threadpool *make_fn(struct ggml_threadpool_params * params);
    typedef void free_fn(struct ggml_threadpool * pool);
    *pools = (struct pools){0};
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (cpu == NULL)
        return;
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(cpu);
    make_fn *make = (make_fn *)ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_new");
    free_fn *unmake = (free_fn *)ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_free");
    if (make == NULL || unmake == NULL)
        return;
    struct ggml_threadpool_params many = ggml_threadpool_params_default((int)threads);
    struct ggml_threadpool_params one = ggml_threadpool_params_default(1);
    many.poll = POLL;
    pools->unmake = unmake;
    pools->many = make(&many);
    pools->one = make(&one);
}

void pools_close(struct pools *pools)
{
    if (pools->many != NULL)
        pools->unmake(pools->many);
    if (pools->one != NULL)
        pools->unmake(pools->one);
    *pools = (struct pools){0};
}

struct ggml_threadpool *pools_for(const struct pools *pools, unsigned threads)
{
    return threads > 1 ? pools->many : pools->one;
}
