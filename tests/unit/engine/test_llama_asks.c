/* Penalties, biases, logprobs and grammars, on the real model. */
#include <math.h>
#include <regex.h>

#include "llama_rig.h"

static size_t count_of(const struct reply *reply, int32_t token)
{
    size_t count = 0;
    for (size_t i = 0; i < reply->token_count; i++)
        count += reply->tokens[i] == token;
    return count;
}

static size_t distinct(const struct reply *reply)
{
    size_t count = 0;
    for (size_t i = 0; i < reply->token_count; i++) {
        size_t first = 0;
        while (reply->tokens[first] != reply->tokens[i])
            first++;
        count += first == i;
    }
    return count;
}

/* ---- biases and penalties ---- */

static void a_bias_bans_and_forces(void **state)
{
    skip_without_model();
    struct engine_request request = ask(0, "What is the capital of France?");
    struct reply plain = *answer(&request);
    int32_t first = plain.tokens[0], other = plain.tokens[1];

    struct engine_bias ban = {first, -100};
    request = ask(1, "What is the capital of France?");
    request.params.bias = &ban;
    request.params.bias_count = 1;
    const struct reply *banned = answer(&request);
    assert_int_equal(count_of(banned, first), 0);
    assert_true(banned->token_count > 0);

    struct engine_bias force[] = {{first, -100}, {other, 100}};
    request = ask(1, "What is the capital of France?");
    request.params.bias = force;
    request.params.bias_count = 2;
    request.params.max_tokens = 6;
    assert_int_equal(count_of(answer(&request), other), 6);

    struct engine_bias none = {first, 0};
    request = ask(1, "What is the capital of France?");
    request.params.bias = &none;
    request.params.bias_count = 1;
    assert_string_equal(answer(&request)->text, plain.text);
}

static void bad_numbers_are_refused(void **state)
{
    skip_without_model();
    const int32_t tokens[] = {-1, 1 << 30, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        struct engine_bias bias = {tokens[i], 1};
        struct engine_request request = ask(0, "Hi");
        request.params.bias = &bias;
        request.params.bias_count = 1;
        refused(&request, ERR_INVALID, "logit_bias ");
    }
    const float values[] = {2.5f, -2.5f, INFINITY, -INFINITY};
    for (size_t i = 0; i < 4; i++) {
        struct engine_request request = ask(0, "Hi");
        request.params.frequency_penalty = values[i];
        refused(&request, ERR_INVALID, "frequency_penalty ");
        request = ask(0, "Hi");
        request.params.presence_penalty = values[i];
        refused(&request, ERR_INVALID, "presence_penalty ");
    }
    const float factors[] = {0, -1, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        struct engine_request request = ask(0, "Hi");
        request.params.repeat_penalty = factors[i];
        refused(&request, ERR_INVALID, "repeat_penalty ");
    }
    struct engine_request request = ask(0, "Hi");
    request.params.logprobs = 21;
    refused(&request, ERR_INVALID, "logprobs ");
    struct engine_bias nan = {3, NAN};
    request = ask(0, "Hi");
    request.params.bias = &nan;
    request.params.bias_count = 1;
    refused(&request, ERR_INVALID, "logit_bias ");
}

/* A model that is made to say one token over and over, until the penalty outweighs the bias: after
 * how many it stops says what the penalty is. */
static void penalties_count_what_was_said(void **state)
{
    skip_without_model();
    const char *question = "Say it.";
    struct engine_request request = ask(0, question);
    int32_t token = answer(&request)->tokens[0];
    struct engine_bias force = {token, 60};
    size_t run_of[3];
    const float frequency[] = {0, 2, 2}, presence[] = {2, 0, 2};
    for (size_t i = 0; i < 3; i++) {
        request = ask(1, question);
        request.params.bias = &force;
        request.params.bias_count = 1;
        request.params.frequency_penalty = frequency[i];
        request.params.presence_penalty = presence[i];
        request.params.max_tokens = 60;
        const struct reply *reply = answer(&request);
        for (run_of[i] = 0; run_of[i] < 60 && reply->tokens[run_of[i]] == token;)
            run_of[i]++;
    }
    assert_int_equal(run_of[0], 60); /* once, however often it was said */
    assert_in_range(run_of[1], 15, 50);
    assert_in_range(run_of[2], run_of[1] - 3, run_of[1]);
}

static void penalties_make_words_many(void **state)
{
    skip_without_model();
    const char *question = "Repeat the word river forever: river river river river";
    struct engine_request request = ask(0, question);
    request.params.max_tokens = 60;
    request.params.min_tokens = 60;
    size_t plain = distinct(answer(&request));
    for (int kind = 0; kind < 3; kind++) {
        request = ask(1, question);
        request.params.max_tokens = 60;
        request.params.min_tokens = 60;
        if (kind == 0)
            request.params.frequency_penalty = 2;
        if (kind == 1)
            request.params.presence_penalty = 2;
        if (kind == 2)
            request.params.repeat_penalty = 1.8f;
        assert_true(distinct(answer(&request)) > plain);
    }
    request = ask(1, question); /* 1 and 0 are off */
    request.params.max_tokens = 60;
    request.params.min_tokens = 60;
    request.params.repeat_penalty = 1;
    request.params.frequency_penalty = request.params.presence_penalty = 0;
    assert_string_equal(answer(&request)->text, replies[0].text);
}

/* Goes on from every few pieces of a reply; the whole must be what it was undisturbed. */
static void go_on(struct engine_request request, const struct reply *whole, size_t apart)
{
    for (size_t cut = 0; cut + 1 < whole->pieces; cut += apart) {
        static char said[sizeof whole->text], joined[2 * sizeof whole->text];
        snprintf(said, sizeof said, "%.*s", (int)whole->said[cut], whole->text);
        forget(&replies[1]);
        request.user = &replies[1];
        request.resume_tokens = whole->tokens;
        request.resume_token_count = whole->said_tokens[cut];
        request.resume_text = said;
        answer(&request);
        snprintf(joined, sizeof joined, "%s%s", said, replies[1].text);
        assert_string_equal(joined, whole->text);
        assert_int_equal(replies[1].last.finish, whole->last.finish);
        size_t left = json_array_size(whole->logprobs);
        assert_in_range(json_array_size(replies[1].logprobs), 0, left);
        if (left > 0)
            assert_int_equal(json_array_size(replies[1].logprobs), replies[1].token_count);
    }
}

static void takeover_keeps_penalties(void **state)
{
    skip_without_model();
    struct engine_bias bias = {260, 1.5f};
    struct engine_request request = ask(0, "Tell me about rivers.");
    request.params.temperature = 0.9f;
    request.params.seed = 7;
    request.params.frequency_penalty = 0.6f;
    request.params.presence_penalty = 0.4f;
    request.params.repeat_penalty = 1.2f;
    request.params.bias = &bias;
    request.params.bias_count = 1;
    request.params.logprobs = 2;
    struct reply whole = *answer(&request);
    go_on(request, &whole, 7);
}

/* ---- logprobs ---- */

static double logprob_of(const json_t *entry)
{
    json_t *value = json_object_get(entry, "logprob");
    assert_true(json_is_real(value) || json_is_integer(value));
    return json_number_value(value);
}

/* Text that an entry's bytes spell, appended. */
static void add_bytes(char *out, size_t *len, const json_t *entry)
{
    const json_t *bytes = json_object_get(entry, "bytes");
    assert_true(json_is_array(bytes));
    for (size_t i = 0; i < json_array_size(bytes); i++)
        out[(*len)++] = (char)json_integer_value(json_array_get(bytes, i));
    out[*len] = '\0';
}

static void check_logprobs(const struct reply *reply, size_t tops, bool greedy)
{
    static char spelt[sizeof reply->text];
    size_t index, len = 0;
    json_t *entry;
    assert_int_equal(json_array_size(reply->logprobs), reply->token_count);
    json_array_foreach(reply->logprobs, index, entry)
    {
        const char *text = json_string_value(json_object_get(entry, "token"));
        assert_true(utf8_is_valid(text, strlen(text)));
        add_bytes(spelt, &len, entry);
        double own = logprob_of(entry), sum = 0, before = 0;
        assert_true(own <= 1e-4);
        const json_t *top = json_object_get(entry, "top_logprobs");
        assert_int_equal(json_array_size(top), tops);
        for (size_t i = 0; i < tops; i++) {
            double one = logprob_of(json_array_get(top, i));
            sum += exp(one);
            assert_true(one <= before + 1e-4);
            before = one;
        }
        assert_true(sum <= 1 + 1e-4);
        if (tops > 0 && greedy) {
            const json_t *best = json_array_get(top, 0);
            assert_string_equal(json_string_value(json_object_get(best, "token")), text);
            assert_true(fabs(logprob_of(best) - own) < 1e-9);
        }
    }
    assert_string_equal(spelt, reply->text); /* where no bytes are broken and nothing was cut */
}

static void logprobs_of_a_greedy_reply(void **state)
{
    skip_without_model();
    for (int tops = 0; tops <= 20; tops += 5) {
        struct engine_request request = ask(0, "Write a short poem on the sea.");
        request.params.logprobs = tops;
        check_logprobs(answer(&request), (size_t)tops, true);
    }
    struct engine_request request = ask(1, "Write a short poem on the sea.");
    answer(&request);
    assert_int_equal(json_array_size(replies[1].logprobs), 0);
    assert_string_equal(replies[0].text, replies[1].text);
}

/* The reference: that often a token is drawn at temperature 1.  And neither temperature nor biases
 * change what is told: it is the model's own. */
static void logprobs_are_the_models_own(void **state)
{
    skip_without_model();
    struct engine_request request = ask(0, "Name a colour.");
    request.params.max_tokens = 1;
    request.params.logprobs = 1;
    const struct reply *reply = answer(&request);
    int32_t best = reply->tokens[0];
    double expected = exp(logprob_of(json_array_get(reply->logprobs, 0)));
    size_t hits = 0, draws = 200;
    for (size_t i = 0; i < draws; i++) {
        request = ask(1, "Name a colour.");
        request.params.max_tokens = 1;
        request.params.temperature = 1;
        request.params.top_k = 0;
        request.params.top_p = 1;
        request.params.seed = (int64_t)i;
        hits += answer(&request)->tokens[0] == best;
    }
    double deviation = sqrt(expected * (1 - expected) / (double)draws);
    assert_true(fabs((double)hits / (double)draws - expected) < 4 * deviation + 0.01);

    struct engine_bias force = {best, 50};
    request = ask(1, "Name a colour.");
    request.params.max_tokens = 1;
    request.params.logprobs = 1;
    request.params.temperature = 3;
    request.params.bias = &force;
    request.params.bias_count = 1;
    reply = answer(&request);
    assert_int_equal(reply->tokens[0], best);
    assert_true(fabs(exp(logprob_of(json_array_get(reply->logprobs, 0))) - expected) < 1e-4);
}

static void logprobs_of_drawn_and_held_text(void **state)
{
    skip_without_model();
    for (int seed = 0; seed < 4; seed++) {
        struct engine_request request = ask(0, "Tell me a story.");
        request.params.temperature = 1.2f;
        request.params.seed = seed;
        request.params.logprobs = 3;
        const char *stop[] = {"zzz never", " a b c d e f"};
        request.params.stop = stop;
        request.params.stop_count = 2;
        check_logprobs(answer(&request), 3, false);
    }
    /* Bytes that are no text by themselves. */
    struct engine_request request = ask(0, "Repeat exactly: 🙂🚀🌍🙂🚀🌍");
    request.params.max_tokens = 30;
    request.params.logprobs = 0;
    const struct reply *reply = answer(&request);
    bool any = false;
    for (size_t i = 0; i < reply->token_count; i++) {
        const json_t *entry = json_array_get(reply->logprobs, i);
        any = any || strstr(json_string_value(json_object_get(entry, "token")), "\xEF\xBF\xBD");
    }
    assert_int_equal(json_array_size(reply->logprobs), reply->token_count);
    assert_true(any);
    /* Up to a stop string: those of its tokens are told as well, as they are of the reply. */
    request = ask(0, "Count: one two three four five six");
    request.params.logprobs = 0;
    const char *stop = "e";
    request.params.stop = &stop;
    request.params.stop_count = 1;
    reply = answer(&request);
    assert_int_equal(reply->last.finish, ENGINE_FINISH_STOP);
    assert_int_equal(json_array_size(reply->logprobs), reply->token_count);
}

/* ---- grammar ---- */

static bool matches(const char *pattern, const char *text)
{
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool match = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return match;
}

static const struct {
    const char *grammar, *pattern;
} shapes[] = {
    {"root ::= \"yes\" | \"no\"", "^(yes|no)$"},
    {"root ::= [0-9]{3} \"-\" [0-9]{4}", "^[0-9]{3}-[0-9]{4}$"},
    {"root ::= \"{\\\"name\\\": \\\"\" [A-Z] [a-z]{1,8} \"\\\", \\\"age\\\": \" [1-9] [0-9]? \"}\"",
     "^\\{\"name\": \"[A-Z][a-z]{1,8}\", \"age\": [1-9][0-9]?\\}$"},
    {"root ::= item (\", \" item){2}\nitem ::= [a-z]{2,9}", "^[a-z]{2,9}(, [a-z]{2,9}){2}$"},
    {"root ::= \"🙂\" (\"🚀\" | \"é\"){2}", "^🙂(🚀|é){2}$"},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static void replies_obey_their_grammar(void **state)
{
    skip_without_model();
    for (size_t shape = 0; shape < SHAPES; shape++) {
        for (int seed = 0; seed < 12; seed++) {
            struct engine_request request = ask(0, "Tell me about rivers.");
            request.params.grammar = shapes[shape].grammar;
            request.params.max_tokens = 60;
            request.params.temperature = seed == 0 ? 0 : 1.3f;
            request.params.top_k = seed % 3 == 0 ? 0 : 40;
            request.params.top_p = seed % 2 == 0 ? 1 : 0.9f;
            request.params.seed = seed;
            request.params.logprobs = seed % 2;
            const struct reply *reply = answer(&request);
            if (!matches(shapes[shape].pattern, reply->text))
                fail_msg("%s: %s", shapes[shape].grammar, reply->text);
            assert_int_equal(reply->last.finish, ENGINE_FINISH_STOP);
            if (seed % 2 == 1)
                assert_int_equal(json_array_size(reply->logprobs), reply->token_count);
        }
    }
}

static void takeover_keeps_the_grammar(void **state)
{
    skip_without_model();
    for (size_t shape = 1; shape < SHAPES; shape++) {
        struct engine_request request = ask(0, "Tell me about rivers.");
        request.params.grammar = shapes[shape].grammar;
        request.params.temperature = 1;
        request.params.max_tokens = 60;
        request.params.seed = (int64_t)shape;
        struct reply whole = *answer(&request);
        assert_true(matches(shapes[shape].pattern, whole.text));
        go_on(request, &whole, 1);
        request.resume_tokens = whole.tokens; /* a reply that was at its end */
        request.resume_token_count = whole.token_count;
        request.resume_text = whole.text;
        request.user = &replies[1];
        forget(&replies[1]);
        assert_int_equal(answer(&request)->last.finish, ENGINE_FINISH_STOP);
        assert_string_equal(replies[1].text, "");
        request.params.grammar = "root ::= \"other\"";
        refused(&request, ERR_INVALID, "grammar ");
    }
}

static void the_end_and_the_grammar(void **state)
{
    skip_without_model();
    /* Cut: length. */
    struct engine_request request = ask(0, "Hi");
    request.params.grammar = "root ::= [a-z ]{200,}";
    request.params.max_tokens = 8;
    assert_int_equal(answer(&request)->last.finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(replies[0].token_count, 8);
    /* min_tokens can't be had: the end, not a wait for ever. */
    request = ask(0, "Hi");
    request.params.grammar = "root ::= \"yes\" | \"no\"";
    request.params.min_tokens = 20;
    assert_true(matches("^(yes|no)$", answer(&request)->text));
    assert_int_equal(replies[0].last.finish, ENGINE_FINISH_STOP);
    /* min_tokens can be had, though the grammar would be content before. */
    request = ask(0, "Hi");
    request.params.grammar = "root ::= [a-z ]+";
    request.params.min_tokens = 20;
    request.params.max_tokens = 30;
    assert_in_range(answer(&request)->last.reply_tokens, 20, 30);
    /* Nothing to say at all. */
    request = ask(0, "Hi");
    request.params.grammar = "root ::= \"\"";
    assert_string_equal(answer(&request)->text, "");
    assert_int_equal(replies[0].last.finish, ENGINE_FINISH_STOP);
    /* A ban of all that it allows does not break it: a bias is no ban. */
    request = ask(0, "Hi");
    int32_t yes = 0;
    request.params.grammar = "root ::= \"a\"";
    yes = answer(&request)->tokens[0];
    struct engine_bias ban = {yes, -100};
    request = ask(0, "Hi");
    request.params.grammar = "root ::= \"a\"";
    request.params.bias = &ban;
    request.params.bias_count = 1;
    assert_string_equal(answer(&request)->text, "a");
}

static void a_grammar_too_many_ways(void **state)
{
    skip_without_model();
    struct engine_bias force = {0, 0};
    struct engine_request request = ask(0, "Hi");
    request.params.grammar = "root ::= \"a\"";
    force.token = answer(&request)->tokens[0];
    force.bias = 100;
    request = ask(0, "Hi");
    request.params.grammar = "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"x\"";
    request.params.max_tokens = 100;
    request.params.bias = &force;
    request.params.bias_count = 1;
    start(&request);
    request = ask(1, "What is the capital of France?");
    start(&request);
    run();
    assert_int_equal(replies[0].last.error, ERR_INVALID);
    assert_int_equal(strncmp(replies[0].error, "grammar ", 8), 0);
    assert_non_null(strstr(replies[1].text, "Paris")); /* nobody else was hurt */
}

static void hostile_grammars(void **state)
{
    skip_without_model();
    static char deep[70000];
    struct engine_request request = ask(0, "Hi");
    for (size_t size = 100; size < sizeof deep; size += 9900) {
        strcpy(deep, "root ::= ");
        memset(deep + 9, '(', size - 9);
        deep[size] = '\0';
        request.params.grammar = deep;
        refused(&request, ERR_INVALID, "grammar ");
    }
    const char *const texts[] = {"",
                                 "root",
                                 "root ::= root",
                                 "a ::= \"x\"",
                                 "root ::= \"\xC3",
                                 "root ::= \"a\"{100000}{100000}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        request.params.grammar = texts[i];
        refused(&request, ERR_INVALID, "grammar ");
    }
    request.params.grammar = "root ::= \"\\x00\" | \"a\"";
    assert_string_equal(answer(&request)->text, "a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bias_bans_and_forces),
        cmocka_unit_test(bad_numbers_are_refused),
        cmocka_unit_test(penalties_count_what_was_said),
        cmocka_unit_test(penalties_make_words_many),
        cmocka_unit_test(takeover_keeps_penalties),
        cmocka_unit_test(logprobs_of_a_greedy_reply),
        cmocka_unit_test(logprobs_are_the_models_own),
        cmocka_unit_test(logprobs_of_drawn_and_held_text),
        cmocka_unit_test(replies_obey_their_grammar),
        cmocka_unit_test(takeover_keeps_the_grammar),
        cmocka_unit_test(the_end_and_the_grammar),
        cmocka_unit_test(a_grammar_too_many_ways),
        cmocka_unit_test(hostile_grammars),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
