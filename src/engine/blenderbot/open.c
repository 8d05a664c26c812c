/*
 * open.c - makes and frees a Blenderbot engine.
 */
#include <ggml-cpu.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blenderbot/open.h"
#include "engine/device.h"

#define BEAMS_ROOM 32 /* beams a request may ask for, where the checkpoint does not want more */

static enum err open_backend(struct bb_engine *engine, const struct engine_config *config)
{
    ggml_backend_dev_t found;
    const char *device = config->device;
    enum err err = device_find(&found, device);
    if (err == ERR_OK)
        err = device_check_room(found, config->model);
    if (err != ERR_OK)
        return err;
    engine->backend = ggml_backend_dev_init(found, NULL);
    if (engine->backend == NULL)
        return err_set(ERR_UNSUPPORTED,
                       "device %.96s can't be used: is it busy, or its memory full?",
                       device != NULL ? device : "cpu");
    return ERR_OK;
}

/* Computes once what each reply will need: a device that can't says so here. */
static enum err try_out(struct bb_engine *engine)
{
    int32_t token = engine->model.start_token, cell = bb_runner_cell(engine->runner, 0, 0, 0);
    struct bb_row row = {.token = token, .cell = cell, .cells = &cell};
    float *scores = malloc(engine->model.vocab_size * sizeof *scores);
    if (scores == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = bb_runner_encode(engine->runner, 0, &token, 1, NULL);
    if (err == ERR_OK)
        err = bb_runner_decode(engine->runner, &row, 1, scores);
    free(scores);
    return err;
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
    enum err err = open_backend(engine, config);
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
    if (err == ERR_OK && !ggml_backend_is_cpu(engine->backend))
        err = try_out(engine);
    if (err != ERR_OK) {
        bb_engine_close(&engine->base);
        return err;
    }
    crowd_init(&engine->crowd, threads);
    crowd_init(&engine->encode_crowd, threads);
    pools_open(&engine->pools, threads);
    memcpy(info->name, engine->model.name, sizeof info->name);
    memcpy(info->arch, BLENDERBOT_ARCH, sizeof BLENDERBOT_ARCH);
    info->model_bytes = engine->model.bytes;
    info->kv_bytes = bb_runner_cache_bytes(engine->runner);
    engine->base.kv_positions = info->slots * engine->model.positions * (1 + engine->beams);
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
        task_result_done(&seq->task);
        buf_done(&seq->texts);
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
