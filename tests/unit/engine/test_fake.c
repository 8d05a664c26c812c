#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/engine.h"

#define SLOTS 4

static struct engine *engine;
static char text[SLOTS][4096];
static struct engine_event last[SLOTS];
static unsigned pieces[SLOTS];
static int32_t next_token[SLOTS];

static void open_model(const char *model)
{
    struct engine_config config = {.model = model, .slots = SLOTS};
    assert_int_equal(engine_open(&engine, &config), ERR_OK);
    memset(text, 0, sizeof text);
    memset(last, 0, sizeof last);
    memset(pieces, 0, sizeof pieces);
    memset(next_token, 0, sizeof next_token);
}

static int close_model(void **state)
{
    engine_close(engine);
    engine = NULL;
    return 0;
}

static struct engine_request request_of(const char *prompt, size_t number)
{
    static struct engine_message messages[SLOTS];
    messages[number] = (struct engine_message){"user", prompt};
    return (struct engine_request){.messages = &messages[number],
                                   .message_count = 1,
                                   .params = engine_params_default(),
                                   .user = &text[number]};
}

static void start(const char *prompt, size_t number)
{
    struct engine_request request = request_of(prompt, number);
    assert_int_equal(engine_start(engine, &request), ERR_OK);
}

static void step_once(void)
{
    struct engine_event events[SLOTS];
    size_t count = 0;
    assert_int_equal(engine_step(engine, events, &count), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        size_t number = (size_t)((char(*)[4096])events[i].user - text);
        if (events[i].text != NULL) {
            strncat(text[number], events[i].text, events[i].text_len);
            pieces[number]++;
        }
        for (size_t k = 0; k < events[i].token_count; k++)
            assert_int_equal(events[i].tokens[k], next_token[number]++);
        if (events[i].last)
            last[number] = events[i];
    }
}

static void run(void)
{
    while (engine_active(engine) > 0) {
        int64_t due_ns = engine_due_ns(engine), now_ns = clock_mono_ns();
        if (due_ns > now_ns)
            usleep((useconds_t)((due_ns - now_ns) / 1000 + 1));
        step_once();
    }
    assert_true(engine_due_ns(engine) == INT64_MAX);
}

static void pieces_are_numbered(void **state)
{
    open_model("fake:tokens=3,delay_ms=0");
    start("seed=1 hello to you", 0);
    start("colour=red", 1);
    run();
    assert_string_equal(text[0], "hello.0 hello.1 hello.2 ");
    assert_string_equal(text[1], "w.0 w.1 w.2 ");
    assert_int_equal(pieces[0], 3);
    assert_int_equal(last[0].finish, ENGINE_FINISH_STOP);
    assert_int_equal(last[0].prompt_tokens, 4);
    assert_int_equal(last[0].reply_tokens, 3);
}

static void the_prompt_overrides(void **state)
{
    open_model("fake:tokens=3,delay_ms=1000");
    start("a tokens=5 delay_ms=0", 0);
    start("b tokens=x delay_ms=0 tokens=2", 1);
    start("c tokens=0 delay_ms=0", 2);
    run();
    assert_string_equal(text[0], "a.0 a.1 a.2 a.3 a.4 ");
    assert_string_equal(text[1], "b.0 b.1 ");
    assert_string_equal(text[2], "");
    assert_true(last[2].last);
}

static void the_last_user_message_counts(void **state)
{
    open_model("fake:tokens=1,delay_ms=0");
    struct engine_message messages[] = {
        {"user", "first tokens=9"}, {"assistant", "x"}, {"user", "second"}, {"assistant", "y"}};
    struct engine_request request = {
        .messages = messages, .message_count = 4, .params = engine_params_default(), .user = text};
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    run();
    assert_string_equal(text[0], "second.0 ");
    assert_int_equal(last[0].prompt_tokens, 5);
}

static void pieces_come_when_due(void **state)
{
    open_model("fake:tokens=4,delay_ms=30");
    int64_t start_ns = clock_mono_ns();
    start("a", 0);
    start("b", 1);
    assert_true(engine_due_ns(engine) >= start_ns + 30 * NS_PER_MS);
    step_once(); /* nothing is due */
    if (clock_mono_ns() < start_ns + 30 * NS_PER_MS)
        assert_int_equal(pieces[0], 0);
    run();
    /* Four pieces, never early; side by side, not one after the other, is engine_due_ns() work. */
    assert_true(clock_mono_ns() - start_ns >= 120 * NS_PER_MS);
    assert_true(last[0].timings.prompt_ms >= 30);
    /* a late first piece on a busy machine shortens the rest, never the whole */
    assert_true(last[0].timings.prompt_ms + last[0].timings.decode_ms >= 120 - 1);
}

static void slots_do_not_slow_each_other(void **state)
{
    open_model("fake:tokens=2,delay_ms=50");
    int64_t before_ns = clock_mono_ns();
    for (size_t i = 0; i < SLOTS; i++)
        start("a", i);
    int64_t after_ns = clock_mono_ns();
    for (int piece = 1; piece <= 2; piece++) {
        int64_t due_ns = engine_due_ns(engine);
        assert_true(due_ns >= before_ns + piece * 50 * NS_PER_MS);
        assert_true(due_ns <= after_ns + piece * 50 * NS_PER_MS);
        while (pieces[0] < (unsigned)piece || pieces[SLOTS - 1] < (unsigned)piece) {
            usleep(1000);
            step_once();
        }
    }
    assert_int_equal(engine_active(engine), 0);
}

static void min_and_max(void **state)
{
    open_model("fake:tokens=5,delay_ms=0");
    struct engine_request request = request_of("a", 0);
    request.params.max_tokens = 2;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    request = request_of("b", 1);
    request.params.min_tokens = 7;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    request = request_of("c", 2);
    request.params.max_tokens = 5;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    run();
    assert_string_equal(text[0], "a.0 a.1 ");
    assert_int_equal(last[0].finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(pieces[1], 7);
    assert_int_equal(last[1].finish, ENGINE_FINISH_STOP);
    assert_int_equal(last[2].finish, ENGINE_FINISH_STOP);
}

static void stop_strings_hold_too(void **state)
{
    open_model("fake:tokens=9,delay_ms=0");
    const char *stop[] = {"a.2 a"};
    struct engine_request request = request_of("a", 0);
    request.params.stop = stop;
    request.params.stop_count = 1;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    run();
    assert_string_equal(text[0], "a.0 a.1 ");
    assert_int_equal(last[0].finish, ENGINE_FINISH_STOP);
}

static void going_on_continues_the_count(void **state)
{
    open_model("fake:tokens=5,delay_ms=0");
    struct engine_request request = request_of("a", 0);
    request.resume_pieces = 3;
    next_token[0] = 3;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    int32_t said[] = {0, 1, 2, 3};
    request = request_of("b", 1);
    request.resume_tokens = said;
    request.resume_token_count = 4;
    request.resume_text = "b.0 b.1 b.2 "; /* the fourth was held back */
    request.resume_pieces = 2;            /* two of them went out as one message */
    next_token[1] = 4;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    request = request_of("c", 2);
    request.resume_pieces = 5;
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    run();
    assert_string_equal(text[0], "a.3 a.4 ");
    assert_string_equal(text[1], "b.3 b.4 ");
    assert_string_equal(text[2], "");
    assert_int_equal(last[0].reply_tokens, 5);
    assert_int_equal(last[2].reply_tokens, 5);
}

static void an_error_fails_one_alone(void **state)
{
    open_model("fake:tokens=4,delay_ms=0");
    start("a error_at=2", 0);
    start("b", 1);
    run();
    assert_string_equal(text[0], "a.0 a.1 ");
    assert_int_not_equal(last[0].error, ERR_OK);
    assert_non_null(strstr(last[0].error_text, "piece 2"));
    assert_string_equal(text[1], "b.0 b.1 b.2 b.3 ");
    assert_int_equal(last[1].error, ERR_OK);
}

static void a_crash_is_a_kill(void **state)
{
    open_model("fake:tokens=4,delay_ms=0");
    pid_t child = fork();
    if (child == 0) {
        start("a crash_at=2", 0);
        for (int i = 0; i < 10; i++)
            step_once();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void cancelling_frees_the_slot(void **state)
{
    open_model("fake:tokens=100,delay_ms=0");
    for (size_t i = 0; i < SLOTS; i++)
        start("a", i);
    struct engine_request request = request_of("b", 0);
    assert_int_equal(engine_start(engine, &request), ERR_FULL);
    engine_cancel(engine, &text[2]);
    engine_cancel(engine, "nobody");
    assert_int_equal(engine_active(engine), SLOTS - 1);
    start("b tokens=1", 2);
    run();
    assert_string_equal(text[2], "b.0 ");
    assert_int_equal(pieces[0], 100);
}

static void long_first_words_are_cut_between_characters(void **state)
{
    open_model("fake:tokens=1,delay_ms=0");
    char prompt[128] = "x";
    for (int i = 0; i < 25; i++)
        strcat(prompt, "\xE2\x82\xAC"); /* 76 bytes; 64 would be within a character */
    start(prompt, 0);
    run();
    assert_int_equal(strlen(text[0]), 1 + 21 * 3 + 3);
}

static void long_prompts_are_refused(void **state)
{
    struct engine_config config = {.model = "fake:", .slots = SLOTS, .context = 4};
    assert_int_equal(engine_open(&engine, &config), ERR_OK);
    struct engine_request request = request_of("one two three four", 0);
    assert_int_equal(engine_start(engine, &request), ERR_LIMIT);
    request = request_of("one two three", 0);
    assert_int_equal(engine_start(engine, &request), ERR_OK);
}

static void bad_models_and_requests(void **state)
{
    const char *models[] = {"fake:tokens=",   "fake:tokens=-1",          "fake:speed=9",
                            "fake:tokens=1;", "fake:tokens=99999999999", "fake:fail_load=1"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct engine_config config = {.model = models[i], .slots = 1};
        assert_int_not_equal(engine_open(&engine, &config), ERR_OK);
        assert_null(engine);
    }
    open_model("fake:");
    struct engine_request request = request_of("a\xFF", 0);
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    request = request_of("a", 0);
    request.message_count = 0;
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    struct engine_message message = {"wizard", "a"};
    request = request_of("a", 0);
    request.messages = &message;
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    request = request_of("a", 0);
    request.params.temperature = INFINITY;
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    request = request_of("a", 0);
    request.params.max_tokens = 0;
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    const char *stop[] = {""};
    request = request_of("a", 0);
    request.params.stop = stop;
    request.params.stop_count = 1;
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    assert_int_equal(engine_active(engine), 0);
}

#define TEST(fn) cmocka_unit_test_teardown(fn, close_model)

static struct engine_event run_task(struct engine_request request)
{
    struct engine_event event = {0};
    size_t count = 0;
    request.user = &text[0];
    assert_int_equal(engine_start(engine, &request), ERR_OK);
    while (count == 0)
        assert_int_equal(engine_step(engine, &event, &count), ERR_OK);
    assert_int_equal(count, 1);
    assert_true(event.last);
    assert_int_equal(event.error, ERR_OK);
    assert_int_equal(engine_active(engine), 0);
    return event;
}

static void tasks(void **state)
{
    open_model("fake:delay_ms=1");
    const char *const inputs[] = {"a red house", "a red house", "a red horse", "\n", "x y z"};
    struct engine_event event =
        run_task((struct engine_request){.task = ENGINE_EMBED, .inputs = inputs, .input_count = 5});
    assert_int_equal(event.vector_count, 5);
    assert_int_equal(event.vector_size, 16);
    assert_int_equal(event.prompt_tokens, 3 + 3 + 3 + 1 + 3);
    for (size_t i = 0; i < 5; i++) {
        double length = 0, same = 0, near = 0;
        for (size_t k = 0; k < 16; k++) {
            double own = event.vectors[i * 16 + k];
            length += own * own;
            same += own * event.vectors[k];
            near += (double)event.vectors[32 + k] * event.vectors[k];
        }
        assert_true(fabs(length - 1) < 1e-5);
        assert_int_equal(fabs(same - 1) < 1e-5, i < 2);
        assert_true(i != 4 || near > same);
    }
    event = run_task((struct engine_request){.task = ENGINE_TOKENIZE, .raw_prompt = "h\xC3\xA9"});
    int32_t ids[3];
    assert_int_equal(event.token_count, 3);
    memcpy(ids, event.tokens, sizeof ids);
    assert_string_equal(event.token_texts[0], "h");
    assert_string_equal(event.token_texts[1], "\xC3");
    event = run_task((struct engine_request){
        .task = ENGINE_DETOKENIZE, .resume_tokens = ids, .resume_token_count = 3});
    assert_string_equal(event.text, "h\xC3\xA9");
    const struct engine_message messages[] = {{"system", "Be"}, {"user", "Hi"}};
    event = run_task(
        (struct engine_request){.task = ENGINE_TEMPLATE, .messages = messages, .message_count = 2});
    assert_string_equal(event.text, "system: Be\nuser: Hi\n");
    event = run_task((struct engine_request){.task = ENGINE_TOKENIZE, .raw_prompt = ""});
    assert_int_equal(event.token_count, 0);
    event = run_task((struct engine_request){.task = ENGINE_DETOKENIZE});
    assert_string_equal(event.text, "");
}

static void bad_tasks(void **state)
{
    open_model("fake:");
    const char *inputs[300];
    for (size_t i = 0; i < 300; i++)
        inputs[i] = "a";
    struct engine_request request = {.task = ENGINE_EMBED, .inputs = inputs, .input_count = 300};
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    request.input_count = 0;
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    request.input_count = 2;
    inputs[1] = "";
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    assert_string_equal(err_text(), "input[1] is empty");
    inputs[1] = "\xFF";
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    assert_int_equal(strncmp(err_text(), "input[1] ", 9), 0);
    request = (struct engine_request){.task = ENGINE_TOKENIZE, .raw_prompt = "\xC0"};
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    request = (struct engine_request){.task = ENGINE_TOKENIZE};
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    int32_t none = 256;
    request = (struct engine_request){
        .task = ENGINE_DETOKENIZE, .resume_tokens = &none, .resume_token_count = 1};
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    assert_int_equal(strncmp(err_text(), "tokens ", 7), 0);
    request = (struct engine_request){.task = ENGINE_TEMPLATE};
    assert_int_equal(engine_start(engine, &request), ERR_INVALID);
    assert_int_equal(engine_active(engine), 0);
}

static void logprobs_are_told(void **state)
{
    for (int tells = 0; tells < 2; tells++) {
        open_model(tells ? "fake:tokens=2,delay_ms=0" : "fake:tokens=2,delay_ms=0,logprobs=0");
        struct engine_request request = request_of("hello", 0);
        request.params.logprobs = 1;
        request.params.frequency_penalty = 1;
        request.params.grammar = "no grammar";
        assert_int_equal(engine_start(engine, &request), ERR_OK);
        struct engine_event event;
        size_t count = 0;
        assert_int_equal(engine_step(engine, &event, &count), ERR_OK);
        assert_int_equal(count, 1);
        if (tells)
            assert_string_equal(event.logprobs,
                                "[{\"token\":\"hello.0 \",\"logprob\":-0.125,\"bytes\":[104,101,"
                                "108,108,111,46,48,32],\"top_logprobs\":[{\"token\":\"hello.0 \","
                                "\"logprob\":-0.125,\"bytes\":[104,101,108,108,111,46,48,32]}]}]");
        else
            assert_null(event.logprobs);
        close_model(NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pieces_are_numbered),
        TEST(the_prompt_overrides),
        TEST(the_last_user_message_counts),
        TEST(pieces_come_when_due),
        TEST(slots_do_not_slow_each_other),
        TEST(min_and_max),
        TEST(stop_strings_hold_too),
        TEST(going_on_continues_the_count),
        TEST(an_error_fails_one_alone),
        TEST(a_crash_is_a_kill),
        TEST(cancelling_frees_the_slot),
        TEST(long_first_words_are_cut_between_characters),
        TEST(long_prompts_are_refused),
        TEST(bad_models_and_requests),
        TEST(tasks),
        TEST(bad_tasks),
        TEST(logprobs_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
