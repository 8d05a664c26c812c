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

#include "engine/blenderbot/defaults.h"
#include "engine/blenderbot/header.h"
#include "engine/runtime_log.h"
#include "wire/utf8.h"

#define BB_PREFIX     "blenderbot."
#define MAX_BLOCKS    256
#define MAX_WIDTH     (1u << 16)
#define MAX_FFN       (1u << 18)
#define MAX_POSITIONS (1u << 14)
#define MAX_VOCAB     (1u << 20)
#define BLOCK_TENSORS 32 /* more than a block has */
#define OTHER_TENSORS 16
#define NAME_SIZE     64
#define FUSED_MAX     3

struct load {
    struct bb_model *model;
    const char *path;
    struct gguf_context *gguf;
    struct ggml_context *meta; /* shapes and types as the file has them */
    int file;
    uint64_t file_size;
    struct part { /* what goes where once there is memory */
        struct ggml_tensor *to;
        int64_t source;
        size_t offset; /* in `to` */
    } * parts;
    size_t part_count, part_cap;
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
        err = bb_read_size(gguf, "context_length", 2, MAX_POSITIONS, &model->positions);
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

/* ---- the weights ---- */

/* A tensor of the file with this shape (ne1 0: a vector). */
static enum err find_tensor(const struct load *load, const char *name, size_t ne0, size_t ne1,
                            int64_t *id, enum ggml_type *type)
{
    int64_t found = gguf_find_tensor(load->gguf, name);
    if (found < 0)
        return err_set(ERR_INVALID, "it lacks the tensor %s", name);
    const int64_t *ne = gguf_get_tensor_ne(load->gguf, found);
    if (ne[0] != (int64_t)ne0 || ne[1] != (int64_t)(ne1 > 0 ? ne1 : 1) || ne[2] != 1 || ne[3] != 1)
        return err_set(ERR_INVALID, "its tensor %s has the wrong shape", name);
    uint64_t data = gguf_get_data_offset(load->gguf);
    uint64_t at = gguf_get_tensor_offset(load->gguf, found);
    uint64_t size = gguf_get_tensor_size(load->gguf, found);
    if (data > load->file_size || at > load->file_size - data || size > load->file_size - data - at)
        return err_set(ERR_INVALID, "it is cut short at the tensor %s", name);
    *id = found;
    *type = gguf_get_tensor_type(load->gguf, found);
    return ERR_OK;
}

/* The type that a matrix has in memory.  Half precision is widened: f16 sums flip tokens against
 * the reference. */
static enum ggml_type type_in_memory(enum ggml_type type)
{
    return ggml_is_quantized(type) ? type : GGML_TYPE_F32;
}

static enum err add_part(struct load *load, struct ggml_tensor *to, int64_t source, size_t offset)
{
    if (load->part_count == load->part_cap)
        return err_set(ERR_INTERNAL, "more tensors than a Blenderbot has");
    load->parts[load->part_count++] = (struct part){to, source, offset};
    return ERR_OK;
}

/* One tensor of several of the file, row under row; count ≤ FUSED_MAX.  vector: not a matrix,
 * always f32. */
static enum err want(struct load *load, const char *const *names, size_t count, size_t ne0,
                     size_t rows, bool vector, struct ggml_tensor **out)
{
    int64_t ids[FUSED_MAX];
    enum ggml_type type = GGML_TYPE_F32;
    for (size_t i = 0; i < count; i++) {
        enum ggml_type own = GGML_TYPE_F32;
        enum err err =
            find_tensor(load, names[i], ne0, vector && rows == 1 ? 0 : rows, &ids[i], &own);
        if (err != ERR_OK)
            return err;
        if (own != GGML_TYPE_F32 && ggml_get_type_traits(own)->to_float == NULL)
            return err_set(ERR_UNSUPPORTED, "its tensor %s has the type %s", names[i],
                           ggml_type_name(own));
        own = vector ? GGML_TYPE_F32 : type_in_memory(own);
        type = i == 0 || type == own ? own : GGML_TYPE_F32;
    }
    bool flat = vector && rows == 1;
    *out = flat ? ggml_new_tensor_1d(load->model->context, type, (int64_t)(ne0 * count))
                : ggml_new_tensor_2d(load->model->context, type, (int64_t)ne0,
                                     (int64_t)(rows * count));
    size_t bytes = ggml_row_size(type, (int64_t)ne0) * rows;
    for (size_t i = 0; i < count; i++) {
        enum err err = add_part(load, *out, ids[i], i * bytes);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* Weight and bias of parts like "attn_q" under prefix, fused. */
static enum err want_linear(struct load *load, const char *prefix, const char *const *names,
                            size_t count, size_t in, size_t out_rows, struct bb_linear *out)
{
    char texts[FUSED_MAX][NAME_SIZE];
    const char *pointers[FUSED_MAX];
    for (size_t i = 0; i < count; i++) {
        snprintf(texts[i], NAME_SIZE, "%s%s.weight", prefix, names[i]);
        pointers[i] = texts[i];
    }
    enum err err = want(load, pointers, count, in, out_rows, false, &out->weight);
    for (size_t i = 0; i < count; i++)
        snprintf(texts[i], NAME_SIZE, "%s%s.bias", prefix, names[i]);
    return err == ERR_OK ? want(load, pointers, count, out_rows, 1, true, &out->bias) : err;
}

static enum err want_norm(struct load *load, const char *prefix, const char *name,
                          struct bb_norm *out)
{
    char weight[NAME_SIZE], bias[NAME_SIZE];
    const char *weights[] = {weight}, *biases[] = {bias};
    snprintf(weight, sizeof weight, "%s%s.weight", prefix, name);
    snprintf(bias, sizeof bias, "%s%s.bias", prefix, name);
    size_t width = load->model->width;
    enum err err = want(load, weights, 1, width, 1, true, &out->weight);
    return err == ERR_OK ? want(load, biases, 1, width, 1, true, &out->bias) : err;
}

static enum err want_cross(struct load *load, const char *prefix, struct bb_block *block)
{
    static const char *const q[] = {"cross_attn_q"}, *const kv[] = {"cross_attn_k", "cross_attn_v"},
                             *const o[] = {"cross_attn_o"};
    size_t width = load->model->width;
    enum err err = want_norm(load, prefix, "cross_attn_norm", &block->cross_norm);
    if (err == ERR_OK)
        err = want_linear(load, prefix, q, 1, width, width, &block->cross_q);
    if (err == ERR_OK)
        err = want_linear(load, prefix, kv, 2, width, width, &block->cross_kv);
    if (err == ERR_OK)
        err = want_linear(load, prefix, o, 1, width, width, &block->cross_out);
    return err;
}

static enum err want_block(struct load *load, const char *side_name, size_t index,
                           const struct bb_side *side, struct bb_block *block)
{
    static const char *const qkv[] = {"attn_q", "attn_k", "attn_v"}, *const o[] = {"attn_o"},
                             *const up[] = {"ffn_up"}, *const down[] = {"ffn_down"};
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%s.blk.%zu.", side_name, index);
    size_t width = load->model->width;
    enum err err = want_norm(load, prefix, "attn_norm", &block->attn_norm);
    if (err == ERR_OK)
        err = want_norm(load, prefix, "ffn_norm", &block->ffn_norm);
    if (err == ERR_OK)
        err = want_linear(load, prefix, qkv, 3, width, width, &block->qkv);
    if (err == ERR_OK)
        err = want_linear(load, prefix, o, 1, width, width, &block->attn_out);
    if (err == ERR_OK)
        err = want_linear(load, prefix, up, 1, width, side->ffn, &block->up);
    if (err == ERR_OK)
        err = want_linear(load, prefix, down, 1, side->ffn, width, &block->down);
    return err;
}

static enum err want_side(struct load *load, const char *name, struct bb_side *side, bool cross)
{
    char positions[NAME_SIZE], prefix[32];
    const char *names[] = {positions};
    snprintf(prefix, sizeof prefix, "%s.", name);
    snprintf(positions, sizeof positions, "%s.position_embd.weight", name);
    enum err err =
        want(load, names, 1, load->model->width, load->model->positions, true, &side->positions);
    if (err == ERR_OK)
        err = want_norm(load, prefix, "output_norm", &side->norm);
    for (size_t i = 0; err == ERR_OK && i < side->block_count; i++) {
        err = want_block(load, name, i, side, &side->blocks[i]);
        snprintf(prefix, sizeof prefix, "%s.blk.%zu.", name, i);
        if (err == ERR_OK && cross)
            err = want_cross(load, prefix, &side->blocks[i]);
    }
    return err;
}

static enum err want_all(struct load *load)
{
    static const char *const embeddings[] = {"token_embd.weight"}, *const bias[] = {"output.bias"};
    struct bb_model *model = load->model;
    size_t blocks = model->encoder.block_count + model->decoder.block_count;
    load->part_cap = blocks * BLOCK_TENSORS + OTHER_TENSORS;
    load->parts = calloc(load->part_cap, sizeof *load->parts);
    struct ggml_init_params params = {.mem_size = load->part_cap * ggml_tensor_overhead(),
                                      .no_alloc = true};
    model->context = ggml_init(params);
    if (load->parts == NULL || model->context == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err =
        want(load, embeddings, 1, model->width, model->vocab_size, false, &model->embeddings);
    if (err == ERR_OK)
        err = want(load, bias, 1, model->vocab_size, 1, true, &model->output_bias);
    if (err == ERR_OK)
        err = want_side(load, "enc", &model->encoder, false);
    if (err == ERR_OK)
        err = want_side(load, "dec", &model->decoder, true);
    return err;
}

static enum err read_bytes(const struct load *load, int64_t source, void *out, size_t size)
{
    uint64_t at = gguf_get_data_offset(load->gguf) + gguf_get_tensor_offset(load->gguf, source);
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(load->file, (char *)out + done, size - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(ERR_IO, "it can't be read: %s", n < 0 ? strerror(errno) : "cut short");
        done += (size_t)n;
    }
    return ERR_OK;
}

/* One tensor of the file to its place, widened where the place is. */
static enum err load_part(const struct load *load, const struct part *part)
{
    enum ggml_type from = gguf_get_tensor_type(load->gguf, part->source);
    const int64_t *ne = gguf_get_tensor_ne(load->gguf, part->source);
    int64_t count = ne[0] * ne[1];
    size_t size = gguf_get_tensor_size(load->gguf, part->source);
    bool widen = from != part->to->type;
    char *bytes = malloc(size);
    float *wide = widen ? malloc((size_t)count * sizeof *wide) : NULL;
    enum err err = ERR_OK;
    if (bytes == NULL || (widen && wide == NULL))
        err = err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK)
        err = read_bytes(load, part->source, bytes, size);
    if (err == ERR_OK && !ggml_validate_row_data(from, bytes, size))
        err = err_set(ERR_INVALID, "its tensor %s holds values that are no numbers",
                      gguf_get_tensor_name(load->gguf, part->source));
    if (err == ERR_OK && widen) {
        ggml_get_type_traits(from)->to_float(bytes, wide, count);
        ggml_backend_tensor_set(part->to, wide, part->offset, (size_t)count * sizeof *wide);
    } else if (err == ERR_OK) {
        ggml_backend_tensor_set(part->to, bytes, part->offset, size);
    }
    free(wide);
    free(bytes);
    return err;
}

static enum err load_weights(struct load *load, ggml_backend_t backend)
{
    struct bb_model *model = load->model;
    enum err err = want_all(load);
    if (err != ERR_OK)
        return err;
    model->buffer = ggml_backend_alloc_ctx_tensors(model->context, backend);
    if (model->buffer == NULL)
        return err_set(ERR_NOMEM, "no memory for its weights");
    ggml_backend_buffer_set_usage(model->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    model->bytes = ggml_backend_buffer_get_size(model->buffer);
    for (size_t i = 0; err == ERR_OK && i < load->part_count; i++)
        err = load_part(load, &load->parts[i]);
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

enum err bb_model_open(struct bb_model *out, const char *path, ggml_backend_t backend)
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
        err = load_weights(&load, backend);
    if (err == ERR_OK)
        read_name(&load);
    if (load.file >= 0)
        close(load.file);
    gguf_free(load.gguf);
    free(load.parts);
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
    if (model->buffer != NULL)
        ggml_backend_buffer_free(model->buffer);
    if (model->context != NULL)
        ggml_free(model->context);
    *model = (struct bb_model){0};
}
