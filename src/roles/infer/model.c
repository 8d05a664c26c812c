#include "roles/infer/model.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/queue.h"
#include "roles/infer/ask.h"

#define COMMANDS_MAX 4096
#define BATCHES_MAX  4096

enum command_kind { COMMAND_START, COMMAND_CANCEL, COMMAND_STOP };

struct command {
    enum command_kind kind;
    uint64_t job;
    const struct prompt *prompt;
    int32_t *tokens; /* resume, owned */
    size_t token_count, pieces;
    char *text; /* owned */
};

enum batch_kind { BATCH_LOADED, BATCH_FAILED, BATCH_EVENTS };

/* What goes to the loop: the events of one step, their texts behind them in the same memory. */
struct batch {
    enum batch_kind kind;
    enum err err;
    char text[512];
    size_t count;
    struct engine_event events[];
};

struct model_thread {
    pthread_t thread;
    struct queue *commands, *batches;
    struct loop_wake *wake;
    struct engine_config config;
    struct engine_info info;
    struct model_callbacks callbacks;
    struct engine *engine; /* the model thread's alone */
    /* struct engine_figures, written after each step, read by the loop: each for itself. */
    _Atomic double kv_used, prefill_s, decode_s;
};

/* ---- the model's thread ---- */

/*
 * A batch is one piece of memory: its events, then what they point to, the kinds with the widest
 * alignment first, each kind for all events.
 */
struct space { /* bytes, and then where the next of a kind goes */
    size_t sequences, pointers, numbers, texts;
};

static struct space space_for(const struct engine_event *events, size_t count)
{
    struct space space = {0};
    for (size_t i = 0; i < count; i++) {
        const struct engine_event *event = &events[i];
        space.texts += event->text != NULL ? event->text_len + 1 : 0;
        space.texts += event->error_text != NULL ? strlen(event->error_text) + 1 : 0;
        space.texts += event->logprobs != NULL ? event->logprobs_len : 0;
        space.numbers += event->token_count * sizeof(int32_t);
        space.numbers += event->vector_count * event->vector_size * sizeof(float);
        space.sequences += event->sequence_count * sizeof(struct engine_sequence);
        for (size_t k = 0; k < event->sequence_count; k++)
            space.texts += event->sequences[k].text_len;
        if (event->token_texts == NULL)
            continue;
        space.pointers += event->token_count * sizeof(char *);
        for (size_t k = 0; k < event->token_count; k++)
            space.texts += strlen(event->token_texts[k]) + 1;
    }
    return space;
}

/* Copies len bytes and what ends them to *at, and moves it on. */
static char *put(char **at, const void *data, size_t len)
{
    char *start = *at;
    if (len > 0)
        memcpy(start, data, len);
    *at += len;
    return start;
}

static void put_sequences(struct engine_event *event, char **at, char **texts)
{
    struct engine_sequence *sequences = (struct engine_sequence *)(void *)*at;
    put(at, event->sequences, event->sequence_count * sizeof *sequences);
    event->sequences = sequences;
    for (size_t i = 0; i < event->sequence_count; i++) {
        sequences[i].ids = NULL; /* not needed here */
        sequences[i].text = put(texts, sequences[i].text, sequences[i].text_len);
    }
}

static void put_token_texts(struct engine_event *event, char **at, char **texts)
{
    const char **copies = (const char **)(void *)*at;
    *at += event->token_count * sizeof *copies;
    for (size_t i = 0; i < event->token_count; i++)
        copies[i] = put(texts, event->token_texts[i], strlen(event->token_texts[i]) + 1);
    event->token_texts = copies;
}

static struct batch *batch_new(const struct engine_event *events, size_t count)
{
    struct space space = space_for(events, count);
    struct batch *batch = malloc(sizeof *batch + count * sizeof *events + space.sequences +
                                 space.pointers + space.numbers + space.texts);
    if (batch == NULL)
        abort(); /* out of memory in the middle of a step: the supervisor starts us afresh */
    *batch = (struct batch){.kind = BATCH_EVENTS, .count = count};
    if (count > 0)
        memcpy(batch->events, events, count * sizeof *events);
    char *sequences = (char *)(batch->events + count), *pointers = sequences + space.sequences,
         *numbers = pointers + space.pointers, *texts = numbers + space.numbers;
    for (size_t i = 0; i < count; i++) {
        struct engine_event *event = &batch->events[i];
        if (event->sequence_count > 0)
            put_sequences(event, &sequences, &texts);
        if (event->token_texts != NULL)
            put_token_texts(event, &pointers, &texts);
        event->tokens = (const int32_t *)(void *)put(&numbers, event->tokens,
                                                     event->token_count * sizeof(int32_t));
        if (event->vectors != NULL)
            event->vectors = (const float *)(void *)put(
                &numbers, event->vectors, event->vector_count * event->vector_size * sizeof(float));
        if (event->text != NULL) {
            event->text = put(&texts, event->text, event->text_len);
            *texts++ = '\0';
        }
        if (event->error_text != NULL)
            event->error_text = put(&texts, event->error_text, strlen(event->error_text) + 1);
        if (event->logprobs != NULL)
            event->logprobs = put(&texts, event->logprobs, event->logprobs_len);
    }
    return batch;
}

static void hand_over(struct model_thread *thread, struct batch *batch)
{
    /* The loop is behind by thousands of steps: wait for it rather than lose a piece. */
    const struct timespec pause = {.tv_nsec = NS_PER_MS};
    while (queue_push(thread->batches, batch) != ERR_OK)
        nanosleep(&pause, NULL);
}

static void hand_over_state(struct model_thread *thread, enum batch_kind kind, enum err err)
{
    struct batch *batch = batch_new(NULL, 0);
    batch->kind = kind;
    batch->err = err;
    if (err != ERR_OK)
        snprintf(batch->text, sizeof batch->text, "%s", err_text());
    hand_over(thread, batch);
}

/* One event that no step made: a start that failed, a cancellation confirmed. */
static void hand_over_end(struct model_thread *thread, uint64_t job, enum err err)
{
    const struct engine_event event = {
        .user = (void *)(uintptr_t)job, .last = true, .error = err, .error_text = err_text()};
    hand_over(thread, batch_new(&event, 1));
}

static enum err start(struct model_thread *thread, const struct command *command)
{
    struct ask ask;
    enum err err = ask_init(&ask, command->prompt);
    if (err == ERR_OK) {
        struct engine_request *request = &ask.request;
        request->user = (void *)(uintptr_t)command->job;
        if (command->pieces > 0) {
            request->resume_tokens = command->tokens;
            request->resume_token_count = command->token_count;
            request->resume_text = command->text;
            request->resume_pieces = command->pieces;
        }
        err = engine_start(thread->engine, request);
    }
    ask_done(&ask);
    return err;
}

/* False: the thread shall end. */
static bool obey(struct model_thread *thread, struct command *command)
{
    bool go_on = true;
    if (command->kind == COMMAND_START) {
        enum err err = start(thread, command);
        if (err != ERR_OK)
            hand_over_end(thread, command->job, err);
    } else if (command->kind == COMMAND_CANCEL) {
        engine_cancel(thread->engine, (void *)(uintptr_t)command->job);
        err_set(ERR_CANCELLED, "cancelled");
        hand_over_end(thread, command->job, ERR_CANCELLED);
    } else {
        go_on = false;
    }
    free(command->tokens);
    free(command->text);
    free(command);
    return go_on;
}

static void tell_figures(struct model_thread *thread)
{
    struct engine_figures figures = engine_figures(thread->engine);
    atomic_store_explicit(&thread->kv_used, figures.kv_used, memory_order_relaxed);
    atomic_store_explicit(&thread->prefill_s, figures.prefill_s, memory_order_relaxed);
    atomic_store_explicit(&thread->decode_s, figures.decode_s, memory_order_relaxed);
}

static void *run(void *arg)
{
    struct model_thread *thread = arg;
    enum err err = engine_open(&thread->engine, &thread->config);
    if (err != ERR_OK) {
        hand_over_state(thread, BATCH_FAILED, err);
        return NULL;
    }
    thread->info = *engine_info(thread->engine);
    struct engine_event *events = calloc(thread->info.slots, sizeof *events);
    if (events == NULL)
        abort();
    hand_over_state(thread, BATCH_LOADED, ERR_OK);
    for (bool go_on = true; go_on;) {
        struct command *command = queue_pop_wait(thread->commands, engine_due_ns(thread->engine));
        bool obeyed = command != NULL;
        while (command != NULL && go_on) {
            go_on = obey(thread, command);
            command = go_on ? queue_pop(thread->commands) : NULL;
        }
        if (obeyed)
            tell_figures(thread); /* of what was just started or cancelled */
        if (!go_on || engine_due_ns(thread->engine) > clock_mono_ns())
            continue;
        size_t count = 0;
        err = engine_step(thread->engine, events, &count);
        if (err != ERR_OK) {
            hand_over_state(thread, BATCH_FAILED, err);
            break;
        }
        tell_figures(thread);
        if (count > 0)
            hand_over(thread, batch_new(events, count));
    }
    free(events);
    engine_close(thread->engine);
    thread->engine = NULL;
    return NULL;
}

/* ---- the loop's thread ---- */

static void on_wake(void *arg)
{
    struct model_thread *thread = arg;
    const struct model_callbacks *callbacks = &thread->callbacks;
    struct batch *batch;
    while ((batch = queue_pop(thread->batches)) != NULL) {
        if (batch->kind == BATCH_LOADED) {
            callbacks->loaded(callbacks->arg, &thread->info);
        } else if (batch->kind == BATCH_FAILED) {
            callbacks->failed(callbacks->arg, batch->err, batch->text);
        } else {
            for (size_t i = 0; i < batch->count; i++)
                callbacks->event(callbacks->arg, (uint64_t)(uintptr_t)batch->events[i].user,
                                 &batch->events[i]);
            callbacks->step_done(callbacks->arg);
        }
        free(batch);
    }
}

enum err model_thread_start(struct model_thread **out, struct loop *loop,
                            const struct engine_config *config,
                            const struct model_callbacks *callbacks)
{
    struct model_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    thread->config = *config;
    thread->callbacks = *callbacks;
    enum err err = loop_wake_new(&thread->wake, loop, on_wake, thread);
    if (err == ERR_OK)
        err = queue_new(&thread->commands, COMMANDS_MAX, NULL, NULL);
    if (err == ERR_OK)
        err = queue_new(&thread->batches, BATCHES_MAX, loop_wake_send, thread->wake);
    if (err == ERR_OK && pthread_create(&thread->thread, NULL, run, thread) != 0)
        err = err_set(ERR_OS, "can't start the model's thread");
    if (err != ERR_OK) {
        queue_free(thread->commands);
        queue_free(thread->batches);
        loop_wake_free(thread->wake);
        free(thread);
        return err;
    }
    *out = thread;
    return ERR_OK;
}

static enum err send_command(struct model_thread *thread, const struct command *command)
{
    struct command *copy = malloc(sizeof *copy);
    if (copy == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *copy = *command;
    enum err err = queue_push(thread->commands, copy);
    if (err != ERR_OK)
        free(copy);
    return err;
}

enum err model_start(struct model_thread *thread, uint64_t job, const struct prompt *prompt,
                     const struct model_resume *resume)
{
    struct command command = {.kind = COMMAND_START, .job = job, .prompt = prompt};
    if (resume != NULL && resume->pieces > 0) {
        command.token_count = resume->token_count;
        command.pieces = resume->pieces;
        command.text = strdup(resume->text);
        command.tokens = malloc((resume->token_count + 1) * sizeof *command.tokens);
        if (command.text == NULL || command.tokens == NULL) {
            free(command.text);
            free(command.tokens);
            return err_set(ERR_NOMEM, "out of memory");
        }
        if (resume->token_count > 0)
            memcpy(command.tokens, resume->tokens, resume->token_count * sizeof *command.tokens);
    }
    enum err err = send_command(thread, &command);
    if (err != ERR_OK) {
        free(command.text);
        free(command.tokens);
    }
    return err;
}

struct engine_figures model_figures(const struct model_thread *thread)
{
    return (struct engine_figures){
        .kv_used = atomic_load_explicit(&thread->kv_used, memory_order_relaxed),
        .prefill_s = atomic_load_explicit(&thread->prefill_s, memory_order_relaxed),
        .decode_s = atomic_load_explicit(&thread->decode_s, memory_order_relaxed),
    };
}

enum err model_cancel(struct model_thread *thread, uint64_t job)
{
    const struct command command = {.kind = COMMAND_CANCEL, .job = job};
    return send_command(thread, &command);
}

void model_thread_stop(struct model_thread *thread)
{
    if (thread == NULL)
        return;
    const struct command stop = {.kind = COMMAND_STOP};
    const struct timespec pause = {.tv_nsec = NS_PER_MS};
    while (send_command(thread, &stop) != ERR_OK)
        nanosleep(&pause, NULL);
    pthread_join(thread->thread, NULL);
    struct command *command;
    while ((command = queue_pop(thread->commands)) != NULL) {
        free(command->tokens);
        free(command->text);
        free(command);
    }
    struct batch *batch;
    while ((batch = queue_pop(thread->batches)) != NULL)
        free(batch);
    queue_free(thread->commands);
    queue_free(thread->batches);
    loop_wake_free(thread->wake);
    free(thread);
}
