/* The two small checkpoints of tests/data/blenderbot with their reference outputs: every line in
 * every mode, all modes side by side in the slots of one engine, joining and leaving as slots get
 * free; gone on with in the middle; and cut, refused, cancelled. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "convert/convert.h"
#include "engine/engine.h"
#include "wire/json.h"

#define SLOTS     8
#define LINES_MAX 64
#define MODES_MAX 8
#define IDS_MAX   256
#define TEXT_MAX  8192

struct fixture {
    struct engine *engine;
    json_t *modes;
    json_t *lines[LINES_MAX];
    size_t line_count;
};

struct job {
    struct fixture *fixture;
    size_t line;
    const char *mode;
    json_t *wanted; /* ids with start and end token */
    const char *wanted_text;
    int32_t said[IDS_MAX]; /* of the pieces */
    size_t said_count;
    char text[TEXT_MAX];
    size_t text_len, pieces;
    bool ended;
};

static struct fixture fixtures[2];

static void read_file(const char *path, struct buf *out)
{
    char chunk[65536];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
        assert_int_equal(buf_append(out, chunk, n), ERR_OK);
    fclose(file);
}

static void open_fixture(struct fixture *fixture, const char *name)
{
    char path[4096], gguf[] = "/tmp/wyvern-blenderbot-XXXXXX";
    struct convert_report report;
    int fd = mkstemp(gguf);
    assert_true(fd >= 0);
    close(fd);
    snprintf(path, sizeof path, "%s/blenderbot/%s", TEST_DATA, name);
    if (convert_checkpoint(path, gguf, "f32", NULL, NULL, &report) != ERR_OK)
        fail_msg("%s", err_text());
    struct engine_config config = {.model = gguf, .device = "cpu:0", .slots = SLOTS, .threads = 1};
    if (engine_open(&fixture->engine, &config) != ERR_OK)
        fail_msg("%s", err_text());
    unlink(gguf);
    struct buf text;
    buf_init(&text, (size_t)1 << 24);
    snprintf(path, sizeof path, "%s/blenderbot/%s/modes.json", TEST_DATA, name);
    read_file(path, &text);
    json_t *root;
    assert_int_equal(json_parse(&root, text.data, text.len), ERR_OK);
    fixture->modes = json_incref(json_object_get(root, "modes"));
    json_decref(root);
    buf_clear(&text);
    snprintf(path, sizeof path, "%s/blenderbot/%s/expected.jsonl", TEST_DATA, name);
    read_file(path, &text);
    for (char *line = strtok(text.data, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_true(fixture->line_count < LINES_MAX);
        assert_int_equal(json_parse(&fixture->lines[fixture->line_count++], line, strlen(line)),
                         ERR_OK);
    }
    buf_done(&text);
    assert_true(fixture->line_count > 10 && json_object_size(fixture->modes) >= 6);
}

static int open_all(void **state)
{
    engine_log_init();
    open_fixture(&fixtures[0], "tiny");
    open_fixture(&fixtures[1], "tiny-bin");
    return 0;
}

static int close_all(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        engine_close(fixtures[i].engine);
        json_decref(fixtures[i].modes);
        for (size_t k = 0; k < fixtures[i].line_count; k++)
            json_decref(fixtures[i].lines[k]);
    }
    return 0;
}

/* One user's message; kept until the next call. */
static const struct engine_message *says(const char *text)
{
    static struct engine_message message;
    message = (struct engine_message){"user", text};
    return &message;
}

static int number(const json_t *mode, const char *key)
{
    const json_t *value = json_object_get(mode, key);
    return value == NULL ? -1 : (int)json_integer_value(value);
}

static float real(const json_t *mode, const char *key)
{
    const json_t *value = json_object_get(mode, key);
    return value == NULL ? NAN : (float)json_number_value(value);
}

static struct engine_params read_mode(const json_t *mode, struct engine_search *search)
{
    struct engine_params params = engine_params_default();
    *search = engine_search_default();
    params.max_tokens = number(mode, "max_new_tokens");
    params.min_tokens = number(mode, "min_new_tokens");
    search->num_beams = number(mode, "num_beams");
    search->max_length = number(mode, "max_length");
    search->min_length = number(mode, "min_length");
    search->no_repeat_ngram_size = number(mode, "no_repeat_ngram_size");
    search->encoder_no_repeat_ngram_size = number(mode, "encoder_no_repeat_ngram_size");
    search->repetition_penalty = real(mode, "repetition_penalty");
    search->length_penalty = real(mode, "length_penalty");
    params.search = search;
    return params;
}

static void init_job(struct job *job, struct fixture *fixture, size_t line, const char *mode)
{
    *job = (struct job){.fixture = fixture, .line = line, .mode = mode};
    json_t *generate = json_object_get(fixture->lines[line], "generate");
    json_t *result = json_object_get(generate, mode);
    job->wanted = json_object_get(result, "output_ids");
    job->wanted_text = json_string_value(json_object_get(result, "text"));
    assert_non_null(job->wanted_text);
}

/* resumed: so many tokens of the reply are there already, said as resumed_text. */
static enum err start_job(struct job *job, size_t resumed, const char *resumed_text)
{
    struct engine_search search;
    struct engine_request request = {
        .messages =
            says(json_string_value(json_object_get(job->fixture->lines[job->line], "prompt"))),
        .message_count = 1,
        .params = read_mode(json_object_get(job->fixture->modes, job->mode), &search),
        .resume_tokens = job->said,
        .resume_token_count = resumed,
        .resume_text = resumed_text,
        .user = job,
    };
    return engine_start(job->fixture->engine, &request);
}

static void take_event(const struct engine_event *event)
{
    struct job *job = event->user;
    assert_true(event->token_count + job->said_count <= IDS_MAX);
    memcpy(job->said + job->said_count, event->tokens, event->token_count * sizeof *job->said);
    job->said_count += event->token_count;
    assert_true(event->text_len + job->text_len < TEXT_MAX);
    memcpy(job->text + job->text_len, event->text != NULL ? event->text : "", event->text_len);
    job->text_len += event->text_len;
    job->pieces += event->text != NULL;
    if (!event->last)
        return;
    job->ended = true;
    if (event->error != ERR_OK)
        fail_msg("%s", event->error_text);
    assert_int_equal(event->sequence_count, 1);
    const struct engine_sequence *result = &event->sequences[0];
    bool same = result->count == json_array_size(job->wanted);
    for (size_t i = 0; same && i < result->count; i++)
        same = result->ids[i] == json_integer_value(json_array_get(job->wanted, i));
    if (!same)
        fail_msg("line %zu, mode %s: other ids", job->line, job->mode);
    assert_string_equal(job->text, job->wanted_text);
    assert_int_equal(event->reply_tokens, job->said_count);
}

static void step(struct engine *engine)
{
    struct engine_event events[SLOTS];
    size_t count = 0;
    if (engine_step(engine, events, &count) != ERR_OK)
        fail_msg("%s", err_text());
    for (size_t i = 0; i < count; i++)
        take_event(&events[i]);
}

static void test_every_line_and_mode_side_by_side(void **state)
{
    for (size_t f = 0; f < 2; f++) {
        struct fixture *fixture = &fixtures[f];
        struct job *jobs = calloc(LINES_MAX * MODES_MAX, sizeof *jobs);
        size_t count = 0, started = 0;
        const char *mode;
        json_t *value;
        for (size_t line = 0; line < fixture->line_count; line++) {
            json_object_foreach(fixture->modes, mode, value)
            {
                init_job(&jobs[count++], fixture, line, mode);
            }
        }
        while (started < count || engine_active(fixture->engine) > 0) {
            while (started < count && engine_active(fixture->engine) < SLOTS)
                assert_int_equal(start_job(&jobs[started++], 0, NULL), ERR_OK);
            if (started < count)
                assert_int_equal(start_job(&jobs[started], 0, NULL), ERR_FULL);
            step(fixture->engine);
        }
        for (size_t i = 0; i < count; i++)
            assert_true(jobs[i].ended);
        print_message("%zu replies\n", count);
        free(jobs);
    }
}

/* A worker ended in mid-reply: what it said and the tokens it had are all that is left. */
static void test_goes_on_where_another_ended(void **state)
{
    static const char *const modes[] = {"greedy", "default", "beam4", "full"};
    struct fixture *fixture = &fixtures[0];
    for (size_t m = 0; m < 4; m++) {
        for (size_t pieces = 1; pieces < 12; pieces += 5) {
            struct job job;
            init_job(&job, fixture, m, modes[m]);
            assert_int_equal(start_job(&job, 0, NULL), ERR_OK);
            while (job.pieces < pieces && !job.ended)
                step(fixture->engine);
            if (job.ended)
                continue;
            engine_cancel(fixture->engine, &job);
            char before[TEXT_MAX];
            snprintf(before, sizeof before, "%s", job.text);
            size_t resumed = job.said_count;
            assert_int_equal(start_job(&job, resumed, before), ERR_OK);
            while (!job.ended)
                step(fixture->engine);
        }
    }
}

/* A search of several beams ends as if nobody had died, wherever it was. */
static void test_beams_go_on_as_if_nothing_had_been(void **state)
{
    struct fixture *fixture = &fixtures[1];
    size_t taken_over = 0;
    for (size_t line = 14; line < 18; line++) {
        for (size_t pieces = 3; pieces < 12; pieces += 5) {
            struct job job;
            init_job(&job, fixture, line, "full");
            assert_int_equal(start_job(&job, 0, NULL), ERR_OK);
            while (job.pieces < pieces && !job.ended)
                step(fixture->engine);
            if (job.ended)
                continue;
            engine_cancel(fixture->engine, &job);
            char before[TEXT_MAX];
            snprintf(before, sizeof before, "%s", job.text);
            assert_int_equal(start_job(&job, job.said_count, before), ERR_OK);
            while (!job.ended)
                step(fixture->engine);
            taken_over++;
        }
    }
    print_message("%zu taken over\n", taken_over);
    assert_true(taken_over > 6);
}

/* Tokens that this search would not have settled on: it goes on behind them all the same. */
static void test_beams_go_on_behind_other_tokens(void **state)
{
    struct fixture *fixture = &fixtures[0];
    struct engine_search search = engine_search_default();
    struct engine_event event = {0};
    struct job job;
    size_t count = 0;
    init_job(&job, fixture, 0, "default");
    assert_int_equal(start_job(&job, 0, NULL), ERR_OK);
    while (!job.ended)
        step(fixture->engine);
    const int32_t other[] = {job.said[0], job.said[2], job.said[1]};
    struct engine_request request = {
        .messages = says(json_string_value(json_object_get(fixture->lines[0], "prompt"))),
        .message_count = 1,
        .params = engine_params_default(),
        .resume_tokens = other,
        .resume_token_count = 3,
        .resume_text = "",
    };
    request.params.search = &search;
    assert_int_equal(engine_start(fixture->engine, &request), ERR_OK);
    while (!event.last)
        assert_int_equal(engine_step(fixture->engine, &event, &count), ERR_OK);
    assert_int_equal(event.error, ERR_OK);
    assert_true(event.sequences[0].count > 4);
    assert_memory_equal(event.sequences[0].ids + 1, other, sizeof other);
}

static void test_beams_are_heard_before_they_end(void **state)
{
    struct job job;
    init_job(&job, &fixtures[0], 0, "default");
    assert_int_equal(start_job(&job, 0, NULL), ERR_OK);
    while (!job.ended)
        step(fixtures[0].engine);
    print_message("%zu pieces, %zu tokens\n", job.pieces, job.said_count);
    assert_true(job.pieces > 1);
}

static void test_cancelled_one_leaves_no_event(void **state)
{
    struct engine *engine = fixtures[0].engine;
    struct job kept, gone;
    init_job(&kept, &fixtures[0], 1, "default");
    init_job(&gone, &fixtures[0], 2, "full");
    assert_int_equal(start_job(&gone, 0, NULL), ERR_OK);
    assert_int_equal(start_job(&kept, 0, NULL), ERR_OK);
    step(engine);
    size_t before = gone.said_count;
    engine_cancel(engine, &gone);
    while (!kept.ended)
        step(engine);
    assert_int_equal(gone.said_count, before);
    assert_int_equal(engine_active(engine), 0);
}

static enum err start_text(const char *text, struct engine_search *search, bool truncate)
{
    struct engine_request request = {.messages = says(text),
                                     .message_count = 1,
                                     .params = engine_params_default(),
                                     .truncate_left = truncate};
    request.params.search = search;
    return engine_start(fixtures[0].engine, &request);
}

static void test_what_does_not_fit(void **state)
{
    struct engine *engine = fixtures[0].engine;
    char text[4096] = "";
    for (size_t i = 0; i < 200; i++)
        strcat(text, "do you ");
    assert_int_equal(start_text(text, NULL, false), ERR_LIMIT);
    assert_int_equal(start_text(text, NULL, true), ERR_OK);
    struct engine_event event = {0};
    size_t count = 0;
    while (!event.last)
        assert_int_equal(engine_step(engine, &event, &count), ERR_OK);
    assert_int_equal(event.prompt_tokens, engine_info(engine)->context);
    assert_true(event.truncated_tokens > 100);
    struct engine_search search = engine_search_default();
    search.num_beams = 100000;
    assert_int_equal(start_text("a", &search, false), ERR_INVALID);
    search.num_beams = 2;
    search.num_return_sequences = 3;
    assert_int_equal(start_text("a", &search, false), ERR_INVALID);
    search.num_return_sequences = -1;
    search.forced_bos_token_id = 1000000;
    assert_int_equal(start_text("a", &search, false), ERR_INVALID);
    assert_int_equal(engine_active(engine), 0);
}

static void test_too_long_a_reply_is_cut_to_the_positions(void **state)
{
    struct engine_request request = {
        .messages = says("Hello"), .message_count = 1, .params = engine_params_default()};
    request.params.min_tokens = 100;
    request.params.max_tokens = 300;
    struct engine_event event = {0};
    size_t count = 0;
    assert_int_equal(engine_start(fixtures[0].engine, &request), ERR_OK);
    while (!event.last)
        assert_int_equal(engine_step(fixtures[0].engine, &event, &count), ERR_OK);
    assert_int_equal(event.error, ERR_OK);
    assert_true(event.sequences[0].count <= engine_info(fixtures[0].engine)->context);
}

/* The checkpoint's chat template, written out; its tokenizer puts no second space in front. */
static void test_turns_are_joined(void **state)
{
    const struct engine_message messages[] = {
        {"user", "Hello"}, {"assistant", "Hi there"}, {"user", "Do you like music?"}};
    struct engine_request turns = {.messages = messages, .message_count = 3};
    struct engine_request plain = {.raw_prompt = " Hello  Hi there   Do you like music?"};
    turns.params = plain.params = engine_params_default();
    int32_t *a = NULL, *b = NULL;
    size_t a_count = 0, b_count = 1;
    assert_int_equal(engine_tokenize(fixtures[0].engine, &turns, &a, &a_count), ERR_OK);
    assert_int_equal(engine_tokenize(fixtures[0].engine, &plain, &b, &b_count), ERR_OK);
    assert_int_equal(a_count, b_count);
    assert_memory_equal(a, b, a_count * sizeof *a);
    free(a);
    free(b);
    struct engine_message many[80];
    for (size_t i = 0; i < 80; i++)
        many[i] = messages[i % 2];
    many[79] = messages[2];
    turns.messages = many;
    turns.message_count = 80;
    assert_int_equal(engine_tokenize(fixtures[0].engine, &turns, &a, &a_count), ERR_OK);
    assert_true(a_count > 100 && a_count <= engine_info(fixtures[0].engine)->context);
    free(a);
}

static size_t count_ids(const struct engine_message *messages, size_t count, int32_t **ids)
{
    struct engine_request request = {
        .messages = messages, .message_count = count, .params = engine_params_default()};
    size_t made = 0;
    if (engine_tokenize(fixtures[0].engine, &request, ids, &made) != ERR_OK)
        fail_msg("%s", err_text());
    return made;
}

/* Of a long talk as few of the oldest turns leave as it takes, and those in front say who speaks.
 */
static void test_the_oldest_turns_leave(void **state)
{
    enum { TURNS = 1024 };
    static struct engine_message messages[TURNS];
    static const char *const texts[] = {"Hello", "", "Do you like music?", "Hi there, you"};
    size_t context = engine_info(fixtures[0].engine)->context;
    for (size_t system = 0; system < 2; system++) {
        for (size_t i = 0; i < TURNS; i++)
            messages[i] =
                (struct engine_message){i % 2 == 0 ? "user" : "assistant", texts[i * i / 3 % 4]};
        if (system)
            messages[0] = (struct engine_message){"system", "your persona: I like cats."};
        struct engine_message shorter[TURNS + 1] = {messages[0]};
        int32_t *ids = NULL, *wanted = NULL;
        size_t made = count_ids(messages, TURNS, &ids), count = 0, kept = 0;
        assert_true(made <= context);
        while (count < made) { /* one turn more each time */
            kept++;
            memcpy(shorter + system, messages + TURNS - kept, kept * sizeof *messages);
            free(wanted);
            count = count_ids(shorter, system + kept, &wanted);
        }
        assert_true(kept > 10 && count == made);
        assert_memory_equal(ids, wanted, made * sizeof *ids);
        free(wanted);
        wanted = NULL;
        memcpy(shorter + system, messages + TURNS - kept - 1, (kept + 1) * sizeof *messages);
        assert_int_equal(count_ids(shorter, system + kept + 1, &wanted),
                         made); /* it leaves again */
        assert_memory_equal(ids, wanted, made * sizeof *ids);
        free(ids);
        free(wanted);
    }
}

static void refused(const struct engine_request *request, const char *first_word)
{
    assert_int_equal(engine_start(fixtures[0].engine, request), ERR_UNSUPPORTED);
    if (strncmp(err_text(), first_word, strlen(first_word)) != 0)
        fail_msg("not %s: %s", first_word, err_text());
    assert_int_equal(engine_active(fixtures[0].engine), 0);
}

static void test_what_it_can_not_do_is_refused(void **state)
{
    const struct engine_request plain = {
        .messages = says("Hello"), .message_count = 1, .params = engine_params_default()};
    const struct engine_bias bias = {1, 1};
    struct engine_request request = plain;
    request.params.frequency_penalty = 0.5f;
    refused(&request, "frequency_penalty ");
    request = plain;
    request.params.presence_penalty = -0.5f;
    refused(&request, "presence_penalty ");
    request = plain;
    request.params.repeat_penalty = 1.5f;
    refused(&request, "repeat_penalty ");
    request = plain;
    request.params.logprobs = 0;
    refused(&request, "logprobs ");
    request = plain;
    request.params.bias = &bias;
    request.params.bias_count = 1;
    refused(&request, "logit_bias ");
    request = plain;
    request.params.grammar = "root ::= \"a\"";
    refused(&request, "grammar ");
    request = (struct engine_request){.raw_prompt = "Hello", .params = engine_params_default()};
    refused(&request, "prompt ");
    const char *input = "Hello";
    request = (struct engine_request){.task = ENGINE_EMBED, .inputs = &input, .input_count = 1};
    refused(&request, "model ");
    request = plain; /* what changes nothing */
    request.params.frequency_penalty = request.params.presence_penalty = 0;
    request.params.repeat_penalty = 1;
    assert_int_equal(engine_start(fixtures[0].engine, &request), ERR_OK);
    engine_cancel(fixtures[0].engine, NULL);
    assert_int_equal(engine_active(fixtures[0].engine), 0);
}

/* Its only event; beside a reply, which goes on. */
static struct engine_event run_task(struct engine_request request)
{
    static int user;
    struct engine_event events[SLOTS], mine = {0};
    size_t count = 0;
    request.user = &user;
    if (engine_start(fixtures[0].engine, &request) != ERR_OK)
        fail_msg("%s", err_text());
    assert_int_equal(engine_step(fixtures[0].engine, events, &count), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        if (events[i].user == &user)
            mine = events[i];
    }
    assert_true(mine.last);
    assert_int_equal(mine.error, ERR_OK);
    return mine;
}

static void test_tokens_and_texts(void **state)
{
    struct engine_request reply = {
        .messages = says("Hello"), .message_count = 1, .params = engine_params_default()};
    assert_int_equal(engine_start(fixtures[0].engine, &reply), ERR_OK);
    const char *const texts[] = {"Do you like music?", " two  spaces", "\xC3\xA9 \xF0\x9F\x99\x82",
                                 ""};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct engine_event event =
            run_task((struct engine_request){.task = ENGINE_TOKENIZE, .raw_prompt = texts[i]});
        int32_t ids[64];
        size_t count = event.token_count;
        assert_in_range(count, texts[i][0] != '\0', 64);
        char joined[64] = "";
        for (size_t k = 0; k < count; k++) {
            ids[k] = event.tokens[k];
            assert_true(strlen(joined) + strlen(event.token_texts[k]) < sizeof joined);
            strcat(joined, event.token_texts[k]);
        }
        assert_string_equal(joined + (strlen(joined) > strlen(texts[i])), texts[i]);
        event = run_task((struct engine_request){
            .task = ENGINE_DETOKENIZE, .resume_tokens = ids, .resume_token_count = count});
        assert_non_null(event.text); /* the tokenizer may have put a space in front */
        const char *text = event.text + (event.text_len > strlen(texts[i]));
        assert_string_equal(text, texts[i]);
    }
    const struct engine_message messages[] = {
        {"user", "Hello"}, {"assistant", "Hi there"}, {"user", "Do you like music?"}};
    struct engine_event event = run_task(
        (struct engine_request){.task = ENGINE_TEMPLATE, .messages = messages, .message_count = 3});
    assert_string_equal(event.text, " Hello  Hi there   Do you like music?");
    int32_t none = -1;
    struct engine_request request = {
        .task = ENGINE_DETOKENIZE, .resume_tokens = &none, .resume_token_count = 1};
    assert_int_equal(engine_start(fixtures[0].engine, &request), ERR_INVALID);
    static char big[200000];
    memset(big, 'x', sizeof big - 1);
    request = (struct engine_request){.task = ENGINE_TOKENIZE, .raw_prompt = big};
    assert_int_equal(engine_start(fixtures[0].engine, &request), ERR_LIMIT);
    engine_cancel(fixtures[0].engine, NULL);
    assert_int_equal(engine_active(fixtures[0].engine), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_line_and_mode_side_by_side),
        cmocka_unit_test(test_goes_on_where_another_ended),
        cmocka_unit_test(test_beams_go_on_as_if_nothing_had_been),
        cmocka_unit_test(test_beams_go_on_behind_other_tokens),
        cmocka_unit_test(test_beams_are_heard_before_they_end),
        cmocka_unit_test(test_cancelled_one_leaves_no_event),
        cmocka_unit_test(test_what_does_not_fit),
        cmocka_unit_test(test_too_long_a_reply_is_cut_to_the_positions),
        cmocka_unit_test(test_turns_are_joined),
        cmocka_unit_test(test_the_oldest_turns_leave),
        cmocka_unit_test(test_what_it_can_not_do_is_refused),
        cmocka_unit_test(test_tokens_and_texts),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
