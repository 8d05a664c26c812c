/* The search against what Hugging Face's generate gives for scripted scores: many equal ones, so
 * that ties decide; rules that forbid nearly everything; fewer candidates than beams.  The cases
 * and their results are in tests/data/blenderbot/search.json (see the note there). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "engine/blenderbot/search.h"
#include "engine/blenderbot/topk.h"
#include "wire/json.h"

#define IDS_MAX 512

static int32_t lists[4][IDS_MAX];

static size_t read_list(const json_t *value, int32_t *out)
{
    if (json_is_integer(value)) {
        out[0] = (int32_t)json_integer_value(value);
        return 1;
    }
    assert_true(json_array_size(value) < IDS_MAX);
    for (size_t i = 0; i < json_array_size(value); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(value, i));
    return json_array_size(value);
}

static size_t read_words(const json_t *words, int32_t *out)
{
    size_t made = 0, i;
    const json_t *word;
    json_array_foreach(words, i, word)
    {
        made += read_list(word, out + made);
        out[made++] = -1;
    }
    return made;
}

static size_t read_count(const json_t *params, const char *key, size_t fallback)
{
    const json_t *value = json_object_get(params, key);
    return value != NULL ? (size_t)json_integer_value(value) : fallback;
}

static float read_real(const json_t *params, const char *key)
{
    const json_t *value = json_object_get(params, key);
    return value != NULL ? (float)json_number_value(value) : 1;
}

static struct bb_token_set read_set(const json_t *params, const char *key, size_t fallback)
{
    struct bb_token_set set = {.count = fallback, .ids = {2}};
    const json_t *value = json_object_get(params, key);
    if (value != NULL)
        set.count = read_list(value, set.ids);
    return set;
}

static struct bb_search_params read_params(const json_t *params)
{
    const json_t *early = json_object_get(params, "early_stopping");
    const json_t *first = json_object_get(params, "forced_bos_token_id");
    struct bb_search_params made = {
        .beams = read_count(params, "num_beams", 1),
        .returned = read_count(params, "num_return_sequences", 1),
        .max_length = read_count(params, "max_length", 0),
        .min_length = read_count(params, "min_length", 0),
        .no_repeat = read_count(params, "no_repeat_ngram_size", 0),
        .prompt_repeat = read_count(params, "encoder_no_repeat_ngram_size", 0),
        .repetition_penalty = read_real(params, "repetition_penalty"),
        .prompt_penalty = 1,
        .length_penalty = read_real(params, "length_penalty"),
        .early_stop = json_is_true(early)     ? BB_STOP_FULL
                      : json_is_string(early) ? BB_STOP_NEVER
                                              : BB_STOP_HEURISTIC,
        .start = 1,
        .ends = read_set(params, "eos_token_id", 1),
        .forced_first = first != NULL ? (int32_t)json_integer_value(first) : BB_NO_TOKEN,
        .forced_last = read_set(params, "forced_eos_token_id", 0),
        .bans = {lists[0], lists[1], lists[2],
                 read_list(json_object_get(params, "suppress_tokens"), lists[0]),
                 read_list(json_object_get(params, "begin_suppress_tokens"), lists[1]),
                 read_words(json_object_get(params, "bad_words_ids"), lists[2])},
        .remove_infinite = json_is_true(json_object_get(params, "remove_invalid_values")),
        .renormalise = json_is_true(json_object_get(params, "renormalize_logits")),
    };
    return made;
}

/* The score of a token behind another one; search.json's note has the same formula. */
static float script(uint32_t last, uint32_t token, uint32_t seed, uint32_t levels)
{
    uint32_t x = last * 2654435761u + token * 40503u + seed * 97u;
    x ^= x >> 13;
    x *= 0x5bd1e995u;
    x ^= x >> 15;
    return (float)(x % levels) * 0.5f;
}

static void run(struct bb_search *search, const json_t *one)
{
    uint32_t seed = (uint32_t)json_integer_value(json_object_get(one, "seed"));
    uint32_t levels = (uint32_t)json_integer_value(json_object_get(one, "levels"));
    size_t vocab = search->vocab_size;
    float *scores = calloc(search->params.beams * vocab, sizeof *scores);
    assert_non_null(scores);
    while (!search->ended) {
        for (size_t row = 0; row < bb_search_rows(search); row++) {
            int32_t last = search->running[row].tokens[search->length - 1];
            for (size_t i = 0; i < vocab; i++)
                scores[row * vocab + i] = script((uint32_t)last, (uint32_t)i, seed, levels);
        }
        assert_int_equal(bb_search_step(search, scores, BB_NO_TOKEN), ERR_OK);
    }
    free(scores);
}

/* Behind their end the sequences of the reference are filled up to the longest. */
static void compare(const struct bb_search *search, const json_t *one, size_t number)
{
    const json_t *wanted = json_object_get(one, "sequences");
    int32_t fill = search->params.ends.ids[0];
    assert_int_equal(json_array_size(wanted), search->params.returned);
    for (size_t i = 0; i < search->params.returned; i++) {
        const struct bb_hypothesis *got = bb_search_result(search, i);
        const json_t *ids = json_array_get(wanted, i);
        if (got->length > json_array_size(ids))
            fail_msg("case %zu, sequence %zu: too long", number, i);
        for (size_t k = 0; k < json_array_size(ids); k++) {
            int32_t token = k < got->length ? got->tokens[k] : fill;
            if (token != json_integer_value(json_array_get(ids, k)))
                fail_msg("case %zu, sequence %zu: token %zu is %d", number, i, k, token);
        }
    }
}

static void test_scripted_scores(void **state)
{
    struct buf text;
    char chunk[65536];
    json_t *root, *cases, *one;
    size_t number, least = SIZE_MAX, most = 0;
    FILE *file = fopen(TEST_DATA "/blenderbot/search.json", "r");
    assert_non_null(file);
    buf_init(&text, (size_t)1 << 24);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
        assert_int_equal(buf_append(&text, chunk, n), ERR_OK);
    fclose(file);
    assert_int_equal(json_parse(&root, text.data, text.len), ERR_OK);
    cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) >= 60);
    json_array_foreach(cases, number, one)
    {
        struct bb_search search;
        struct bb_search_params params = read_params(json_object_get(one, "params"));
        size_t vocab = (size_t)json_integer_value(json_object_get(one, "vocab"));
        size_t count = read_list(json_object_get(one, "prompt"), lists[3]);
        assert_int_equal(bb_search_init(&search, &params, vocab, lists[3], count), ERR_OK);
        run(&search, one);
        compare(&search, one, number);
        bb_search_done(&search);
        least = vocab < least ? vocab : least;
        most = vocab > most ? vocab : most;
    }
    assert_true(least < 64 && most > 128); /* both ways to choose the best */
    json_decref(root);
    buf_done(&text);
}

/* What stays of equals is PyTorch's choice: torch.topk gave these. */
static void test_order_among_equals(void **state)
{
    static const struct {
        size_t total, most, modulus;
        uint32_t at[8];
    } rows[] = {{21, 7, 2, {7, 13, 15, 11, 9, 17, 19}},
                {30, 10, 1, {23, 16, 17, 18, 19, 20, 21, 22}},
                {60, 20, 3, {43, 58, 52, 7, 4, 55, 49, 13}},
                {200, 64, 5, {81, 26, 101, 186, 151, 31, 96, 36}},
                {40, 8, 40, {1, 2, 3, 4, 5, 6, 7, 8}},
                {1500, 10, 4, {17, 9, 1, 13, 5, 29, 33, 37}},
                {640, 10, 2, {3, 9, 1, 7, 5, 15, 17, 19}},
                {5000, 20, 7, {24, 10, 108, 31, 80, 115, 38, 129}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct topk_item room[1024];
        struct topk topk;
        assert_true(topk_room(rows[i].total, rows[i].most) <= 1024);
        topk_begin(&topk, room, rows[i].total, rows[i].most);
        for (size_t k = 0; k < rows[i].total; k++) {
            float score = (float)(k * 7919 % rows[i].modulus);
            if (score <= topk_threshold(&topk))
                topk_skip(&topk, 1);
            else
                topk_offer(&topk, score);
        }
        topk_end(&topk);
        for (size_t k = 0; k < 8 && k < rows[i].most; k++)
            assert_int_equal(room[k].at, rows[i].at[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripted_scores),
        cmocka_unit_test(test_order_among_equals),
    };
    return cmocka_run_group_tests_name("bbsearch", tests, NULL, NULL);
}
