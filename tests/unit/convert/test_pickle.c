/* Pickles that no torch writes: refused without a crash, a leak, or memory beyond their size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "convert/pickle.h"

static enum err read_bytes(const char *data, size_t len)
{
    struct pickle pickle;
    size_t used;
    enum err err = pickle_read(&pickle, data, len, &used, "p");
    if (err == ERR_OK) {
        assert_int_equal(used, len);
        pickle_done(&pickle);
    }
    return err;
}
#define READ(text) read_bytes(text, sizeof(text) - 1)

static void test_reads_a_state_dict(void **state)
{
    static const char text[] = "\x80\x02}q\0X\x01\0\0\0wq\x01"
                               "ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storageq\x03"
                               "ctorch\nHalfStorage\nq\x04X\x01\0\0\0"
                               "0q\x05X\x03\0\0\0cpuq\x06K\x06tQK\0K\x02K\x03\x86K\x03K\x01\x86\x89"
                               "ccollections\nOrderedDict\n)RtRs.";
    struct pickle pickle;
    size_t used;
    assert_int_equal(pickle_read(&pickle, text, sizeof text - 1, &used, "p"), ERR_OK);
    const struct pickle_value *root = pickle_at(&pickle, pickle.root);
    assert_int_equal(root->kind, PICKLE_DICT);
    assert_int_equal(root->count, 2);
    assert_true(pickle_is_text(pickle_item(&pickle, root, 0), "w"));
    const struct pickle_value *tensor = pickle_item(&pickle, root, 1);
    assert_int_equal(tensor->kind, PICKLE_TENSOR);
    const struct pickle_value *shape = pickle_item(&pickle, tensor, 2);
    assert_int_equal(shape->count, 2);
    assert_int_equal(pickle_item(&pickle, shape, 1)->as.number, 3);
    const struct pickle_value *storage = pickle_item(&pickle, tensor, 0);
    assert_true(pickle_is_text(pickle_item(&pickle, storage, 1), "0"));
    assert_int_equal(pickle_item(&pickle, storage, 2)->as.number, 6);
    pickle_done(&pickle);
    /* cut anywhere: refused, or never a value of its own */
    for (size_t len = 0; len < sizeof text - 1; len++)
        assert_int_not_equal(read_bytes(text, len), ERR_OK);
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        int64_t number;
    } cases[] = {
        {"\x80\x02K\xff.", 5, 255},
        {"\x80\x02M\x01\x02.", 6, 513},
        {"\x80\x02J\xff\xff\xff\xff.", 8, -1},
        {"\x80\x02\x8a\0.", 5, 0},
        {"\x80\x02\x8a\x01\xff.", 6, -1},
        {"\x80\x02\x8a\x02\xff\0.", 7, 255},
        {"\x80\x02\x8a\x08\0\0\0\0\0\0\0\x80.", 13, INT64_MIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pickle pickle;
        size_t used;
        assert_int_equal(pickle_read(&pickle, cases[i].text, cases[i].len, &used, "p"), ERR_OK);
        assert_true(pickle_at(&pickle, pickle.root)->as.number == cases[i].number);
        pickle_done(&pickle);
    }
}

static void test_refuses_globals_by_name(void **state)
{
    assert_int_equal(READ("\x80\x02"
                          "cposix\nsystem\nX\x02\0\0\0ls\x85R."),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "posix.system"));
    assert_int_equal(READ("\x80\x04\x8c\x08"
                          "builtins\x8c\x04"
                          "eval\x93."),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "builtins.eval"));
    assert_int_equal(READ("\x80\x02"
                          "ctorch._utils\n_rebuild_parameter\n."),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "_rebuild_parameter"));
    assert_int_equal(READ("\x80\x02"
                          "ctorch\nload\n."),
                     ERR_UNSUPPORTED);
    /* operations that make objects of classes: not even looked at */
    assert_int_equal(READ("\x80\x02(ios\nsystem\n."), ERR_UNSUPPORTED);
    assert_int_equal(READ("\x80\x02)\x81."), ERR_UNSUPPORTED);
}

static void test_broken(void **state)
{
    static const struct {
        const char *text;
        size_t len;
    } cases[] = {
        {"", 0},
        {"\x80", 1},
        {"\x80\x02", 2},
        {"\x80\x02.", 3},                   /* nothing on the stack */
        {"\x80\x09N.", 4},                  /* protocol of the future */
        {"\x80\x02NN.", 5},                 /* two values */
        {"\x80\x02(.", 4},                  /* a mark */
        {"\x80\x020.", 4},                  /* pop from nothing */
        {"\x80\x02t.", 4},                  /* no mark */
        {"\x80\x02u.", 4},                  /* no mark */
        {"\x80\x02(u.", 5},                 /* no dict */
        {"\x80\x02((u.", 6},                /* a mark instead of a dict */
        {"\x80\x02}(Nu.", 7},               /* odd */
        {"\x80\x02NNs.", 6},                /* two only */
        {"\x80\x02NNNs.", 7},               /* no dict */
        {"\x80\x02}(Ns.", 7},               /* a mark as key */
        {"\x80\x02N\x87.", 5},              /* too few */
        {"\x80\x02(N\x86.", 6},             /* a mark in a tuple */
        {"\x80\x02h\0.", 5},                /* memo never set */
        {"\x80\x02Nr\xff\xff\xff\xff.", 9}, /* memo out of line */
        {"\x80\x02q\0.", 5},                /* memo of nothing */
        {"\x80\x02NR.", 5},                 /* call of None */
        {"\x80\x02)NR.", 6},                /* arguments that are no tuple */
        {"\x80\x02N)R.", 6},                /* None called */
        {"\x80\x02NQ.", 5},                 /* persistent id that is none */
        {"\x80\x02)Q.", 5},                 /* the empty one */
        {"\x80\x02}Nb.", 6},                /* state that is no dict */
        {"\x80\x02X\xff\xff\xff\xff"
         "a.",
         9},                               /* text longer than the input */
        {"\x80\x02\x8a\x09.........", 12}, /* number too long */
        {"\x80\x02"
         "cposix\nsystem",
         15}, /* global without an end */
        {"\x80\x02"
         "ctorch._utils\n_rebuild_tensor_v2\n)R.",
         38}, /* without arguments */
        {"\x80\x02"
         "ctorch\nFloatStorage\n)R.",
         25},                 /* a type called */
        {"\x80\x02\xff.", 4}, /* unknown operation */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (read_bytes(cases[i].text, cases[i].len) == ERR_OK)
            fail_msg("case %zu was read", i);
    }
}

/* A megabyte of nothing but nesting, marks, or references to itself. */
static void test_deep(void **state)
{
    size_t size = 1u << 20;
    char *data = malloc(size);
    assert_non_null(data);

    memset(data, ')', size); /* (((…))) one into the other */
    memcpy(data, "\x80\x02N", 3);
    memset(data + 3, '\x85', size - 4);
    data[size - 1] = '.';
    assert_int_equal(read_bytes(data, size), ERR_OK);

    memset(data + 2, '(', size - 3);
    assert_int_not_equal(read_bytes(data, size), ERR_OK);

    memset(data + 2, '}', size - 3);
    assert_int_not_equal(read_bytes(data, size), ERR_OK);

    assert_int_equal(READ("\x80\x02]q\0h\0a."), ERR_OK); /* a list that holds itself */
    assert_int_equal(READ("\x80\x02}q\0(h\0h\0u."), ERR_OK);
    free(data);

    size = (4u << 20) + 3; /* more values than are kept */
    data = malloc(size);
    assert_non_null(data);
    memset(data, 'N', size);
    memcpy(data, "\x80\x02", 2);
    assert_int_equal(read_bytes(data, size), ERR_LIMIT);
    free(data);
}

/* Every single byte of a good pickle, changed to every other: no crash under the sanitizers. */
static void test_flipped(void **state)
{
    static const char text[] =
        "\x80\x02}q\0(X\x01\0\0\0wq\x01"
        "ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storageq\x03"
        "ctorch\nFloatStorage\nq\x04X\x01\0\0\0"
        "0q\x05X\x03\0\0\0cpuq\x06K\x06tq\x07QK\0K\x02K\x03\x86q\x08K\x03K\x01\x86q\t\x89"
        "ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\ru}q\x0eX\t\0\0\0_metadatah\x0esb.";
    size_t len = sizeof text - 1;
    char copy[sizeof text];

    assert_int_equal(READ(text), ERR_OK);
    for (size_t i = 0; i < len; i++) {
        memcpy(copy, text, len);
        for (int value = 0; value < 256; value++) {
            struct pickle pickle;
            size_t used;
            copy[i] = (char)value;
            if (pickle_read(&pickle, copy, len, &used, "p") == ERR_OK)
                pickle_done(&pickle);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_state_dict),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_refuses_globals_by_name),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_deep),
        cmocka_unit_test(test_flipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
