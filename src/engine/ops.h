/*
 * ops.h - what one kind of engine implements.  Private to src/engine/.
 *
 * engine.c checks what comes from outside (bounds, UTF-8, roles) before it calls an operation.
 */
#ifndef WYVERN_ENGINE_OPS_H
#define WYVERN_ENGINE_OPS_H

#include "engine/engine.h"

struct engine {
    const struct engine_ops *ops;
    struct engine_info info;
    size_t kv_positions;        /* of the whole cache */
    double prefill_s, decode_s; /* see struct engine_figures */
};

struct engine_ops {
    enum err (*open)(struct engine **out, const struct engine_config *config);
    void (*close)(struct engine *engine);
    enum err (*start)(struct engine *engine, const struct engine_request *request);
    void (*cancel)(struct engine *engine, const void *user);
    unsigned (*active)(const struct engine *engine);
    size_t (*kv_held)(const struct engine *engine); /* positions of active sequences */
    int64_t (*due_ns)(const struct engine *engine);
    enum err (*step)(struct engine *engine, struct engine_event *events, size_t *count);
    enum err (*tokenize)(struct engine *engine, const struct engine_request *request, int32_t **ids,
                         size_t *count);
};

/* Counts a step's time, shared out by the tokens (or rows) of either kind that it computed. */
void engine_spent(struct engine *engine, int64_t ns, size_t prefill, size_t decode);

extern const struct engine_ops fake_ops;
extern const struct engine_ops llama_ops;
extern const struct engine_ops blenderbot_ops;

#define FAKE_PREFIX     "fake:"
#define BLENDERBOT_ARCH "blenderbot"

#endif
