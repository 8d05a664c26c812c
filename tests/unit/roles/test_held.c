/* What a node keeps of its workers' prompts, and the devices it shares out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "roles/devices.h"
#include "roles/held.h"

static void takes_and_leaves(void **state)
{
    (void)state;
    struct held held = {0};
    char subject[64];
    held_remove(&held, "never there");
    for (int i = 0; i < 100; i++) {
        snprintf(subject, sizeof subject, "$JS.ACK.PROMPTS.%d", i);
        assert_int_equal(held_add(&held, subject), ERR_OK);
        assert_int_equal(held_add(&held, subject), ERR_OK); /* said twice, held once */
    }
    assert_int_equal(held.count, 100);
    for (int i = 0; i < 100; i += 2) {
        snprintf(subject, sizeof subject, "$JS.ACK.PROMPTS.%d", i);
        held_remove(&held, subject);
    }
    assert_int_equal(held.count, 50);
    for (size_t i = 0; i < held.count; i++) {
        int number = 0;
        assert_int_equal(sscanf(held.subjects[i], "$JS.ACK.PROMPTS.%d", &number), 1);
        assert_int_equal(number % 2, 1);
    }
    held_clear(&held);
    assert_int_equal(held.count, 0);
    held_done(&held);
}

static void is_bounded(void **state)
{
    (void)state;
    struct held held = {0};
    char subject[32];
    for (int i = 0; i < HELD_MAX; i++) {
        snprintf(subject, sizeof subject, "%d", i);
        assert_int_equal(held_add(&held, subject), ERR_OK);
    }
    assert_int_equal(held_add(&held, "one more"), ERR_LIMIT);
    assert_int_equal(held.count, HELD_MAX);
    held_done(&held);
}

static void devices_are_shared_out_in_turn(void **state)
{
    (void)state;
    static struct device_list list;
    char device[DEVICE_MAX];
    assert_int_equal(device_list_fill(&list, "gpu:GPU-aa,gpu:GPU-bb"), ERR_OK);
    assert_int_equal(list.count, 2);
    assert_int_equal(device_list_workers(&list), 2);
    device_list_take(&list, 3, device);
    assert_string_equal(device, "gpu:GPU-bb");
    list.count = 0;
    device_list_take(&list, 3, device);
    assert_string_equal(device, "cpu:3");
    assert_true(device_list_workers(&list) >= 1);
}

static void odd_devices_are_refused(void **state)
{
    (void)state;
    static struct device_list list;
    static const char *const odd[] = {"tpu:0", "gpu:", "cpu:0,", ",cpu:0", "cpu:0,,cpu:1", "gpu"};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        enum err err = device_list_fill(&list, odd[i]);
        if (strcmp(odd[i], "cpu:0,") == 0)
            assert_int_equal(err, ERR_OK); /* a comma at the end adds nothing */
        else
            assert_int_equal(err, ERR_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_and_leaves),
        cmocka_unit_test(is_bounded),
        cmocka_unit_test(devices_are_shared_out_in_turn),
        cmocka_unit_test(odd_devices_are_refused),
    };
    return cmocka_run_group_tests_name("held", tests, NULL, NULL);
}
