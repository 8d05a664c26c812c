/* What the tests of the engine on the real model share: $WYVERN_TEST_MODEL, a small instruct GGUF
 * of the chatml family. */
#ifndef WYVERN_TESTS_LLAMA_RIG_H
#define WYVERN_TESTS_LLAMA_RIG_H

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "wire/utf8.h"

#define SLOTS     4
#define CONTEXT   512
#define TOKEN_MAX 1024

struct reply {
    char text[16384];
    int32_t tokens[TOKEN_MAX];
    size_t token_count;
    size_t said[TOKEN_MAX]; /* bytes of text and tokens after each piece */
    size_t said_tokens[TOKEN_MAX];
    size_t pieces;
    json_t *logprobs; /* all entries */
    struct engine_event last;
    char error[256];
    float *vectors; /* of an embedding: copied */
};

static struct engine *engine;
static struct reply replies[SLOTS];
static struct engine_message message;

static inline int open_model(void **state)
{
    struct engine_config config = {.model = getenv("WYVERN_TEST_MODEL"),
                                   .device = "cpu:0",
                                   .slots = SLOTS,
                                   .context = CONTEXT,
                                   .threads = 1};
    engine_log_init();
    if (config.model == NULL || config.model[0] == '\0')
        return 0;
    if (engine_open(&engine, &config) != ERR_OK) {
        print_error("%s\n", err_text());
        return -1;
    }
    return 0;
}

static void forget(struct reply *reply)
{
    json_decref(reply->logprobs);
    free(reply->vectors);
    memset(reply, 0, sizeof *reply);
    reply->logprobs = json_array();
}

static inline int close_model(void **state)
{
    for (size_t i = 0; i < SLOTS; i++) {
        json_decref(replies[i].logprobs);
        free(replies[i].vectors);
    }
    engine_close(engine);
    return 0;
}

static inline void skip_without_model(void)
{
    if (engine == NULL) {
        print_message("skipped: WYVERN_TEST_MODEL names no GGUF file\n");
        skip();
    }
}

static inline struct engine_request ask(size_t number, const char *prompt)
{
    message = (struct engine_message){"user", prompt};
    forget(&replies[number]);
    struct engine_request request = {.messages = &message,
                                     .message_count = 1,
                                     .params = engine_params_default(),
                                     .user = &replies[number]};
    request.params.temperature = 0;
    request.params.max_tokens = 24;
    return request;
}

static inline void start(const struct engine_request *request)
{
    enum err err = engine_start(engine, request);
    if (err != ERR_OK)
        print_error("%s\n", err_text());
    assert_int_equal(err, ERR_OK);
}

static inline void refused(const struct engine_request *request, enum err code,
                           const char *first_word)
{
    assert_int_equal(engine_start(engine, request), code);
    if (strncmp(err_text(), first_word, strlen(first_word)) != 0)
        fail_msg("not %s: %s", first_word, err_text());
    assert_int_equal(engine_active(engine), 0);
}

static void take_logprobs(struct reply *reply, const struct engine_event *event)
{
    if (event->logprobs == NULL)
        return;
    json_t *list = json_loadb(event->logprobs, event->logprobs_len, 0, NULL);
    assert_true(json_is_array(list));
    json_array_extend(reply->logprobs, list);
    json_decref(list);
}

static void take_event(const struct engine_event *event)
{
    struct reply *reply = event->user;
    assert_false(reply->last.last); /* nothing after the last */
    for (size_t i = 0; i < event->token_count && reply->token_count < TOKEN_MAX; i++)
        reply->tokens[reply->token_count++] = event->tokens[i];
    take_logprobs(reply, event);
    if (event->text != NULL) {
        assert_true(event->text_len > 0 || event->last);
        assert_true(utf8_is_valid(event->text, event->text_len));
        assert_true(strlen(reply->text) + event->text_len < sizeof reply->text);
        strncat(reply->text, event->text, event->text_len);
        reply->said[reply->pieces] = strlen(reply->text);
        reply->said_tokens[reply->pieces++] = reply->token_count;
    }
    if (event->vectors != NULL) {
        size_t bytes = event->vector_count * event->vector_size * sizeof(float);
        reply->vectors = malloc(bytes);
        memcpy(reply->vectors, event->vectors, bytes);
    }
    if (event->last) {
        reply->last = *event;
        snprintf(reply->error, sizeof reply->error, "%s",
                 event->error_text != NULL ? event->error_text : "");
    }
}

static void step_once(void)
{
    struct engine_event events[SLOTS];
    size_t count = 0;
    assert_int_equal(engine_step(engine, events, &count), ERR_OK);
    assert_in_range(count, 0, SLOTS);
    for (size_t i = 0; i < count; i++)
        take_event(&events[i]);
}

static inline void run(void)
{
    while (engine_active(engine) > 0)
        step_once();
}

/* Starts it and waits for its end. */
static inline const struct reply *answer(const struct engine_request *request)
{
    start(request);
    run();
    struct reply *reply = request->user;
    if (reply->error[0] != '\0')
        print_error("%s\n", reply->error);
    assert_int_equal(reply->last.error, ERR_OK);
    return reply;
}

#endif
