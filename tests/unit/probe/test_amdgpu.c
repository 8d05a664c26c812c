/* amdgpu.c: a tree that stands in for /sys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "probe/amdgpu.h"

#include "tree.h"

static struct gpu_list list;

#define CARD1   "class/drm/card1/device/"
#define SENSORS CARD1 "hwmon/hwmon7/"

static int make_card(void **state)
{
    if (tree_make(state) != 0)
        return 1;
    memset(&list, 0, sizeof list);
    list.count = 77;
    tree_put("class/drm/card0/device/vendor", "0x10de\n"); /* another maker's */
    tree_put("class/drm/version", "drm 1.1.0\n");
    tree_put("class/drm/card1-DP-1/device/vendor", "0x1002\n"); /* a connector */
    tree_put(CARD1 "vendor", "0x1002\n");
    tree_put(CARD1 "device", "0x740f\n");
    tree_put(CARD1 "unique_id", "5af3b7d1e2c40961\n");
    tree_put(CARD1 "product_name", "AMD Instinct MI210\n");
    tree_put(CARD1 "gpu_busy_percent", "42\n");
    tree_put(CARD1 "mem_busy_percent", "7\n");
    tree_put(CARD1 "mem_info_vram_total", "68702699520\n");
    tree_put(CARD1 "mem_info_vram_used", "10485760\n");
    tree_put(CARD1 "ras/umc_err_count", "ue: 1\nce: 5\n");
    tree_put(SENSORS "power1_average", "41500000\n");
    tree_put(SENSORS "power1_cap", "300000000\n");
    tree_put(SENSORS "temp1_input", "39500\n");
    tree_put(SENSORS "freq1_input", "800000000\n");
    tree_put(SENSORS "freq2_input", "1600000000\n");
    tree_put("module/amdgpu/version", "6.10.5\n");
    return 0;
}

static double figure(enum gpu_figure which)
{
    return list.gpus[0].figures[which];
}

static void read_well(void)
{
    assert_int_equal(amdgpu_read(tree_root, &list), ERR_OK);
    assert_int_equal(list.count, 1);
}

static void test_figures(void **state)
{
    read_well();
    assert_true(list.gpus[0].up);
    assert_int_equal(list.gpus[0].index, 0);
    assert_string_equal(list.gpus[0].vendor, "amd");
    assert_string_equal(list.gpus[0].uuid, "GPU-5af3b7d1e2c40961");
    assert_string_equal(list.gpus[0].name, "AMD Instinct MI210");
    assert_string_equal(list.gpus[0].driver, "6.10.5");
    assert_true(figure(GPU_BUSY_PERCENT) == 42 && figure(GPU_MEMORY_BUSY_PERCENT) == 7);
    assert_true(figure(GPU_MEMORY_TOTAL_BYTES) == 68702699520.0);
    assert_true(figure(GPU_MEMORY_USED_BYTES) == 10485760);
    assert_true(figure(GPU_MEMORY_FREE_BYTES) == 68702699520.0 - 10485760);
    assert_true(fabs(figure(GPU_POWER_WATTS) - 41.5) < 1e-9);
    assert_true(fabs(figure(GPU_POWER_LIMIT_WATTS) - 300) < 1e-9);
    assert_true(fabs(figure(GPU_TEMPERATURE_CELSIUS) - 39.5) < 1e-9);
    assert_true(figure(GPU_CLOCK_SM_HERTZ) == 8e8 && figure(GPU_CLOCK_MEMORY_HERTZ) == 16e8);
    assert_true(figure(GPU_ECC_CORRECTED) == 5 && figure(GPU_ECC_UNCORRECTED) == 1);
    assert_true(isnan(figure(GPU_ENERGY_JOULES)));
}

static void test_no_gpu(void **state)
{
    tree_put(CARD1 "vendor", "0x8086\n");
    assert_int_equal(amdgpu_read(tree_root, &list), ERR_NOT_FOUND);
    assert_int_equal(amdgpu_read("/no/such/folder", &list), ERR_NOT_FOUND);
    assert_int_equal(list.count, 77);
}

/* Each file in turn is gone, is garbage, is a folder, or says what can't be: its figure is missing
 * and the others are there. */
static void test_each_file_fails(void **state)
{
    static const struct {
        const char *file;
        enum gpu_figure first, last;
    } files[] = {
        {CARD1 "gpu_busy_percent", GPU_BUSY_PERCENT, GPU_BUSY_PERCENT},
        {CARD1 "mem_busy_percent", GPU_MEMORY_BUSY_PERCENT, GPU_MEMORY_BUSY_PERCENT},
        {CARD1 "mem_info_vram_total", GPU_MEMORY_TOTAL_BYTES, GPU_MEMORY_FREE_BYTES},
        {CARD1 "mem_info_vram_used", GPU_MEMORY_TOTAL_BYTES, GPU_MEMORY_FREE_BYTES},
        {SENSORS "power1_average", GPU_POWER_WATTS, GPU_POWER_WATTS},
        {SENSORS "power1_cap", GPU_POWER_LIMIT_WATTS, GPU_POWER_LIMIT_WATTS},
        {SENSORS "temp1_input", GPU_TEMPERATURE_CELSIUS, GPU_TEMPERATURE_CELSIUS},
        {SENSORS "freq1_input", GPU_CLOCK_SM_HERTZ, GPU_CLOCK_SM_HERTZ},
        {SENSORS "freq2_input", GPU_CLOCK_MEMORY_HERTZ, GPU_CLOCK_MEMORY_HERTZ},
        {CARD1 "ras/umc_err_count", GPU_ECC_CORRECTED, GPU_ECC_UNCORRECTED},
    };
    static const char *const garbage[] = {NULL,
                                          "",
                                          "N/A\n",
                                          "-1000000\n",
                                          "9223372036854775807\n",
                                          "99999999999999999999999\n",
                                          "12 apples\n",
                                          "ue: -1\nce: x\n"};

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char kept[128] = "";
        FILE *file = fopen(tree_path(files[i].file), "r");
        assert_true(fread(kept, 1, sizeof kept - 1, file) > 0);
        fclose(file);
        for (size_t k = 0; k < sizeof garbage / sizeof *garbage; k++) {
            unlink(tree_path(files[i].file));
            if (garbage[k] != NULL)
                tree_put(files[i].file, garbage[k]);
            read_well();
            for (unsigned f = 0; f < GPU_FIGURE_COUNT; f++)
                if (f != GPU_ENERGY_JOULES)
                    assert_int_equal(isnan(figure((enum gpu_figure)f)) != 0,
                                     f >= files[i].first && f <= files[i].last);
        }
        unlink(tree_path(files[i].file));
        mkdir(tree_path(files[i].file), 0755); /* reading it fails, as of a device that is gone */
        read_well();
        assert_true(isnan(figure(files[i].first)));
        rmdir(tree_path(files[i].file));
        tree_put(files[i].file, kept);
    }
}

static void test_newer_chips_know_the_present_power(void **state)
{
    unlink(tree_path(SENSORS "power1_average"));
    tree_put(SENSORS "power1_input", "55000000\n");
    read_well();
    assert_true(fabs(figure(GPU_POWER_WATTS) - 55) < 1e-9);
}

static void test_lost_card_is_down(void **state)
{
    unlink(tree_path(CARD1 "gpu_busy_percent"));
    unlink(tree_path(CARD1 "mem_info_vram_used"));
    read_well();
    assert_false(list.gpus[0].up);
    for (unsigned f = 0; f < GPU_FIGURE_COUNT; f++)
        assert_true(isnan(figure((enum gpu_figure)f)));
    assert_string_equal(list.gpus[0].uuid, "GPU-5af3b7d1e2c40961");
}

/* A card without a number of its own is named by its place; one that gives neither is left out. */
static void test_names(void **state)
{
    char from[PATH_MAX];

    unlink(tree_path(CARD1 "product_name"));
    tree_put(CARD1 "unique_id", "\"} 1\n");
    assert_int_equal(amdgpu_read(tree_root, &list), ERR_OK);
    assert_int_equal(list.count, 0);
    unlink(tree_path(CARD1 "unique_id"));
    assert_int_equal(amdgpu_read(tree_root, &list), ERR_OK);
    assert_int_equal(list.count, 0);
    snprintf(from, sizeof from, "%s", tree_path("class/drm/card1/device"));
    assert_int_equal(rename(from, tree_path("class/drm/card1/0000:c3:00.0")), 0);
    assert_int_equal(symlink("0000:c3:00.0", from), 0);
    read_well();
    assert_string_equal(list.gpus[0].uuid, "PCI-0000:c3:00.0");
    assert_string_equal(list.gpus[0].name, "AMD GPU 0x740f");
}

#define CARD_TEST(name) cmocka_unit_test_setup_teardown(name, make_card, tree_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CARD_TEST(test_figures),           CARD_TEST(test_no_gpu),
        CARD_TEST(test_each_file_fails),   CARD_TEST(test_newer_chips_know_the_present_power),
        CARD_TEST(test_lost_card_is_down), CARD_TEST(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
