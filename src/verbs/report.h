/*
 * report.h - what a load came to: how many prompts each worker took, when it was busy, how fast it
 * all was; as JSON, as a table, and drawn over time.  Pure: no sockets, no clocks.
 */
#ifndef WYVERN_VERBS_REPORT_H
#define WYVERN_VERBS_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "verbs/term.h"

#define REPORT_NAME_MAX   64
#define REPORT_DEVICE_MAX 256

struct span { /* seconds */
    double start, end;
};

/* Seconds in which at least one of the spans runs.  Sorts them by start. */
double spans_union(struct span *spans, size_t count);
double spans_sum(const struct span *spans, size_t count);
/* Mean number of spans running in each of `cells` equal parts of 0 … end. */
void spans_density(const struct span *spans, size_t count, double end, double *cells,
                   size_t cell_count);

/* Nearest rank; 0 without values.  Sorts them.  p in 0 … 1. */
double values_percentile(double *values, size_t count, double p);

/* One prompt, as the load generator saw it end. */
struct outcome {
    bool answered;
    bool wrong; /* a reply meant for another prompt */
    char response_id[128];
    char worker[REPORT_NAME_MAX], node[REPORT_NAME_MAX];
    char device[REPORT_DEVICE_MAX];
    uint64_t tokens;
    double ttft_s, latency_s; /* from the first try; ttft_s < 0: no words came */
    struct span span;         /* at its worker, since the first prompt was sent */
};

/* How busy a GPU was, as its node told it now and then (track.c).  Zeroed is empty. */
struct track {
    double *at_s, *share; /* owned; at_s rises */
    size_t count, room;
};
#define TRACK_MAX    36000 /* later samples are not kept */
#define TRACK_HOLD_S 2.5   /* a sample counts for so long, until the next */
MUST_USE enum err track_add(struct track *track, double at_s, double share);
void track_done(struct track *track);
/* Share in each of `cells` equal parts of 0 … end; NAN where nobody told it. */
void track_cells(const struct track *track, double end, double *cells, size_t cell_count);
double track_mean(const struct track *track, double end); /* NAN: nothing told */

struct report_worker {
    char id[REPORT_NAME_MAX], node[REPORT_NAME_MAX];
    char device[REPORT_DEVICE_MAX];
    size_t prompts;
    unsigned slots;          /* for the caller to fill in; 0: not known */
    const struct track *gpu; /* likewise, borrowed; NULL: none, or nobody told */
    uint64_t tokens;
    struct span *spans; /* one a prompt; owned */
    double busy_s, slot_s, first_start, last_end;
};

struct quantiles { /* milliseconds */
    double p50, p99, max;
};

struct report {
    size_t sent, answered, failed, duplicates;
    double seconds;
    uint64_t tokens;
    struct quantiles ttft, latency;
    struct report_worker *workers; /* by node, then id; owned */
    size_t worker_count;
};

#define REPORT_LABEL_SIZE (2 * REPORT_NAME_MAX)
/* "node1/infer-0"; the id alone where it names its node already. */
void report_label(char out[REPORT_LABEL_SIZE], const char *node, const char *id);

/* seconds: from the first prompt sent to the last reply. */
MUST_USE enum err report_new(struct report **out, const struct outcome *outcomes, size_t count,
                             double seconds);
void report_free(struct report *report);

/* From the first prompt sent to the last reply's end at a worker. */
double report_end(const struct report *report);
/* Share of a worker's slots that were busy until then; NAN: its slots are not known. */
double report_utilization(const struct report *report, const struct report_worker *worker);

/* The keys that scripts rely on. */
MUST_USE enum err report_json(const struct report *report, struct buf *out);
/* Table, spread, and utilisation over time; where a worker's slots are not known, full height is as
 * many as ran at once. */
MUST_USE enum err report_draw(const struct report *report, const struct term_style *style,
                              struct buf *out);

/* draw.c: one bar of `columns` columns: `full` and `half` of `whole` in two shades. */
MUST_USE enum err draw_bar(struct buf *out, const struct term_style *style, double full,
                           double half, double whole, int columns);
/* One line of levels 0 … 1 as columns of different heights; NAN is a dot. */
MUST_USE enum err draw_levels(struct buf *out, const struct term_style *style, const double *levels,
                              size_t count);
/* Text in exactly `columns` columns (cut, or padded with spaces), without control characters. */
MUST_USE enum err draw_text(struct buf *out, const char *text, int columns);

#endif
