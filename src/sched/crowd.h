/*
 * crowd.h - whether to compute with all threads or with one, on CPUs that others want as well.
 *
 * The model runtime's threads wait for each other by spinning, hundreds of times a step.  When
 * another process holds one CPU, all of them wait for the thread that lost it: a step then takes up
 * to a hundred times as long, where a single thread would take only its share longer.  So the cost
 * of steps is watched; when many threads are dearer than one, one is used for a while.
 *
 * Steps of few rows and of many are judged apart: a step of one row waits for memory, which one
 * thread may read as fast as two, while many rows are arithmetic.  Who finds a crowd tells the
 * others.
 *
 * Pure: the caller measures.
 */
#ifndef WYVERN_SCHED_CROWD_H
#define WYVERN_SCHED_CROWD_H

#include <stdint.h>

enum crowd_phase {
    CROWD_MANY,    /* all threads */
    CROWD_TRY_ONE, /* one thread, to learn what that costs */
    CROWD_ONE,     /* one thread, until it is time to try */
    CROWD_TRY_MANY,
};

#define CROWD_CLASSES 12 /* of steps: 1 row, 2 to 3, 4 to 7 … */

struct crowd {
    unsigned threads;
    struct crowd_class {
        enum crowd_phase phase;
        unsigned steps;   /* in this phase */
        unsigned dear;    /* steps in a row that were dearer than one thread's */
        unsigned stay;    /* steps to stay with one thread before the next try */
        double many, one; /* recent cost of a row, 0: not known */
    } classes[CROWD_CLASSES];
};

#define CROWD_FIRST_TRY 4 /* steps until one thread's cost is learnt */
#define CROWD_TRY_STEPS 3
#define CROWD_STAY_MIN  64 /* steps; doubled by each try that finds the crowd still there */
#define CROWD_STAY_MAX  1024

void crowd_init(struct crowd *crowd, unsigned threads);

/* Threads for a step of so many rows. */
unsigned crowd_threads(const struct crowd *crowd, unsigned rows);

/* A step of so many rows took so long. */
void crowd_note(struct crowd *crowd, unsigned rows, int64_t took_ns);

#endif
