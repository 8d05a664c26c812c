/*
 * open.c - makes and frees a Blenderbot engine.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/blenderbot/open.h"

#define BEAMS_ROOM 32 /* beams a request may ask for, where the checkpoint does not want more */

static enum err open_backend(struct bb_engine *engine, const char *device)
{
    if (ggml_backend_dev_count() == 0)
        ggml_backend_load_all();
    bool gpu = device != NULL && strncmp(device, "gpu", 3) == 0;
    enum ggml_backend_dev_type type =
        gpu ? GGML_BACKEND_DEVICE_TYPE_GPU : GGML_BACKEND_DEVICE_TYPE_CPU;
    engine->backend = ggml_backend_init_by_type(type, NULL);
    if (engine->backend == NULL)
        return err_set(ERR_UNSUPPORTED,
                       "device %.64s: this build of the model runtime has no such device; use cpu",
                       device != NULL ? device : "cpu");
    return ERR_OK;
}

static enum err make_sequences(struct bb_engine *engine)
{
    size_t slots = engine->base.info.slots, positions = engine->model.positions;
    size_t rows = slots * (engine->beams > positions ? engine->beams : positions);
    engine->rows = calloc(rows, sizeof *engine->rows);
    engine->sequences = calloc(slots, sizeof *engine->sequences);
    bool made = engine->rows != NULL && engine->sequences != NULL;
    for (size_t i = 0; made && i < slots; i++) {
        struct bb_sequence *seq = &engine->sequences[i];
        seq->cells = calloc(engine->beams * positions, sizeof *seq->cells);
        seq->next_cells = calloc(engine->beams * positions, sizeof *seq->next_cells);
        made = seq->cells != NULL && seq->next_cells != NULL;
    }
    return made ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
}

static enum err check_context(struct bb_engine *engine, unsigned wanted)
{
    size_t own = engine->model.positions;
    if (wanted > own)
        return err_set(ERR_USAGE, "the model's context is %zu: --context can't be %u", own, wanted);
    if (wanted == 1)
        return err_set(ERR_USAGE, "--context must be at least 2");
    engine->base.info.context = wanted > 0 ? wanted : (unsigned)own;
    return ERR_OK;
}

enum err bb_engine_open(struct engine **out, const struct engine_config *config)
{
    struct bb_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    struct engine_info *info = &engine->base.info;
    engine->base.ops = &blenderbot_ops;
    info->slots = config->slots;
    unsigned threads = pools_threads(config->threads);
    enum err err = open_backend(engine, config->device);
    if (err == ERR_OK)
        err = bb_model_open(&engine->model, config->model, engine->backend, BB_FORM_FASTEST);
    if (err == ERR_OK)
        err = check_context(engine, config->context);
    if (err == ERR_OK) {
        size_t beams = engine->model.defaults.beams;
        engine->beams = beams > BEAMS_ROOM ? beams : BEAMS_ROOM;
        struct bb_runner_config runner = {info->slots, engine->beams, false};
        err = bb_runner_open(&engine->runner, &engine->model, engine->backend, &runner);
    }
    if (err == ERR_OK)
        err = make_sequences(engine);
    if (err != ERR_OK) {
        bb_engine_close(&engine->base);
        return err;
    }
    crowd_init(&engine->crowd, threads);
    pools_open(&engine->pools, threads);
    memcpy(info->name, engine->model.name, sizeof info->name);
    memcpy(info->arch, BLENDERBOT_ARCH, sizeof BLENDERBOT_ARCH);
    info->model_bytes = engine->model.bytes;
    info->kv_bytes = bb_runner_cache_bytes(engine->runner);
    *out = &engine->base;
    return ERR_OK;
}

void bb_engine_close(struct engine *base)
{
    struct bb_engine *engine = (struct bb_engine *)base;
    if (engine == NULL)
        return;
    for (size_t i = 0; engine->sequences != NULL && i < base->info.slots; i++) {
        struct bb_sequence *seq = &engine->sequences[i];
        bb_search_done(&seq->search);
        emit_done(&seq->emit);
        free(seq->prompt);
        free(seq->resumed);
        free(seq->cells);
        free(seq->next_cells);
    }
    free(engine->sequences);
    free(engine->rows);
    free(engine->scores);
    bb_runner_close(engine->runner);
    bb_model_close(&engine->model);
    if (engine->backend != NULL)
        ggml_backend_free(engine->backend);
    pools_close(&engine->pools);
    free(engine);
}
