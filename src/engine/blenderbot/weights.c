#include "engine/blenderbot/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/blenderbot/cpu_ops.h"

#define BLOCK_TENSORS 32 /* more than a block has */
#define OTHER_TENSORS 16
#define NAME_SIZE     64
#define FUSED_MAX     3
#define HUGE_PAGE     ((uintptr_t)2 << 20)

/* A tensor in memory and the parts of the file that it is made of, row under row. */
struct want {
    struct ggml_tensor *to;
    enum ggml_type type; /* of the numbers, before they are packed */
    bool packed;
    int64_t sources[FUSED_MAX];
    size_t count;
    size_t columns, rows; /* of each */
};

struct load {
    struct bb_model *model;
    const struct gguf_context *gguf;
    int file;
    uint64_t file_size;
    ggml_backend_dev_t device;
    ggml_backend_buffer_type_t extra; /* NULL: none suits */
    struct want *wants;
    size_t want_count, want_cap;
};

enum kind { KIND_VECTOR, KIND_ROWS, KIND_MATRIX }; /* ROWS: only looked up, not multiplied */

/* ---- what is in the file ---- */

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
    if (*type != GGML_TYPE_F32 && ggml_get_type_traits(*type)->to_float == NULL)
        return err_set(ERR_UNSUPPORTED, "its tensor %s has the type %s", name,
                       ggml_type_name(*type));
    return ERR_OK;
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

/* ---- where a matrix goes ---- */

/* Whether the backend multiplies such a matrix in this kind of memory. */
static bool multiplies_in(ggml_backend_dev_t device, ggml_backend_buffer_type_t kind,
                          enum ggml_type type, size_t columns, size_t rows)
{
    struct ggml_init_params params = {.mem_size = 4 * ggml_tensor_overhead(), .no_alloc = true};
    struct ggml_context *context = ggml_init(params);
    ggml_backend_buffer_t none = context != NULL ? ggml_backend_buft_alloc_buffer(kind, 0) : NULL;
    bool can = false;
    if (none != NULL) {
        struct ggml_tensor *weight =
            ggml_new_tensor_2d(context, type, (int64_t)columns, (int64_t)rows);
        struct ggml_tensor *x = ggml_new_tensor_2d(context, GGML_TYPE_F32, (int64_t)columns, 1);
        weight->buffer = none;
        can = ggml_backend_dev_supports_op(device, ggml_mul_mat(context, weight, x));
        ggml_backend_buffer_free(none);
    }
    if (context != NULL)
        ggml_free(context);
    return can;
}

/* The backend's own kind of memory for weights of this type, where it has one.  The first that is
 * found is used for all. */
static bool suits_extra(struct load *load, enum ggml_type type, size_t columns, size_t rows)
{
    if (load->extra != NULL)
        return multiplies_in(load->device, load->extra, type, columns, rows);
    ggml_backend_dev_get_extra_bufts_t find =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(load->device), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *kinds = find != NULL ? find(load->device) : NULL;
    for (; kinds != NULL && *kinds != NULL; kinds++) {
        if (multiplies_in(load->device, *kinds, type, columns, rows)) {
            load->extra = *kinds;
            return true;
        }
    }
    return false;
}

static bool is_cpu(const struct load *load)
{
    return ggml_backend_dev_type(load->device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

/* Half precision is widened: f16 sums flip tokens against the reference. */
static enum ggml_type type_in_memory(enum ggml_type type, enum kind kind)
{
    return kind != KIND_VECTOR && ggml_is_quantized(type) ? type : GGML_TYPE_F32;
}

static void make_tensor(struct load *load, enum kind kind, struct want *want)
{
    struct bb_model *model = load->model;
    size_t rows = want->rows * want->count;
    bool fast = kind == KIND_MATRIX && ggml_is_quantized(want->type);
    if (fast && want->type == GGML_TYPE_Q8_0 && is_cpu(load) && packed_can(want->columns)) {
        want->packed = true;
        want->to = packed_new(model->plain.context, want->columns, rows);
    } else if (fast && suits_extra(load, want->type, want->columns, rows)) {
        want->to = ggml_new_tensor_2d(model->extra.context, want->type, (int64_t)want->columns,
                                      (int64_t)rows);
    } else {
        want->to = ggml_new_tensor_2d(model->plain.context, want->type, (int64_t)want->columns,
                                      (int64_t)rows);
    }
}

/* ---- what the model wants ---- */

/* One tensor of several of the file.  A vector has one row in each. */
static enum err want(struct load *load, const char *const *names, size_t count, size_t columns,
                     size_t rows, enum kind kind, struct want **out)
{
    struct want made = {.count = count, .columns = columns, .rows = rows};
    bool flat = kind == KIND_VECTOR && rows == 1;
    for (size_t i = 0; i < count; i++) {
        enum ggml_type type = GGML_TYPE_F32;
        enum err err =
            find_tensor(load, names[i], columns, flat ? 0 : rows, &made.sources[i], &type);
        if (err != ERR_OK)
            return err;
        type = type_in_memory(type, kind);
        made.type = i == 0 || made.type == type ? type : GGML_TYPE_F32;
    }
    if (load->want_count == load->want_cap)
        return err_set(ERR_INTERNAL, "more tensors than a Blenderbot has");
    if (flat)
        made.to = ggml_new_tensor_1d(load->model->plain.context, GGML_TYPE_F32,
                                     (int64_t)(columns * count));
    else
        make_tensor(load, kind, &made);
    *out = &load->wants[load->want_count++];
    **out = made;
    return ERR_OK;
}

static enum err want_matrix(struct load *load, const char *const *names, size_t count,
                            size_t columns, size_t rows, struct bb_linear *out)
{
    struct want *made = NULL;
    enum err err = want(load, names, count, columns, rows, KIND_MATRIX, &made);
    if (err != ERR_OK)
        return err;
    out->weight = made->to;
    out->packed = made->packed;
    return ERR_OK;
}

static enum err want_vector(struct load *load, const char *const *names, size_t count, size_t size,
                            struct ggml_tensor **out)
{
    struct want *made = NULL;
    enum err err = want(load, names, count, size, 1, KIND_VECTOR, &made);
    if (err == ERR_OK)
        *out = made->to;
    return err;
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
    enum err err = want_matrix(load, pointers, count, in, out_rows, out);
    for (size_t i = 0; i < count; i++)
        snprintf(texts[i], NAME_SIZE, "%s%s.bias", prefix, names[i]);
    return err == ERR_OK ? want_vector(load, pointers, count, out_rows, &out->bias) : err;
}

static enum err want_norm(struct load *load, const char *prefix, const char *name,
                          struct bb_norm *out)
{
    char weight[NAME_SIZE], bias[NAME_SIZE];
    const char *weights[] = {weight}, *biases[] = {bias};
    snprintf(weight, sizeof weight, "%s%s.weight", prefix, name);
    snprintf(bias, sizeof bias, "%s%s.bias", prefix, name);
    size_t width = load->model->width;
    enum err err = want_vector(load, weights, 1, width, &out->weight);
    return err == ERR_OK ? want_vector(load, biases, 1, width, &out->bias) : err;
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
    struct want *made = NULL;
    snprintf(prefix, sizeof prefix, "%s.", name);
    snprintf(positions, sizeof positions, "%s.position_embd.weight", name);
    enum err err =
        want(load, names, 1, load->model->width, load->model->positions, KIND_VECTOR, &made);
    if (err == ERR_OK) {
        side->positions = made->to;
        err = want_norm(load, prefix, "output_norm", &side->norm);
    }
    for (size_t i = 0; err == ERR_OK && i < side->block_count; i++) {
        err = want_block(load, name, i, side, &side->blocks[i]);
        snprintf(prefix, sizeof prefix, "%s.blk.%zu.", name, i);
        if (err == ERR_OK && cross)
            err = want_cross(load, prefix, &side->blocks[i]);
    }
    return err;
}

/* To look ids up in, and to multiply by: the same tensor unless the second has a faster form. */
static enum err want_embeddings(struct load *load)
{
    static const char *const names[] = {"token_embd.weight"}, *const bias[] = {"output.bias"};
    struct bb_model *model = load->model;
    struct want *made = NULL;
    enum err err = want(load, names, 1, model->width, model->vocab_size, KIND_ROWS, &made);
    if (err != ERR_OK)
        return err;
    model->embeddings = model->head.weight = made->to;
    if (ggml_is_quantized(made->type))
        err = want_matrix(load, names, 1, model->width, model->vocab_size, &model->head);
    return err == ERR_OK ? want_vector(load, bias, 1, model->vocab_size, &model->head.bias) : err;
}

static enum err want_all(struct load *load)
{
    struct bb_model *model = load->model;
    size_t blocks = model->encoder.block_count + model->decoder.block_count;
    load->want_cap = blocks * BLOCK_TENSORS + OTHER_TENSORS;
    load->wants = calloc(load->want_cap, sizeof *load->wants);
    struct ggml_init_params params = {.mem_size = load->want_cap * ggml_tensor_overhead(),
                                      .no_alloc = true};
    model->plain.context = ggml_init(params);
    model->extra.context = ggml_init(params);
    if (load->wants == NULL || model->plain.context == NULL || model->extra.context == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = want_embeddings(load);
    if (err == ERR_OK)
        err = want_side(load, "enc", &model->encoder, false);
    if (err == ERR_OK)
        err = want_side(load, "dec", &model->decoder, true);
    return err;
}

/* ---- into memory ---- */

static enum err reserve(const struct load *load, struct bb_weights *weights,
                        ggml_backend_buffer_type_t kind)
{
    if (ggml_get_first_tensor(weights->context) == NULL)
        return ERR_OK;
    weights->buffer = ggml_backend_alloc_ctx_tensors_from_buft(weights->context, kind);
    if (weights->buffer == NULL)
        return err_set(ERR_NOMEM, "no memory for its weights");
    ggml_backend_buffer_set_usage(weights->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    size_t size = ggml_backend_buffer_get_size(weights->buffer);
    load->model->bytes += size;
    /* Every step reads all of it: with large pages the CPU looks up fewer addresses. */
    uintptr_t base = (uintptr_t)ggml_backend_buffer_get_base(weights->buffer);
    uintptr_t from = (base + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (is_cpu(load) && from + HUGE_PAGE <= base + size)
        (void)madvise((void *)from, base + size - from, MADV_HUGEPAGE); /* advice, no more */
    return ERR_OK;
}

/* One part of a tensor, widened where the tensor is. */
static enum err read_part(const struct load *load, const struct want *want, int64_t source,
                          void *out)
{
    enum ggml_type from = gguf_get_tensor_type(load->gguf, source);
    size_t size = gguf_get_tensor_size(load->gguf, source);
    void *raw = from == want->type ? out : malloc(size);
    if (raw == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = read_bytes(load, source, raw, size);
    if (err == ERR_OK && !ggml_validate_row_data(from, raw, size))
        err = err_set(ERR_INVALID, "its tensor %s holds values that are no numbers",
                      gguf_get_tensor_name(load->gguf, source));
    if (raw != out) {
        if (err == ERR_OK)
            ggml_get_type_traits(from)->to_float(raw, out, (int64_t)(want->columns * want->rows));
        free(raw);
    }
    return err;
}

/* Whole tensors are handed over: a kind of memory that rearranges them needs all of one. */
static enum err fill_tensor(const struct load *load, const struct want *want)
{
    size_t part = ggml_row_size(want->type, (int64_t)want->columns) * want->rows;
    size_t rows = want->rows * want->count, packed_bytes = packed_size(want->columns, rows);
    char *bytes = malloc(part * want->count);
    char *packed = want->packed ? malloc(packed_bytes) : NULL;
    enum err err = ERR_OK;
    if (bytes == NULL || (want->packed && packed == NULL))
        err = err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; err == ERR_OK && i < want->count; i++)
        err = read_part(load, want, want->sources[i], bytes + i * part);
    if (err == ERR_OK && want->packed) {
        packed_fill(packed, bytes, want->columns, rows);
        ggml_backend_tensor_set(want->to, packed, 0, packed_bytes);
    } else if (err == ERR_OK) {
        ggml_backend_tensor_set(want->to, bytes, 0, part * want->count);
    }
    free(packed);
    free(bytes);
    return err;
}

enum err bb_weights_load(struct bb_model *model, const struct gguf_context *gguf, int file,
                         uint64_t file_size, ggml_backend_t backend)
{
    struct load load = {
        .model = model,
        .gguf = gguf,
        .file = file,
        .file_size = file_size,
        .device = ggml_backend_get_device(backend),
    };
    enum err err = want_all(&load);
    if (err == ERR_OK)
        err = reserve(&load, &model->plain, ggml_backend_get_default_buffer_type(backend));
    if (err == ERR_OK)
        err = reserve(&load, &model->extra, load.extra);
    for (size_t i = 0; err == ERR_OK && i < load.want_count; i++)
        err = fill_tensor(&load, &load.wants[i]);
    free(load.wants);
    return err;
}

void bb_weights_free(struct bb_weights *weights)
{
    if (weights->buffer != NULL)
        ggml_backend_buffer_free(weights->buffer);
    if (weights->context != NULL)
        ggml_free(weights->context);
    *weights = (struct bb_weights){0};
}
