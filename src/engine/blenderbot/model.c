#include "engine/blenderbot/model.h"

#include <errno.h>
#include <fcntl.h>
#include <gguf.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/blenderbot/cpu_ops.h"
#include "engine/blenderbot/defaults.h"
#include "engine/blenderbot/header.h"
#include "engine/blenderbot/weights.h"
#include "engine/runtime_log.h"
#include "wire/utf8.h"

#define MAX_BLOCKS 256
#define MAX_WIDTH  (1u << 16)
#define MAX_FFN    (1u << 18)
#define MAX_VOCAB  (1u << 20)

struct load {
    struct bb_model *model;
    const char *path;
    struct gguf_context *gguf;
    int file;
    uint64_t file_size;
};

/* ---- the header ---- */

static enum err read_activation(struct load *load)
{
    static const char *const names[] = {
        "gelu",      "gelu_python",   "gelu_new",         "gelu_pytorch_tanh",
        "gelu_fast", "gelu_accurate", "gelu_python_tanh", "relu",
        "silu",      "swish"};
    static const enum bb_activation kinds[] = {
        BB_GELU_ERF,  BB_GELU_ERF,  BB_GELU_TANH, BB_GELU_TANH, BB_GELU_TANH,
        BB_GELU_TANH, BB_GELU_TANH, BB_RELU,      BB_SILU,      BB_SILU};
    int index = -1;
    enum err err = bb_read_choice(load->gguf, "activation_function", names,
                                  sizeof names / sizeof *names, &index);
    if (err == ERR_OK && index < 0)
        err = err_set(ERR_INVALID, "its header lacks " BB_PREFIX "activation_function");
    if (err == ERR_OK)
        load->model->activation = kinds[index];
    return err;
}

static enum err read_side(struct load *load, const char *name, struct bb_side *side)
{
    char key[64];
    snprintf(key, sizeof key, "%s.block_count", name);
    enum err err = bb_read_size(load->gguf, key, 1, MAX_BLOCKS, &side->block_count);
    snprintf(key, sizeof key, "%s.attention.head_count", name);
    if (err == ERR_OK)
        err = bb_read_size(load->gguf, key, 1, MAX_WIDTH, &side->heads);
    if (err == ERR_OK && load->model->width % side->heads != 0)
        err = err_set(ERR_INVALID, "its %s heads do not divide its width", name);
    snprintf(key, sizeof key, "%s.feed_forward_length", name);
    if (err == ERR_OK)
        err = bb_read_size(load->gguf, key, 1, MAX_FFN, &side->ffn);
    if (err != ERR_OK)
        return err;
    side->blocks = calloc(side->block_count, sizeof *side->blocks);
    return side->blocks != NULL ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
}

static enum err read_sizes(struct load *load)
{
    struct bb_model *model = load->model;
    const struct gguf_context *gguf = load->gguf;
    uint32_t start = 0;
    bool scale = false;
    model->norm_epsilon = 1e-5f;
    enum err err = bb_read_size(gguf, "embedding_length", 1, MAX_WIDTH, &model->width);
    if (err == ERR_OK)
        err = bb_read_size(gguf, "vocab_size", 2, MAX_VOCAB, &model->vocab_size);
    if (err == ERR_OK)
        err = bb_read_size(gguf, "context_length", 2, ATTEND_CELLS_MAX, &model->positions);
    if (err == ERR_OK)
        err =
            bb_read_u32(gguf, "decoder_start_token_id", 0, (uint32_t)model->vocab_size - 1, &start);
    if (err == ERR_OK)
        err = bb_read_default_float(gguf, "attention.layer_norm_epsilon", 1e-12f, 1.0f,
                                    &model->norm_epsilon);
    if (err == ERR_OK)
        err = bb_read_default_bool(gguf, "scale_embedding", &scale);
    if (err == ERR_OK)
        err = read_activation(load);
    if (err == ERR_OK)
        err = read_side(load, "encoder", &model->encoder);
    if (err == ERR_OK)
        err = read_side(load, "decoder", &model->decoder);
    model->start_token = (int32_t)start;
    model->embed_scale = scale ? (float)sqrt((double)model->width) : 1.0f;
    return err;
}

/* ---- all of it ---- */

static void read_name(struct load *load)
{
    int64_t id = gguf_find_key(load->gguf, "general.name");
    const char *slash = strrchr(load->path, '/');
    const char *name = slash != NULL ? slash + 1 : load->path;
    if (id >= 0 && gguf_get_kv_type(load->gguf, id) == GGUF_TYPE_STRING) {
        const char *own = gguf_get_val_str(load->gguf, id);
        size_t len = strlen(own);
        if (len > 0 && len < sizeof load->model->name && utf8_is_valid(own, len))
            name = own;
    }
    snprintf(load->model->name, sizeof load->model->name, "%s", name);
}

static enum err open_file(struct load *load)
{
    struct stat info;
    load->file = open(load->path, O_RDONLY | O_CLOEXEC);
    if (load->file < 0 || fstat(load->file, &info) != 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "it can't be read: %s",
                       strerror(errno));
    load->file_size = (uint64_t)info.st_size;
    struct runtime_facts facts;
    runtime_log_collect(&facts);
    load->gguf = gguf_init_from_file(load->path, (struct gguf_init_params){.no_alloc = true});
    runtime_log_release();
    return load->gguf != NULL ? ERR_OK : err_set(ERR_INVALID, "its header can't be read");
}

enum err bb_model_open(struct bb_model *out, const char *path, ggml_backend_t backend,
                       enum bb_form form)
{
    struct bb_model model = {0};
    struct load load = {.model = &model, .path = path, .file = -1};
    enum err err = open_file(&load);
    if (err == ERR_OK)
        err = read_sizes(&load);
    if (err == ERR_OK)
        err = bb_defaults_read(&model, load.gguf);
    if (err == ERR_OK)
        err = bb_tokenizer_open(&model.tokenizer, load.gguf, model.vocab_size);
    if (err == ERR_OK)
        err = bb_weights_load(&model, load.gguf, load.file, load.file_size, backend, form);
    if (err == ERR_OK)
        read_name(&load);
    if (load.file >= 0)
        close(load.file);
    gguf_free(load.gguf);
    if (err != ERR_OK) {
        bb_model_close(&model);
        return err_prefix(err, "can't load the model %s", path);
    }
    *out = model;
    return ERR_OK;
}

void bb_model_close(struct bb_model *model)
{
    free(model->encoder.blocks);
    free(model->decoder.blocks);
    for (size_t i = 0; i < BB_BAN_LISTS; i++)
        free(model->bans[i]);
    bb_tokenizer_close(model->tokenizer);
    bb_weights_free(&model->plain);
    bb_weights_free(&model->extra);
    *model = (struct bb_model){0};
}
