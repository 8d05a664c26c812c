/* node.c: this very machine, and trees that stand in for /proc. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>

#include "probe/node.h"

#include "tree.h"

static struct node_reading node;
static struct network_reading network;
static struct job_reading jobs;

#define STAT    "cpu  100 200 300 400 500 600 700 800 900 0\ncpu0 1 2 3\nintr 5\n"
#define MEMINFO "MemTotal:       1024 kB\nMemFree:   1 kB\nMemAvailable:    512 kB\n"
#define LOADAVG "0.50 1.25 2.00 1/234 5678\n"

static int make_proc(void **state)
{
    if (tree_make(state) != 0)
        return 1;
    tree_put("stat", STAT);
    tree_put("meminfo", MEMINFO);
    tree_put("loadavg", LOADAVG);
    return 0;
}

static void test_this_machine(void **state)
{
    struct disk_reading disk;

    assert_int_equal(node_read("/proc", &node), ERR_OK);
    assert_true(node.cpu_seconds[0] > 0 && node.cpu_seconds[3] > 0 && node.cpus >= 1);
    assert_true(node.memory_available_bytes <= node.memory_size_bytes);
    assert_true(node.load[0] >= 0 && node.load[2] >= 0);
    assert_int_equal(network_read("/proc", &network), ERR_OK);
    assert_true(network.count > 0);
    assert_int_equal(disk_read("/", &disk), ERR_OK);
    assert_true(disk.size_bytes > 0 && disk.free_bytes <= disk.size_bytes);
    assert_int_equal(disk_read("/no/such/folder", &disk), ERR_NOT_FOUND);
    assert_int_equal(disk_read("/proc", &disk), ERR_INVALID); /* no disk at all: no size of 0 */
}

static void test_figures(void **state)
{
    double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);

    assert_int_equal(node_read(tree_root, &node), ERR_OK);
    for (size_t i = 0; i < NODE_CPU_MODES; i++)
        assert_true(fabs(node.cpu_seconds[i] - (double)(i + 1) * 100 * tick) < 1e-9);
    assert_true(node.memory_size_bytes == 1 << 20 && node.memory_available_bytes == 512 << 10);
    assert_true(node.load[0] == 0.5 && node.load[1] == 1.25 && node.load[2] == 2);
}

static void test_old_kernel_knows_fewer_modes(void **state)
{
    tree_put("stat", "cpu  100 200 300 400\n");
    assert_int_equal(node_read(tree_root, &node), ERR_OK);
    assert_true(node.cpu_seconds[3] > 0);
    for (size_t i = 4; i < NODE_CPU_MODES; i++)
        assert_true(isnan(node.cpu_seconds[i]));
}

/* One file is gone or garbage: that is told, and the figures of the others are there. */
static void test_each_file_fails(void **state)
{
    static const char *const garbage[] = {NULL,
                                          "",
                                          "\n",
                                          "cpu  -1 2\n",
                                          "cpu  99999999999999999999999999 2\n",
                                          "cpu  1 2 3 4", /* cut */
                                          "MemTotal: 0 kB\n",
                                          "MemTotal: many kB\n",
                                          "XMemTotal: 5 kB\n",
                                          "nan nan nan 1/2 3\n",
                                          "-1 2 3 4/5 6\n",
                                          "0.5 1.0"};

    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        static const char *const names[] = {"stat", "meminfo", "loadavg"};
        static const char *const sound[] = {STAT, MEMINFO, LOADAVG};
        for (size_t k = 0; k < 3; k++) {
            unlink(tree_path(names[k]));
            if (garbage[i] != NULL)
                tree_put(names[k], garbage[i]);
            assert_true(node_read(tree_root, &node) != ERR_OK);
            assert_int_equal(isnan(node.cpu_seconds[0]) != 0, k == 0);
            assert_int_equal(isnan(node.memory_size_bytes) != 0, k == 1);
            assert_int_equal(isnan(node.load[2]) != 0, k == 2);
            tree_put(names[k], sound[k]);
        }
    }
    tree_put("meminfo", "MemTotal: 10 kB\nMemAvailable: 11 kB\n");
    assert_true(node_read(tree_root, &node) != ERR_OK);
    assert_true(node.memory_size_bytes == 10240 && isnan(node.memory_available_bytes));
}

#define HEADING "Inter-|   Receive\n face |bytes\n"
#define REST    " 1 2 3 4 5 6 7 "
#define REST_TX " 1 2 3 4 5 6 7\n"

static void test_network(void **state)
{
    tree_put("net/dev",
             HEADING "    lo: 10" REST "20" REST_TX "eth0:1:18446744073709551615" REST "40" REST_TX
                     "  bad: 1 2 3\n   \"}: 1" REST "2" REST_TX "  neg: -5" REST "2" REST_TX
                     " eth1: 50" REST "60" REST_TX " cut: 70" REST "80 1 2");
    assert_int_equal(network_read(tree_root, &network), ERR_OK);
    assert_int_equal(network.count, 3);
    assert_string_equal(network.devices[0].name, "lo");
    assert_true(network.devices[0].received_bytes == 10 && network.devices[0].sent_bytes == 20);
    assert_string_equal(network.devices[1].name, "eth0:1");
    assert_string_equal(network.devices[2].name, "eth1");
    assert_true(network.devices[2].received_bytes == 50 && network.devices[2].sent_bytes == 60);
}

static void test_network_is_bounded(void **state)
{
    FILE *file = fopen(tree_path("net/dev"), "w");

    fputs(HEADING, file);
    for (int i = 0; i < 5000; i++)
        fprintf(file, "veth%d: 1" REST "2" REST_TX, i);
    fclose(file);
    assert_int_equal(network_read(tree_root, &network), ERR_OK);
    assert_int_equal(network.count, NODE_MAX_DEVICES);
    tree_put("net/dev", "");
    assert_int_equal(network_read(tree_root, &network), ERR_INVALID);
    assert_int_equal(network_read("/no/such/folder", &network), ERR_NOT_FOUND);
    assert_int_equal(network.count, NODE_MAX_DEVICES); /* untouched */
}

static bool has_job(unsigned index, const char *job)
{
    for (unsigned i = 0; i < jobs.count; i++)
        if (jobs.jobs[i].gpu_index == index && strcmp(jobs.jobs[i].job, job) == 0)
            return true;
    return false;
}

static void test_jobs(void **state)
{
    char path[PATH_MAX];

    tree_put("map/0", "12345\n");
    tree_put("map/1", "  12345_7 \r\n67890\n\n67890\n");
    tree_put("map/2", "");
    tree_put("map/10", "no newline");
    tree_put("map/11", "1\"} evil\nlast");
    tree_put("map/README", "999\n");
    tree_put("map/007", "999\n");
    tree_put("map/1000", "999\n");
    tree_put("map/-1", "999\n");
    tree_put("map/4/inner", "999\n");
    assert_int_equal(mkfifo(tree_path("map/5"), 0600), 0); /* nobody will write: no waiting */
    assert_int_equal(symlink("nowhere", tree_path("map/6")), 0);
    snprintf(path, sizeof path, "%s/map", tree_root);
    assert_int_equal(jobs_read(path, &jobs), ERR_OK);
    assert_int_equal(jobs.count, 4);
    assert_true(has_job(0, "12345") && has_job(1, "12345_7") && has_job(1, "67890"));
    assert_true(has_job(11, "last"));
    assert_int_equal(jobs_read("/no/such/folder", &jobs), ERR_NOT_FOUND);
}

static void test_jobs_are_bounded(void **state)
{
    char path[PATH_MAX], name[16];

    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "map/%d", i);
        FILE *file = fopen(tree_path(name), "w");
        fprintf(file, "%0100d\n", 7); /* longer than any id */
        for (int k = 0; k < 2000; k++)
            fprintf(file, "job-%d\n", k);
        fclose(file);
    }
    snprintf(path, sizeof path, "%s/map", tree_root);
    assert_int_equal(jobs_read(path, &jobs), ERR_OK);
    assert_int_equal(jobs.count, NODE_MAX_JOBS);
    for (unsigned i = 0; i < jobs.count; i++)
        assert_int_equal(strncmp(jobs.jobs[i].job, "job-", 4), 0);
}

#define PROC_TEST(name) cmocka_unit_test_setup_teardown(name, make_proc, tree_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_this_machine),
        PROC_TEST(test_figures),
        PROC_TEST(test_old_kernel_knows_fewer_modes),
        PROC_TEST(test_each_file_fails),
        PROC_TEST(test_network),
        PROC_TEST(test_network_is_bounded),
        PROC_TEST(test_jobs),
        PROC_TEST(test_jobs_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
