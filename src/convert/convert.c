/*
 * convert.c - the order of a conversion: read the small files, list the tensors, plan, write the
 * GGUF's head, then stream tensor after tensor in blocks of rows.
 */
#include "convert/convert.h"

#include <errno.h>
#include <ggml.h>
#include <gguf.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/outfile.h"
#include "convert/checkpoint.h"
#include "convert/files.h"
#include "convert/gguf_blenderbot.h"
#include "convert/hf_config.h"
#include "convert/layout.h"
#include "convert/vocab.h"

#define BLOCK_ELEMENTS (1u << 20) /* rows are read and written in blocks of about this size */

/* file_type: general.file_type, llama.cpp's numbers */
static const struct weight_type {
    const char *name;
    enum ggml_type type;
    uint32_t file_type;
} weight_types[] = {
    {"f32", GGML_TYPE_F32, 0},   {"f16", GGML_TYPE_F16, 1},    {"bf16", GGML_TYPE_BF16, 32},
    {"q8_0", GGML_TYPE_Q8_0, 7}, {"q6_k", GGML_TYPE_Q6_K, 18}, {"q5_k_m", GGML_TYPE_Q5_K, 17},
    {"q5_1", GGML_TYPE_Q5_1, 9}, {"q5_0", GGML_TYPE_Q5_0, 8},  {"q4_k_m", GGML_TYPE_Q4_K, 15},
    {"q4_1", GGML_TYPE_Q4_1, 3}, {"q4_0", GGML_TYPE_Q4_0, 2},
};
enum { ROW_F32, ROW_F16 };

struct conversion {
    struct checkpoint *checkpoint;
    struct layout layout;
    struct gguf_context *gguf;
    const struct weight_type *type;
    FILE *file;
    const char *out_path;
    uint64_t done, total;
    convert_progress_fn *progress;
    void *arg;
};

bool convert_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static enum err find_type(const struct weight_type **out, const char *name)
{
    for (size_t i = 0; i < sizeof weight_types / sizeof *weight_types; i++) {
        if (strcasecmp(weight_types[i].name, name) == 0) {
            *out = &weight_types[i];
            return ERR_OK;
        }
    }
    return err_set(ERR_USAGE,
                   "the weight type \"%.32s\" is none of f32, f16, bf16, q8_0, q6_k, q5_k_m, "
                   "q5_1, q5_0, q4_k_m, q4_1, q4_0",
                   name);
}

/* f16 where nothing is lost by it, else f32. */
static const struct weight_type *natural_type(const struct layout *layout)
{
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->items[i].kind != PLACING_EXACT && layout->items[i].tensor->dtype != DTYPE_F16)
            return &weight_types[ROW_F32];
    }
    return &weight_types[ROW_F16];
}

static enum ggml_type placing_type(const struct placing *placing, enum ggml_type wanted)
{
    if (placing->kind == PLACING_EXACT)
        return GGML_TYPE_F32;
    if (placing->kind == PLACING_EMBEDDING && ggml_is_quantized(wanted))
        wanted = GGML_TYPE_Q8_0;
    return placing->ne[0] % ggml_blck_size(wanted) == 0 ? wanted : GGML_TYPE_F16;
}

static size_t aligned(size_t bytes)
{
    const size_t to = GGUF_DEFAULT_ALIGNMENT;
    return (bytes + to - 1) / to * to;
}

/* The folder's own name, for people. */
static void set_name(struct gguf_context *gguf, const char *folder)
{
    char path[PATH_MAX];
    if (realpath(folder, path) == NULL)
        snprintf(path, sizeof path, "%.1000s", folder);
    gguf_set_val_str(gguf, "general.name", basename(path));
}

/* Tells gguf names, shapes and types; it lays them out. */
static enum err plan_tensors(struct conversion *conversion)
{
    const struct layout *layout = &conversion->layout;
    struct ggml_init_params params = {.mem_size = ggml_tensor_overhead() * (layout->count + 1),
                                      .no_alloc = true};
    struct ggml_context *context = ggml_init(params);
    if (context == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < layout->count; i++) {
        const struct placing *placing = &layout->items[i];
        enum ggml_type type = placing_type(placing, conversion->type->type);
        struct ggml_tensor *tensor =
            ggml_new_tensor(context, type, (int)placing->dims, placing->ne);
        ggml_set_name(tensor, placing->name);
        gguf_add_tensor(conversion->gguf, tensor);
        conversion->total += aligned(ggml_nbytes(tensor));
    }
    ggml_free(context);
    conversion->total += gguf_get_meta_size(conversion->gguf);
    return ERR_OK;
}

static enum err check_space(const struct conversion *conversion)
{
    char folder[PATH_MAX];
    struct statvfs disk;

    snprintf(folder, sizeof folder, "%s", conversion->out_path);
    const char *parent = dirname(folder);
    if (statvfs(parent, &disk) != 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "can't write to %s: %s", parent,
                       strerror(errno));
    double have = (double)disk.f_bavail * (double)disk.f_frsize, need = (double)conversion->total;
    if (need > have)
        return err_set(ERR_IO, "%s has %.0f MiB free and the model needs %.0f: free some space",
                       parent, have / 1048576, need / 1048576);
    return ERR_OK;
}

static enum err write_bytes(struct conversion *conversion, const void *data, size_t len)
{
    if (len > 0 && fwrite(data, 1, len, conversion->file) != len)
        return err_set(ERR_IO, "can't write %s: %s", conversion->out_path, strerror(errno));
    conversion->done += len;
    if (conversion->progress != NULL)
        conversion->progress(conversion->arg, conversion->done, conversion->total);
    return ERR_OK;
}

static enum err write_head(struct conversion *conversion)
{
    size_t size = gguf_get_meta_size(conversion->gguf);
    void *data = malloc(size);
    if (data == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    gguf_get_meta_data(conversion->gguf, data);
    enum err err = write_bytes(conversion, data, size);
    free(data);
    return err;
}

/* A broken checkpoint, or one that the weight type can't hold, would speak nonsense. */
static enum err check_values(const float *values, uint64_t count, enum ggml_type type,
                             const char *name)
{
    float limit = type == GGML_TYPE_F32 || type == GGML_TYPE_BF16 ? INFINITY : 65504.0f;

    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return err_set(ERR_INVALID, "tensor %s holds a value that is no finite number", name);
        if (fabsf(values[i]) > limit)
            return err_set(ERR_INVALID, "tensor %s holds %g, too large for %s", name,
                           (double)values[i], ggml_type_name(type));
    }
    return ERR_OK;
}

static enum err write_tensor(struct conversion *conversion, const struct placing *placing)
{
    static const char zeros[GGUF_DEFAULT_ALIGNMENT];
    enum ggml_type type = placing_type(placing, conversion->type->type);
    uint64_t width = (uint64_t)placing->ne[0], rows = (uint64_t)placing->ne[1];
    uint64_t block = width < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / width : 1;
    size_t row_size = ggml_row_size(type, placing->ne[0]), written = 0;

    if (block > rows || (placing->tensor != NULL && !placing->tensor->contiguous))
        block = rows;
    float *values = calloc(block * width, sizeof *values);
    char *packed = malloc(block * row_size);
    enum err err = values == NULL || packed == NULL
                       ? err_set(ERR_NOMEM, "out of memory for tensor %s", placing->name)
                       : ERR_OK;
    for (uint64_t row = 0; err == ERR_OK && row < rows; row += block) {
        uint64_t count = rows - row < block ? rows - row : block;
        if (placing->tensor != NULL)
            err = checkpoint_read(conversion->checkpoint, placing->tensor, row * width,
                                  count * width, values);
        if (err == ERR_OK && placing->tensor != NULL)
            err = check_values(values, count * width, type, placing->tensor->name);
        if (err != ERR_OK)
            break;
        if (type == GGML_TYPE_F32)
            memcpy(packed, values, count * row_size);
        else
            ggml_quantize_chunk(type, values, packed, 0, (int64_t)count, (int64_t)width, NULL);
        err = write_bytes(conversion, packed, count * row_size);
        written += count * row_size;
    }
    free(values);
    free(packed);
    size_t rest = aligned(written) - written;
    return err == ERR_OK ? write_bytes(conversion, zeros, rest) : err;
}

static enum err write_all(struct conversion *conversion, int fd)
{
    int own = dup(fd); /* fclose closes it */
    conversion->file = own >= 0 ? fdopen(own, "wb") : NULL;
    if (conversion->file == NULL) {
        if (own >= 0)
            close(own);
        return err_set(ERR_OS, "%s", strerror(errno));
    }
    enum err err = write_head(conversion);
    for (size_t i = 0; err == ERR_OK && i < conversion->layout.count; i++)
        err = write_tensor(conversion, &conversion->layout.items[i]);
    if (fclose(conversion->file) != 0 && err == ERR_OK)
        err = err_set(ERR_IO, "can't write %s: %s", conversion->out_path, strerror(errno));
    conversion->file = NULL;
    return err;
}

static enum err write_file(struct conversion *conversion)
{
    struct outfile out;
    enum err err = outfile_open(&out, conversion->out_path);
    if (err != ERR_OK)
        return err;
    err = write_all(conversion, out.fd);
    if (err == ERR_OK)
        return outfile_publish(&out);
    outfile_discard(&out);
    return err;
}

static void fill_report(const struct conversion *conversion, const struct hf_config *config,
                        struct convert_report *report)
{
    *report = (struct convert_report){.bytes = conversion->done,
                                      .tensors = (unsigned)conversion->layout.count,
                                      .left_out = (unsigned)conversion->layout.left_out,
                                      .type = conversion->type->name};
    snprintf(report->first_left, sizeof report->first_left, "%s", conversion->layout.first_left);
    snprintf(report->ignored, sizeof report->ignored, "%s", config->ignored);
}

enum err convert_checkpoint(const char *folder, const char *out_path, const char *type,
                            convert_progress_fn *progress, void *arg, struct convert_report *report)
{
    struct conversion conversion = {.out_path = out_path, .progress = progress, .arg = arg};
    struct hf_config config;
    enum err err = ERR_OK;

    if (type != NULL)
        err = find_type(&conversion.type, type);
    if (err != ERR_OK)
        return err;
    conversion.gguf = gguf_init_empty();
    gguf_set_val_str(conversion.gguf, "general.architecture", GGUF_ARCHITECTURE);
    set_name(conversion.gguf, folder);
    err = hf_config_read(&config, conversion.gguf, folder);
    if (err == ERR_OK)
        err = checkpoint_open(&conversion.checkpoint, folder);
    if (err == ERR_OK) /* before any memory is taken for so many tokens */
        err = layout_check_vocab(conversion.checkpoint, &config);
    if (err == ERR_OK)
        err = vocab_read(conversion.gguf, folder, &config);
    if (err == ERR_OK)
        err = layout_make(&conversion.layout, conversion.checkpoint, &config);
    if (err != ERR_OK)
        goto out;
    if (conversion.type == NULL)
        conversion.type = natural_type(&conversion.layout);
    gguf_set_val_u32(conversion.gguf, "general.file_type", conversion.type->file_type);
    gguf_set_val_u32(conversion.gguf, "general.quantization_version", GGML_QNT_VERSION);
    err = plan_tensors(&conversion);
    if (err == ERR_OK)
        err = check_space(&conversion);
    if (err == ERR_OK)
        err = write_file(&conversion);
    if (err == ERR_OK)
        fill_report(&conversion, &config, report);
out:
    layout_done(&conversion.layout);
    checkpoint_free(conversion.checkpoint);
    gguf_free(conversion.gguf);
    ggml_quantize_free();
    return err;
}
