/*
 * model.h - the thread that owns the model.
 *
 * It alone calls the engine.  The loop's thread tells it what to start and to cancel, and hears
 * what each decode step brought; both ways are bounded queues.  Sequences are named by job numbers,
 * never by pointers: what a step brings for a job that is gone meanwhile finds nobody.
 */
#ifndef WYVERN_ROLES_INFER_MODEL_H
#define WYVERN_ROLES_INFER_MODEL_H

#include "base/loop.h"
#include "engine/engine.h"
#include "wire/prompt.h"

struct model_thread;

struct model_callbacks { /* on the loop's thread */
    void (*loaded)(void *arg, const struct engine_info *info);
    /* The model can't be loaded, or the engine as a whole failed. */
    void (*failed)(void *arg, enum err err, const char *text);
    /* event->user is the job's number; texts are borrowed. */
    void (*event)(void *arg, uint64_t job, const struct engine_event *event);
    /* All events of one decode step were delivered. */
    void (*step_done)(void *arg);
    void *arg;
};

/* Starts the thread, which loads the model.  config's texts are borrowed until `loaded`/`failed`.
 */
MUST_USE enum err model_thread_start(struct model_thread **out, struct loop *loop,
                                     const struct engine_config *config,
                                     const struct model_callbacks *callbacks);

struct model_resume { /* what another worker had stored; copied */
    const int32_t *tokens;
    size_t token_count;
    const char *text;
    size_t pieces;
};

/* The prompt is borrowed: it must stay as it is until the job's last event or model_cancel's
 * confirmation (an event with error ERR_CANCELLED). */
MUST_USE enum err model_start(struct model_thread *thread, uint64_t job,
                              const struct prompt *prompt, const struct model_resume *resume);
MUST_USE enum err model_cancel(struct model_thread *thread, uint64_t job);

/* As of the last step; zeros while the model loads.  The loop's thread. */
struct engine_figures model_figures(const struct model_thread *thread);

/* Ends the thread after its present step and frees everything. */
void model_thread_stop(struct model_thread *thread);

#endif
