/*
 * scrape.h - reads what a /metrics says: Prometheus text 0.0.4 (OpenMetrics reads alike), sample by
 * sample.  Pure; any thread.
 *
 * The text came over the network: a line that breaks the format is skipped, and so is one with a
 * label that is no UTF-8 or does not fit.
 */
#ifndef WYVERN_VERBS_SCRAPE_H
#define WYVERN_VERBS_SCRAPE_H

#include <stddef.h>

#define SCRAPE_LABELS_MAX 8
#define SCRAPE_NAME_MAX   128
#define SCRAPE_VALUE_MAX  256

struct scrape_label {
    char name[SCRAPE_NAME_MAX];
    char value[SCRAPE_VALUE_MAX];
};

struct scrape_sample {
    char name[SCRAPE_NAME_MAX];
    struct scrape_label labels[SCRAPE_LABELS_MAX];
    size_t label_count;
    double value; /* may be infinite or no number */
};

typedef void scrape_fn(void *arg, const struct scrape_sample *sample);

/* text[len] is a NUL.  The sample is fn's only while it runs. */
void scrape_read(const char *text, size_t len, scrape_fn *fn, void *arg);

/* "" when the sample lacks it. */
const char *scrape_label(const struct scrape_sample *sample, const char *name);

#endif
