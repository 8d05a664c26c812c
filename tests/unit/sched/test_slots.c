#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sched/slots.h"

#define LENGTH 100

static int32_t same[LENGTH], other[LENGTH], half[LENGTH]; /* half: half like same */

static int fill(void **state)
{
    for (int i = 0; i < LENGTH; i++) {
        same[i] = i;
        other[i] = -i - 1;
        half[i] = i < LENGTH / 2 ? i : -i;
    }
    return 0;
}

static struct slot_view view(bool busy, uint64_t order, const int32_t *tokens, size_t cached)
{
    return (struct slot_view){.busy = busy,
                              .growing = busy && cached < LENGTH,
                              .order = order,
                              .tokens = tokens,
                              .planned = LENGTH,
                              .cached = cached};
}

static void common_beginning(void **state)
{
    assert_int_equal(slots_common(same, LENGTH, half, LENGTH), LENGTH / 2);
    assert_int_equal(slots_common(same, LENGTH, other, LENGTH), 0);
    assert_int_equal(slots_common(same, 7, same, LENGTH), 7);
    assert_int_equal(slots_common(NULL, 0, same, LENGTH), 0);
}

static void fresh_slots_in_order(void **state)
{
    struct slot_view slots[] = {view(false, 0, other, 0), view(false, 0, other, 0)};
    assert_int_equal(slots_choose(slots, 2, same, LENGTH), 0);
    slots[0] = view(true, 1, other, 10);
    assert_int_equal(slots_choose(slots, 2, same, LENGTH), 1);
    slots[1] = view(true, 2, other, 10);
    assert_int_equal(slots_choose(slots, 2, same, LENGTH), 2);
}

static void like_cache_is_kept(void **state)
{
    struct slot_view slots[] = {view(false, 1, other, LENGTH), view(false, 9, half, LENGTH),
                                view(false, 8, same, LENGTH), view(true, 7, same, LENGTH)};
    assert_int_equal(slots_choose(slots, 4, same, LENGTH), 2);
    slots[2].cached = SLOTS_WORTH_COPYING - 1; /* not worth it, the other is */
    assert_int_equal(slots_choose(slots, 4, same, LENGTH), 1);
    slots[1].cached = SLOTS_WORTH_COPYING - 1;
    assert_int_equal(slots_choose(slots, 4, same, LENGTH), 0); /* the oldest */
}

static void busy_cache_is_copied(void **state)
{
    struct slot_view slots[] = {view(true, 5, same, 0), view(true, 1, half, LENGTH),
                                view(false, 2, other, LENGTH)};
    struct slots_source source = slots_find_source(slots, 3, 0, 0);
    assert_int_equal(source.slot, 1);
    assert_int_equal(source.common, LENGTH / 2);
    assert_false(source.wait);
    /* What it has already is not worth a copy. */
    assert_int_equal(slots_find_source(slots, 3, 0, LENGTH / 2).slot, 3);
}

static void earlier_prompt_is_waited_for(void **state)
{
    struct slot_view slots[] = {view(true, 5, same, 0), view(true, 4, same, 20)};
    struct slots_source source = slots_find_source(slots, 2, 0, 0);
    assert_int_equal(source.slot, 1);
    assert_true(source.wait);
    /* Never the earlier for the later: somebody must go first. */
    assert_int_equal(slots_find_source(slots, 2, 1, 20).slot, 2);
    slots[1].cached = LENGTH;
    slots[1].growing = false;
    source = slots_find_source(slots, 2, 0, 0);
    assert_int_equal(source.common, LENGTH);
    assert_false(source.wait);
}

static void a_ready_cache_beats_one_to_come(void **state)
{
    struct slot_view slots[] = {view(true, 5, same, 0), view(true, 4, half, 20),
                                view(false, 2, half, LENGTH)};
    struct slots_source source = slots_find_source(slots, 3, 0, 0);
    assert_int_equal(source.slot, 2);
    assert_false(source.wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(common_beginning),
        cmocka_unit_test(fresh_slots_in_order),
        cmocka_unit_test(like_cache_is_kept),
        cmocka_unit_test(busy_cache_is_copied),
        cmocka_unit_test(earlier_prompt_is_waited_for),
        cmocka_unit_test(a_ready_cache_beats_one_to_come),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
