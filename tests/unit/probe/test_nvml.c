/* nvml.c against a library that stands in for NVIDIA's (tests/standin/nvml.c) and fails on demand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "probe/nvml.h"

static char control[64];
static struct gpu_reading readings[NVML_MAX_GPUS];
static unsigned count;

static void say(const char *lines)
{
    FILE *file = fopen(control, "w");
    assert_non_null(file);
    fputs(lines, file);
    fclose(file);
}

static unsigned calls_of(const char *name)
{
    char path[80], line[64];
    unsigned found = 0;
    FILE *file;

    snprintf(path, sizeof path, "%s.calls", control);
    file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        found += strncmp(line, name, strlen(name)) == 0;
    if (file != NULL)
        fclose(file);
    return found;
}

static int set_up(void **state)
{
    int fd;

    snprintf(control, sizeof control, "nvml-control-XXXXXX");
    fd = mkstemp(control);
    assert_true(fd >= 0);
    close(fd);
    setenv("STANDIN_NVML", control, 1);
    count = 77;
    return 0;
}

static int tear_down(void **state)
{
    char path[80];

    snprintf(path, sizeof path, "%s.calls", control);
    unlink(path);
    unlink(control);
    return 0;
}

#define TWO_GPUS                                                                                   \
    "count 2\n0 util 37 12\n0 memory 85899345920 1048576 85898297344\n"                            \
    "1 util 0 0\n1 memory 1073741824 0 1073741824\n"

static struct nvml *opened(const char *lines)
{
    struct nvml *nvml = NULL;

    say(lines);
    assert_int_equal(nvml_open(&nvml, STANDIN_NVML_FILE), ERR_OK);
    return nvml;
}

/* Reads until it goes well, up to ten seconds: the library starts again with back-off. */
static void read_until_well(struct nvml *nvml)
{
    int64_t deadline = clock_mono_ns() + 10 * NS_PER_S;

    while (nvml_read(nvml, readings, &count) != ERR_OK || !readings[0].up) {
        assert_true(clock_mono_ns() < deadline);
        nanosleep(&(struct timespec){.tv_nsec = 20 * NS_PER_MS}, NULL);
    }
}

static void test_figures(void **state)
{
    struct nvml *nvml = opened(TWO_GPUS);

    for (int i = 0; i < 3; i++)
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(count, 2);
    assert_true(readings[0].up && readings[0].has_utilization && readings[0].has_memory);
    assert_string_equal(readings[0].uuid, "GPU-0");
    assert_string_equal(readings[0].name, "Stand-in 0");
    assert_int_equal(readings[0].gpu_percent, 37);
    assert_int_equal(readings[0].memory_percent, 12);
    assert_true(readings[0].memory_total == UINT64_C(85899345920));
    assert_int_equal(readings[0].memory_used, 1048576);
    assert_true(readings[0].memory_free == UINT64_C(85898297344));
    assert_int_equal(readings[1].index, 1);
    assert_string_equal(readings[1].uuid, "GPU-1");
    nvml_close(nvml);
    nvml_close(NULL);
    assert_int_equal(calls_of("init"), 1); /* started once, not at each reading */
    assert_int_equal(calls_of("shutdown"), 1);
}

static void test_no_library(void **state)
{
    struct nvml *nvml = NULL;

    assert_int_equal(nvml_open(&nvml, "libsurely-not-there.so.1"), ERR_NOT_FOUND);
    assert_true(strlen(err_text()) > 0);
    assert_int_equal(nvml_open(&nvml, "libc.so.6"), ERR_NOT_FOUND); /* none of the functions */
    assert_null(nvml);
}

static void test_start_fails(void **state)
{
    static const int codes[] = {9, 4, 17, 18, 999};
    struct nvml *nvml = NULL;
    char line[32];

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        snprintf(line, sizeof line, "init %d\n", codes[i]);
        say(line);
        assert_int_equal(nvml_open(&nvml, STANDIN_NVML_FILE), ERR_NOT_FOUND);
        assert_null(nvml);
    }
    assert_int_equal(calls_of("shutdown"), 0); /* it never ran */
}

/* Whatever a figure's function answers, the rest is still there. */
static void test_missing_figures(void **state)
{
    static const int codes[] = {2, 3, 4, 6, 13, 17, 27, 28, 999};
    struct nvml *nvml = opened(TWO_GPUS);
    char lines[512];

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        snprintf(lines, sizeof lines, "0 util_code %d\n1 memory_code %d\n1 name_code %d\n" TWO_GPUS,
                 codes[i], codes[i], codes[i]);
        say(lines);
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
        assert_int_equal(count, 2);
        assert_true(readings[0].up && readings[1].up);
        assert_false(readings[0].has_utilization);
        assert_true(readings[0].has_memory);
        assert_true(readings[1].has_utilization);
        assert_false(readings[1].has_memory);
        assert_string_equal(readings[1].name, "");
    }
    nvml_close(nvml);
}

static void test_gpus_without_permission_are_left_out(void **state)
{
    static const int codes[] = {4, 6, 17, 28, 999};
    struct nvml *nvml = opened(TWO_GPUS);
    char lines[512];

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        snprintf(lines, sizeof lines, "0 handle %d\n" TWO_GPUS, codes[i]);
        say(lines);
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
        assert_int_equal(count, 1);
        assert_string_equal(readings[0].uuid, "GPU-1");
        assert_int_equal(readings[0].index, 1);
    }
    nvml_close(nvml);
}

static void test_lost_gpu_comes_back(void **state)
{
    static const char *const ways[] = {"0 handle 15\n" TWO_GPUS, "0 uuid_code 15\n" TWO_GPUS,
                                       "0 name_code 16\n" TWO_GPUS, "0 util_code 15\n" TWO_GPUS,
                                       "0 memory_code 16\n" TWO_GPUS};
    struct nvml *nvml = opened(TWO_GPUS);

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        read_until_well(nvml);
        unsigned starts = calls_of("init");
        say(ways[i]);
        int64_t deadline = clock_mono_ns() + 10 * NS_PER_S;
        do { /* down, the other one up, until it was started again at least once */
            assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
            assert_int_equal(count, 2);
            assert_false(readings[0].up || readings[0].has_utilization || readings[0].has_memory);
            assert_string_equal(readings[0].uuid, "GPU-0");
            assert_true(readings[1].up);
            assert_true(clock_mono_ns() < deadline);
            nanosleep(&(struct timespec){.tv_nsec = 20 * NS_PER_MS}, NULL);
        } while (calls_of("init") == starts);
        say(TWO_GPUS);
    }
    read_until_well(nvml);
    nvml_close(nvml);
    assert_int_equal(calls_of("init"), calls_of("shutdown"));
}

static void test_driver_goes_and_comes_back(void **state)
{
    static const char *const ways[] = {"count_code 18\n", "count_code 999\n", "count_code 1\n",
                                       "1 handle 18\n" TWO_GPUS, "1 util_code 9\n" TWO_GPUS};
    struct nvml *nvml = opened(TWO_GPUS);

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        read_until_well(nvml);
        char lines[512];
        snprintf(lines, sizeof lines, "init 18\n%s", ways[i]);
        say(lines);
        unsigned starts = calls_of("init");
        int64_t deadline = clock_mono_ns() + 10 * NS_PER_S;
        count = 77;
        do {
            assert_int_equal(nvml_read(nvml, readings, &count), ERR_UNAVAILABLE);
            assert_int_equal(count, 77);
            assert_true(clock_mono_ns() < deadline);
            nanosleep(&(struct timespec){.tv_nsec = 20 * NS_PER_MS}, NULL);
        } while (calls_of("init") == starts);
        say(TWO_GPUS);
    }
    read_until_well(nvml);
    nvml_close(nvml);
}

static void test_more_gpus_than_we_hold(void **state)
{
    struct nvml *nvml = opened("count 100\n");

    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(count, NVML_MAX_GPUS);
    nvml_close(nvml);
}

#define NVML_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NVML_TEST(test_figures),
        NVML_TEST(test_no_library),
        NVML_TEST(test_start_fails),
        NVML_TEST(test_missing_figures),
        NVML_TEST(test_gpus_without_permission_are_left_out),
        NVML_TEST(test_lost_gpu_comes_back),
        NVML_TEST(test_driver_goes_and_comes_back),
        NVML_TEST(test_more_gpus_than_we_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
