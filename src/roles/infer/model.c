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
#include "engine/params.h"

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

/* The texts of several results; returns the end of what was written. */
static char *copy_results(struct engine_event *event, char *text)
{
    struct engine_sequence *sequences = (struct engine_sequence *)(uintptr_t)event->sequences;
    for (size_t i = 0; i < event->sequence_count; i++) {
        struct engine_sequence *sequence = &sequences[i];
        sequence->ids = NULL; /* not needed here */
        if (sequence->text_len > 0)
            memcpy(text, sequence->text, sequence->text_len);
        sequence->text = text;
        text += sequence->text_len;
    }
    return text;
}

static struct batch *batch_new(const struct engine_event *events, size_t count)
{
    size_t bytes = sizeof(struct batch) + count * sizeof *events;
    for (size_t i = 0; i < count; i++) {
        bytes += events[i].text_len + 1;
        bytes += events[i].error_text != NULL ? strlen(events[i].error_text) + 1 : 0;
        bytes += events[i].token_count * sizeof(int32_t) + sizeof(int32_t);
        bytes += events[i].sequence_count * sizeof(struct engine_sequence);
        for (size_t k = 0; k < events[i].sequence_count; k++)
            bytes += events[i].sequences[k].text_len;
    }
    struct batch *batch = malloc(bytes);
    if (batch == NULL)
        abort(); /* out of memory in the middle of a step: the supervisor starts us afresh */
    *batch = (struct batch){.kind = BATCH_EVENTS, .count = count};
    memcpy(batch->events, events, count * sizeof *events);
    /* What needs its alignment first. */
    struct engine_sequence *sequences = (struct engine_sequence *)(void *)(batch->events + count);
    for (size_t i = 0; i < count; i++) {
        if (events[i].sequence_count > 0)
            memcpy(sequences, events[i].sequences, events[i].sequence_count * sizeof *sequences);
        batch->events[i].sequences = sequences;
        sequences += events[i].sequence_count;
    }
    int32_t *tokens = (int32_t *)(void *)sequences;
    for (size_t i = 0; i < count; i++) {
        if (events[i].token_count > 0)
            memcpy(tokens, events[i].tokens, events[i].token_count * sizeof *tokens);
        batch->events[i].tokens = tokens;
        tokens += events[i].token_count;
    }
    char *text = (char *)tokens;
    for (size_t i = 0; i < count; i++) {
        struct engine_event *event = &batch->events[i];
        if (event->text != NULL) {
            memcpy(text, events[i].text, event->text_len);
            text[event->text_len] = '\0';
            event->text = text;
            text += event->text_len + 1;
        }
        if (event->error_text != NULL) {
            size_t len = strlen(events[i].error_text) + 1;
            memcpy(text, events[i].error_text, len);
            event->error_text = text;
            text += len;
        }
        text = copy_results(event, text);
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

/* Where none is given, the seed comes from the prompt's id, so that a successor draws the same. */
static int64_t seed_of(const struct prompt *prompt)
{
    char digits[16] = "";
    if (prompt->params.seed >= 0)
        return prompt->params.seed;
    memcpy(digits, prompt->id, sizeof digits - 1);
    return (int64_t)strtoull(digits, NULL, 16);
}

static enum err start(struct model_thread *thread, const struct command *command)
{
    const struct prompt *prompt = command->prompt;
    struct engine_message *messages = calloc(prompt->message_count + 1, sizeof *messages);
    if (messages == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < prompt->message_count; i++)
        messages[i] =
            (struct engine_message){prompt->messages[i].role, prompt->messages[i].content};
    struct engine_params_room room;
    struct engine_request request = {
        .messages = messages,
        .message_count = prompt->message_count,
        .resume_tokens = command->tokens,
        .resume_token_count = command->token_count,
        .resume_text = command->text,
        .resume_pieces = command->pieces,
        .user = (void *)(uintptr_t)command->job,
        .truncate_left = prompt->params.truncate == 1,
    };
    enum err err = engine_params_of(&request.params, &room, &prompt->params);
    request.params.seed = seed_of(prompt);
    if (err == ERR_OK)
        err = engine_start(thread->engine, &request);
    free(messages);
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
