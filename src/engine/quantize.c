/*
 * quantize.c - rewrites a GGUF with another weight type.
 *
 * A failure leaves nothing behind, and no reader ever sees half a model.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/outfile.h"
#include "engine/engine.h"
#include "engine/model_file.h"
#include "engine/ops.h"
#include "engine/runtime_log.h"

/* bits: most that a number takes, with its share of scales; for the disk space needed */
static const struct weight_type {
    const char *name;
    enum llama_ftype type;
    double bits;
} weight_types[] = {
    {"f32", LLAMA_FTYPE_ALL_F32, 32},           {"f16", LLAMA_FTYPE_MOSTLY_F16, 16},
    {"bf16", LLAMA_FTYPE_MOSTLY_BF16, 16},      {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0, 8.5},
    {"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K, 8.5},     {"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M, 8.5},
    {"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1, 8.5},     {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0, 8.5},
    {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M, 8.5}, {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1, 8.5},
    {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0, 8.5},
};

static const struct weight_type *find_type(const char *name)
{
    for (size_t i = 0; i < sizeof weight_types / sizeof *weight_types; i++) {
        if (strcasecmp(weight_types[i].name, name) == 0)
            return &weight_types[i];
    }
    return NULL;
}

static enum err check_space(const char *folder, const struct model_file *file,
                            const struct weight_type *type)
{
    struct statvfs disk;
    if (statvfs(folder, &disk) != 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "can't write to %s: %s", folder,
                       strerror(errno));
    double need = (double)file->weights * type->bits / 8 + (double)file->meta_bytes;
    double have = (double)disk.f_bavail * (double)disk.f_frsize;
    if (need > have)
        return err_set(ERR_IO, "%s has %.0f MiB free and the new model needs %.0f: free some space",
                       folder, have / 1048576, need / 1048576);
    return ERR_OK;
}

enum err engine_quantize(const char *in_path, const char *out_path, const char *type,
                         unsigned threads, engine_progress_fn *progress, void *arg)
{
    const struct weight_type *wanted = find_type(type);
    if (wanted == NULL)
        return err_set(ERR_USAGE,
                       "the weight type \"%.32s\" is none of f32, f16, bf16, q8_0, q6_k, q5_k_m, "
                       "q5_1, q5_0, q4_k_m, q4_1, q4_0",
                       type);
    struct model_file file;
    enum err err = model_file_check(&file, in_path);
    if (err != ERR_OK)
        return err;
    if (strcmp(file.arch, BLENDERBOT_ARCH) == 0)
        return err_set(ERR_UNSUPPORTED,
                       "%s is a Blenderbot: give its checkpoint's folder and --type instead",
                       in_path);
    struct outfile out;
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", out_path);
    err = check_space(dirname(folder), &file, wanted);
    if (err == ERR_OK)
        err = outfile_open(&out, out_path);
    if (err != ERR_OK)
        return err;

    llama_backend_init();
    struct llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = wanted->type;
    params.allow_requantize = true;
    params.nthread = (int32_t)threads;
    struct runtime_facts facts;
    runtime_log_collect_progress(&facts, progress, arg);
    uint32_t status = llama_model_quantize(in_path, out.path, &params);
    runtime_log_release();
    if (status != 0)
        err = err_set(ERR_IO, "can't convert %s: %s", in_path,
                      facts.complaint[0] != '\0' ? facts.complaint : "the model runtime failed");
    else
        err = model_file_check(&file, out.path);
    if (err == ERR_OK)
        return outfile_publish(&out);
    outfile_discard(&out);
    return err;
}
