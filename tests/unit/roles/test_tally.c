/* tally.c: sums that only grow, whoever comes and goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <stdio.h>

#include "base/clock.h"
#include "roles/tally.h"

static struct presence worker(const char *name, const char *boot, uint64_t served)
{
    struct presence presence = {.role = "infer"};

    snprintf(presence.name, sizeof presence.name, "%s", name);
    snprintf(presence.boot, sizeof presence.boot, "%s", boot);
    presence.latency_counts[0] = served;
    presence.latency_counts[LATENCY_BUCKET_COUNT] = 1;
    presence.latency_sum = (double)served / 4;
    return presence;
}

static void hear(struct tally *tally, const struct presence *presence, int64_t second)
{
    assert_int_equal(tally_hear(tally, presence, false, second * NS_PER_S), ERR_OK);
}

static uint64_t served(const struct tally *tally)
{
    uint64_t counts[LATENCY_BUCKET_COUNT + 1];
    double sum;

    tally_latency(tally, counts, &sum);
    assert_true(sum == (double)counts[0] / 4);
    return counts[0];
}

static size_t alive(const struct tally *tally)
{
    size_t count = 0;

    for (size_t i = 0; i < tally->count; i++)
        count += !tally->workers[i].gone;
    return count;
}

static void test_sums(void **state)
{
    struct tally tally;
    struct presence presence;

    tally_init(&tally);
    assert_int_equal(served(&tally), 0);
    presence = worker("a", "1", 4);
    hear(&tally, &presence, 1);
    presence = worker("a", "1", 8); /* cumulative: not added to what was heard before */
    hear(&tally, &presence, 2);
    presence = worker("b", "1", 2);
    hear(&tally, &presence, 2);
    assert_int_equal(served(&tally), 10);
    assert_int_equal(alive(&tally), 2);
    presence = worker("a", "2", 1); /* started again under its name: counts from 0 */
    hear(&tally, &presence, 3);
    assert_int_equal(served(&tally), 11);
    assert_int_equal(alive(&tally), 2);
    presence = worker("b", "1", 3);
    presence.leaving = true;
    hear(&tally, &presence, 4);
    assert_int_equal(served(&tally), 12);
    assert_int_equal(alive(&tally), 1);
    tally_done(&tally);
    tally_done(&tally);
}

static void test_silence(void **state)
{
    struct tally tally;
    struct presence presence = worker("a", "1", 4);

    tally_init(&tally);
    hear(&tally, &presence, 1);
    tally_sweep(&tally, (1 + PRESENCE_GONE_MS / MS_PER_S) * NS_PER_S);
    assert_int_equal(alive(&tally), 1);
    tally_sweep(&tally, (2 + PRESENCE_GONE_MS / MS_PER_S) * NS_PER_S);
    assert_int_equal(alive(&tally), 0);
    assert_int_equal(served(&tally), 4);
    presence = worker("a", "1", 5); /* it was only slow, or the broker was away */
    hear(&tally, &presence, 20);
    assert_int_equal(alive(&tally), 1);
    assert_int_equal(served(&tally), 5);
    tally_done(&tally);
}

/* Started again, we count on from what the others have served, and not that once more. */
static void test_older_workers(void **state)
{
    struct tally tally;
    struct presence presence = worker("a", "1", 1000);

    tally_init(&tally);
    assert_false(tally_knows(&tally, &presence));
    assert_int_equal(tally_hear(&tally, &presence, true, NS_PER_S), ERR_OK);
    assert_true(tally_knows(&tally, &presence));
    assert_int_equal(served(&tally), 0);
    presence = worker("a", "1", 1004);
    hear(&tally, &presence, 2);
    assert_int_equal(served(&tally), 4);
    presence = worker("a", "2", 3); /* its successor is younger than we are */
    hear(&tally, &presence, 3);
    assert_int_equal(served(&tally), 7);
    tally_done(&tally);
}

/* A supervisor may say goodbye for a worker of which we heard nothing else: we began after it died.
 */
static void test_goodbye_of_a_stranger(void **state)
{
    struct tally tally;
    struct presence presence;
    char boot[17];

    mallopt(M_PERTURB, 0x5a); /* memory that was used before */
    tally_init(&tally);
    for (int i = 0; i < 20; i++) {
        snprintf(boot, sizeof boot, "%d", i);
        presence = (struct presence){.role = "infer", .leaving = true};
        snprintf(presence.name, sizeof presence.name, "a");
        snprintf(presence.boot, sizeof presence.boot, "%s", boot);
        hear(&tally, &presence, 1);
    }
    assert_int_equal(served(&tally), 0);
    assert_int_equal(alive(&tally), 0);
    presence = worker("a", "20", 4);
    hear(&tally, &presence, 2);
    assert_int_equal(served(&tally), 4);
    assert_int_equal(alive(&tally), 1);
    tally_done(&tally);
    mallopt(M_PERTURB, 0);
}

static void test_many(void **state)
{
    struct tally tally;
    struct presence presence;
    char boot[17];

    tally_init(&tally);
    for (int i = 0; i < 3 * TALLY_MAX; i++) { /* one that crashes again and again */
        snprintf(boot, sizeof boot, "%d", i);
        presence = worker("a", boot, 1);
        hear(&tally, &presence, i);
        assert_int_equal(served(&tally), i + 1);
        assert_int_equal(alive(&tally), 1);
    }
    assert_int_equal(tally.count, TALLY_MAX);
    for (int i = 0; i < TALLY_MAX - 1; i++) { /* all of them alive: no room for one more */
        snprintf(boot, sizeof boot, "%d", i);
        presence = worker(boot, "x", 0);
        hear(&tally, &presence, 3 * TALLY_MAX);
    }
    presence = worker("one more", "x", 1);
    assert_int_equal(tally_hear(&tally, &presence, false, 3 * TALLY_MAX * NS_PER_S), ERR_FULL);
    assert_int_equal(served(&tally), 3 * TALLY_MAX);
    tally_done(&tally);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),          cmocka_unit_test(test_silence),
        cmocka_unit_test(test_older_workers), cmocka_unit_test(test_goodbye_of_a_stranger),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
