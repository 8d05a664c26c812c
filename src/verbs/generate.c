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
#include "verbs/genparams.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define PROMPT_MAX ((size_t)16 << 20)
#define REPLY_MAX  ((size_t)64 << 20)

struct run {
    struct buf prompt, text, tokens; /* tokens: int32_t */
    struct genparams params;
    bool stream;
    json_t *logprobs; /* array: one entry a token, where they were asked for; else NULL */
    double load_ms;
    struct engine_event last; /* of its pointers, sequences and trace may be used: nothing calls
                                 the engine's start or step behind it */
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

static enum err take_logprobs(struct run *run, const struct engine_event *event)
{
    json_t *list = NULL;
    if (event->logprobs == NULL)
        return ERR_OK;
    enum err err = json_parse(&list, event->logprobs, event->logprobs_len);
    if (err == ERR_OK && run->logprobs == NULL)
        run->logprobs = json_array();
    if (err == ERR_OK && json_array_extend(run->logprobs, list) != 0)
        err = err_set(ERR_NOMEM, "out of memory");
    json_decref(list);
    return err;
}

static enum err take_event(struct run *run, const struct engine_event *event)
{
    enum err err = buf_append(&run->tokens, event->tokens, event->token_count * sizeof(int32_t));
    if (err == ERR_OK && event->text != NULL) {
        err = buf_append(&run->text, event->text, event->text_len);
        if (run->stream && !term_words(NULL, event->text, event->text_len))
            return err_set(ERR_IO, "standard output was closed");
    }
    if (err == ERR_OK)
        err = take_logprobs(run, event);
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

/* The names are those of the reference outputs. */
static enum err add_trace(json_t *root, const struct engine_trace *trace)
{
    json_t *first = json_array(), *top = json_array();
    for (size_t i = 0; i < ENGINE_TRACE_TOP; i++) {
        json_array_append_new(first, json_real((double)trace->encoder_first[i]));
        json_array_append_new(
            top, json_pack("[i, f]", (int)trace->top_ids[i], (double)trace->top_scores[i]));
    }
    json_t *all = json_pack("{s:f, s:o, s:o}", "encoder_mean", trace->encoder_mean,
                            "encoder_first8", first, "first_logits_top8", top);
    if (all == NULL || json_object_update(root, all) != 0)
        return err_set(ERR_NOMEM, "out of memory");
    json_decref(all);
    return ERR_OK;
}

/* What only some engines tell. */
static enum err add_extras(json_t *root, const struct engine_event *last)
{
    if (last->truncated_tokens > 0)
        json_object_set_new(root, "truncated_tokens", json_integer(last->truncated_tokens));
    if (last->sequence_count > 1) {
        json_t *all = json_array(), *texts = json_array();
        for (size_t i = 0; i < last->sequence_count; i++) {
            const struct engine_sequence *sequence = &last->sequences[i];
            json_array_append_new(all, list_ids(sequence->ids, sequence->count));
            json_array_append_new(texts, json_stringn(sequence->text, sequence->text_len));
        }
        json_object_set_new(root, "sequences", all);
        json_object_set_new(root, "texts", texts);
    }
    return last->trace != NULL ? add_trace(root, last->trace) : ERR_OK;
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
    size_t reply_count = run->tokens.len / sizeof *reply;
    if (run->last.sequence_count > 0) { /* with start and end token */
        reply = run->last.sequences[0].ids;
        reply_count = run->last.sequences[0].count;
    }
    json_t *root = json_pack("{s:o, s:o, s:s%, s:s?, s:o}", "input_ids", list_ids(ids, count),
                             "output_ids", list_ids(reply, reply_count), "text",
                             buf_text(&run->text), run->text.len, "finish_reason",
                             engine_finish_name(run->last.finish), "timings", list_timings(run));
    err = root == NULL ? err_set(ERR_NOMEM, "out of memory") : add_extras(root, &run->last);
    if (err == ERR_OK && run->logprobs != NULL)
        json_object_set(root, "logprobs", run->logprobs);
    if (err == ERR_OK)
        err = json_write(root, &out);
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
        err = genparams_read(&run.params, settings);
    if (err != ERR_OK)
        goto out;
    request.params = run.params.params;
    request.trace = settings->trace;
    request.truncate_left = run.params.asked.truncate == 1;
    if (settings->system != NULL)
        messages[request.message_count++] = (struct engine_message){"system", settings->system};
    messages[request.message_count++] = (struct engine_message){"user", buf_text(&run.prompt)};
    err = open_engine(&engine, settings, &run.load_ms);
    if (err == ERR_OK)
        err = generate(&run, engine, &request);
    if (run.stream && run.text.len > 0)
        term_words(NULL, "\n", 1);
    if (err == ERR_OK && !settings->json && !settings->quiet)
        term_truncated(run.last.truncated_tokens);
    if (err == ERR_OK && settings->json)
        err = print_json(&run, engine, &request);
out:
    engine_close(engine);
    genparams_done(&run.params);
    json_decref(run.logprobs);
    buf_done(&run.tokens);
    buf_done(&run.text);
    buf_done(&run.prompt);
    return err == ERR_OK ? term_finish(0) : term_fail(err);
}
