/*
 * llama_task.c - what a decoder model is asked for besides replies: tokens of a text, the text of
 * tokens, the text of a chat, and embeddings.
 *
 * Embeddings come from a second context, made when first asked for, with room for one text.  Texts
 * are computed one by one, a chunk a step.  A vector is the mean of all tokens' last hidden states,
 * or what the model's file names as its pooling.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/llama_engine.h"

#define CHUNK        128 /* tokens; the runtime computes scores along, which take memory for each */
#define CONTEXT_STEP 256
#define IDS_LIMIT    ((size_t)1 << 26)
#define TEXT_LIMIT   ((size_t)1 << 26)

void llama_task_done(struct llama_slot *slot)
{
    struct llama_task *task = slot->task;
    if (task == NULL)
        return;
    for (size_t i = 0; task->inputs != NULL && i < task->input_count; i++)
        free(task->inputs[i]);
    free(task->inputs);
    free(task->sum);
    buf_done(&task->ids);
    task_result_done(&task->result);
    free(task);
    slot->task = NULL;
}

/* ---- texts and tokens ---- */

static enum err split_text(struct llama_engine *llama, struct llama_task *task, const char *text)
{
    struct buf ids;
    buf_init(&ids, IDS_LIMIT);
    enum err err = llama_text_tokens(llama, text, "content", false, &ids);
    for (size_t at = 0; at < ids.len && err == ERR_OK; at += sizeof(int32_t)) {
        char word[LLAMA_PIECE_MAX];
        size_t len = 0;
        int32_t id;
        memcpy(&id, ids.data + at, sizeof id);
        err = llama_token_text(llama, id, true, word, &len);
        if (err == ERR_OK)
            err = task_add_token(&task->result, id, word, len);
    }
    task->result.prompt_tokens = (unsigned)(ids.len / sizeof(int32_t));
    buf_done(&ids);
    return err;
}

static enum err join_tokens(struct llama_engine *llama, struct llama_task *task,
                            const struct engine_request *request)
{
    size_t count = request->resume_token_count;
    for (size_t i = 0; i < count; i++) {
        int32_t token = request->resume_tokens[i];
        if (token < 0 || (size_t)token >= llama->vocab_size)
            return err_set(ERR_INVALID, "tokens has %d, which the model has not", token);
    }
    task->result.prompt_tokens = (unsigned)count;
    if (count == 0)
        return task_add_text(&task->result, "", 0);
    int32_t most = 0;
    for (char *text = NULL;;) {
        int32_t len = llama_detokenize(llama->vocab, request->resume_tokens, (int32_t)count, text,
                                       most, false, true);
        if (len >= 0) {
            enum err err = task_add_text(&task->result, text != NULL ? text : "", (size_t)len);
            free(text);
            return err;
        }
        free(text);
        if (-len <= most || (size_t)-len > TEXT_LIMIT)
            return err_set(ERR_LIMIT, "tokens make up too long a text");
        most = -len;
        text = malloc((size_t)most);
        if (text == NULL)
            return err_set(ERR_NOMEM, "out of memory");
    }
}

static enum err write_prompt(struct llama_engine *llama, struct llama_task *task,
                             const struct engine_request *request)
{
    struct buf text;
    buf_init(&text, TEXT_LIMIT);
    enum err err = llama_prompt_text(llama, request, &text);
    if (err == ERR_OK)
        err = task_add_text(&task->result, buf_text(&text), text.len);
    buf_done(&text);
    return err;
}

/* ---- embeddings ---- */

/* *named: the file says something. */
static enum err read_pooling(struct llama_engine *llama, bool *named)
{
    char key[64], text[16];
    snprintf(key, sizeof key, "%s.pooling_type", llama->base.info.arch);
    llama->embed_pooling = LLAMA_POOLING_TYPE_MEAN;
    *named = llama_model_meta_val_str(llama->model, key, text, sizeof text) > 0;
    if (*named)
        llama->embed_pooling = (int)strtol(text, NULL, 10);
    if (llama->embed_pooling == LLAMA_POOLING_TYPE_NONE)
        llama->embed_pooling = LLAMA_POOLING_TYPE_MEAN;
    if (llama->embed_pooling != LLAMA_POOLING_TYPE_MEAN &&
        llama->embed_pooling != LLAMA_POOLING_TYPE_CLS &&
        llama->embed_pooling != LLAMA_POOLING_TYPE_LAST)
        return err_set(ERR_UNSUPPORTED, "model gives no embeddings: it ranks texts");
    return ERR_OK;
}

static enum err open_embedder(struct llama_engine *llama)
{
    if (llama->embedder != NULL)
        return ERR_OK;
    bool named;
    enum err err = read_pooling(llama, &named);
    if (err != ERR_OK)
        return err;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (llama->base.info.context + CONTEXT_STEP - 1) / CONTEXT_STEP * CONTEXT_STEP;
    params.n_seq_max = 1;
    params.n_batch = params.n_ubatch = CHUNK;
    params.n_outputs_max_per_seq = CHUNK;
    params.n_threads = params.n_threads_batch = (int32_t)llama->threads;
    params.embeddings = true;
    if (named)
        params.pooling_type = LLAMA_POOLING_TYPE_NONE; /* a text is several batches: done here */
    params.no_perf = true;
    struct llama_context *made = llama_init_from_model(llama->model, params);
    if (made == NULL)
        return err_set(ERR_NOMEM, "no memory for computing embeddings");
    if (!llama_get_causal_attn(made)) {
        llama_free(made);
        return err_set(ERR_UNSUPPORTED, "model looks at texts from both ends: its embeddings are "
                                        "not supported");
    }
    llama->embed_batch = llama_batch_init(CHUNK, 0, 1);
    if (llama->embed_batch.token == NULL) {
        llama_free(made);
        return err_set(ERR_NOMEM, "out of memory");
    }
    llama->embedder = made;
    return ERR_OK;
}

static enum err copy_inputs(struct llama_engine *llama, struct llama_task *task,
                            const struct engine_request *request)
{
    size_t width = (size_t)llama_model_n_embd_out(llama->model);
    task->inputs = calloc(request->input_count, sizeof *task->inputs);
    task->sum = calloc(width, sizeof *task->sum);
    if (task->inputs == NULL || task->sum == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    task->input_count = request->input_count;
    for (size_t i = 0; i < task->input_count; i++) {
        task->inputs[i] = strdup(request->inputs[i]);
        if (task->inputs[i] == NULL)
            return err_set(ERR_NOMEM, "out of memory");
    }
    return task_add_vectors(&task->result, task->input_count, width);
}

/* Tokens of the text whose turn it is. */
static enum err begin_input(struct llama_engine *llama, struct llama_task *task)
{
    char what[32];
    snprintf(what, sizeof what, "input[%zu]", task->input);
    buf_clear(&task->ids);
    enum err err = llama_text_tokens(llama, task->inputs[task->input], what, true, &task->ids);
    if (err == ERR_OK && task->ids.len == 0)
        err = err_set(ERR_INVALID, "%s has no tokens", what);
    task->done = 0;
    memset(task->sum, 0, task->result.vector_size * sizeof *task->sum);
    task->result.prompt_tokens += (unsigned)(task->ids.len / sizeof(int32_t));
    return err;
}

/* One chunk's hidden states, from token `first` of `all`, into the sum. */
static enum err add_states(struct llama_engine *llama, struct llama_task *task, size_t first,
                           size_t count, size_t all)
{
    for (size_t i = 0; i < count; i++) {
        bool counts = llama->embed_pooling == LLAMA_POOLING_TYPE_MEAN ||
                      (llama->embed_pooling == LLAMA_POOLING_TYPE_CLS && first + i == 0) ||
                      (llama->embed_pooling == LLAMA_POOLING_TYPE_LAST && first + i + 1 == all);
        const float *state = counts ? llama_get_embeddings_ith(llama->embedder, (int32_t)i) : NULL;
        if (counts && state == NULL)
            return err_set(ERR_INTERNAL, "the model gave no hidden states");
        for (size_t k = 0; counts && k < task->result.vector_size; k++)
            task->sum[k] += (double)state[k];
    }
    return ERR_OK;
}

static enum err compute_chunk(struct llama_engine *llama, struct llama_task *task, size_t count)
{
    const int32_t *ids = (const int32_t *)(const void *)task->ids.data;
    size_t all = task->ids.len / sizeof *ids;
    struct llama_batch *batch = &llama->embed_batch;
    for (size_t i = 0; i < count; i++) {
        batch->token[i] = ids[task->done + i];
        batch->pos[i] = (llama_pos)(task->done + i);
        batch->n_seq_id[i] = 1;
        batch->seq_id[i][0] = 0;
        batch->logits[i] = 1;
    }
    batch->n_tokens = (int32_t)count;
    if (task->done == 0)
        llama_memory_clear(llama_get_memory(llama->embedder), false);
    unsigned threads = crowd_threads(&llama->crowd, (unsigned)count);
    struct ggml_threadpool *pool = pools_for(&llama->pools, threads);
    if (pool != NULL)
        llama_attach_threadpool(llama->embedder, pool, NULL);
    llama_set_n_threads(llama->embedder, (int32_t)threads, (int32_t)threads);
    int32_t status = llama_decode(llama->embedder, *batch);
    if (status != 0)
        return err_set(ERR_INTERNAL, "the model runtime failed (llama_decode: %d)", status);
    enum err err = add_states(llama, task, task->done, count, all);
    task->done += count;
    return err;
}

static enum err end_input(struct llama_task *task)
{
    size_t width = task->result.vector_size;
    float *vector = task->result.vectors + task->input * width;
    size_t count = task->ids.len / sizeof(int32_t);
    for (size_t i = 0; i < width; i++)
        vector[i] = (float)(task->sum[i] / (double)count); /* its length does not matter */
    task->input++;
    buf_clear(&task->ids);
    return task_normalise(vector, width);
}

enum err llama_task_step(struct llama_engine *llama, struct llama_slot *slot, size_t most,
                         bool *ended)
{
    struct llama_task *task = slot->task;
    enum err err = ERR_OK;
    if (most > CHUNK)
        most = CHUNK;
    if (task->ids.len == 0)
        err = begin_input(llama, task);
    size_t left = task->ids.len / sizeof(int32_t) - task->done;
    if (err == ERR_OK)
        err = compute_chunk(llama, task, left < most ? left : most);
    if (err == ERR_OK && task->done == task->ids.len / sizeof(int32_t))
        err = end_input(task);
    *ended = task->input == task->input_count;
    return err;
}

enum err llama_task_start(struct llama_engine *llama, struct llama_slot *slot,
                          const struct engine_request *request)
{
    enum err err = ERR_OK;
    struct llama_task *task = calloc(1, sizeof *task);
    if (task == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    llama_task_done(slot);
    buf_init(&task->ids, IDS_LIMIT);
    task_result_init(&task->result);
    slot->task = task;
    switch (request->task) {
    case ENGINE_EMBED:
        err = open_embedder(llama);
        if (err == ERR_OK)
            err = copy_inputs(llama, task, request);
        break;
    case ENGINE_TOKENIZE:
        err = split_text(llama, task, request->raw_prompt);
        break;
    case ENGINE_DETOKENIZE:
        err = join_tokens(llama, task, request);
        break;
    case ENGINE_TEMPLATE:
        err = write_prompt(llama, task, request);
        break;
    case ENGINE_GENERATE:
        break;
    }
    if (err != ERR_OK)
        llama_task_done(slot);
    return err;
}
