/* poller.c: readings that go well, fail, and hang. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "probe/poller.h"

struct source {
    _Atomic int mode; /* an enum poll_answer, or HANG */
    _Atomic int done;
    sem_t go_on;
};
#define HANG 99

static enum poll_answer read_source(void *state, void *out)
{
    struct source *source = state;
    int *count = out;
    int mode = source->mode;

    if (mode == HANG) {
        while (sem_wait(&source->go_on) != 0)
            ;
        mode = POLL_WELL;
    }
    if (mode == POLL_WELL)
        (*count)++;
    else
        err_set(ERR_OS, "mode %d", mode);
    return (enum poll_answer)mode;
}

static void source_done(void *state)
{
    ((struct source *)state)->done = 1;
}

static struct poller *start(struct source *source)
{
    struct poller *poller = NULL;
    const struct poller_config config = {.read = read_source,
                                         .done = source_done,
                                         .state = source,
                                         .size = sizeof(int),
                                         .period_ms = 5,
                                         .hang_ms = 50};

    sem_init(&source->go_on, 0, 0);
    assert_int_equal(poller_new(&poller, &config), ERR_OK);
    return poller;
}

/* Until the news are such; what was read then. */
static int wait_for(struct poller *poller, enum poll_answer answer, bool hangs, int least,
                    struct poller_news *news)
{
    int64_t deadline = clock_mono_ns() + 10 * NS_PER_S;
    int count = 0;

    do {
        assert_true(clock_mono_ns() < deadline);
        nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
        poller_latest(poller, &count, news);
    } while (news->answer != answer || news->hangs != hangs || count < least ||
             news->readings == 0);
    return count;
}

static void test_readings(void **state)
{
    struct source source = {.mode = POLL_WELL};
    struct poller *poller = start(&source);
    struct poller_news news;
    int count = wait_for(poller, POLL_WELL, false, 3, &news);

    assert_true((uint64_t)count <= news.readings && news.duration_s < 5);
    assert_string_equal(news.why, "");
    source.mode = POLL_FAILED;
    count = wait_for(poller, POLL_FAILED, false, 3, &news);
    assert_string_equal(news.why, "mode 2");
    source.mode = POLL_NOTHING;
    assert_int_equal(wait_for(poller, POLL_NOTHING, false, 3, &news), count);
    poller_free(poller);
    assert_int_equal(source.done, 1);
    poller_free(NULL);
}

static void test_what_hangs_is_told_and_ends(void **state)
{
    struct source source = {.mode = POLL_WELL};
    struct poller *poller = start(&source);
    struct poller_news news;
    int count = wait_for(poller, POLL_WELL, false, 1, &news);

    source.mode = HANG;
    count = wait_for(poller, POLL_FAILED, true, count, &news);
    assert_true(news.duration_s >= 0.05);
    assert_non_null(strstr(news.why, "hung"));
    source.mode = POLL_WELL;
    sem_post(&source.go_on);
    wait_for(poller, POLL_WELL, false, count + 1, &news);
    poller_free(poller);
    assert_int_equal(source.done, 1);
}

/* The owner leaves although the reading hangs: its thread goes on alone, and ends later. */
static void test_leaving_while_it_hangs(void **state)
{
    static struct source source = {.mode = POLL_WELL};
    struct poller *poller = start(&source);
    struct poller_news news;
    int64_t begin_ns, deadline_ns = clock_mono_ns() + 10 * NS_PER_S;

    wait_for(poller, POLL_WELL, false, 1, &news);
    source.mode = HANG;
    wait_for(poller, POLL_FAILED, true, 1, &news);
    begin_ns = clock_mono_ns();
    poller_free(poller);
    assert_true(clock_mono_ns() - begin_ns < 5 * NS_PER_S);
    assert_int_equal(source.done, 0);
    sem_post(&source.go_on);
    while (!source.done) {
        assert_true(clock_mono_ns() < deadline_ns);
        nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readings),
        cmocka_unit_test(test_what_hangs_is_told_and_ends),
        cmocka_unit_test(test_leaving_while_it_hangs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
