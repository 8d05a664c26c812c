#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/sample.h"

#define VOCAB 5003 /* not a multiple of any block */

static float scores[VOCAB];
static struct sampler sampler;

static int fill(void **state)
{
    for (int i = 0; i < VOCAB; i++)
        scores[i] = (float)(sample_uniform(7, (uint64_t)i) * 10);
    return 0;
}

static int clean(void **state)
{
    sampler_done(&sampler);
    return 0;
}

static int32_t pick(struct sample_params params, uint64_t position)
{
    int32_t token = -1;
    assert_int_equal(sampler_pick(&sampler, scores, VOCAB, &params, position, &token), ERR_OK);
    return token;
}

static int by_score(const void *a, const void *b)
{
    float x = scores[*(const int *)a], y = scores[*(const int *)b];
    return x < y ? 1 : x > y ? -1 : *(const int *)a - *(const int *)b;
}

/* Place of each token when sorted by score: the reference for all that follows. */
static void rank_all(int ranks[VOCAB])
{
    static int order[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        order[i] = i;
    qsort(order, VOCAB, sizeof *order, by_score);
    for (int i = 0; i < VOCAB; i++)
        ranks[order[i]] = i;
}

static void greedy_takes_the_best(void **state)
{
    int ranks[VOCAB];
    rank_all(ranks);
    struct sample_params greedy = {.temperature = 0, .top_p = 1, .top_k = 40};
    assert_int_equal(ranks[pick(greedy, 0)], 0);
    scores[17] = scores[4999] = 100; /* a tie: the lowest id */
    assert_int_equal(pick(greedy, 0), 17);
    scores[17] = -INFINITY;
    assert_int_equal(pick(greedy, 0), 4999);
    scores[4998] = NAN;
    assert_int_equal(pick(greedy, 0), 4999);
}

static void top_k_bounds_the_choice(void **state)
{
    int ranks[VOCAB], seen[10] = {0};
    rank_all(ranks);
    for (uint64_t i = 0; i < 2000; i++) {
        int rank = ranks[pick((struct sample_params){5, 1, 10, 1}, i)];
        assert_in_range(rank, 0, 9);
        seen[rank]++;
    }
    for (int i = 0; i < 10; i++)
        assert_true(seen[i] > 0);
    assert_int_equal(ranks[pick((struct sample_params){5, 1, 1, 1}, 3)], 0);
}

/* Frequencies follow the weights: top-k on and off, against the exact distribution. */
static void draws_follow_the_scores(void **state)
{
    static int hits[VOCAB];
    for (int top_k = 0; top_k <= 3; top_k += 3) {
        memset(hits, 0, sizeof hits);
        for (int i = 0; i < VOCAB; i++)
            scores[i] = -100;
        scores[5] = 1, scores[1000] = 0, scores[5002] = -1;
        for (uint64_t i = 0; i < 20000; i++)
            hits[pick((struct sample_params){1, 1, top_k, 42}, i)]++;
        double sum = exp(1) + exp(0) + exp(-1);
        assert_in_range(hits[5], (int)(20000 * (exp(1) / sum - 0.02)),
                        (int)(20000 * (exp(1) / sum + 0.02)));
        assert_in_range(hits[1000], (int)(20000 * (exp(0) / sum - 0.02)),
                        (int)(20000 * (exp(0) / sum + 0.02)));
        assert_int_equal(hits[5] + hits[1000] + hits[5002], 20000);
    }
}

static void top_p_cuts_the_tail(void **state)
{
    for (int i = 0; i < VOCAB; i++)
        scores[i] = -100;
    scores[5] = 1, scores[1000] = 0, scores[5002] = -1; /* 0.665, 0.245, 0.09 */
    for (int top_k = 0; top_k <= 40; top_k += 40) {
        for (uint64_t i = 0; i < 1000; i++) {
            assert_int_equal(pick((struct sample_params){1, 0.6f, top_k, 1}, i), 5);
            assert_int_not_equal(pick((struct sample_params){1, 0.9f, top_k, 1}, i), 5002);
            assert_int_equal(pick((struct sample_params){1, 0, top_k, 1}, i), 5);
        }
    }
}

static void flat_scores_need_everything(void **state)
{
    for (int i = 0; i < VOCAB; i++)
        scores[i] = 0;
    int32_t lowest = VOCAB, highest = 0;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = pick((struct sample_params){1, 0.99f, 0, 9}, i);
        lowest = token < lowest ? token : lowest;
        highest = token > highest ? token : highest;
    }
    assert_true(lowest < 500 && highest > 4000);
}

static void same_seed_same_draw(void **state)
{
    struct sample_params params = {1, 0.95f, 40, 123}, other = {1, 0.95f, 40, 124};
    int differ = 0;
    for (uint64_t i = 0; i < 100; i++) {
        int32_t first = pick(params, i);
        assert_int_equal(pick(params, i), first);
        differ += pick(other, i) != first;
    }
    assert_true(differ > 50);
}

static void no_numbers_is_an_error(void **state)
{
    int32_t token = -7;
    struct sample_params params[] = {{0, 1, 40, 1}, {1, 1, 40, 1}, {1, 0.9f, 0, 1}};
    for (int bad = 0; bad < 3; bad++) {
        for (int i = 0; i < VOCAB; i++)
            scores[i] = bad == 0 ? NAN : -INFINITY;
        if (bad == 2)
            scores[3] = INFINITY;
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(sampler_pick(&sampler, scores, VOCAB, &params[i], 0, &token),
                             ERR_INTERNAL);
    }
    assert_int_equal(token, -7);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fill, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(greedy_takes_the_best),       TEST(top_k_bounds_the_choice),
        TEST(draws_follow_the_scores),     TEST(top_p_cuts_the_tail),
        TEST(flat_scores_need_everything), TEST(same_seed_same_draw),
        TEST(no_numbers_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
