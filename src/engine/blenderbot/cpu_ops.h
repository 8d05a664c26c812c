/*
 * cpu_ops.h - operations of our own in ggml graphs, for the CPU backend.  Private to
 * src/engine/blenderbot/.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_CPU_OPS_H
#define WYVERN_ENGINE_BLENDERBOT_CPU_OPS_H

#include <ggml.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ATTEND_CELLS_MAX 16384 /* that one row may read: positions a model may have */

struct attend_job {
    size_t heads;
    size_t most;           /* cells that one row reads at most */
    const int32_t **cells; /* for each row of the step: the cells it reads */
    const size_t *counts;  /* how many */
    const int32_t *own;    /* for each row: where its key and value go; NULL: they are there */
};

/* Attention that reads keys and values through a table of cells.  query: [width, rows], or
 * [3 × width, rows] of queries, keys and values when job->own is given, which are stored first.
 * keys, values: the caches, [width, cells], f32.  The job must live until the graph is computed. */
struct ggml_tensor *attend_op(struct ggml_context *context, struct ggml_tensor *query,
                              struct ggml_tensor *keys, struct ggml_tensor *values,
                              struct attend_job *job);

/* ½x(1 + erf(x/√2)) in place of x, f32. */
struct ggml_tensor *gelu_erf_op(struct ggml_context *context, struct ggml_tensor *x);

/* A matrix in the form of panels (kernels.h), and its product with rows of numbers. */

/* Whether this CPU multiplies matrices of this type with so many columns so. */
bool packed_can(enum ggml_type type, size_t columns);
/* Where the packed form of [columns, rows] goes: i8 for q8_0, f32 for f32. */
struct ggml_tensor *packed_new(struct ggml_context *context, enum ggml_type type, size_t columns,
                               size_t rows);
/* out: as many bytes as the tensor of packed_new() has; plain: rows of the type. */
void packed_fill(void *out, const void *plain, enum ggml_type type, size_t columns, size_t rows);
/* weight × x + bias.  weight: from packed_new(); bias: as many numbers as it has rows. */
struct ggml_tensor *packed_op(struct ggml_context *context, struct ggml_tensor *weight,
                              struct ggml_tensor *bias, struct ggml_tensor *x);

#endif
