/*
 * topseries.h - figures over time: rates of counters, trails of levels, quantiles of histograms.
 * Pure: time is passed in (seconds of one clock).  A figure that is not known is NAN, never 0.
 */
#ifndef WYVERN_VERBS_TOPSERIES_H
#define WYVERN_VERBS_TOPSERIES_H

#include <stdbool.h>
#include <stddef.h>

#define TOP_RATE_POINTS   8
#define TOP_RATE_WINDOW_S 5.5 /* processes tell once a second: shorter ones would jump */
#define TOP_TRAIL         240
#define TOP_BOUNDS_MAX    64
#define TOP_LATENCY_S     60 /* window of quantiles; also seconds told in text and JSON */

/* A counter.  One that became smaller began anew: then its value is what was added. */
struct top_rate {
    double at[TOP_RATE_POINTS], total[TOP_RATE_POINTS];
    unsigned count, newest;
    double last;
    bool edge; /* the oldest point is where the counter was seen to change */
};
void top_rate_add(struct top_rate *rate, double now, double value);
/* The same for a counter that its owner tells only about once a second, asked oftener or at another
 * beat: what counts is when it was seen to change. */
void top_rate_tell(struct top_rate *rate, double now, double value);
#define TOP_TOLD_S 2.0 /* unchanged for so long: it stands */
/* What follows is another process's counter, which began at 0. */
void top_rate_restart(struct top_rate *rate);
void top_rate_clear(struct top_rate *rate);
/* Per second over the window before its newest point; NAN with fewer than two points there. */
double top_rate_now(const struct top_rate *rate);

/* The last TOP_TRAIL values, one a tick. */
struct top_trail {
    float values[TOP_TRAIL];
    unsigned count, next;
};
void top_trail_add(struct top_trail *trail, double value);
/* back: 0 is the newest.  NAN beyond the first. */
double top_trail_get(const struct top_trail *trail, unsigned back);
/* Of the last `count` values those that are known; NAN when the newest is not: what is lost or
 * silent now has no mean of a time when it was there. */
double top_trail_mean(const struct top_trail *trail, unsigned count);
double top_trail_max(const struct top_trail *trail, unsigned count);

/* One reading of a histogram: cumulative counts by upper bound, all label sets added up. */
struct top_buckets {
    double bounds[TOP_BOUNDS_MAX], counts[TOP_BOUNDS_MAX]; /* by bound; the last is +Inf */
    size_t count;
    bool broken; /* more bounds than fit */
};
/* Adds one sample (a `le` and its count) to the reading. */
void top_buckets_add(struct top_buckets *buckets, const char *le, double count);
/* Like Prometheus's histogram_quantile: straight within a bucket.  NAN when empty or broken,
 * INFINITY when it lies above the last finite bound. */
double top_buckets_quantile(const struct top_buckets *buckets, double q);
double top_buckets_total(const struct top_buckets *buckets); /* NAN: no buckets */
/* sum += more.  False when the bounds differ; sum is then as it was. */
bool top_buckets_sum(struct top_buckets *sum, const struct top_buckets *more);
/* out = what came between two readings of one source; a source that began anew adds all of
 * `after`.  Without `before` (no buckets) nothing did. */
void top_buckets_since(struct top_buckets *out, const struct top_buckets *before,
                       const struct top_buckets *after);

/* What came in during the last TOP_LATENCY_S ticks. */
struct top_window {
    struct top_buckets ticks[TOP_LATENCY_S];
    unsigned now;
};
void top_window_add(struct top_window *window, const struct top_buckets *more);
void top_window_tick(struct top_window *window);
void top_window_sum(const struct top_window *window, struct top_buckets *out);

#endif
