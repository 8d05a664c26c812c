#include "verbs/loadgpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "verbs/toppoll.h"

#define TRACKS_MAX 512

struct gpu_track {
    char node[TOP_NAME_SIZE], uuid[TOP_NAME_SIZE];
    double metrics_s; /* reading that the last sample was of */
    struct track track;
};

struct load_gpus {
    struct top *top;
    struct top_poller *poller;
    int64_t due_ns;
    struct gpu_track tracks[TRACKS_MAX];
    size_t count;
};

static bool has_gpu(const struct top *top)
{
    for (size_t n = 0; n < top->node_count; n++) {
        for (size_t i = 0; i < top->nodes[n]->worker_count; i++) {
            if (strncmp(top->nodes[n]->workers[i].device, "gpu:", 4) == 0)
                return true;
        }
    }
    return false;
}

enum err load_gpus_new(struct load_gpus **out, const struct settings *settings,
                       const json_t *status)
{
    struct load_gpus *gpus = calloc(1, sizeof *gpus);
    if (gpus == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = top_new(&gpus->top, settings->url);
    /* Another service than ours may answer there with what it likes: then nothing is watched. */
    if (err == ERR_OK &&
        top_take_status(gpus->top, (double)clock_mono_ns() / (double)NS_PER_S, status) == ERR_OK &&
        has_gpu(gpus->top))
        err = top_poller_new(&gpus->poller, gpus->top, settings, TOP_POLL_GPUS);
    if (err != ERR_OK || gpus->poller == NULL) {
        load_gpus_free(gpus);
        gpus = NULL;
    }
    if (err == ERR_OK)
        *out = gpus;
    return err;
}

void load_gpus_free(struct load_gpus *gpus)
{
    if (gpus == NULL)
        return;
    top_poller_free(gpus->poller);
    top_free(gpus->top);
    for (size_t i = 0; i < gpus->count; i++)
        track_done(&gpus->tracks[i].track);
    free(gpus);
}

/* NULL: no room. */
static struct gpu_track *track_of(struct load_gpus *gpus, const char *node, const char *uuid)
{
    for (size_t i = 0; i < gpus->count; i++) {
        struct gpu_track *track = &gpus->tracks[i];
        if (strcmp(track->node, node) == 0 && strcmp(track->uuid, uuid) == 0)
            return track;
    }
    if (gpus->count == TRACKS_MAX)
        return NULL;
    struct gpu_track *track = &gpus->tracks[gpus->count++];
    snprintf(track->node, sizeof track->node, "%s", node);
    snprintf(track->uuid, sizeof track->uuid, "%s", uuid);
    track->metrics_s = NAN;
    return track;
}

/* What is new since the last look. */
static void samples_take(struct load_gpus *gpus, int64_t begin_ns)
{
    double begin = (double)begin_ns / (double)NS_PER_S;
    for (size_t n = 0; n < gpus->top->node_count; n++) {
        const struct top_node *node = gpus->top->nodes[n];
        for (size_t i = 0; i < node->gpu_count && !isnan(node->metrics_s); i++) {
            const struct top_gpu *gpu = &node->gpus[i];
            struct gpu_track *track = track_of(gpus, node->name, gpu->uuid);
            if (track == NULL || node->metrics_s <= track->metrics_s || isnan(gpu->utilization))
                continue;
            track->metrics_s = node->metrics_s;
            if (track_add(&track->track, node->metrics_s - begin, gpu->utilization) != ERR_OK)
                return; /* a gap in a drawing is no reason to end a load */
        }
    }
}

void load_gpus_run(struct load_gpus *gpus, int64_t begin_ns)
{
    if (gpus == NULL)
        return;
    int64_t now = clock_mono_ns();
    if (now >= gpus->due_ns) {
        gpus->due_ns = now + TOP_EACH_MS * NS_PER_MS;
        top_poller_ask(gpus->poller);
    }
    (void)top_poller_run(gpus->poller, 0);
    samples_take(gpus, begin_ns);
}

void load_gpus_attach(const struct load_gpus *gpus, struct report *report)
{
    for (size_t w = 0; gpus != NULL && w < report->worker_count; w++) {
        struct report_worker *worker = &report->workers[w];
        for (size_t i = 0; i < gpus->count && strncmp(worker->device, "gpu:", 4) == 0; i++) {
            const struct gpu_track *track = &gpus->tracks[i];
            if (strcmp(track->node, worker->node) == 0 &&
                strcmp(track->uuid, worker->device + 4) == 0)
                worker->gpu = &track->track;
        }
    }
}
