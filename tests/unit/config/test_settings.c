/* Join files, state directories, models by name and checksum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/settings.h"

static char folder[PATH_MAX]; /* below the one we run in */

static const char *path_of(const char *name)
{
    static char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void file_write(const char *name, const char *text)
{
    FILE *file = fopen(path_of(name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void a_join_file_gives_a_role_its_own_credentials(void **state)
{
    struct join join;
    file_write("join.ini", "[broker]\nurl=nats://10.0.0.1:4222\n[model]\nname=smol\n"
                           "file=smol.gguf\nsha256=ab\n[infer]\nuser=i\npassword=secret1\n"
                           "[gateway]\nuser=g\npassword=secret2\n");
    assert_int_equal(join_read(&join, path_of("join.ini"), "gateway"), ERR_OK);
    assert_string_equal(join.url, "nats://10.0.0.1:4222");
    assert_string_equal(join.user, "g");
    assert_string_equal(join.password, "secret2");
    assert_string_equal(join.model, "smol");
    assert_string_equal(join.model_file, "smol.gguf");
    assert_string_equal(join.model_sha256, "ab");
    join_done(&join);
    assert_null(join.url);
    join_done(NULL);

    assert_int_equal(join_read(&join, path_of("join.ini"), "telemetry"), ERR_CONFIG);
    assert_non_null(strstr(err_text(), "[telemetry]"));
    assert_int_equal(join_read(&join, path_of("absent.ini"), "infer"), ERR_NOT_FOUND);
    assert_int_equal(join_read(&join, NULL, "infer"), ERR_USAGE);
}

static void a_fake_model_needs_no_checksum(void **state)
{
    struct join join;
    file_write("fake.ini", "[broker]\nurl=nats://h:1\n[model]\nname=fake\n"
                           "file=fake:tokens=5,delay_ms=1\n[infer]\nuser=i\npassword=p\n");
    assert_int_equal(join_read(&join, path_of("fake.ini"), "infer"), ERR_OK);
    assert_string_equal(join.model_sha256, "");
    assert_string_equal(join.model_file, "fake:tokens=5,delay_ms=1");
    join_done(&join);
}

static void a_state_directory_is_made_for_us_alone(void **state)
{
    char found[PATH_MAX], wanted[PATH_MAX + 16];
    struct stat info;
    snprintf(wanted, sizeof wanted, "%s/a/../a/b", folder);
    assert_int_equal(mkdir(path_of("a"), 0700), 0);
    assert_int_equal(state_dir_prepare(found, wanted), ERR_OK);
    assert_string_equal(found, path_of("a/b"));
    assert_int_equal(stat(found, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_int_equal(state_dir_prepare(found, wanted), ERR_OK); /* it may be there */

    setenv("XDG_STATE_HOME", folder, 1);
    assert_int_equal(state_dir_prepare(found, NULL), ERR_OK);
    assert_string_equal(found, path_of("wyvern"));
    setenv("XDG_STATE_HOME", "relative", 1); /* does not count */
    setenv("HOME", folder, 1);
    assert_int_equal(state_dir_name(found, NULL), ERR_OK);
    assert_string_equal(found, path_of(".local/state/wyvern"));
    unsetenv("XDG_STATE_HOME");

    file_write("plain", "x");
    assert_int_not_equal(state_dir_prepare(found, path_of("plain")), ERR_OK);
    assert_int_not_equal(state_dir_prepare(found, "/proc/nowhere/state"), ERR_OK);
}

/* SHA-256 of "abc": FIPS 180-4, the example of appendix B.1. */
#define SHA_ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static void checksums_are_right(void **state)
{
    char hex[65];
    file_write("abc", "abc");
    assert_int_equal(file_sha256(hex, path_of("abc")), ERR_OK);
    assert_string_equal(hex, SHA_ABC);
    assert_int_equal(file_sha256(hex, path_of("absent")), ERR_NOT_FOUND);
    assert_int_not_equal(file_sha256(hex, folder), ERR_OK); /* no file */
    assert_string_equal(hex, SHA_ABC);
}

static void a_model_is_found_by_path_name_and_checksum(void **state)
{
    char found[PATH_MAX], cached[PATH_MAX + 64];
    setenv("XDG_CACHE_HOME", folder, 1);
    unsetenv("WYVERN_MODELS");
    file_write("m.gguf", "abc");
    assert_int_equal(model_find(found, path_of("m.gguf"), NULL), ERR_OK);
    assert_string_equal(found, path_of("m.gguf"));

    mkdir(path_of("wyvern"), 0700);
    mkdir(path_of("wyvern/models"), 0700);
    file_write("wyvern/models/c.gguf", "abc");
    snprintf(cached, sizeof cached, "%s", path_of("wyvern/models/c.gguf"));
    assert_int_equal(model_find(found, "c.gguf", ""), ERR_OK);
    assert_string_equal(found, cached);
    assert_int_equal(model_find(found, "c.gguf", SHA_ABC), ERR_OK);

    /* A file of that name that is another one is passed over for the right one. */
    mkdir(path_of("named"), 0700);
    file_write("named/c.gguf", "other");
    setenv("WYVERN_MODELS", path_of("named"), 1);
    assert_int_equal(model_find(found, "c.gguf", SHA_ABC), ERR_OK);
    assert_string_equal(found, cached);
    assert_int_equal(model_find(found, "c.gguf", NULL), ERR_OK);
    assert_string_equal(found, path_of("named/c.gguf"));
    unlink(cached);
    assert_int_equal(model_find(found, "c.gguf", SHA_ABC), ERR_INVALID);
    assert_non_null(strstr(err_text(), SHA_ABC));

    assert_int_equal(model_find(found, "absent.gguf", NULL), ERR_NOT_FOUND);
    assert_non_null(strstr(err_text(), "absent.gguf"));
    assert_int_equal(model_find(found, folder, NULL), ERR_NOT_FOUND); /* a folder is no model */
    assert_int_equal(model_find(found, "fake:tokens=3", "ignored"), ERR_OK);
    assert_string_equal(found, "fake:tokens=3");
    file_write("named/" MODEL_DEFAULT_FILE, "abc");
    assert_int_equal(model_find(found, NULL, NULL), ERR_OK);
    assert_string_equal(found, path_of("named/" MODEL_DEFAULT_FILE));
}

static void the_program_knows_its_file(void **state)
{
    char path[PATH_MAX];
    assert_int_equal(program_path(path), ERR_OK);
    assert_int_equal(access(path, X_OK), 0);
}

static int folder_remove(void **state)
{
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

int main(void)
{
    char name[] = "wyvern-settings-XXXXXX";
    if (mkdtemp(name) == NULL || realpath(name, folder) == NULL)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_join_file_gives_a_role_its_own_credentials),
        cmocka_unit_test(a_fake_model_needs_no_checksum),
        cmocka_unit_test(a_state_directory_is_made_for_us_alone),
        cmocka_unit_test(checksums_are_right),
        cmocka_unit_test(a_model_is_found_by_path_name_and_checksum),
        cmocka_unit_test(the_program_knows_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
