/*
 * family.h - metrics declared as rows, kept as numbers, written as text.
 *
 * A program declares one table of struct metric rows, makes a registry of it, and sets or adds to
 * series by row and label values.  One thread owns a registry.  Formats: Prometheus text 0.0.4 and
 * OpenMetrics 1.0 (text.h).  A series that is not set is absent: never a made-up 0.
 */
#ifndef WYVERN_METRICS_FAMILY_H
#define WYVERN_METRICS_FAMILY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_MAX_LABELS 6

struct metric {
    const char *name; /* counters: with _total */
    enum metric_type type;
    const char *help;
    const char *labels[METRIC_MAX_LABELS]; /* label names, NULL-terminated unless full */
    const double *buckets;                 /* histograms: upper bounds, ascending, without +Inf */
    size_t bucket_count;
};

struct metrics;

/* rows are borrowed for the registry's life. */
MUST_USE enum err metrics_new(struct metrics **out, const struct metric *rows, size_t count);
void metrics_free(struct metrics *metrics);

/* row: index in the table; values: one per label name, in order (NULL for no labels). */
MUST_USE enum err metrics_set(struct metrics *metrics, size_t row, const char *const *values,
                              double value);
MUST_USE enum err metrics_add(struct metrics *metrics, size_t row, const char *const *values,
                              double amount);
MUST_USE enum err metrics_observe(struct metrics *metrics, size_t row, const char *const *values,
                                  double value);
/* Sets a histogram to counts taken elsewhere: counts[bucket_count + 1], not cumulative, the last
 * for +Inf. */
MUST_USE enum err metrics_set_histogram(struct metrics *metrics, size_t row,
                                        const char *const *values, const uint64_t *counts,
                                        double sum);
/* Forgets every series of a row (a GPU went away). */
void metrics_clear(struct metrics *metrics, size_t row);

#define METRICS_MAX_SERIES 4096 /* per row; more: ERR_LIMIT */

#endif
