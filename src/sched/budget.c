#include "sched/budget.h"

unsigned budget_prefill(unsigned decoding, unsigned waiting)
{
    if (waiting == 0)
        return 0;
    if (decoding == 0)
        return BUDGET_STEP_TOKENS;
    unsigned times = waiting / decoding;
    if (times == 0)
        times = 1;
    if (times > BUDGET_STEP_TOKENS / BUDGET_BESIDE)
        return BUDGET_STEP_TOKENS;
    return times * BUDGET_BESIDE;
}
