/*
 * track.c - how busy a GPU was over time, from samples that came about once a second.
 */
#include <math.h>
#include <stdlib.h>

#include "verbs/report.h"

enum err track_add(struct track *track, double at_s, double share)
{
    if (track->count == TRACK_MAX)
        return ERR_OK;
    if (track->count == track->room) {
        size_t room = track->room == 0 ? 256 : 2 * track->room;
        double *at = realloc(track->at_s, room * sizeof *at);
        if (at != NULL)
            track->at_s = at;
        double *shares = at != NULL ? realloc(track->share, room * sizeof *shares) : NULL;
        if (shares == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        track->share = shares;
        track->room = room;
    }
    track->at_s[track->count] = at_s;
    track->share[track->count++] = share;
    return ERR_OK;
}

void track_done(struct track *track)
{
    free(track->at_s);
    free(track->share);
    *track = (struct track){0};
}

/* Until when sample i counts. */
static double sample_end(const struct track *track, size_t i)
{
    double end = track->at_s[i] + TRACK_HOLD_S;
    return i + 1 < track->count ? fmin(end, track->at_s[i + 1]) : end;
}

/* Mean over from … to, by time; NAN where nobody told. */
static double mean_between(const struct track *track, double from, double to)
{
    double sum = 0, known = 0;
    for (size_t i = 0; i < track->count && track->at_s[i] < to; i++) {
        double part = fmin(sample_end(track, i), to) - fmax(track->at_s[i], from);
        if (part > 0) {
            sum += part * track->share[i];
            known += part;
        }
    }
    return known > 0 ? sum / known : NAN;
}

void track_cells(const struct track *track, double end, double *cells, size_t cell_count)
{
    double width = end / (double)cell_count;
    for (size_t c = 0; c < cell_count; c++)
        cells[c] = mean_between(track, width * (double)c, width * (double)(c + 1));
}

double track_mean(const struct track *track, double end)
{
    return mean_between(track, 0, end);
}
