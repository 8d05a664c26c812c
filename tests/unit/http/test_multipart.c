/* Forms with files: whole, hostile, and broken at random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/multipart.h"

#define TYPE "multipart/form-data; boundary=XyZ"
#define DISP "Content-Disposition: form-data; name=\"f\"\r\n"
#define FORM                                                                                       \
    "--XyZ\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XyZ\r\n"          \
    "Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\nContent-Type: "       \
    "application/octet-stream\r\n\r\n{}\n\r\n--Xy\r\n--XyZa\r\n--XyZ--b\r\n\r\n--XyZ--\r\n"

static enum err parse(struct multipart *out, const char *type, const char *body)
{
    return multipart_parse(out, type, body, strlen(body));
}

static void a_form_comes_apart(void **state)
{
    struct multipart form;
    unsigned times = 0;
    assert_int_equal(parse(&form, TYPE, FORM), ERR_OK);
    assert_int_equal(form.count, 2);
    const struct multipart_part *purpose = multipart_find(&form, "purpose", &times);
    assert_int_equal(times, 1);
    assert_int_equal(purpose->len, 5);
    assert_memory_equal(purpose->data, "batch", 5);
    assert_false(purpose->has_filename);
    const struct multipart_part *file = multipart_find(&form, "file", NULL);
    static const char data[] =
        "{}\n\r\n--Xy\r\n--XyZa\r\n--XyZ--b\r\n"; /* boundaries only nearly */
    assert_string_equal(file->filename, "in.jsonl");
    assert_int_equal(file->len, sizeof data - 1);
    assert_memory_equal(file->data, data, sizeof data - 1);
    assert_null(multipart_find(&form, "other", &times));
    assert_int_equal(times, 0);
}

static void forms_are_written_in_several_ways(void **state)
{
    static const struct {
        const char *type, *body;
        size_t count, len;
        const char *filename;
    } cases[] = {
        {TYPE, "--XyZ\r\n" DISP "\r\n\r\n--XyZ--", 1, 0, ""},      /* empty data */
        {TYPE, "--XyZ\r\n" DISP "\r\n--XyZ--", 1, 0, ""},          /* no line of data */
        {TYPE, "\r\n--XyZ\r\n" DISP "\r\na\r\n--XyZ--", 1, 1, ""}, /* empty preamble */
        {TYPE, "--XyZ \t\r\n" DISP "\r\na\r\n--XyZ-- \r\nepilogue", 1, 1, ""},
        {TYPE, "--XyZ--\r\n", 0, 0, ""},
        {"Multipart/Form-Data; charset=utf-8; boundary=\"XyZ\"",
         "--XyZ\r\ncontent-disposition: FORM-DATA; Name=f\r\n\r\na\0b\r\n--XyZ--", 1, 1, ""},
        {"multipart/form-data;boundary=\"X y\\\"Z\"", "", 9, 0, ""},
        {TYPE,
         "--XyZ\r\nContent-Disposition: form-data; name=f; filename=\"a\\\"b\\\\c\\d\"\r\n\r\n\r\n"
         "--XyZ--",
         1, 0, "a\"b\\c\\d"},
        {TYPE,
         "--XyZ\r\nContent-Disposition: form-data; name=f; filename=\"\xc3\xa4;x=\"; "
         "filename*=UTF-8''y;\r\nX: y\r\nContent-Transfer-Encoding: binary\r\n\r\n\r\n--XyZ--",
         1, 0, "\xc3\xa4;x="},
    };
    struct multipart form;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum err err = parse(&form, cases[i].type, cases[i].body);
        if (cases[i].count == 9) {
            assert_int_equal(err, ERR_INVALID);
            continue;
        }
        if (i == 5)
            err = multipart_parse(&form, cases[i].type, cases[i].body,
                                  sizeof "--XyZ\r\ncontent-disposition: FORM-DATA; Name=f\r\n\r\n"
                                         "a\0b\r\n--XyZ--" -
                                      1);
        if (err != ERR_OK)
            fail_msg("case %zu: %s", i, err_text());
        assert_int_equal(form.count, cases[i].count);
        if (form.count > 0) {
            assert_string_equal(form.parts[0].name, "f");
            assert_int_equal(form.parts[0].len, i == 5 ? 3 : cases[i].len);
            assert_string_equal(form.parts[0].filename, cases[i].filename);
        }
    }
}

static void content_types_are_checked(void **state)
{
    static const struct {
        const char *type;
        enum err err;
    } cases[] = {
        {NULL, ERR_UNSUPPORTED},
        {"", ERR_UNSUPPORTED},
        {"application/json", ERR_UNSUPPORTED},
        {"multipart/form-database; boundary=XyZ", ERR_UNSUPPORTED},
        {"multipart/mixed; boundary=XyZ", ERR_UNSUPPORTED},
        {"multipart/form-data", ERR_INVALID},
        {"multipart/form-data; boundary", ERR_INVALID},
        {"multipart/form-data; boundary=", ERR_INVALID},
        {"multipart/form-data; boundary=\"\"", ERR_INVALID},
        {"multipart/form-data; boundary=\"XyZ", ERR_INVALID},
        {"multipart/form-data; boundary=\"XyZ \"", ERR_INVALID},
        {"multipart/form-data; boundary=XyZ; boundary=XyZ", ERR_INVALID},
        {"multipart/form-data boundary=XyZ", ERR_INVALID},
        {"multipart/form-data; boundary=X@Z", ERR_INVALID},
        {"multipart/form-data; boundary=\xc3\xa4", ERR_INVALID},
    };
    struct multipart form;
    char type[512] = "multipart/form-data; boundary=", body[256] = "--";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(parse(&form, cases[i].type, FORM), cases[i].err);
    for (int i = 0; i < MULTIPART_BOUNDARY_MAX; i++) {
        strcat(type, "b");
        strcat(body, "b");
    }
    strcat(body, "--");
    assert_int_equal(parse(&form, type, body), ERR_OK);
    strcat(type, "b");
    assert_int_equal(parse(&form, type, body), ERR_INVALID);
    memset(type + 30, 'b', 400); /* longer than any parameter may be */
    assert_int_equal(parse(&form, type, body), ERR_INVALID);
}

static void broken_forms_are_refused(void **state)
{
    static const struct {
        const char *body;
        enum err err;
    } cases[] = {
        {"", ERR_INVALID},
        {"--XyZ", ERR_INVALID},
        {"--XyZ-", ERR_INVALID},
        {"--XyZa\r\n" DISP "\r\na\r\n--XyZ--", ERR_INVALID},
        {"preamble\r\n--XyZ\r\n" DISP "\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\n", ERR_INVALID},
        {"--XyZ\r\n" DISP, ERR_INVALID},
        {"--XyZ\r\n" DISP "\r\n", ERR_INVALID},
        {"--XyZ\r\n" DISP "\r\na", ERR_INVALID},
        {"--XyZ\r\n" DISP "\r\na\r\n--XyZ", ERR_INVALID},
        {"--XyZ\r\n" DISP "\r\na\r\n--XyZ-", ERR_INVALID},
        {"--XyZ\r\n" DISP "\r\na\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\n" DISP "\r\na\r\n--XyZ--b", ERR_INVALID},
        {"--XyZ\n" DISP "\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nX: y\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\n" DISP DISP "\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: attachment; name=f\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data; name=\"\"\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data; name=\"f\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\na\r\n--XyZ--",
         ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data; name=a; filename=b; filename=c\r\n\r\na\r\n"
         "--XyZ--",
         ERR_INVALID},
        {"--XyZ\r\nContent-Disposition : form-data; name=a\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data;\r\n name=a\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\nContent-Disposition: form-data; name=\"a\rb\"\r\n\r\na\r\n--XyZ--", ERR_INVALID},
        {"--XyZ\r\n" DISP "Content-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--XyZ--",
         ERR_UNSUPPORTED},
        {"--XyZ\r\n" DISP "1: 1\r\n2: 2\r\n3: 3\r\n4: 4\r\n5: 5\r\n6: 6\r\n7: 7\r\n8: 8\r\n\r\n"
         "a\r\n--XyZ--",
         ERR_LIMIT},
    };
    struct multipart form;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum err err = parse(&form, TYPE, cases[i].body);
        if (err != cases[i].err)
            fail_msg("%s: %s", cases[i].body, err_name(err));
    }
    static const char nul[] = "--XyZ\r\nContent-Disposition: form-data; name=\"a\0b\"\r\n\r\na\r\n"
                              "--XyZ--";
    assert_int_equal(multipart_parse(&form, TYPE, nul, sizeof nul - 1), ERR_INVALID);
}

static void floods_end_at_their_bounds(void **state)
{
    static char body[1 << 20];
    struct multipart form;
    body[0] = '\0';
    for (int i = 0; i < MULTIPART_PARTS_MAX; i++)
        strcat(body, "--XyZ\r\n" DISP "\r\na\r\n");
    size_t len = strlen(body);
    strcpy(body + len, "--XyZ--");
    assert_int_equal(parse(&form, TYPE, body), ERR_OK);
    assert_int_equal(form.count, MULTIPART_PARTS_MAX);
    strcpy(body + len, "--XyZ\r\n" DISP "\r\na\r\n--XyZ--");
    assert_int_equal(parse(&form, TYPE, body), ERR_LIMIT);

    strcpy(body, "--XyZ\r\nX: ");
    memset(body + strlen(body), 'x', 4000); /* the rest is zeros: one header that is too large */
    strcpy(body + 4010, "\r\n" DISP "\r\na\r\n--XyZ--");
    assert_int_equal(parse(&form, TYPE, body), ERR_LIMIT);

    for (int more = 0; more < 2; more++) {
        len = (size_t)sprintf(body, "--XyZ\r\nContent-Disposition: form-data; name=\"%0*d\"",
                              MULTIPART_NAME_MAX + more, 1);
        strcpy(body + len, "\r\n\r\na\r\n--XyZ--");
        assert_int_equal(parse(&form, TYPE, body), more ? ERR_LIMIT : ERR_OK);
        len =
            (size_t)sprintf(body, "--XyZ\r\nContent-Disposition: form-data; name=f; filename=%0*d",
                            MULTIPART_FILENAME_MAX + more, 1);
        strcpy(body + len, "\r\n\r\na\r\n--XyZ--");
        assert_int_equal(parse(&form, TYPE, body), more ? ERR_LIMIT : ERR_OK);
    }
    /* Nearly boundaries without end take time in proportion to their number. */
    for (size_t i = 0; i + 8 < sizeof body; i += 7)
        memcpy(body + i, "\r\n--XyZ", 7);
    memcpy(body, "--XyZ\r\n" DISP "\r\n", strlen("--XyZ\r\n" DISP "\r\n"));
    assert_int_equal(multipart_parse(&form, TYPE, body, sizeof body - 9), ERR_INVALID);
}

static void a_form_in_a_form_is_data(void **state)
{
    struct multipart form;
    assert_int_equal(parse(&form, TYPE,
                           "--XyZ\r\n" DISP "Content-Type: multipart/mixed; boundary=in\r\n\r\n"
                           "--in\r\n\r\na\r\n--in--\r\n--XyZ--"),
                     ERR_OK);
    assert_int_equal(form.count, 1);
    assert_int_equal(form.parts[0].len, strlen("--in\r\n\r\na\r\n--in--"));
}

/* Numbers that are the same each time. */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void mutate(char *body, size_t *len, size_t cap, uint32_t *random)
{
    static const char *const words[] = {"--XyZ", "\r\n", "--XyZ--\r\n", DISP, "\"", ";", "=", "\0"};
    size_t at = *len > 0 ? next_random(random) % *len : 0;
    switch (next_random(random) % 4) {
    case 0:
        if (*len > 0)
            body[at] = (char)next_random(random);
        break;
    case 1: { /* cut out */
        size_t cut = next_random(random) % 16;
        cut = cut < *len - at ? cut : *len - at;
        memmove(body + at, body + at + cut, *len - at - cut);
        *len -= cut;
        break;
    }
    case 2: { /* put in */
        const char *word = words[next_random(random) % (sizeof words / sizeof words[0])];
        size_t more = strlen(word) > 0 ? strlen(word) : 1;
        if (*len + more <= cap) {
            memmove(body + at + more, body + at, *len - at);
            memcpy(body + at, word, more);
            *len += more;
        }
        break;
    }
    default:
        *len = at;
        break;
    }
}

/* Under ASan this finds reads beyond the body, which is allocated to its exact size. */
static void broken_at_random_it_stays_in_its_body(void **state)
{
    uint32_t random = 2463534242u;
    size_t whole = 0;
    for (int round = 0; round < 200000; round++) {
        char body[1024];
        size_t len = sizeof FORM - 1;
        struct multipart form;
        memcpy(body, FORM, len);
        for (uint32_t times = next_random(&random) % 6; times > 0; times--)
            mutate(body, &len, sizeof body, &random);
        char *exact = malloc(len > 0 ? len : 1);
        assert_non_null(exact);
        memcpy(exact, body, len);
        if (multipart_parse(&form, TYPE, exact, len) == ERR_OK) {
            whole++;
            for (size_t i = 0; i < form.count; i++) {
                assert_true(form.parts[i].data >= exact);
                assert_true(form.parts[i].data + form.parts[i].len <= exact + len);
                assert_true(strlen(form.parts[i].name) > 0);
            }
        }
        free(exact);
    }
    assert_true(whole > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_form_comes_apart),
        cmocka_unit_test(forms_are_written_in_several_ways),
        cmocka_unit_test(content_types_are_checked),
        cmocka_unit_test(broken_forms_are_refused),
        cmocka_unit_test(floods_end_at_their_bounds),
        cmocka_unit_test(a_form_in_a_form_is_data),
        cmocka_unit_test(broken_at_random_it_stays_in_its_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
