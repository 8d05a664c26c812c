/* What is kept of a file, how clients see it, and what a list shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "api/files.h"

#define HEX "0123456789abcdef0123456789abcdef"

static const struct file_meta sample = {.id = HEX,
                                        .owner = "aaaaaaaaaaaaaaaa",
                                        .name = "in \"x\".jsonl",
                                        .purpose = "batch",
                                        .bytes = 1234567890123,
                                        .chunks = 3,
                                        .created = 1700000000.25};

static void a_stored_file_comes_back(void **state)
{
    struct buf text;
    struct file_meta meta;
    buf_init(&text, 4096);
    assert_int_equal(file_meta_encode(&sample, &text), ERR_OK);
    assert_int_equal(file_meta_decode(&meta, text.data, text.len), ERR_OK);
    assert_string_equal(meta.id, sample.id);
    assert_string_equal(meta.owner, sample.owner);
    assert_string_equal(meta.name, sample.name);
    assert_string_equal(meta.purpose, sample.purpose);
    assert_int_equal(meta.bytes, sample.bytes);
    assert_int_equal(meta.chunks, 3);
    assert_int_equal(file_meta_decode(&meta, "{}", 2), ERR_INVALID);
    assert_int_equal(file_meta_decode(&meta, "{", 1), ERR_INVALID);
    assert_int_equal(file_meta_decode(&meta, "", 0), ERR_NOT_FOUND); /* deleted */
    buf_done(&text);
}

static void clients_see_openais_object(void **state)
{
    struct buf text;
    buf_init(&text, 4096);
    assert_int_equal(file_write(&sample, &text), ERR_OK);
    assert_string_equal(buf_text(&text),
                        "{\"id\":\"file-" HEX "\",\"object\":\"file\",\"bytes\":1234567890123,"
                        "\"created_at\":1700000000,\"expires_at\":null,\"filename\":"
                        "\"in \\\"x\\\".jsonl\",\"purpose\":\"batch\",\"status\":\"processed\","
                        "\"status_details\":null}");
    buf_clear(&text);
    assert_int_equal(file_list_write(NULL, 0, false, &text), ERR_OK);
    assert_string_equal(buf_text(&text), "{\"object\":\"list\",\"data\":[],\"first_id\":null,"
                                         "\"last_id\":null,\"has_more\":false}");
    buf_clear(&text);
    assert_int_equal(file_list_write(&sample, 1, true, &text), ERR_OK);
    assert_non_null(strstr(buf_text(&text), "\"first_id\":\"file-" HEX "\",\"last_id\":\"file-" HEX
                                            "\",\"has_more\":true"));
    buf_clear(&text);
    assert_int_equal(file_deleted_write(HEX, &text), ERR_OK);
    assert_string_equal(buf_text(&text),
                        "{\"id\":\"file-" HEX "\",\"object\":\"file\",\"deleted\":true}");
    buf_done(&text);
}

static void ids_are_told_from_other_texts(void **state)
{
    char id[ID_SIZE];
    assert_true(file_id_parse(id, "file-" HEX));
    assert_string_equal(id, HEX);
    assert_false(file_id_parse(id, HEX));
    assert_false(file_id_parse(id, "file-" HEX "0"));
    assert_false(file_id_parse(id, "file-0123456789ABCDEF0123456789abcdef"));
    assert_false(file_id_parse(id, "file-*"));
    assert_false(file_id_parse(id, ""));
}

static void forms_are_checked(void **state)
{
    struct file_meta meta = {.bytes = 0};
    struct api_error error;
    assert_int_equal(file_form_check(&meta, "batchx", 5, "a", &error), ERR_OK);
    assert_string_equal(meta.purpose, "batch");
    assert_int_equal(file_form_check(&meta, "batch", 5, "", &error), ERR_OK);
    assert_string_equal(meta.name, "file");
    assert_int_equal(file_form_check(&meta, NULL, 0, "a", &error), ERR_INVALID);
    assert_string_equal(error.param, "purpose");
    assert_int_equal(file_form_check(&meta, "vision", 6, "a", &error), ERR_INVALID);
    assert_string_equal(error.param, "purpose");
    assert_int_equal(file_form_check(&meta, "batch", 5, "\xff", &error), ERR_INVALID);
    assert_string_equal(error.param, "file");
}

static void queries_are_checked(void **state)
{
    static const char *const limits[] = {"0", "-1", "101", "1x", "", " 1", "99999999999999999999"};
    struct list_query query;
    struct api_error error;
    assert_int_equal(list_query_read(&query, NULL, NULL, NULL, 100, 20, &error), ERR_OK);
    assert_int_equal(query.limit, 20);
    assert_false(query.ascending);
    assert_string_equal(query.after, "");
    assert_int_equal(list_query_read(&query, "100", "file-x", "asc", 100, 20, &error), ERR_OK);
    assert_int_equal(query.limit, 100);
    assert_true(query.ascending);
    assert_string_equal(query.after, "file-x");
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        assert_int_equal(list_query_read(&query, limits[i], NULL, NULL, 100, 20, &error),
                         ERR_INVALID);
        assert_string_equal(error.param, "limit");
    }
    assert_int_equal(list_query_read(&query, NULL, NULL, "up", 100, 20, &error), ERR_INVALID);
    assert_string_equal(error.param, "order");
    char longer[100];
    memset(longer, 'a', sizeof longer);
    longer[99] = '\0';
    assert_int_equal(list_query_read(&query, NULL, longer, NULL, 100, 20, &error), ERR_INVALID);
}

static void a_list_shows_what_was_asked_for(void **state)
{
    static const struct {
        bool ascending;
        unsigned limit;
        size_t count;
        ptrdiff_t after;
        size_t shown, first;
        bool more;
    } cases[] = {
        {true, 3, 0, -1, 0, 0, false},  {true, 3, 5, -1, 3, 0, true},
        {true, 3, 5, 2, 2, 3, false},   {true, 3, 5, 4, 0, 5, false},
        {false, 3, 0, -1, 0, 0, false}, {false, 3, 5, -1, 3, 4, true},
        {false, 3, 5, 2, 2, 1, false},  {false, 3, 5, 0, 0, 0, false},
        {false, 2, 5, 2, 2, 1, false},  {false, 5, 5, -1, 5, 4, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct list_query query = {.limit = cases[i].limit, .ascending = cases[i].ascending};
        size_t first = 99;
        bool more = false;
        assert_int_equal(list_query_cut(&query, cases[i].count, cases[i].after, &first, &more),
                         cases[i].shown);
        assert_int_equal(first, cases[i].first);
        assert_int_equal(more, cases[i].more);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stored_file_comes_back),
        cmocka_unit_test(clients_see_openais_object),
        cmocka_unit_test(ids_are_told_from_other_texts),
        cmocka_unit_test(forms_are_checked),
        cmocka_unit_test(queries_are_checked),
        cmocka_unit_test(a_list_shows_what_was_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
