/* The GPUs that become workers' devices, as the library that stands in for NVIDIA's tells of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/offload.h"
#include "roles/devices.h"

#define SHOWN "CUDA_VISIBLE_DEVICES"

static bool can_offload = true;

/* In the place of the runtime's own answer: here it is built for CPUs. */
bool engine_can_offload(void)
{
    return can_offload;
}

static char control[] = "devices-control-XXXXXX";

static void say(const char *lines)
{
    FILE *file = fopen(control, "w");
    assert_non_null(file);
    fputs(lines, file);
    fclose(file);
}

/* What the list has, with blanks between. */
static const char *listed(const char *lines, const char *shown)
{
    static char text[1024];
    static struct device_list list;

    say(lines);
    if (shown != NULL)
        setenv(SHOWN, shown, 1);
    else
        unsetenv(SHOWN);
    assert_int_equal(device_list_fill(&list, NULL), ERR_OK);
    text[0] = '\0';
    for (size_t i = 0; i < list.count; i++) {
        strcat(text, i > 0 ? " " : "");
        strcat(text, list.names[i]);
    }
    if (list.count > 0)
        assert_int_equal(device_list_workers(&list), list.count);
    return text;
}

#define THREE "count 3\n0 uuid GPU-aa\n1 uuid GPU-bb\n2 uuid GPU-cc\n"

static void one_for_each_gpu(void **state)
{
    assert_string_equal(listed(THREE, NULL), "gpu:GPU-aa gpu:GPU-bb gpu:GPU-cc");
    assert_string_equal(listed("1 handle 15\n" THREE, NULL), "gpu:GPU-aa gpu:GPU-cc"); /* lost */
    assert_string_equal(listed("0 handle 4\n" THREE, NULL), "gpu:GPU-bb gpu:GPU-cc"); /* not ours */
    assert_string_equal(listed("count 0\n", NULL), "");
    assert_string_equal(listed("count_code 999\n", NULL), "");
    assert_string_equal(listed("init 18\n", NULL), "");
    can_offload = false;
    assert_string_equal(listed(THREE, NULL), "");
    can_offload = true;
}

/* As Slurm says it where its cgroups do not hide the others' GPUs. */
static void only_those_that_we_were_given(void **state)
{
    assert_string_equal(listed(THREE, "2,0"), "gpu:GPU-cc gpu:GPU-aa");
    assert_string_equal(listed(THREE, "GPU-b"), "gpu:GPU-bb");
    assert_string_equal(listed(THREE, "GPU-cc,GPU-aa"), "gpu:GPU-cc gpu:GPU-aa");
    assert_string_equal(listed(THREE, "MIG-11/7/0"), "gpu:MIG-11/7/0");
    assert_string_equal(listed(THREE, "1,-1,2"), "gpu:GPU-bb"); /* ends where CUDA's would */
    assert_string_equal(listed(THREE, "3,0"), "");
    assert_string_equal(listed(THREE, "1x"), "");
    assert_string_equal(listed(THREE, "99999999999999999999"), "");
    assert_string_equal(listed(THREE, ""), "");
    assert_string_equal(listed(THREE, "NoDevFiles"), "");
    assert_string_equal(listed("0 handle 4\n" THREE, "0"), "gpu:GPU-bb"); /* of those that we see */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_for_each_gpu),
        cmocka_unit_test(only_those_that_we_were_given),
    };
    char path[64];
    int file, failed;

    if (getenv("STANDIN_NVML") == NULL) { /* the loader looks at its path once, at the start */
        file = mkstemp(control);
        if (file < 0 || setenv("LD_LIBRARY_PATH", STANDIN_FOLDER, 1) != 0 ||
            setenv("STANDIN_NVML", control, 1) != 0)
            return 1;
        close(file);
        execv("/proc/self/exe", argv);
        return 1;
    }
    snprintf(control, sizeof control, "%s", getenv("STANDIN_NVML"));
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(control);
    snprintf(path, sizeof path, "%s.calls", control);
    unlink(path);
    return failed;
}
