#include "sched/crowd.h"

#include <stdbool.h>

#define STEP_ROWS 2   /* a step costs about as much as so many rows, besides its rows */
#define DEAR      1.5 /* times one thread's cost: by then many threads do harm, not only too little */
#define NEWEST    0.4 /* share of the newest step in a recent cost */

void crowd_init(struct crowd *crowd, unsigned threads)
{
    *crowd = (struct crowd){.threads = threads, .phase = CROWD_MANY, .stay = CROWD_STAY_MIN};
}

unsigned crowd_threads(const struct crowd *crowd)
{
    bool many = crowd->phase == CROWD_MANY || crowd->phase == CROWD_TRY_MANY;
    return many ? crowd->threads : 1;
}

static void enter(struct crowd *crowd, enum crowd_phase phase)
{
    crowd->phase = phase;
    crowd->steps = 0;
    crowd->dear = 0;
}

static void mix(double *cost, double newest)
{
    *cost = *cost > 0 ? *cost + NEWEST * (newest - *cost) : newest;
}

static void note_many(struct crowd *crowd, double cost)
{
    mix(&crowd->many, cost);
    bool known = crowd->one > 0;
    crowd->dear = known && cost > DEAR * crowd->one ? crowd->dear + 1 : 0;
    if (crowd->dear >= CROWD_TRY_STEPS || (!known && crowd->steps >= CROWD_FIRST_TRY))
        enter(crowd, CROWD_TRY_ONE);
    else if (crowd->steps >= CROWD_STAY_MAX)
        crowd->stay = CROWD_STAY_MIN; /* all was well for long */
}

void crowd_note(struct crowd *crowd, unsigned rows, int64_t took_ns)
{
    if (crowd->threads < 2 || rows == 0)
        return;
    double cost = (double)took_ns / (rows + STEP_ROWS);
    crowd->steps++;
    switch (crowd->phase) {
    case CROWD_MANY:
        note_many(crowd, cost);
        break;
    case CROWD_TRY_ONE:
        if (crowd->steps == 1)
            crowd->one = 0; /* what it cost in another crowd does not count */
        mix(&crowd->one, cost);
        if (crowd->steps >= CROWD_TRY_STEPS)
            enter(crowd, crowd->one < crowd->many ? CROWD_ONE : CROWD_MANY);
        break;
    case CROWD_ONE:
        mix(&crowd->one, cost);
        if (crowd->steps >= crowd->stay)
            enter(crowd, CROWD_TRY_MANY);
        break;
    case CROWD_TRY_MANY:
        crowd->many = cost;
        if (cost < crowd->one && crowd->steps < CROWD_TRY_STEPS)
            break;
        crowd->stay = cost < crowd->one ? CROWD_STAY_MIN : crowd->stay * 2;
        if (crowd->stay > CROWD_STAY_MAX)
            crowd->stay = CROWD_STAY_MAX;
        enter(crowd, cost < crowd->one ? CROWD_MANY : CROWD_ONE);
        break;
    }
}
