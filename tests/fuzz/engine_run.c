#include "engine_run.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define SLOTS     2
#define MAX_STEPS 200

static bool start(struct engine *engine, const char *prompt, int beams, void *user)
{
    struct engine_search search = engine_search_default();
    search.num_beams = beams;
    const struct engine_message message = {"user", prompt};
    struct engine_request request = {
        .raw_prompt = prompt, .user = user, .truncate_left = true, .trace = true};
    request.params = engine_params_default();
    request.params.max_tokens = 3;
    request.params.seed = 1;
    request.params.search = &search;
    if (strcmp(engine_info(engine)->arch, "blenderbot") == 0) { /* it takes no raw prompt */
        request.messages = &message;
        request.message_count = 1;
    }
    return engine_start(engine, &request) == ERR_OK;
}

enum err engine_run(const char *path)
{
    struct engine *engine;
    struct engine_event events[SLOTS];
    struct engine_config config = {.model = path, .device = "cpu:0", .slots = SLOTS, .threads = 1};
    int first, second;
    enum err err = engine_open(&engine, &config);
    if (err != ERR_OK)
        return err;
    start(engine, "a ab b", -1, &first);
    start(engine, "b", 3, &second);
    for (int step = 0; engine_active(engine) > 0; step++) {
        size_t count = 0;
        if (step == MAX_STEPS) {
            fprintf(stderr, "fuzz: a reply of 3 tokens does not end\n");
            abort();
        }
        if (engine_step(engine, events, &count) != ERR_OK)
            break;
    }
    engine_close(engine);
    return ERR_OK;
}
