/* The file of keys: what is in it, who is in it, and writers that come at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/keys.h"

#define HASH_A  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_B  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define CREATED "2026-11-28T13:00:00Z"
#define WRITERS 8
#define EACH    12

static char folder[64], path[128];

static void file_write(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *file_read(void)
{
    static char text[65536];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void a_new_key_opens_and_a_revoked_one_does_not(void **state)
{
    char ada[KEY_TEXT_SIZE], bob[KEY_TEXT_SIZE];
    struct key_ring ring;
    struct stat info;
    unlink(path);
    assert_int_equal(key_ring_load(&ring, path), ERR_NOT_FOUND);
    assert_int_equal(key_file_add(path, "ada", ada), ERR_OK);
    assert_int_equal(key_file_add(path, "bob", bob), ERR_OK);
    assert_int_equal(strlen(ada), KEY_TEXT_LEN);
    assert_int_equal(strncmp(ada, "wv-", 3), 0);
    assert_int_equal(strspn(ada + 3, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                     "0123456789-_"),
                     43);
    assert_string_not_equal(ada, bob);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_null(strstr(file_read(), ada));

    assert_int_equal(key_ring_load(&ring, path), ERR_OK);
    assert_int_equal(ring.count, 2);
    assert_string_equal(key_ring_find(&ring, ada)->name, "ada");
    assert_string_equal(key_ring_find(&ring, bob)->name, "bob");
    assert_int_equal(strlen(key_ring_find(&ring, bob)->id), KEY_ID_LEN);
    assert_string_not_equal(key_ring_find(&ring, ada)->id, key_ring_find(&ring, bob)->id);
    ada[10] = ada[10] == 'x' ? 'y' : 'x';
    assert_null(key_ring_find(&ring, ada));
    assert_null(key_ring_find(&ring, ""));
    assert_null(key_ring_find(&ring, "wv-"));
    key_ring_done(&ring);

    assert_int_equal(key_file_add(path, "bob", ada), ERR_EXISTS);
    assert_int_equal(key_file_revoke(path, "carol"), ERR_NOT_FOUND);
    assert_int_equal(key_file_revoke(path, "bob"), ERR_OK);
    assert_int_equal(key_ring_load(&ring, path), ERR_OK);
    assert_int_equal(ring.count, 1);
    assert_null(key_ring_find(&ring, bob));
    key_ring_done(&ring);
    key_ring_done(NULL);
}

static void comments_mode_and_other_keys_stay(void **state)
{
    char text[KEY_TEXT_SIZE];
    struct stat info;
    file_write("# ours\n\nann " HASH_A " " CREATED "\n  anna\t" HASH_B "  " CREATED);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(key_file_revoke(path, "ann"), ERR_OK);
    assert_string_equal(file_read(), "# ours\n\n  anna\t" HASH_B "  " CREATED);
    assert_int_equal(key_file_add(path, "ann", text), ERR_OK);
    assert_non_null(strstr(file_read(), CREATED "\nann "));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

static void a_link_stays_a_link(void **state)
{
    char name[160], text[KEY_TEXT_SIZE];
    struct stat info;
    file_write("");
    snprintf(name, sizeof name, "%s/link", folder);
    assert_int_equal(symlink(path, name), 0);
    assert_int_equal(key_file_add(name, "ann", text), ERR_OK);
    assert_int_equal(lstat(name, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_non_null(strstr(file_read(), "ann "));
    unlink(name);
}

static void wrong_lines_are_named(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"ann " HASH_A "\n", "line 1"},
        {"\n# x\nann " HASH_A " " CREATED " more\n", "line 3"},
        {"an/n " HASH_A " " CREATED "\n", "no name"},
        {"abcdefghijklmnopqrstuvwxyz1234567 " HASH_A " " CREATED "\n", "no name"},
        {"ann AA" HASH_A " " CREATED "\n", "SHA-256"},
        {"ann Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         " " CREATED "\n",
         "SHA-256"},
        {"ann " HASH_A " 2026-11-28\n", "no time"},
        {"ann " HASH_A " 2026-11-28T13:00:0xZ\n", "no time"},
        {"ann " HASH_A " " CREATED "\r\n", "no time"},
        {"ann " HASH_A " " CREATED "\nann " HASH_B " " CREATED "\n", "repeats a name"},
        {"ann " HASH_A " " CREATED "\nbob " HASH_A " " CREATED "\n", "repeats a key"},
    };
    struct key_ring ring;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(key_ring_parse(&ring, cases[i].text, strlen(cases[i].text), "f"),
                         ERR_CONFIG);
        if (strstr(err_text(), cases[i].why) == NULL)
            fail_msg("%s: %s", cases[i].text, err_text());
    }
    assert_int_equal(key_ring_parse(&ring, "#\0x\n", 4, "f"), ERR_CONFIG);
    char longer[400];
    memset(longer, 'a', sizeof longer);
    assert_int_equal(key_ring_parse(&ring, longer, sizeof longer, "f"), ERR_CONFIG);
    assert_int_equal(key_ring_parse(&ring, "", 0, "f"), ERR_OK);
    assert_int_equal(ring.count, 0);
    assert_null(key_ring_find(&ring, "wv-x"));
    key_ring_done(&ring);
}

static void a_full_ring_is_no_more_than_that(void **state)
{
    size_t cap = (size_t)(KEYS_MAX + 1) * 128, len = 0;
    char *text = malloc(cap);
    struct key_ring ring;
    assert_non_null(text);
    for (int i = 0; i < KEYS_MAX; i++)
        len += (size_t)snprintf(text + len, cap - len, "k%d %016x%048x " CREATED "\n", i, i, i);
    assert_int_equal(key_ring_parse(&ring, text, len, "f"), ERR_OK);
    assert_int_equal(ring.count, KEYS_MAX);
    key_ring_done(&ring);
    len += (size_t)snprintf(text + len, cap - len, "more " HASH_A " " CREATED "\n");
    assert_int_equal(key_ring_parse(&ring, text, len, "f"), ERR_CONFIG);
    free(text);
}

static void what_others_may_write_is_refused(void **state)
{
    struct key_ring ring;
    file_write("");
    assert_int_equal(chmod(path, 0666), 0);
    assert_int_equal(key_ring_load(&ring, path), ERR_CONFIG);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(key_ring_load(&ring, folder), ERR_CONFIG);
}

static void names_are_checked(void **state)
{
    char text[KEY_TEXT_SIZE];
    assert_true(key_name_is_valid("A-b_c.9"));
    assert_false(key_name_is_valid(""));
    assert_false(key_name_is_valid("a b"));
    assert_false(key_name_is_valid("\xc3\xa4"));
    assert_int_equal(key_file_add(path, "a\nb", text), ERR_USAGE);
}

static void writers_at_once_lose_nothing(void **state)
{
    struct key_ring ring;
    unlink(path);
    for (int w = 0; w < WRITERS; w++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            char name[32], text[KEY_TEXT_SIZE];
            int failed = 0;
            for (int i = 0; i < EACH; i++) {
                snprintf(name, sizeof name, "w%d-%d", w, i);
                failed |= key_file_add(path, name, text) != ERR_OK;
                if (i % 3 == 0)
                    failed |= key_file_revoke(path, name) != ERR_OK;
            }
            _exit(failed);
        }
    }
    for (int w = 0; w < WRITERS; w++) {
        int status = -1;
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    assert_int_equal(key_ring_load(&ring, path), ERR_OK);
    assert_int_equal(ring.count, WRITERS * EACH * 2 / 3);
    key_ring_done(&ring);
}

static int make_folder(void **state)
{
    strcpy(folder, "/tmp/wyvern-keys-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/keys", folder);
    return 0;
}

static int drop_folder(void **state)
{
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_key_opens_and_a_revoked_one_does_not),
        cmocka_unit_test(comments_mode_and_other_keys_stay),
        cmocka_unit_test(a_link_stays_a_link),
        cmocka_unit_test(wrong_lines_are_named),
        cmocka_unit_test(a_full_ring_is_no_more_than_that),
        cmocka_unit_test(what_others_may_write_is_refused),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(writers_at_once_lose_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
