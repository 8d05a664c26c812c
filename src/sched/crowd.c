#include "sched/crowd.h"

#include <stdbool.h>

#define STEP_ROWS 2   /* a step costs about as much as so many rows, besides its rows */
#define DEAR      1.5 /* times one thread's cost: by then many threads do harm, not only too little */
#define HOPELESS  2.0 /* times one thread's cost: no need to try again */
#define NEWEST    0.4 /* share of the newest step in a recent cost */

void crowd_init(struct crowd *crowd, unsigned threads)
{
    *crowd = (struct crowd){.threads = threads};
    for (unsigned i = 0; i < CROWD_CLASSES; i++)
        crowd->classes[i].stay = CROWD_STAY_MIN;
}

static unsigned class_of(unsigned rows)
{
    unsigned class = 0;
    for (; rows > 1 && class + 1 < CROWD_CLASSES; rows /= 2)
        class ++;
    return class;
}

unsigned crowd_threads(const struct crowd *crowd, unsigned rows)
{
    enum crowd_phase phase = crowd->classes[class_of(rows)].phase;
    return phase == CROWD_MANY || phase == CROWD_TRY_MANY ? crowd->threads : 1;
}

static void enter(struct crowd_class *class, enum crowd_phase phase)
{
    class->phase = phase;
    class->steps = 0;
    class->dear = 0;
}

static void mix(double *cost, double newest)
{
    *cost = *cost > 0 ? *cost + NEWEST * (newest - *cost) : newest;
}

/* Of the steps of a trial the cheapest counts: the first wakes threads and fills caches. */
static void keep_least(double *cost, unsigned step, double newest)
{
    *cost = step == 1 || newest < *cost ? newest : *cost;
}

/* A crowd came: each class looks at one thread again before it meets it. */
static void warn_all(struct crowd *crowd)
{
    for (unsigned i = 0; i < CROWD_CLASSES; i++) {
        if (crowd->classes[i].phase == CROWD_MANY && crowd->classes[i].one > 0)
            enter(&crowd->classes[i], CROWD_TRY_ONE);
    }
}

/* It seems to be gone: the others need not wait until their own time to try. */
static void cheer_all(struct crowd *crowd)
{
    for (unsigned i = 0; i < CROWD_CLASSES; i++) {
        if (crowd->classes[i].phase == CROWD_ONE)
            enter(&crowd->classes[i], CROWD_TRY_MANY);
    }
}

static void note_many(struct crowd *crowd, struct crowd_class *class, double cost)
{
    bool known = class->one > 0;
    if (known)
        mix(&class->many, cost);
    else
        keep_least(&class->many, class->steps, cost);
    class->dear = known && cost > DEAR * class->one ? class->dear + 1 : 0;
    if (class->dear >= CROWD_TRY_STEPS)
        warn_all(crowd);
    else if (!known && class->steps >= CROWD_FIRST_TRY)
        enter(class, CROWD_TRY_ONE);
    else if (class->steps >= CROWD_STAY_MAX)
        class->stay = CROWD_STAY_MIN; /* all was well for long */
}

static void note_try_many(struct crowd *crowd, struct crowd_class *class, double cost)
{
    keep_least(&class->many, class->steps, cost);
    if (class->steps < CROWD_TRY_STEPS && cost < HOPELESS * class->one)
        return;
    bool better = class->many < class->one;
    class->stay = better ? CROWD_STAY_MIN : class->stay * 2;
    if (class->stay > CROWD_STAY_MAX)
        class->stay = CROWD_STAY_MAX;
    enter(class, better ? CROWD_MANY : CROWD_ONE);
    if (better)
        cheer_all(crowd);
}

void crowd_note(struct crowd *crowd, unsigned rows, int64_t took_ns)
{
    if (crowd->threads < 2 || rows == 0)
        return;
    struct crowd_class *class = &crowd->classes[class_of(rows)];
    double cost = (double)took_ns / (rows + STEP_ROWS);
    class->steps++;
    switch (class->phase) {
    case CROWD_MANY:
        note_many(crowd, class, cost);
        break;
    case CROWD_TRY_ONE:
        keep_least(&class->one, class->steps, cost);
        if (class->steps >= CROWD_TRY_STEPS)
            enter(class, class->one < class->many ? CROWD_ONE : CROWD_MANY);
        break;
    case CROWD_ONE:
        mix(&class->one, cost);
        if (class->steps >= class->stay)
            enter(class, CROWD_TRY_MANY);
        break;
    case CROWD_TRY_MANY:
        note_try_many(crowd, class, cost);
        break;
    }
}
