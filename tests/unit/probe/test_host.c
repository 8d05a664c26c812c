/* host.c: the figures of this very machine and process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe/host.h"

static void test_memory(void **state)
{
    uint64_t total = 0, available = 0;

    assert_int_equal(host_memory(&total, &available), ERR_OK);
    assert_true(total > 1 << 20);
    assert_true(available > 0 && available <= total);
}

static void test_name_is_cut(void **state)
{
    char whole[256], cut[3];

    host_name(whole, sizeof whole);
    host_name(cut, sizeof cut);
    assert_true(whole[0] != '\0');
    assert_true(strlen(cut) <= 2);
    assert_memory_equal(cut, whole, strlen(cut));
}

static void test_cpus_follow_affinity(void **state)
{
    cpu_set_t before, one;
    size_t first = 0;

    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(host_cpus(), CPU_COUNT(&before));
    while (!CPU_ISSET(first, &before))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(host_cpus(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void test_resident_grows(void **state)
{
    const size_t size = 32 << 20;
    uint64_t before = 0, after = 0;
    char *memory;

    assert_int_equal(host_resident(getpid(), &before), ERR_OK);
    memory = malloc(size);
    assert_non_null(memory);
    memset(memory, 1, size);
    assert_int_equal(host_resident(getpid(), &after), ERR_OK);
    assert_true(after >= before + size / 2);
    assert_int_equal(memory[size / 2], 1);
    free(memory);
}

static void test_resident_of_nobody(void **state)
{
    uint64_t bytes = 7;
    siginfo_t info;
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    assert_true(pid > 0);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0); /* now a zombie */
    assert_int_equal(host_resident(pid, &bytes), ERR_NOT_FOUND);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(host_resident(pid, &bytes), ERR_NOT_FOUND);
    assert_int_equal(bytes, 7);
}

static void test_started(void **state)
{
    double own = -1, again = -1, first = -1;

    assert_int_equal(host_started(0, &own), ERR_OK);
    assert_int_equal(host_started(getpid(), &again), ERR_OK);
    assert_int_equal(host_started(1, &first), ERR_OK);
    assert_true(own == again && first >= 0 && own >= first);
    assert_int_equal(host_started(0x3fffffff, &own), ERR_NOT_FOUND);
    assert_true(own == again);
}

static void test_disk(void **state)
{
    uint64_t bytes = 0;

    assert_int_equal(host_disk_free("/", &bytes), ERR_OK);
    assert_int_equal(host_disk_free("/no/such/folder", &bytes), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_name_is_cut),
        cmocka_unit_test(test_cpus_follow_affinity),
        cmocka_unit_test(test_resident_grows),
        cmocka_unit_test(test_resident_of_nobody),
        cmocka_unit_test(test_started),
        cmocka_unit_test(test_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
