#include "engine/blenderbot/graph.h"

#include <ggml-alloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blenderbot/cpu_ops.h"

#define NODES_A_BLOCK 64
#define NODES_OTHER   64

struct cache { /* of one decoder block, [width, cells] */
    struct ggml_tensor *keys, *values;
};

struct bb_runner {
    const struct bb_model *model;
    ggml_backend_t backend;
    struct bb_runner_config config;
    bool on_cpu;
    size_t rows_most;
    struct ggml_context *cache_context;
    ggml_backend_buffer_t cache_buffer;
    struct cache *self, *cross;
    ggml_gallocr_t allocator;
    size_t graph_size;
    void *graph_memory; /* of tensors' descriptions */
    size_t graph_memory_size;
    size_t *prompt_counts; /* of each slot */
    int32_t *cross_cells;  /* for each slot: its cells of the cross caches */
    struct attend_job self_job, cross_job;
    const int32_t **self_lists, **cross_lists; /* the jobs' memory */
    size_t *self_counts, *cross_counts;
    int32_t *own;
    void (*set_threads)(ggml_backend_t backend, int count);
    void (*set_pool)(ggml_backend_t backend, struct ggml_threadpool *pool);
};

/* Tensors that the caller fills once there is memory; used where cells are gathered. */
struct gathered {
    struct ggml_tensor *cells; /* [most × rows] */
    struct ggml_tensor *mask;  /* [most, 1, 1, rows] */
    struct ggml_tensor *own;   /* i64 [rows]; NULL: nothing to store */
    size_t most;
};

struct build {
    const struct bb_model *model;
    struct bb_runner *runner;
    struct ggml_context *context;
    struct ggml_cgraph *graph;
    size_t rows;
    struct ggml_tensor *ids, *positions;
    struct gathered self, cross;
};

/* ---- parts of both graphs ---- */

static struct ggml_tensor *linear(struct build *build, const struct bb_linear *layer,
                                  struct ggml_tensor *x)
{
    if (layer->packed)
        return packed_op(build->context, layer->weight, layer->bias, x);
    return ggml_add(build->context, ggml_mul_mat(build->context, layer->weight, x), layer->bias);
}

static struct ggml_tensor *normalise(struct build *build, const struct bb_norm *norm,
                                     struct ggml_tensor *x)
{
    x = ggml_norm(build->context, x, build->model->norm_epsilon);
    return ggml_add(build->context, ggml_mul(build->context, x, norm->weight), norm->bias);
}

/* ½x(1 + tanh(√(2/π)(x + 0.044715x³))), in full precision: ggml_gelu looks it up in halves. */
static struct ggml_tensor *gelu_tanh(struct ggml_context *context, struct ggml_tensor *x)
{
    struct ggml_tensor *cubic = ggml_scale_bias(context, ggml_sqr(context, x), 0.044715f, 1.0f);
    struct ggml_tensor *inner = ggml_scale(context, ggml_mul(context, cubic, x), 0.79788456f);
    struct ggml_tensor *gate = ggml_scale_bias(context, ggml_tanh(context, inner), 0.5f, 0.5f);
    return ggml_mul(context, gate, x);
}

static struct ggml_tensor *activate(struct build *build, struct ggml_tensor *x)
{
    switch (build->model->activation) {
    case BB_GELU_ERF:
        return build->runner->on_cpu ? gelu_erf_op(build->context, x)
                                     : ggml_gelu_erf(build->context, x);
    case BB_GELU_TANH:
        return gelu_tanh(build->context, x);
    case BB_RELU:
        return ggml_relu(build->context, x);
    case BB_SILU:
        return ggml_silu(build->context, x);
    }
    return x;
}

static struct ggml_tensor *feed_forward(struct build *build, const struct bb_block *block,
                                        struct ggml_tensor *x)
{
    struct ggml_tensor *inner = linear(build, &block->up, normalise(build, &block->ffn_norm, x));
    return ggml_add(build->context, x, linear(build, &block->down, activate(build, inner)));
}

static struct ggml_tensor *embed(struct build *build, const struct bb_side *side)
{
    struct ggml_context *context = build->context;
    const struct bb_model *model = build->model;
    build->ids = ggml_new_tensor_1d(context, GGML_TYPE_I32, (int64_t)build->rows);
    build->positions = ggml_new_tensor_1d(context, GGML_TYPE_I32, (int64_t)build->rows);
    ggml_set_input(build->ids);
    ggml_set_input(build->positions);
    struct ggml_tensor *x = ggml_get_rows(context, model->embeddings, build->ids);
    if (model->embed_scale != 1.0f)
        x = ggml_scale(context, x, model->embed_scale);
    return ggml_add(context, x, ggml_get_rows(context, side->positions, build->positions));
}

/* Columns from `from` on of a fused result, [width, rows]. */
static struct ggml_tensor *part_of(struct build *build, struct ggml_tensor *x, size_t index)
{
    size_t width = build->model->width;
    return ggml_view_2d(build->context, x, (int64_t)width, x->ne[1], x->nb[1],
                        index * width * sizeof(float));
}

/* ---- encoder ---- */

/* Every row looks at every row. */
static struct ggml_tensor *attend_all(struct build *build, struct ggml_tensor *qkv)
{
    struct ggml_context *context = build->context;
    int64_t width = (int64_t)build->model->width, rows = (int64_t)build->rows;
    int64_t heads = (int64_t)build->model->encoder.heads, size = width / heads;
    struct ggml_tensor *parts[3];
    for (size_t i = 0; i < 3; i++) {
        struct ggml_tensor *part = ggml_cont(context, part_of(build, qkv, i));
        parts[i] = ggml_reshape_3d(context, part, size, heads, rows);
    }
    struct ggml_tensor *query = ggml_permute(context, parts[0], 0, 2, 1, 3);
    struct ggml_tensor *keys = ggml_permute(context, parts[1], 0, 2, 1, 3);
    struct ggml_tensor *values = ggml_cont(context, ggml_permute(context, parts[2], 1, 2, 0, 3));
    struct ggml_tensor *weights = ggml_mul_mat(context, keys, query);
    weights = ggml_soft_max_ext(context, weights, NULL, 1.0f / sqrtf((float)size), 0);
    struct ggml_tensor *sum = ggml_mul_mat(context, values, weights);
    sum = ggml_permute(context, sum, 0, 2, 1, 3);
    return ggml_cont_2d(context, sum, width, rows);
}

static struct ggml_tensor *build_encoder(struct build *build, size_t slot)
{
    struct ggml_context *context = build->context;
    const struct bb_model *model = build->model;
    const struct bb_side *side = &model->encoder;
    struct ggml_tensor *x = embed(build, side);
    for (size_t i = 0; i < side->block_count; i++) {
        const struct bb_block *block = &side->blocks[i];
        struct ggml_tensor *qkv =
            linear(build, &block->qkv, normalise(build, &block->attn_norm, x));
        x = ggml_add(context, x, linear(build, &block->attn_out, attend_all(build, qkv)));
        x = feed_forward(build, block, x);
    }
    x = normalise(build, &side->norm, x);
    ggml_set_output(x);
    ggml_build_forward_expand(build->graph, x);
    for (size_t i = 0; i < model->decoder.block_count; i++) {
        struct ggml_tensor *kv = linear(build, &model->decoder.blocks[i].cross_kv, x);
        struct ggml_tensor *caches[] = {build->runner->cross[i].keys,
                                        build->runner->cross[i].values};
        for (size_t k = 0; k < 2; k++) {
            size_t offset = slot * model->positions * caches[k]->nb[1];
            struct ggml_tensor *place =
                ggml_view_2d(context, caches[k], (int64_t)model->width, (int64_t)build->rows,
                             caches[k]->nb[1], offset);
            ggml_build_forward_expand(build->graph,
                                      ggml_cpy(context, part_of(build, kv, k), place));
        }
    }
    return x;
}

/* ---- decoder ---- */

static void make_gathered(struct build *build, struct gathered *gathered, size_t most, bool store)
{
    struct ggml_context *context = build->context;
    int64_t rows = (int64_t)build->rows;
    gathered->most = most;
    gathered->cells = ggml_new_tensor_1d(context, GGML_TYPE_I32, (int64_t)most * rows);
    gathered->mask = ggml_new_tensor_4d(context, GGML_TYPE_F32, (int64_t)most, 1, 1, rows);
    ggml_set_input(gathered->cells);
    ggml_set_input(gathered->mask);
    if (store) {
        gathered->own = ggml_new_tensor_1d(context, GGML_TYPE_I64, rows);
        ggml_set_input(gathered->own);
    }
}

/* Attention by copies of the cells, for any backend. */
static struct ggml_tensor *attend_gathered(struct build *build, const struct gathered *gathered,
                                           struct ggml_tensor *query, const struct cache *cache)
{
    struct ggml_context *context = build->context;
    int64_t width = (int64_t)build->model->width, rows = (int64_t)build->rows;
    int64_t heads = (int64_t)build->model->decoder.heads, size = width / heads;
    int64_t most = (int64_t)gathered->most;
    struct ggml_tensor *keys = cache->keys, *values = cache->values;
    if (gathered->own != NULL) {
        struct ggml_tensor *key = ggml_cont(context, part_of(build, query, 1));
        struct ggml_tensor *value = ggml_cont(context, part_of(build, query, 2));
        keys = ggml_set_rows(context, keys, key, gathered->own);
        values = ggml_set_rows(context, values, value, gathered->own);
        query = ggml_cont(context, part_of(build, query, 0));
    }
    keys = ggml_get_rows(context, keys, gathered->cells);
    values = ggml_get_rows(context, values, gathered->cells);
    keys =
        ggml_permute(context, ggml_reshape_4d(context, keys, size, heads, most, rows), 0, 2, 1, 3);
    values = ggml_reshape_4d(context, values, size, heads, most, rows);
    values = ggml_cont(context, ggml_permute(context, values, 1, 2, 0, 3));
    query = ggml_reshape_4d(context, query, size, 1, heads, rows);
    struct ggml_tensor *weights = ggml_mul_mat(context, keys, query);
    weights = ggml_soft_max_ext(context, weights, gathered->mask, 1.0f / sqrtf((float)size), 0);
    struct ggml_tensor *sum = ggml_mul_mat(context, values, weights);
    return ggml_reshape_2d(context, sum, width, rows);
}

static struct ggml_tensor *attend_cached(struct build *build, struct attend_job *job,
                                         const struct gathered *gathered, struct ggml_tensor *query,
                                         const struct cache *cache)
{
    if (build->runner->config.gather)
        return attend_gathered(build, gathered, query, cache);
    return attend_op(build->context, query, cache->keys, cache->values, job);
}

static struct ggml_tensor *build_decoder(struct build *build)
{
    struct ggml_context *context = build->context;
    struct bb_runner *runner = build->runner;
    const struct bb_model *model = build->model;
    const struct bb_side *side = &model->decoder;
    struct ggml_tensor *x = embed(build, side);
    if (runner->config.gather) {
        make_gathered(build, &build->self, runner->self_job.most, true);
        make_gathered(build, &build->cross, runner->cross_job.most, false);
    }
    for (size_t i = 0; i < side->block_count; i++) {
        const struct bb_block *block = &side->blocks[i];
        struct ggml_tensor *qkv =
            linear(build, &block->qkv, normalise(build, &block->attn_norm, x));
        struct ggml_tensor *seen =
            attend_cached(build, &runner->self_job, &build->self, qkv, &runner->self[i]);
        x = ggml_add(context, x, linear(build, &block->attn_out, seen));
        struct ggml_tensor *query =
            linear(build, &block->cross_q, normalise(build, &block->cross_norm, x));
        seen = attend_cached(build, &runner->cross_job, &build->cross, query, &runner->cross[i]);
        x = ggml_add(context, x, linear(build, &block->cross_out, seen));
        x = feed_forward(build, block, x);
    }
    x = normalise(build, &side->norm, x);
    x = linear(build, &model->head, x);
    ggml_set_output(x);
    ggml_build_forward_expand(build->graph, x);
    return x;
}

/* ---- running ---- */

static enum err begin(struct bb_runner *runner, size_t rows, struct build *build)
{
    struct ggml_init_params params = {.mem_size = runner->graph_memory_size,
                                      .mem_buffer = runner->graph_memory,
                                      .no_alloc = true};
    *build = (struct build){.model = runner->model, .runner = runner, .rows = rows};
    build->context = ggml_init(params);
    if (build->context == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    build->graph = ggml_new_graph_custom(build->context, runner->graph_size, false);
    return ERR_OK;
}

static enum err allocate(struct bb_runner *runner, struct build *build)
{
    if (!ggml_gallocr_alloc_graph(runner->allocator, build->graph))
        return err_set(ERR_NOMEM, "no memory to compute %zu rows", build->rows);
    return ERR_OK;
}

static enum err compute(struct bb_runner *runner, struct build *build)
{
    enum ggml_status status = ggml_backend_graph_compute(runner->backend, build->graph);
    if (status != GGML_STATUS_SUCCESS)
        return err_set(ERR_INTERNAL, "the model runtime failed (%s)",
                       ggml_status_to_string(status));
    return ERR_OK;
}

enum err bb_runner_encode(struct bb_runner *runner, size_t slot, const int32_t *ids, size_t count,
                          float *states)
{
    struct build build;
    enum err err = begin(runner, count, &build);
    if (err != ERR_OK)
        return err;
    struct ggml_tensor *out = build_encoder(&build, slot);
    err = allocate(runner, &build);
    if (err == ERR_OK) {
        ggml_backend_tensor_set(build.ids, ids, 0, count * sizeof *ids);
        for (size_t i = 0; i < count; i++) {
            int32_t position = (int32_t)i;
            ggml_backend_tensor_set(build.positions, &position, i * sizeof position,
                                    sizeof position);
        }
        err = compute(runner, &build);
    }
    if (err == ERR_OK && states != NULL)
        ggml_backend_tensor_get(out, states, 0, count * runner->model->width * sizeof *states);
    if (err == ERR_OK)
        runner->prompt_counts[slot] = count;
    ggml_free(build.context);
    return err;
}

/* What each row of the step looks at, into the jobs. */
static void fill_jobs(struct bb_runner *runner, const struct bb_row *rows, size_t count)
{
    runner->self_job.most = runner->cross_job.most = 1;
    for (size_t i = 0; i < count; i++) {
        const struct bb_row *row = &rows[i];
        runner->own[i] = row->cell;
        runner->self_lists[i] = row->cells;
        runner->self_counts[i] = row->position + 1;
        runner->cross_lists[i] = runner->cross_cells + row->slot * runner->model->positions;
        runner->cross_counts[i] = runner->prompt_counts[row->slot];
        if (runner->self_counts[i] > runner->self_job.most)
            runner->self_job.most = runner->self_counts[i];
        if (runner->cross_counts[i] > runner->cross_job.most)
            runner->cross_job.most = runner->cross_counts[i];
    }
}

/* The job's tables as tensors; places a row does not use hold its first cell, masked. */
static enum err fill_gathered(const struct gathered *gathered, const struct attend_job *job,
                              size_t rows)
{
    size_t most = gathered->most;
    int32_t *cells = malloc(rows * most * sizeof *cells);
    float *mask = malloc(rows * most * sizeof *mask);
    int64_t *own = malloc(rows * sizeof *own);
    enum err err = ERR_OK;
    if (cells == NULL || mask == NULL || own == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    for (size_t row = 0; row < rows; row++) {
        for (size_t i = 0; i < most; i++) {
            bool used = i < job->counts[row];
            cells[row * most + i] = job->cells[row][used ? i : 0];
            mask[row * most + i] = used ? 0 : -INFINITY;
        }
        own[row] = job->own != NULL ? job->own[row] : 0;
    }
    ggml_backend_tensor_set(gathered->cells, cells, 0, rows * most * sizeof *cells);
    ggml_backend_tensor_set(gathered->mask, mask, 0, rows * most * sizeof *mask);
    if (gathered->own != NULL)
        ggml_backend_tensor_set(gathered->own, own, 0, rows * sizeof *own);
out:
    free(own);
    free(mask);
    free(cells);
    return err;
}

static enum err fill_step(struct bb_runner *runner, struct build *build, const struct bb_row *rows)
{
    for (size_t i = 0; i < build->rows; i++) {
        int32_t position = (int32_t)rows[i].position;
        ggml_backend_tensor_set(build->ids, &rows[i].token, i * sizeof position, sizeof position);
        ggml_backend_tensor_set(build->positions, &position, i * sizeof position, sizeof position);
    }
    if (!runner->config.gather)
        return ERR_OK;
    enum err err = fill_gathered(&build->self, &runner->self_job, build->rows);
    return err == ERR_OK ? fill_gathered(&build->cross, &runner->cross_job, build->rows) : err;
}

enum err bb_runner_decode(struct bb_runner *runner, const struct bb_row *rows, size_t count,
                          float *scores)
{
    struct build build;
    enum err err = begin(runner, count, &build);
    if (err != ERR_OK)
        return err;
    fill_jobs(runner, rows, count);
    struct ggml_tensor *out = build_decoder(&build);
    err = allocate(runner, &build);
    if (err == ERR_OK)
        err = fill_step(runner, &build, rows);
    if (err == ERR_OK)
        err = compute(runner, &build);
    if (err == ERR_OK)
        ggml_backend_tensor_get(out, scores, 0, count * runner->model->vocab_size * sizeof *scores);
    ggml_free(build.context);
    return err;
}

/* ---- making and freeing ---- */

static enum err make_caches(struct bb_runner *runner)
{
    const struct bb_model *model = runner->model;
    size_t blocks = model->decoder.block_count, cross = runner->config.slots * model->positions;
    size_t self = cross * runner->config.beams;
    if (self > INT32_MAX)
        return err_set(ERR_USAGE, "too many --slots for this model");
    struct ggml_init_params params = {.mem_size = blocks * 4 * ggml_tensor_overhead(),
                                      .no_alloc = true};
    runner->cache_context = ggml_init(params);
    runner->self = calloc(blocks, sizeof *runner->self);
    runner->cross = calloc(blocks, sizeof *runner->cross);
    if (runner->cache_context == NULL || runner->self == NULL || runner->cross == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < blocks; i++) {
        struct ggml_tensor **made[] = {&runner->self[i].keys, &runner->self[i].values,
                                       &runner->cross[i].keys, &runner->cross[i].values};
        for (size_t k = 0; k < 4; k++)
            *made[k] = ggml_new_tensor_2d(runner->cache_context, GGML_TYPE_F32,
                                          (int64_t)model->width, (int64_t)(k < 2 ? self : cross));
    }
    runner->cache_buffer = ggml_backend_alloc_ctx_tensors(runner->cache_context, runner->backend);
    if (runner->cache_buffer == NULL)
        return err_set(ERR_NOMEM, "no memory for %zu slots: use fewer --slots",
                       runner->config.slots);
    return ERR_OK;
}

static enum err make_tables(struct bb_runner *runner)
{
    size_t rows = runner->rows_most, cross = runner->config.slots * runner->model->positions;
    runner->prompt_counts = calloc(runner->config.slots, sizeof *runner->prompt_counts);
    runner->cross_cells = calloc(cross, sizeof *runner->cross_cells);
    runner->self_lists = calloc(rows, sizeof *runner->self_lists);
    runner->cross_lists = calloc(rows, sizeof *runner->cross_lists);
    runner->self_counts = calloc(rows, sizeof *runner->self_counts);
    runner->cross_counts = calloc(rows, sizeof *runner->cross_counts);
    runner->own = calloc(rows, sizeof *runner->own);
    runner->graph_memory = malloc(runner->graph_memory_size);
    if (runner->prompt_counts == NULL || runner->cross_cells == NULL ||
        runner->self_lists == NULL || runner->cross_lists == NULL || runner->self_counts == NULL ||
        runner->cross_counts == NULL || runner->own == NULL || runner->graph_memory == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < cross; i++)
        runner->cross_cells[i] = (int32_t)i;
    size_t heads = runner->model->decoder.heads;
    runner->self_job = (struct attend_job){
        .heads = heads,
        .cells = runner->self_lists,
        .counts = runner->self_counts,
        .own = runner->own,
    };
    runner->cross_job = (struct attend_job){
        .heads = heads,
        .cells = runner->cross_lists,
        .counts = runner->cross_counts,
    };
    return ERR_OK;
}

/* How the backend is told about threads, where it has any. */
static void find_settings(struct bb_runner *runner, ggml_backend_reg_t reg)
{
    typedef void threads_fn(ggml_backend_t backend, int count);
    typedef void pool_fn(ggml_backend_t backend, struct ggml_threadpool * pool);
    runner->set_threads =
        (threads_fn *)ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    runner->set_pool =
        (pool_fn *)ggml_backend_reg_get_proc_address(reg, "ggml_backend_cpu_set_threadpool");
}

enum err bb_runner_open(struct bb_runner **out, const struct bb_model *model,
                        ggml_backend_t backend, const struct bb_runner_config *config)
{
    struct bb_runner *runner = calloc(1, sizeof *runner);
    if (runner == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    runner->model = model;
    runner->backend = backend;
    runner->config = *config;
    runner->on_cpu = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    if (!runner->on_cpu)
        runner->config.gather = true;
    find_settings(runner, ggml_backend_dev_backend_reg(device));
    size_t beams = config->beams > model->positions ? config->beams : model->positions;
    runner->rows_most = config->slots * beams;
    size_t blocks = model->encoder.block_count + model->decoder.block_count;
    runner->graph_size = blocks * NODES_A_BLOCK + NODES_OTHER;
    runner->graph_memory_size = runner->graph_size * ggml_tensor_overhead() +
                                ggml_graph_overhead_custom(runner->graph_size, false);
    runner->allocator = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
    enum err err =
        runner->allocator != NULL ? make_caches(runner) : err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK)
        err = make_tables(runner);
    if (err != ERR_OK) {
        bb_runner_close(runner);
        return err;
    }
    *out = runner;
    return ERR_OK;
}

void bb_runner_close(struct bb_runner *runner)
{
    if (runner == NULL)
        return;
    if (runner->allocator != NULL)
        ggml_gallocr_free(runner->allocator);
    if (runner->cache_buffer != NULL)
        ggml_backend_buffer_free(runner->cache_buffer);
    if (runner->cache_context != NULL)
        ggml_free(runner->cache_context);
    free(runner->self);
    free(runner->cross);
    free(runner->prompt_counts);
    free(runner->cross_cells);
    free(runner->self_lists);
    free(runner->cross_lists);
    free(runner->self_counts);
    free(runner->cross_counts);
    free(runner->own);
    free(runner->graph_memory);
    free(runner);
}

int32_t bb_runner_cell(const struct bb_runner *runner, size_t slot, size_t beam, size_t position)
{
    return (int32_t)((slot * runner->config.beams + beam) * runner->model->positions + position);
}

uint64_t bb_runner_cache_bytes(const struct bb_runner *runner)
{
    return ggml_backend_buffer_get_size(runner->cache_buffer);
}

uint64_t bb_runner_scratch_bytes(const struct bb_runner *runner)
{
    return ggml_gallocr_get_buffer_size(runner->allocator, 0);
}

void bb_runner_set_threads(struct bb_runner *runner, unsigned threads, struct ggml_threadpool *pool)
{
    if (runner->set_pool != NULL)
        runner->set_pool(runner->backend, pool);
    if (runner->set_threads != NULL)
        runner->set_threads(runner->backend, (int)threads);
}
