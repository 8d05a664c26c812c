/*
 * clock.h - the two clocks.  Any thread.
 */
#ifndef WYVERN_BASE_CLOCK_H
#define WYVERN_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_mono_ns(void); /* CLOCK_MONOTONIC: for durations and deadlines */
double clock_wall(void);     /* Unix seconds with fractions: for people and messages */

#define MS_PER_S  1000
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

#endif
