#include "verbs/topseries.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rates ---- */

void top_rate_clear(struct top_rate *rate)
{
    memset(rate, 0, sizeof *rate);
}

void top_rate_restart(struct top_rate *rate)
{
    rate->last = 0;
}

void top_rate_add(struct top_rate *rate, double now, double value)
{
    if (!isfinite(value) || value < 0) { /* no counter says that */
        top_rate_clear(rate);
        return;
    }
    double total = 0;
    unsigned at = 0;
    if (rate->count > 0) {
        if (now <= rate->at[rate->newest])
            return;
        total = rate->total[rate->newest] + (value >= rate->last ? value - rate->last : value);
        at = (rate->newest + 1) % TOP_RATE_POINTS;
    }
    rate->at[at] = now;
    rate->total[at] = total;
    rate->newest = at;
    rate->last = value;
    if (rate->count < TOP_RATE_POINTS)
        rate->count++;
}

void top_rate_tell(struct top_rate *rate, double now, double value)
{
    bool changed = value < rate->last || value > rate->last;
    if (rate->count > 0 && !changed && now - rate->at[rate->newest] < TOP_TOLD_S)
        return;
    if (rate->count == 1 && changed && !rate->edge) {
        top_rate_clear(rate); /* how long it had stood at the first look is not known */
        rate->edge = true;
    }
    top_rate_add(rate, now, value);
}

double top_rate_now(const struct top_rate *rate)
{
    unsigned oldest = rate->newest;
    for (unsigned back = 1; back < rate->count; back++) {
        unsigned at = (rate->newest + TOP_RATE_POINTS - back) % TOP_RATE_POINTS;
        if (rate->at[rate->newest] - rate->at[at] > TOP_RATE_WINDOW_S)
            break;
        oldest = at;
    }
    if (rate->count == 0 || oldest == rate->newest)
        return NAN;
    return (rate->total[rate->newest] - rate->total[oldest]) /
           (rate->at[rate->newest] - rate->at[oldest]);
}

/* ---- trails ---- */

void top_trail_add(struct top_trail *trail, double value)
{
    trail->values[trail->next] = (float)value;
    trail->next = (trail->next + 1) % TOP_TRAIL;
    if (trail->count < TOP_TRAIL)
        trail->count++;
}

double top_trail_get(const struct top_trail *trail, unsigned back)
{
    if (back >= trail->count)
        return NAN;
    return (double)trail->values[(trail->next + TOP_TRAIL - 1 - back) % TOP_TRAIL];
}

double top_trail_mean(const struct top_trail *trail, unsigned count)
{
    double sum = 0;
    unsigned known = 0;
    if (isnan(top_trail_get(trail, 0)))
        return NAN;
    for (unsigned back = 0; back < count && back < trail->count; back++) {
        double value = top_trail_get(trail, back);
        if (!isnan(value)) {
            sum += value;
            known++;
        }
    }
    return known > 0 ? sum / known : NAN;
}

double top_trail_max(const struct top_trail *trail, unsigned count)
{
    double most = NAN;
    for (unsigned back = 0; back < count && back < trail->count; back++)
        most = fmax(most, top_trail_get(trail, back)); /* fmax passes over NAN */
    return most;
}

/* ---- histograms ---- */

void top_buckets_add(struct top_buckets *buckets, const char *le, double count)
{
    char *end = NULL;
    double bound = strtod(le, &end);
    if (end == le || *end != '\0' || isnan(bound) || !isfinite(count) || count < 0) {
        buckets->broken = true;
        return;
    }
    size_t at = buckets->count;
    while (at > 0 && buckets->bounds[at - 1] >= bound)
        at--;
    if (at < buckets->count && buckets->bounds[at] <= bound) { /* the same, of other labels */
        buckets->counts[at] += count;
        return;
    }
    if (buckets->count == TOP_BOUNDS_MAX) {
        buckets->broken = true;
        return;
    }
    size_t behind = (buckets->count - at) * sizeof *buckets->bounds;
    memmove(&buckets->bounds[at + 1], &buckets->bounds[at], behind);
    memmove(&buckets->counts[at + 1], &buckets->counts[at], behind);
    buckets->bounds[at] = bound;
    buckets->counts[at] = count;
    buckets->count++;
}

double top_buckets_total(const struct top_buckets *buckets)
{
    return buckets->count == 0 || buckets->broken ? NAN : buckets->counts[buckets->count - 1];
}

double top_buckets_quantile(const struct top_buckets *buckets, double q)
{
    double total = top_buckets_total(buckets);
    if (!(total > 0) || !isinf(buckets->bounds[buckets->count - 1]))
        return NAN;
    double rank = q * total, below = 0, from = 0;
    for (size_t i = 0; i + 1 < buckets->count; i++) {
        if (buckets->counts[i] >= rank) {
            double inside = buckets->counts[i] - below;
            double part = inside > 0 ? (rank - below) / inside : 1;
            return from + (buckets->bounds[i] - from) * part;
        }
        below = buckets->counts[i];
        from = buckets->bounds[i];
    }
    return INFINITY;
}

static bool bounds_same(const struct top_buckets *a, const struct top_buckets *b)
{
    return a->count == b->count && !a->broken && !b->broken &&
           memcmp(a->bounds, b->bounds, a->count * sizeof *a->bounds) == 0;
}

bool top_buckets_sum(struct top_buckets *sum, const struct top_buckets *more)
{
    if (more->count == 0 || more->broken)
        return more->count == 0;
    if (sum->count == 0) {
        *sum = *more;
        return true;
    }
    if (!bounds_same(sum, more))
        return false;
    for (size_t i = 0; i < sum->count; i++)
        sum->counts[i] += more->counts[i];
    return true;
}

void top_buckets_since(struct top_buckets *out, const struct top_buckets *before,
                       const struct top_buckets *after)
{
    *out = *after;
    if (before->count == 0) {
        memset(out->counts, 0, sizeof out->counts);
        return;
    }
    if (!bounds_same(before, after))
        return; /* another program answers there now: all it counted is new */
    for (size_t i = 0; i < after->count; i++) {
        if (after->counts[i] < before->counts[i])
            return;
    }
    for (size_t i = 0; i < after->count; i++)
        out->counts[i] -= before->counts[i];
}

void top_window_add(struct top_window *window, const struct top_buckets *more)
{
    struct top_buckets *now = &window->ticks[window->now];
    if (top_buckets_sum(now, more))
        return;
    memset(window->ticks, 0, sizeof window->ticks); /* what differs can't be added up */
    *now = *more;
}

void top_window_tick(struct top_window *window)
{
    window->now = (window->now + 1) % TOP_LATENCY_S;
    memset(&window->ticks[window->now], 0, sizeof window->ticks[window->now]);
}

void top_window_sum(const struct top_window *window, struct top_buckets *out)
{
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < TOP_LATENCY_S; i++) {
        if (!top_buckets_sum(out, &window->ticks[i]))
            out->broken = true;
    }
}
