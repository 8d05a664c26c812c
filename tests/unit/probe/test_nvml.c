/* nvml.c against a library that stands in for NVIDIA's (tests/standin/nvml.c) and fails on demand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
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

static bool has(const struct gpu_reading *gpu, enum gpu_figure figure)
{
    return !isnan(gpu->figures[figure]);
}

static double figure_of(unsigned gpu, enum gpu_figure figure)
{
    return readings[gpu].figures[figure];
}

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
    assert_true(readings[0].up && readings[1].up);
    assert_string_equal(readings[0].uuid, "GPU-0");
    assert_string_equal(readings[0].name, "Stand-in 0");
    assert_string_equal(readings[0].driver, "570.1");
    assert_string_equal(readings[0].vendor, "nvidia");
    assert_true(figure_of(0, GPU_BUSY_PERCENT) == 37);
    assert_true(figure_of(0, GPU_MEMORY_BUSY_PERCENT) == 12);
    assert_true(figure_of(0, GPU_MEMORY_TOTAL_BYTES) == 85899345920.0);
    assert_true(figure_of(0, GPU_MEMORY_USED_BYTES) == 1048576);
    assert_true(figure_of(0, GPU_MEMORY_FREE_BYTES) == 85898297344.0);
    assert_false(has(&readings[0], GPU_POWER_WATTS)); /* no line: not supported */
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
        assert_int_equal(nvml_open(&nvml, STANDIN_NVML_FILE),
                         codes[i] == 9 ? ERR_NOT_FOUND : ERR_UNAVAILABLE);
        assert_null(nvml);
    }
    assert_int_equal(calls_of("shutdown"), 0); /* it never ran */
}

/* What is not permitted or not there is not shown; what was there and does not say why it fails is
 * down, as one that fell off the bus is to a library that was started after that. */
static void test_known_gpu_fails(void **state)
{
    static const int codes[] = {10, 17, 28, 999};
    struct nvml *nvml = opened(TWO_GPUS);
    char lines[512];

    for (size_t i = 0; i < 2 * sizeof codes / sizeof *codes; i++) {
        read_until_well(nvml);
        snprintf(lines, sizeof lines, "0 %s %d\n" TWO_GPUS, i % 2 ? "handle" : "uuid_code",
                 codes[i / 2]);
        say(lines);
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
        assert_int_equal(count, 2);
        assert_string_equal(readings[0].uuid, "GPU-0");
        assert_false(readings[0].up);
        assert_false(has(&readings[0], GPU_MEMORY_USED_BYTES));
        assert_true(readings[1].up);
        say(TWO_GPUS);
    }
    read_until_well(nvml);
    say("0 handle 4\n1 handle 6\n" TWO_GPUS); /* taken from us */
    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(count, 0);
    say("0 handle 999\n1 uuid GPU-0\n" TWO_GPUS); /* it has another index now */
    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(count, 1);
    assert_true(readings[0].up);
    assert_int_equal(readings[0].index, 1);
    nvml_close(nvml);
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
        assert_false(has(&readings[0], GPU_BUSY_PERCENT));
        assert_true(has(&readings[0], GPU_MEMORY_USED_BYTES));
        assert_true(has(&readings[1], GPU_BUSY_PERCENT));
        assert_false(has(&readings[1], GPU_MEMORY_USED_BYTES));
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
    static const char *const ways[] = {"0 handle 15\n" TWO_GPUS,      "0 uuid_code 15\n" TWO_GPUS,
                                       "0 name_code 16\n" TWO_GPUS,   "0 util_code 15\n" TWO_GPUS,
                                       "0 memory_code 16\n" TWO_GPUS, "0 ecc_code 15\n" TWO_GPUS};
    struct nvml *nvml = opened(TWO_GPUS);

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        read_until_well(nvml);
        unsigned starts = calls_of("init");
        say(ways[i]);
        int64_t deadline = clock_mono_ns() + 10 * NS_PER_S;
        do { /* down, the other one up, until it was started again at least once */
            assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
            assert_int_equal(count, 2);
            assert_false(readings[0].up);
            for (int figure = 0; figure < GPU_FIGURE_COUNT; figure++)
                assert_false(has(&readings[0], (enum gpu_figure)figure));
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
            assert_int_equal(count, 77); /* and what was read before is still there */
            assert_string_equal(readings[0].uuid, "GPU-0");
            assert_string_equal(readings[1].uuid, "GPU-1");
            assert_true(clock_mono_ns() < deadline);
            nanosleep(&(struct timespec){.tv_nsec = 20 * NS_PER_MS}, NULL);
        } while (calls_of("init") == starts);
        say(TWO_GPUS);
    }
    read_until_well(nvml);
    nvml_close(nvml);
}

#define REST                                                                                       \
    "0 power 312500\n0 limit 700000\n0 energy 98765432\n0 temperature 63\n0 clock 1980 2619\n"     \
    "0 ecc 7 2\ndriver 575.57.08\n0 name NVIDIA H200\n"

static void test_all_the_rest(void **state)
{
    struct nvml *nvml = opened(REST TWO_GPUS);

    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_string_equal(readings[0].driver, "575.57.08");
    assert_string_equal(readings[0].name, "NVIDIA H200");
    assert_true(fabs(figure_of(0, GPU_POWER_WATTS) - 312.5) < 1e-9);
    assert_true(fabs(figure_of(0, GPU_POWER_LIMIT_WATTS) - 700) < 1e-9);
    assert_true(fabs(figure_of(0, GPU_ENERGY_JOULES) - 98765.432) < 1e-6);
    assert_true(figure_of(0, GPU_TEMPERATURE_CELSIUS) == 63);
    assert_true(figure_of(0, GPU_CLOCK_SM_HERTZ) == 1980e6);
    assert_true(figure_of(0, GPU_CLOCK_MEMORY_HERTZ) == 2619e6);
    assert_true(figure_of(0, GPU_ECC_CORRECTED) == 7);
    assert_true(figure_of(0, GPU_ECC_UNCORRECTED) == 2);
    for (int figure = GPU_POWER_WATTS; figure < GPU_FIGURE_COUNT; figure++)
        assert_false(has(&readings[1], (enum gpu_figure)figure));
    nvml_close(nvml);
}

/* Each of the newer figures' functions fails in each way: that figure is missing, and no other. */
static void test_each_failure_of_each_figure(void **state)
{
    static const struct {
        const char *name;
        enum gpu_figure first, last;
    } figures[] = {
        {"power", GPU_POWER_WATTS, GPU_POWER_WATTS},
        {"limit", GPU_POWER_LIMIT_WATTS, GPU_POWER_LIMIT_WATTS},
        {"energy", GPU_ENERGY_JOULES, GPU_ENERGY_JOULES},
        {"temperature", GPU_TEMPERATURE_CELSIUS, GPU_TEMPERATURE_CELSIUS},
        {"clock", GPU_CLOCK_SM_HERTZ, GPU_CLOCK_MEMORY_HERTZ},
        {"ecc", GPU_ECC_CORRECTED, GPU_ECC_UNCORRECTED},
    };
    static const int codes[] = {3, 4, 6, 13, 17, 27, 28, 999};
    struct nvml *nvml = opened(REST TWO_GPUS);
    char lines[768];

    for (size_t i = 0; i < sizeof figures / sizeof *figures * 8; i++) {
        const int which = (int)(i / 8);
        snprintf(lines, sizeof lines, "0 %s_code %d\n" REST TWO_GPUS, figures[which].name,
                 codes[i % 8]);
        say(lines);
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
        assert_true(readings[0].up);
        for (unsigned k = 0; k < GPU_FIGURE_COUNT; k++)
            assert_int_equal(has(&readings[0], (enum gpu_figure)k),
                             k < figures[which].first || k > figures[which].last);
    }
    nvml_close(nvml);
}

static void test_absurd_figures_are_missing(void **state)
{
    static const char absurd[] =
        "count 3\n0 util 4294967295 101\n0 memory 100 101 0\n0 power 4294967295\n"
        "0 limit 4294967295\n0 energy 18446744073709551615\n0 temperature 4294967295\n"
        "0 clock 4294967295 4294967295\n0 ecc 18446744073709551615 18446744073709551615\n"
        "1 memory 0 0 0\n1 util 100 0\n2 memory 18446744073709551615 1 1\n2 util 101 1\n"
        "2 uuid \xff\xfe\"\x01\n2 name   \xc3\x28 \n";
    struct nvml *nvml = opened(absurd);

    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(count, 3);
    for (unsigned k = 0; k < GPU_FIGURE_COUNT; k++)
        assert_false(has(&readings[0], (enum gpu_figure)k));
    assert_true(readings[0].up);
    assert_false(has(&readings[1], GPU_MEMORY_TOTAL_BYTES));
    assert_true(figure_of(1, GPU_BUSY_PERCENT) == 100 &&
                figure_of(1, GPU_MEMORY_BUSY_PERCENT) == 0);
    assert_false(has(&readings[2], GPU_MEMORY_USED_BYTES));
    assert_false(has(&readings[2], GPU_BUSY_PERCENT));
    assert_string_equal(readings[2].uuid, "??\"?");
    assert_string_equal(readings[2].name, "?(");
    nvml_close(nvml);
}

/* Errors come once each, are counted by number, and outlive a restart of the library. */
static void test_errors_are_counted(void **state)
{
    struct nvml *nvml = opened(TWO_GPUS);

    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(readings[0].xid_count + readings[1].xid_count, 0);
    say("xid 1 1 79\nxid 2 1 31\nxid 3 1 79\nxid 4 0 13\nxid 5 9 13\n" TWO_GPUS);
    for (int i = 0; i < 2; i++)
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(readings[0].xid_count, 1);
    assert_int_equal(readings[0].xids[0].xid, 13);
    assert_int_equal(readings[1].xid_count, 2);
    assert_int_equal(readings[1].xids[0].xid, 79);
    assert_int_equal(readings[1].xids[0].count, 2);
    assert_int_equal(readings[1].xids[1].xid, 31);
    say("xid 6 1 79\n1 handle 15\n" TWO_GPUS); /* it fell off the bus, and says so */
    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_false(readings[1].up);
    say(TWO_GPUS);
    do
        read_until_well(nvml);
    while (!readings[1].up);
    say("xid 7 1 79\n" TWO_GPUS);
    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(readings[1].xids[0].count, 4);
    nvml_close(nvml);
}

/* More than we hold: neither the numbers of a GPU nor the events of a reading are without end. */
static void test_errors_are_bounded(void **state)
{
    struct nvml *nvml = opened(TWO_GPUS);
    char lines[8192] = TWO_GPUS;
    size_t len = strlen(lines);

    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    for (int i = 0; i < 200; i++)
        len += (size_t)snprintf(lines + len, sizeof lines - len, "xid %d 0 %d\n", 100 + i, i);
    say(lines);
    for (int i = 0; i < 5; i++)
        assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(readings[0].xid_count, GPU_MAX_XIDS);
    nvml_close(nvml);
}

static void test_without_events(void **state)
{
    struct nvml *nvml = opened("events_code 13\nxid 1000 0 79\n" TWO_GPUS);

    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_true(readings[0].up && readings[0].xid_count == 0);
    nvml_close(nvml);
    nvml = opened("0 register_code 3\nxid 1001 0 79\nxid 1002 1 48\n" TWO_GPUS);
    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_true(readings[0].up && readings[0].xid_count == 0);
    assert_int_equal(readings[1].xid_count, 1);
    nvml_close(nvml);
}

/* A library of long ago has but the needed functions and memory. */
static void test_old_library(void **state)
{
    struct nvml *nvml = NULL;

    say(REST TWO_GPUS);
    assert_int_equal(nvml_open(&nvml, STANDIN_OLD_NVML_FILE), ERR_OK);
    assert_int_equal(nvml_read(nvml, readings, &count), ERR_OK);
    assert_int_equal(count, 2);
    assert_true(readings[0].up);
    assert_string_equal(readings[0].name, "");
    assert_string_equal(readings[0].driver, "");
    for (unsigned k = 0; k < GPU_FIGURE_COUNT; k++)
        assert_int_equal(has(&readings[0], (enum gpu_figure)k),
                         k >= GPU_MEMORY_TOTAL_BYTES && k <= GPU_MEMORY_FREE_BYTES);
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
        NVML_TEST(test_known_gpu_fails),
        NVML_TEST(test_missing_figures),
        NVML_TEST(test_gpus_without_permission_are_left_out),
        NVML_TEST(test_lost_gpu_comes_back),
        NVML_TEST(test_driver_goes_and_comes_back),
        NVML_TEST(test_all_the_rest),
        NVML_TEST(test_each_failure_of_each_figure),
        NVML_TEST(test_absurd_figures_are_missing),
        NVML_TEST(test_errors_are_counted),
        NVML_TEST(test_errors_are_bounded),
        NVML_TEST(test_without_events),
        NVML_TEST(test_old_library),
        NVML_TEST(test_more_gpus_than_we_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
