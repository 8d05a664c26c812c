/*
 * llama_open.c - loads a GGUF and makes a context for it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device.h"
#include "engine/llama_engine.h"
#include "engine/model_file.h"
#include "engine/runtime_log.h"
#include "sched/budget.h"
#include "wire/utf8.h"

#define CONTEXT_STEP 256 /* the runtime's caches come in multiples of this */

/* What is used where neither the request nor the model's file says anything. */
static const struct sample_params usual = {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40};

void llama_engine_close(struct engine *engine)
{
    struct llama_engine *llama = (struct llama_engine *)engine;
    if (llama == NULL)
        return;
    for (unsigned i = 0; llama->slots != NULL && i < llama->base.info.slots; i++) {
        free(llama->slots[i].tokens);
        emit_done(&llama->slots[i].emit);
        llama_asks_done(&llama->slots[i].asks);
        llama_task_done(&llama->slots[i]);
    }
    free(llama->slots);
    free(llama->views);
    free(llama->enders);
    free(llama->chat_template);
    sampler_done(&llama->sampler);
    grammar_words_done(&llama->words);
    buf_done(&llama->note);
    free(llama->shaped);
    free(llama->counts);
    free(llama->allowed);
    if (llama->embed_batch.token != NULL)
        llama_batch_free(llama->embed_batch);
    if (llama->embedder != NULL)
        llama_free(llama->embedder);
    if (llama->batch.token != NULL)
        llama_batch_free(llama->batch);
    if (llama->ctx != NULL)
        llama_free(llama->ctx);
    pools_close(&llama->pools);
    if (llama->model != NULL)
        llama_model_free(llama->model);
    free(llama);
}

/* The one GPU that is named, or no accelerator for "cpu…"; with room for the model. */
static enum err choose_devices(const struct engine_config *config, ggml_backend_dev_t only[2],
                               struct llama_model_params *params)
{
    ggml_backend_dev_t device;
    enum err err = device_find(&device, config->device);
    if (err != ERR_OK)
        return err;
    bool gpu = ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU;
    only[0] = gpu ? device : NULL;
    only[1] = NULL;
    params->devices = only;
    params->n_gpu_layers = gpu ? -1 : 0;
    return device_check_room(device, config->model);
}

static enum err load_model(struct llama_engine *llama, const struct engine_config *config,
                           struct runtime_facts *facts)
{
    ggml_backend_dev_t only[2];
    struct llama_model_params params = llama_model_default_params();
    enum err err = choose_devices(config, only, &params);
    if (err != ERR_OK)
        return err;
    params.check_tensors = true; /* else weights that are no numbers load */
    llama->model = llama_model_load_from_file(config->model, params);
    if (llama->model == NULL) {
        bool unknown = strstr(facts->complaint, "unknown model architecture") != NULL;
        return err_set(unknown ? ERR_UNSUPPORTED : ERR_INVALID, "can't load the model %s: %s",
                       config->model,
                       facts->complaint[0] != '\0' ? facts->complaint : "the file is broken");
    }
    if (!llama_model_has_decoder(llama->model) || llama_model_has_encoder(llama->model) ||
        llama_model_is_diffusion(llama->model))
        return err_set(ERR_UNSUPPORTED, "the model %s is of a kind that does not write text on",
                       config->model);
    llama->vocab = llama_model_get_vocab(llama->model);
    int32_t size = llama_vocab_n_tokens(llama->vocab);
    if (size < 2 || llama_vocab_type(llama->vocab) == LLAMA_VOCAB_TYPE_NONE)
        return err_set(ERR_INVALID, "the model %s has no vocabulary", config->model);
    llama->vocab_size = (size_t)size;
    return ERR_OK;
}

static enum err choose_template(struct llama_engine *llama, const char *name)
{
    const char *text = name != NULL ? name : llama_model_chat_template(llama->model, NULL);
    if (text == NULL)
        return err_set(ERR_UNSUPPORTED, "the model has no chat template: name the one it was "
                                        "trained with by --chat-template (chatml, llama3, …)");
    if (!llama_prompt_knows(text))
        return err_set(ERR_UNSUPPORTED,
                       name != NULL ? "the chat template %.64s is not known: --chat-template takes "
                                      "names like chatml, llama2, llama3, gemma, mistral-v7"
                                    : "the model's own chat template is not known (%.40s…): name "
                                      "a similar one by --chat-template (chatml, llama3, …)",
                       text);
    llama->chat_template = strdup(text);
    return llama->chat_template != NULL ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
}

static bool read_meta_number(const struct llama_model *model, enum llama_model_meta_key key,
                             double *out)
{
    char text[64], *end;
    const char *name = llama_model_meta_key_str(key);
    if (name == NULL || llama_model_meta_val_str(model, name, text, sizeof text) <= 0)
        return false;
    double number = strtod(text, &end);
    if (*end != '\0' || !isfinite(number) || number < 0)
        return false;
    *out = number;
    return true;
}

static void read_defaults(struct llama_engine *llama)
{
    double number;
    llama->defaults = usual;
    if (read_meta_number(llama->model, LLAMA_MODEL_META_KEY_SAMPLING_TEMP, &number))
        llama->defaults.temperature = (float)number;
    if (read_meta_number(llama->model, LLAMA_MODEL_META_KEY_SAMPLING_TOP_P, &number) && number <= 1)
        llama->defaults.top_p = (float)number;
    if (read_meta_number(llama->model, LLAMA_MODEL_META_KEY_SAMPLING_TOP_K, &number) &&
        number < 1e6)
        llama->defaults.top_k = (int)number;
}

static void fill_info(struct llama_engine *llama, const struct engine_config *config,
                      const struct model_file *file)
{
    struct engine_info *info = &llama->base.info;
    int len = llama_model_meta_val_str(llama->model, "general.name", info->name, sizeof info->name);
    if (len <= 0 || (size_t)len >= sizeof info->name || !utf8_is_valid(info->name, (size_t)len)) {
        const char *slash = strrchr(config->model, '/');
        snprintf(info->name, sizeof info->name, "%s", slash != NULL ? slash + 1 : config->model);
    }
    memcpy(info->arch, file->arch, sizeof info->arch);
    info->slots = config->slots;
    info->model_bytes = llama_model_size(llama->model);
}

static enum err choose_context(struct llama_engine *llama, unsigned wanted)
{
    int32_t own = llama_model_n_ctx_train(llama->model);
    if (own < 1)
        return err_set(ERR_INVALID, "the model says that it has no context");
    if (wanted > (unsigned)own)
        return err_set(ERR_USAGE, "the model's context is %d: --context can't be %u", own, wanted);
    unsigned most = own < ENGINE_AUTO_CTX ? (unsigned)own : ENGINE_AUTO_CTX;
    llama->base.info.context = wanted > 0 ? wanted : most;
    return ERR_OK;
}

static enum err make_context(struct llama_engine *llama, const struct engine_config *config)
{
    const struct engine_info *info = &llama->base.info;
    unsigned threads = pools_threads(config->threads);
    struct llama_context_params params = llama_context_default_params();
    unsigned padded = (info->context + CONTEXT_STEP - 1) / CONTEXT_STEP * CONTEXT_STEP;
    params.n_ctx = info->slots * padded;
    params.n_seq_max = info->slots;
    params.n_batch = BUDGET_STEP_TOKENS + info->slots;
    params.n_ubatch = BUDGET_STEP_TOKENS;
    params.n_outputs_max = info->slots; /* one row of scores for each */
    params.n_threads = (int32_t)threads;
    params.n_threads_batch = (int32_t)threads;
    params.kv_unified = false;
    params.no_perf = true;
    llama->ctx = llama_init_from_model(llama->model, params);
    if (llama->ctx == NULL || llama_n_ctx_seq(llama->ctx) < info->context)
        return err_set(ERR_NOMEM,
                       "no memory for %u slots of %u positions: use fewer --slots or a smaller "
                       "--context",
                       info->slots, info->context);
    pools_open(&llama->pools, threads);
    crowd_init(&llama->crowd, threads);
    llama->can_share =
        !llama_model_is_recurrent(llama->model) && !llama_model_is_hybrid(llama->model);
    llama->batch = llama_batch_init((int32_t)params.n_batch, 0, 1);
    return llama->batch.token != NULL ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
}

static enum err make_slots(struct llama_engine *llama)
{
    const struct engine_info *info = &llama->base.info;
    llama->slots = calloc(info->slots, sizeof *llama->slots);
    llama->views = calloc(info->slots, sizeof *llama->views);
    llama->enders = calloc(llama->vocab_size, sizeof *llama->enders);
    bool made = llama->slots != NULL && llama->views != NULL && llama->enders != NULL;
    for (unsigned i = 0; made && i < info->slots; i++) {
        llama->slots[i].tokens = calloc((size_t)info->context + 1, sizeof(int32_t));
        made = llama->slots[i].tokens != NULL;
    }
    if (!made)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < llama->vocab_size; i++) {
        if (llama_vocab_is_eog(llama->vocab, (int32_t)i))
            llama->enders[llama->ender_count++] = (int32_t)i;
    }
    return ERR_OK;
}

enum err llama_engine_open(struct engine **out, const struct engine_config *config)
{
    engine_log_init();
    struct model_file file;
    enum err err = model_file_check(&file, config->model);
    if (err != ERR_OK)
        return err;
    struct llama_engine *llama = calloc(1, sizeof *llama);
    if (llama == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    llama->base.ops = &llama_ops;
    if (ggml_backend_dev_count() == 0)
        ggml_backend_load_all();
    llama_backend_init();
    struct runtime_facts facts;
    runtime_log_collect(&facts);
    err = load_model(llama, config, &facts);
    if (err == ERR_OK)
        err = choose_template(llama, config->chat_template);
    if (err == ERR_OK)
        err = choose_context(llama, config->context);
    if (err == ERR_OK) {
        fill_info(llama, config, &file);
        read_defaults(llama);
        err = make_context(llama, config);
    }
    if (err == ERR_OK)
        err = make_slots(llama);
    runtime_log_release();
    if (err != ERR_OK) {
        llama_engine_close(&llama->base);
        return err;
    }
    llama->base.info.kv_bytes = facts.kv_bytes;
    llama->base.kv_positions = (size_t)llama->base.info.context * llama->base.info.slots;
    llama->base.info.compute_bytes = facts.compute_bytes;
    *out = &llama->base;
    return ERR_OK;
}
