/*
 * series.h - how a registry keeps its numbers; for this folder alone.
 */
#ifndef WYVERN_METRICS_SERIES_H
#define WYVERN_METRICS_SERIES_H

#include "metrics/family.h"

struct series {
    char *key; /* label values one after the other, each with its NUL */
    size_t key_len;
    double value;     /* counters and gauges; a histogram's sum */
    uint64_t *counts; /* histograms: bucket_count + 1, not cumulative; else NULL */
};

struct family {
    const struct metric *row;
    size_t label_count;
    struct series **series; /* sorted by key */
    size_t count, cap;
};

struct metrics {
    struct family *families; /* one a row, in the table's order */
    size_t count;
};

#endif
