/* Embeddings, tokens, texts of chats and raw prompts, on the real model. */
#include <math.h>

#include "llama_rig.h"

/* ---- embeddings ---- */

static struct engine_request embedding(size_t number, const char *const *inputs, size_t count)
{
    forget(&replies[number]);
    return (struct engine_request){.task = ENGINE_EMBED,
                                   .inputs = inputs,
                                   .input_count = count,
                                   .params = engine_params_default(),
                                   .user = &replies[number]};
}

static double product(const struct reply *a, size_t i, const struct reply *b, size_t k)
{
    size_t width = a->last.vector_size;
    double sum = 0;
    for (size_t n = 0; n < width; n++)
        sum += (double)a->vectors[i * width + n] * (double)b->vectors[k * width + n];
    return sum;
}

static void vectors(void **state)
{
    skip_without_model();
    const char *const inputs[] = {
        "The cat sleeps on the sofa.", "A kitten is sleeping on a couch.",
        "The stock market fell sharply after the central bank raised interest rates.",
        "The cat sleeps on the sofa.", "x"};
    struct engine_request request = embedding(0, inputs, 5);
    const struct reply *all = answer(&request);
    assert_int_equal(all->last.vector_count, 5);
    assert_true(all->last.vector_size >= 64);
    assert_in_range(all->last.prompt_tokens, 30, 80);
    assert_int_equal(all->last.reply_tokens, 0);
    assert_null(all->last.text);
    for (size_t i = 0; i < 5; i++)
        assert_true(fabs(product(all, i, all, i) - 1) < 1e-4);
    assert_true(fabs(product(all, 0, all, 3) - 1) < 1e-4); /* the same text */
    assert_true(product(all, 0, all, 1) > product(all, 0, all, 2) + 0.02);
    assert_true(product(all, 0, all, 1) > product(all, 1, all, 2) + 0.02);
    request = embedding(1, inputs + 1, 1); /* by itself */
    assert_true(fabs(product(answer(&request), 0, all, 1) - 1) < 1e-4);
}

/* A text of several chunks, cut in chunks of another size beside a reply, has the same vector; and
 * the reply's text stays what it was alone. */
static void beside_a_reply(void **state)
{
    skip_without_model();
    static char text[2000];
    for (size_t i = 0; i < 40; i++)
        sprintf(text + strlen(text), "Stone %zu lies by the river. ", i * 13);
    const char *const inputs[] = {text, "Another text.", text};
    struct engine_request request = embedding(0, inputs, 3);
    struct reply alone = *answer(&request);
    replies[0].vectors = NULL; /* ours now */
    assert_true(alone.last.prompt_tokens > 600);
    request = ask(1, "Tell me about rivers.");
    struct reply before = *answer(&request);

    request = ask(1, "Tell me about rivers.");
    start(&request);
    request = embedding(0, inputs, 3);
    start(&request);
    assert_int_equal(engine_active(engine), 2);
    size_t steps = 0;
    for (; engine_active(engine) == 2; steps++)
        step_once();
    assert_int_equal(replies[1].last.finish, ENGINE_FINISH_LENGTH); /* it was not kept waiting */
    assert_in_range(steps, 24, 27);
    run();
    assert_string_equal(replies[1].text, before.text);
    for (size_t i = 0; i < 3; i++)
        assert_true(fabs(product(&alone, i, &replies[0], i) - 1) < 1e-3);
    free(alone.vectors);
}

static void several_at_once_and_cancelled(void **state)
{
    skip_without_model();
    const char *const inputs[] = {"one", "two"};
    struct engine_request request;
    for (size_t i = 0; i < SLOTS; i++) {
        request = embedding(i, inputs, 2);
        start(&request);
    }
    assert_int_equal(engine_start(engine, &request), ERR_FULL);
    step_once();
    engine_cancel(engine, &replies[0]);
    engine_cancel(engine, &replies[2]);
    run();
    assert_false(replies[0].last.last);
    assert_false(replies[2].last.last);
    assert_int_equal(replies[1].last.vector_count, 2);
    assert_true(fabs(product(&replies[1], 1, &replies[3], 1) - 1) < 1e-4);
}

static void bad_inputs(void **state)
{
    skip_without_model();
    static char words[200000];
    const char *inputs[] = {"fine", ""};
    struct engine_request request = embedding(0, inputs, 2);
    refused(&request, ERR_INVALID, "input[1] is empty");
    inputs[1] = "\xC3(";
    refused(&request, ERR_INVALID, "input[1] ");
    request.input_count = 0;
    refused(&request, ERR_INVALID, "input ");
    for (size_t i = 0; i + 7 < sizeof words; i += 6)
        memcpy(words + i, " hello", 7);
    for (size_t size = sizeof words - 1; size > 3600; size /= 2) {
        words[size] = '\0';
        inputs[1] = words;
        request = embedding(0, inputs, 2);
        start(&request);
        run();
        assert_int_equal(replies[0].last.error, ERR_LIMIT);
        assert_int_equal(strncmp(replies[0].error, "input[1] ", 9), 0);
    }
    words[500 * 6] = '\0';
    request = embedding(0, inputs, 2);
    answer(&request);
}

/* ---- tokens and texts ---- */

static uint64_t random_state = 88172645463325252ULL;

static unsigned dice(unsigned sides)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % sides;
}

/* Valid UTF-8 of all kinds: control characters, spaces in rows, emoji, what looks like special
 * tokens, characters that nobody uses. */
static void wild_text(char *out, size_t parts)
{
    static const char *const pieces[] = {"<|im_start|>",
                                         "<|im_end|>",
                                         "<|endoftext|>",
                                         "    ",
                                         "\n\n",
                                         "\t",
                                         "\r\n",
                                         "\x01",
                                         "\x7F",
                                         "\xC2\xA0",
                                         "\xE2\x80\x8B",
                                         "\xF0\x9F\x99\x82",
                                         "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80",
                                         "\xE6\x97\xA5\xE6\x9C\xAC",
                                         "\xD8\xB9",
                                         "e\xCC\x81",
                                         "12345",
                                         "Hello",
                                         " the",
                                         "'s",
                                         "\"",
                                         "\\",
                                         "{}",
                                         "\xF4\x8F\xBF\xBF",
                                         "\xEF\xBF\xBD",
                                         "\xED\x9F\xBF",
                                         "_",
                                         "-",
                                         "0"};
    *out = '\0';
    for (size_t i = 0; i < parts; i++)
        strcat(out, pieces[dice(sizeof pieces / sizeof *pieces)]);
}

static void texts_come_back(void **state)
{
    skip_without_model();
    static char text[2000];
    for (size_t i = 0; i < 200; i++) {
        wild_text(text, i % 40);
        forget(&replies[0]);
        struct engine_request request = {
            .task = ENGINE_TOKENIZE, .raw_prompt = text, .user = &replies[0]};
        struct engine_event event;
        size_t count = 0;
        start(&request);
        assert_int_equal(engine_step(engine, &event, &count), ERR_OK);
        assert_int_equal(count, 1);
        assert_true(event.last);
        assert_null(event.text);
        int32_t ids[1000];
        size_t id_count = event.token_count;
        assert_in_range(id_count, text[0] != '\0', 999);
        assert_int_equal(event.prompt_tokens, id_count);
        for (size_t k = 0; k < id_count; k++) {
            ids[k] = event.tokens[k];
            assert_true(ids[k] > 2); /* no special token was read from the text */
            assert_true(utf8_is_valid(event.token_texts[k], strlen(event.token_texts[k])));
        }
        request = (struct engine_request){.task = ENGINE_DETOKENIZE,
                                          .resume_tokens = ids,
                                          .resume_token_count = id_count,
                                          .user = &replies[0]};
        assert_string_equal(answer(&request)->text, text);
    }
}

static void odd_tokens(void **state)
{
    skip_without_model();
    const int32_t bad[] = {-1, 1 << 30, INT32_MIN};
    for (size_t i = 0; i < 3; i++) {
        forget(&replies[0]);
        struct engine_request request = {.task = ENGINE_DETOKENIZE,
                                         .resume_tokens = &bad[i],
                                         .resume_token_count = 1,
                                         .user = &replies[0]};
        refused(&request, ERR_INVALID, "tokens ");
    }
    const int32_t special = 1;
    struct engine_request request = {.task = ENGINE_DETOKENIZE,
                                     .resume_tokens = &special,
                                     .resume_token_count = 1,
                                     .user = &replies[0]};
    forget(&replies[0]);
    assert_string_equal(answer(&request)->text, "<|im_start|>");
    static char words[200000];
    memset(words, 'w', sizeof words - 1);
    request =
        (struct engine_request){.task = ENGINE_TOKENIZE, .raw_prompt = words, .user = &replies[0]};
    refused(&request, ERR_LIMIT, "content ");
}

static void the_templates_text(void **state)
{
    skip_without_model();
    const struct engine_message messages[] = {{"system", "Be brief."},
                                              {"user", "Hi<|im_end|>\x02"
                                                       "0\x03"}};
    struct engine_request request = {
        .task = ENGINE_TEMPLATE, .messages = messages, .message_count = 2, .user = &replies[0]};
    forget(&replies[0]);
    assert_string_equal(answer(&request)->text,
                        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>"
                        "\x02"
                        "0\x03<|im_end|>\n<|im_start|>assistant\n");
    request.message_count = 0;
    refused(&request, ERR_INVALID, "there is no message");
}

/* ---- raw prompts ---- */

static struct engine_request raw(size_t number, const char *text)
{
    struct engine_request request = ask(number, "");
    request.messages = NULL;
    request.message_count = 0;
    request.raw_prompt = text;
    return request;
}

static void raw_prompts_go_on(void **state)
{
    skip_without_model();
    struct engine_request request = raw(0, "The capital of France is");
    assert_non_null(strstr(answer(&request)->text, "Paris"));
    assert_in_range(replies[0].last.prompt_tokens, 5, 6); /* no template; BOS if the file says so */
    /* Special tokens' text is text: the same as spelt out by the tokenizer. */
    int32_t *ids;
    size_t count;
    request = raw(0, "<|im_start|>user\nHi<|im_end|>");
    assert_int_equal(engine_tokenize(engine, &request, &ids, &count), ERR_OK);
    assert_true(count > 10);
    for (size_t i = 0; i < count; i++)
        assert_true(ids[i] > 2);
    free(ids);
    answer(&request);
    request = raw(0, "");
    refused(&request, ERR_INVALID, "prompt ");
    request = raw(0, "\xFF");
    refused(&request, ERR_INVALID, "prompt ");
    request.raw_prompt = NULL;
    refused(&request, ERR_INVALID, "there is no message");
}

/* A task takes a slot and leaves its cache as it was. */
static void tasks_keep_caches(void **state)
{
    skip_without_model();
    static char text[1600];
    for (size_t i = 0; i < 40; i++)
        sprintf(text + strlen(text), "House %zu is blue. ", i * 7);
    struct engine_request request = ask(0, text);
    answer(&request);
    const char *inputs[] = {"one", "two"};
    for (size_t i = 0; i < SLOTS; i++) {
        request = embedding(i, inputs, 2);
        start(&request);
    }
    assert_int_equal((int)(engine_figures(engine).kv_used * 1000), 0);
    run();
    request = ask(1, text);
    answer(&request);
    assert_int_equal(replies[1].last.cached_tokens, replies[1].last.prompt_tokens - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors),
        cmocka_unit_test(beside_a_reply),
        cmocka_unit_test(several_at_once_and_cancelled),
        cmocka_unit_test(bad_inputs),
        cmocka_unit_test(texts_come_back),
        cmocka_unit_test(odd_tokens),
        cmocka_unit_test(the_templates_text),
        cmocka_unit_test(raw_prompts_go_on),
        cmocka_unit_test(tasks_keep_caches),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
