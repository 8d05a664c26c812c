/*
 * generate.c - one prompt straight through the engine: no service, no broker.
 */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "config/settings.h"
#include "engine/engine.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define PROMPT_MAX ((size_t)16 << 20)
#define REPLY_MAX  ((size_t)64 << 20)
#define STOP_MAX   16

struct run {
    struct buf prompt, text, tokens; /* tokens: int32_t */
    json_t *params;                  /* of --params; the stop strings live in it */
    const char *stop[STOP_MAX];
    bool stream;
    double load_ms;
    struct engine_event last; /* its pointers are not used */
};

static enum err join_words(struct buf *out, int argc, char **argv)
{
    enum err err = ERR_OK;
    for (int i = 0; i < argc && err == ERR_OK; i++) {
        err = buf_append_text(out, argv[i]);
        if (err == ERR_OK && i + 1 < argc)
            err = buf_append_text(out, " ");
    }
    if (err == ERR_OK && out->len == 0)
        return err_set(ERR_USAGE, "there is no prompt: wyvern generate \"…\"");
    return err;
}

static enum err read_stop(struct run *run, const json_t *value, struct engine_params *params)
{
    bool one = json_is_string(value);
    size_t count = one ? 1 : json_array_size(value);
    if ((!one && !json_is_array(value)) || count > STOP_MAX)
        return err_set(ERR_USAGE, "--params: stop must be a text or at most %d texts", STOP_MAX);
    for (size_t i = 0; i < count; i++) {
        run->stop[i] = json_string_value(one ? value : json_array_get(value, i));
        if (run->stop[i] == NULL)
            return err_set(ERR_USAGE, "--params: stop must be a text or a list of texts");
    }
    params->stop = run->stop;
    params->stop_count = count;
    return ERR_OK;
}

static enum err read_count(const char *key, const json_t *value, json_int_t max, json_int_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > max)
        return err_set(ERR_USAGE, "--params: %s must be a whole number, not negative", key);
    *out = json_integer_value(value);
    return ERR_OK;
}

static enum err read_param(struct run *run, const char *key, const json_t *value,
                           struct engine_params *params)
{
    json_int_t count = 0;
    if (strcmp(key, "stop") == 0)
        return read_stop(run, value, params);
    if (strcmp(key, "temperature") == 0 || strcmp(key, "top_p") == 0) {
        if (!json_is_number(value))
            return err_set(ERR_USAGE, "--params: %s must be a number", key);
        float number = (float)json_number_value(value);
        *(strcmp(key, "top_p") == 0 ? &params->top_p : &params->temperature) = number;
        return ERR_OK;
    }
    if (strcmp(key, "seed") == 0) {
        enum err err = read_count(key, value, INT64_MAX, &count);
        if (err == ERR_OK)
            params->seed = count;
        return err;
    }
    const struct {
        const char *key;
        int *field;
    } counts[] = {{"max_tokens", &params->max_tokens},
                  {"min_tokens", &params->min_tokens},
                  {"top_k", &params->top_k}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (strcmp(key, counts[i].key) != 0)
            continue;
        enum err err = read_count(key, value, INT_MAX, &count);
        if (err == ERR_OK)
            *counts[i].field = (int)count;
        return err;
    }
    return err_set(ERR_USAGE,
                   "--params: \"%.40s\" is none of max_tokens, min_tokens, temperature, top_p, "
                   "top_k, seed, stop",
                   key);
}

/* From the flags, then --params. */
static enum err read_params(struct run *run, const struct settings *settings,
                            struct engine_params *params)
{
    *params = engine_params_default();
    params->min_tokens = settings->min_tokens;
    params->max_tokens = settings->max_tokens;
    params->temperature = (float)settings->temperature;
    params->top_p = (float)settings->top_p;
    params->top_k = settings->top_k;
    params->seed = settings->seed;
    if (settings->params == NULL)
        return ERR_OK;
    enum err err = json_parse(&run->params, settings->params, strlen(settings->params));
    if (err != ERR_OK)
        return err_prefix(ERR_USAGE, "--params");
    if (!json_is_object(run->params))
        return err_set(ERR_USAGE, "--params must be a JSON object");
    const char *key;
    json_t *value;
    json_object_foreach(run->params, key, value)
    {
        err = read_param(run, key, value, params);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err take_event(struct run *run, const struct engine_event *event)
{
    enum err err = buf_append(&run->tokens, event->tokens, event->token_count * sizeof(int32_t));
    if (err == ERR_OK && event->text != NULL) {
        err = buf_append(&run->text, event->text, event->text_len);
        if (run->stream && !term_words(NULL, event->text, event->text_len))
            return err_set(ERR_IO, "standard output was closed");
    }
    if (err == ERR_OK && event->last) {
        run->last = *event;
        if (event->error != ERR_OK)
            err = err_set(event->error, "%s", event->error_text);
    }
    return err;
}

static enum err generate(struct run *run, struct engine *engine,
                         const struct engine_request *request)
{
    enum err err = engine_start(engine, request);
    while (err == ERR_OK && engine_active(engine) > 0) {
        struct engine_event event;
        size_t count = 0;
        int64_t due_ns = engine_due_ns(engine), now_ns = clock_mono_ns();
        if (due_ns > now_ns) {
            struct timespec pause = {.tv_sec = (time_t)((due_ns - now_ns) / NS_PER_S),
                                     .tv_nsec = (long)((due_ns - now_ns) % NS_PER_S)};
            nanosleep(&pause, NULL);
        }
        err = engine_step(engine, &event, &count);
        if (err == ERR_OK && count > 0)
            err = take_event(run, &event);
    }
    return err;
}

static json_t *list_ids(const int32_t *ids, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

/* The names are llama-server's. */
static json_t *list_timings(const struct run *run)
{
    const struct engine_event *last = &run->last;
    double prompt_ms = last->timings.prompt_ms, decode_ms = last->timings.decode_ms;
    unsigned computed = last->prompt_tokens - last->cached_tokens;
    unsigned decoded = last->reply_tokens > 0 ? last->reply_tokens - 1 : 0; /* after the first */
    return json_pack("{s:f, s:i, s:i, s:f, s:f, s:i, s:f, s:f}", "load_ms", run->load_ms, "cache_n",
                     (int)last->cached_tokens, "prompt_n", (int)computed, "prompt_ms", prompt_ms,
                     "prompt_per_second", prompt_ms > 0 ? computed * 1000 / prompt_ms : 0,
                     "predicted_n", (int)last->reply_tokens, "predicted_ms", decode_ms,
                     "predicted_per_second", decode_ms > 0 ? decoded * 1000 / decode_ms : 0);
}

static enum err print_json(const struct run *run, struct engine *engine,
                           const struct engine_request *request)
{
    int32_t *ids = NULL;
    size_t count = 0;
    enum err err = engine_tokenize(engine, request, &ids, &count);
    if (err != ERR_OK)
        return err;
    struct buf out;
    buf_init(&out, REPLY_MAX * 8);
    const int32_t *reply = (const int32_t *)(const void *)run->tokens.data;
    json_t *root = json_pack("{s:o, s:o, s:s%, s:s?, s:o}", "input_ids", list_ids(ids, count),
                             "output_ids", list_ids(reply, run->tokens.len / sizeof *reply), "text",
                             buf_text(&run->text), run->text.len, "finish_reason",
                             engine_finish_name(run->last.finish), "timings", list_timings(run));
    err = root == NULL ? err_set(ERR_NOMEM, "out of memory") : json_write(root, &out);
    if (err == ERR_OK)
        printf("%s\n", buf_text(&out));
    json_decref(root);
    buf_done(&out);
    free(ids);
    return err;
}

static enum err open_engine(struct engine **out, const struct settings *settings, double *load_ms)
{
    char path[PATH_MAX];
    struct engine_config config = {
        .model = settings->model,
        .device = settings->device,
        .chat_template = settings->chat_template,
        .slots = 1,
        .context = settings->context > 0 ? (unsigned)settings->context : 0,
        .threads = settings->threads > 0 ? (unsigned)settings->threads : 0,
    };
    if (config.model == NULL || strncmp(config.model, "fake:", 5) != 0) {
        enum err err = model_find(path, settings->model, NULL);
        if (err != ERR_OK)
            return err;
        config.model = path;
    }
    int64_t start_ns = clock_mono_ns();
    enum err err = engine_open(out, &config);
    *load_ms = (double)(clock_mono_ns() - start_ns) / (double)NS_PER_MS;
    return err;
}

int verb_generate(const struct settings *settings, int argc, char **argv)
{
    struct run run = {.stream = !settings->json};
    struct engine *engine = NULL;
    buf_init(&run.prompt, PROMPT_MAX);
    buf_init(&run.text, REPLY_MAX);
    buf_init(&run.tokens, REPLY_MAX);
    struct engine_message messages[2];
    struct engine_request request = {.messages = messages};
    engine_log_init();
    enum err err = join_words(&run.prompt, argc, argv);
    if (err == ERR_OK)
        err = read_params(&run, settings, &request.params);
    if (err != ERR_OK)
        goto out;
    if (settings->system != NULL)
        messages[request.message_count++] = (struct engine_message){"system", settings->system};
    messages[request.message_count++] = (struct engine_message){"user", buf_text(&run.prompt)};
    err = open_engine(&engine, settings, &run.load_ms);
    if (err == ERR_OK)
        err = generate(&run, engine, &request);
    if (run.stream && run.text.len > 0)
        term_words(NULL, "\n", 1);
    if (err == ERR_OK && settings->json)
        err = print_json(&run, engine, &request);
out:
    engine_close(engine);
    json_decref(run.params);
    buf_done(&run.tokens);
    buf_done(&run.text);
    buf_done(&run.prompt);
    return err == ERR_OK ? term_finish(0) : term_fail(err);
}
