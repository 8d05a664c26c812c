/* A device is found by its name, and one without room for a model says so before the model is read.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/device.h"
#include "engine/engine.h"

#define HUGE_FILE ((off_t)1 << 42) /* 4 TiB of nothing */

static void test_cpu_by_default(void **state)
{
    ggml_backend_dev_t device, named;
    assert_int_equal(device_find(&device, NULL), ERR_OK);
    assert_int_equal(device_find(&named, "cpu:1"), ERR_OK);
    assert_ptr_equal(device, named);
    assert_int_equal(ggml_backend_dev_type(device), GGML_BACKEND_DEVICE_TYPE_CPU);
}

static void test_unknown_gpu_is_refused(void **state)
{
    ggml_backend_dev_t device;
    assert_int_equal(device_find(&device, "gpu:no-such-device"), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "gpu:no-such-device"));
}

static void test_no_room_for_a_model(void **state)
{
    char path[] = "/tmp/wyvern-device-XXXXXX";
    ggml_backend_dev_t device;
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(device_find(&device, NULL), ERR_OK);
    assert_int_equal(ftruncate(file, 1000), 0);
    assert_int_equal(device_check_room(device, path), ERR_OK);
    if (ftruncate(file, HUGE_FILE) != 0) {
        close(file);
        unlink(path);
        skip(); /* this file system has no files so large */
    }
    enum err err = device_check_room(device, path);
    close(file);
    unlink(path);
    assert_int_equal(err, ERR_NOMEM);
    assert_non_null(strstr(err_text(), "4096.0 GiB"));
    assert_int_equal(device_check_room(device, "/no/such/model"), ERR_OK); /* opening it tells */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_by_default),
        cmocka_unit_test(test_unknown_gpu_is_refused),
        cmocka_unit_test(test_no_room_for_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
