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

#include "engine/blenderbot/weights.h"
#include "engine/runtime_log.h"
#include "wire/utf8.h"

#define PREFIX        "blenderbot."
#define MAX_BLOCKS    256
#define MAX_WIDTH     (1u << 16)
#define MAX_FFN       (1u << 18)
#define MAX_POSITIONS (1u << 14)
#define MAX_VOCAB     (1u << 20)

struct load {
    struct bb_model *model;
    const char *path;
    struct gguf_context *gguf;
    int file;
    uint64_t file_size;
};

/* ---- the header ---- */

static enum err read_u32(const struct gguf_context *gguf, const char *name, uint32_t min,
                         uint32_t max, uint32_t *out)
{
    char key[96];
    snprintf(key, sizeof key, PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_UINT32)
        return err_set(ERR_INVALID, "its header lacks %s", key);
    uint32_t value = gguf_get_val_u32(gguf, id);
    if (value < min || value > max)
        return err_set(ERR_INVALID, "its header has a senseless %s (%u)", key, value);
    *out = value;
    return ERR_OK;
}

static enum err read_size(const struct gguf_context *gguf, const char *name, uint32_t min,
                          uint32_t max, size_t *out)
{
    uint32_t value = 0;
    enum err err = read_u32(gguf, name, min, max, &value);
    if (err == ERR_OK)
        *out = value;
    return err;
}

static bool has_key(const struct gguf_context *gguf, const char *name)
{
    char key[96];
    snprintf(key, sizeof key, PREFIX "%s", name);
    return gguf_find_key(gguf, key) >= 0;
}

static enum err read_default_size(const struct gguf_context *gguf, const char *name, uint32_t min,
                                  uint32_t max, size_t *out)
{
    return has_key(gguf, name) ? read_size(gguf, name, min, max, out) : ERR_OK;
}

static enum err read_default_float(const struct gguf_context *gguf, const char *name, float min,
                                   float max, float *out)
{
    char key[96];
    snprintf(key, sizeof key, PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_FLOAT32)
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    float value = gguf_get_val_f32(gguf, id);
    if (!(value >= min && value <= max))
        return err_set(ERR_INVALID, "its header has a senseless %s (%g)", key, (double)value);
    *out = value;
    return ERR_OK;
}

static enum err read_default_bool(const struct gguf_context *gguf, const char *name, bool *out)
{
    char key[96];
    snprintf(key, sizeof key, PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_BOOL)
        return err_set(ERR_INVALID, "its header has a senseless %s", key);
    *out = gguf_get_val_bool(gguf, id);
    return ERR_OK;
}

/* A text out of a list; *index is left alone where the key is absent. */
static enum err read_choice(const struct gguf_context *gguf, const char *name,
                            const char *const *choices, size_t count, int *index)
{
    char key[96];
    snprintf(key, sizeof key, PREFIX "%s", name);
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0)
        return ERR_OK;
    const char *text =
        gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf, id) : "";
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *index = (int)i;
            return ERR_OK;
        }
    }
    return err_set(ERR_UNSUPPORTED, "its %s is none that is known: \"%.40s\"", key, text);
}

static enum err read_activation(struct load *load)
{
    static const char *const names[] = {"gelu",      "gelu_python", "gelu_new", "gelu_pytorch_tanh",
                                        "gelu_fast", "relu",        "silu",     "swish"};
    static const enum bb_activation kinds[] = {BB_GELU_ERF,  BB_GELU_ERF,  BB_GELU_TANH,
                                               BB_GELU_TANH, BB_GELU_TANH, BB_RELU,
                                               BB_SILU,      BB_SILU};
    int index = -1;
    enum err err =
        read_choice(load->gguf, "activation_function", names, sizeof names / sizeof *names, &index);
    if (err == ERR_OK && index < 0)
        err = err_set(ERR_INVALID, "its header lacks " PREFIX "activation_function");
    if (err == ERR_OK)
        load->model->activation = kinds[index];
    return err;
}

static enum err read_side(struct load *load, const char *name, struct bb_side *side)
{
    char key[64];
    snprintf(key, sizeof key, "%s.block_count", name);
    enum err err = read_size(load->gguf, key, 1, MAX_BLOCKS, &side->block_count);
    snprintf(key, sizeof key, "%s.attention.head_count", name);
    if (err == ERR_OK)
        err = read_size(load->gguf, key, 1, MAX_WIDTH, &side->heads);
    if (err == ERR_OK && load->model->width % side->heads != 0)
        err = err_set(ERR_INVALID, "its %s heads do not divide its width", name);
    snprintf(key, sizeof key, "%s.feed_forward_length", name);
    if (err == ERR_OK)
        err = read_size(load->gguf, key, 1, MAX_FFN, &side->ffn);
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
    enum err err = read_size(gguf, "embedding_length", 1, MAX_WIDTH, &model->width);
    if (err == ERR_OK)
        err = read_size(gguf, "vocab_size", 2, MAX_VOCAB, &model->vocab_size);
    if (err == ERR_OK)
        err = read_size(gguf, "context_length", 2, MAX_POSITIONS, &model->positions);
    if (err == ERR_OK)
        err = read_u32(gguf, "decoder_start_token_id", 0, (uint32_t)model->vocab_size - 1, &start);
    if (err == ERR_OK)
        err = read_default_float(gguf, "attention.layer_norm_epsilon", 1e-12f, 1.0f,
                                 &model->norm_epsilon);
    if (err == ERR_OK)
        err = read_default_bool(gguf, "scale_embedding", &scale);
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

/* ---- the defaults of generate ---- */

static enum err read_token(const struct gguf_context *gguf, const char *name, size_t vocab_size,
                           int32_t *out)
{
    size_t id = 0;
    if (!has_key(gguf, name))
        return ERR_OK;
    enum err err = read_size(gguf, name, 0, (uint32_t)vocab_size - 1, &id);
    if (err == ERR_OK)
        *out = (int32_t)id;
    return err;
}

static enum err read_lengths(const struct gguf_context *gguf, struct bb_model *model,
                             struct bb_search_params *defaults)
{
    size_t max_new = 0, min_new = 0;
    enum err err =
        read_default_size(gguf, "generation.max_length", 1, UINT32_MAX, &defaults->max_length);
    if (err == ERR_OK)
        err =
            read_default_size(gguf, "generation.min_length", 0, UINT32_MAX, &defaults->min_length);
    if (err == ERR_OK)
        err = read_default_size(gguf, "generation.max_new_tokens", 1, UINT32_MAX, &max_new);
    if (err == ERR_OK)
        err = read_default_size(gguf, "generation.min_new_tokens", 0, UINT32_MAX, &min_new);
    if (max_new > 0)
        defaults->max_length = max_new + 1;
    model->max_is_new = max_new > 0;
    model->min_is_new = has_key(gguf, "generation.min_new_tokens");
    if (model->min_is_new)
        defaults->min_length = min_new + 1;
    return err;
}

static enum err read_defaults(struct load *load)
{
    static const char *const stops[] = {"false", "true", "never"};
    const struct gguf_context *gguf = load->gguf;
    size_t vocab_size = load->model->vocab_size, top_k = 50;
    int stop = 0;
    /* What generate does where a checkpoint says nothing: 20 new tokens behind the start token. */
    struct bb_search_params d = {.beams = 1,
                                 .returned = 1,
                                 .max_length = 21,
                                 .repetition_penalty = 1,
                                 .length_penalty = 1,
                                 .start = load->model->start_token,
                                 .forced_first = BB_NO_TOKEN,
                                 .forced_last = BB_NO_TOKEN,
                                 .draw = {.temperature = 1, .top_p = 1}};
    enum err err = read_default_size(gguf, "generation.num_beams", 1, BB_BEAMS_MAX, &d.beams);
    if (err == ERR_OK)
        err = read_default_size(gguf, "generation.num_return_sequences", 1, BB_BEAMS_MAX,
                                &d.returned);
    if (err == ERR_OK)
        err = read_lengths(gguf, load->model, &d);
    if (err == ERR_OK)
        err = read_default_size(gguf, "generation.no_repeat_ngram_size", 0, MAX_POSITIONS,
                                &d.no_repeat);
    if (err == ERR_OK)
        err = read_default_size(gguf, "generation.encoder_no_repeat_ngram_size", 0, MAX_POSITIONS,
                                &d.prompt_repeat);
    if (err == ERR_OK)
        err = read_default_float(gguf, "generation.repetition_penalty", 1e-3f, 1e3f,
                                 &d.repetition_penalty);
    if (err == ERR_OK)
        err = read_default_float(gguf, "generation.length_penalty", -100, 100, &d.length_penalty);
    if (err == ERR_OK)
        err = read_default_float(gguf, "generation.temperature", 0, 1e6f, &d.draw.temperature);
    if (err == ERR_OK)
        err = read_default_float(gguf, "generation.top_p", 0, 1, &d.draw.top_p);
    if (err == ERR_OK)
        err = read_default_size(gguf, "generation.top_k", 0, MAX_VOCAB, &top_k);
    if (err == ERR_OK)
        err = read_default_bool(gguf, "generation.do_sample", &d.sample);
    if (err == ERR_OK)
        err = read_choice(gguf, "generation.early_stopping", stops, 3, &stop);
    if (err == ERR_OK)
        err = read_token(gguf, "generation.forced_bos_token_id", vocab_size, &d.forced_first);
    if (err == ERR_OK)
        err = read_token(gguf, "generation.forced_eos_token_id", vocab_size, &d.forced_last);
    d.early_stop = (enum bb_early_stop)stop;
    d.draw.top_k = (int)top_k;
    int64_t eos = gguf_find_key(gguf, "tokenizer.ggml.eos_token_id");
    if (err == ERR_OK && (eos < 0 || gguf_get_kv_type(gguf, eos) != GGUF_TYPE_UINT32 ||
                          gguf_get_val_u32(gguf, eos) >= vocab_size))
        err = err_set(ERR_INVALID, "its header has no tokenizer.ggml.eos_token_id");
    if (err != ERR_OK)
        return err;
    d.end = (int32_t)gguf_get_val_u32(gguf, eos);
    load->model->defaults = d;
    return ERR_OK;
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

enum err bb_model_open(struct bb_model *out, const char *path, ggml_backend_t backend)
{
    struct bb_model model = {0};
    struct load load = {.model = &model, .path = path, .file = -1};
    enum err err = open_file(&load);
    if (err == ERR_OK)
        err = read_sizes(&load);
    if (err == ERR_OK)
        err = read_defaults(&load);
    if (err == ERR_OK)
        err = bb_tokenizer_open(&model.tokenizer, load.gguf, model.vocab_size);
    if (err == ERR_OK)
        err = bb_weights_load(&model, load.gguf, load.file, load.file_size, backend);
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
    bb_tokenizer_close(model->tokenizer);
    bb_weights_free(&model->plain);
    bb_weights_free(&model->extra);
    *model = (struct bb_model){0};
}
