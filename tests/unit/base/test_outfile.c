/* A file that appears whole or not at all. */
#include <dirent.h>
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

#include "base/outfile.h"

static char folder[64], target[128];

static int prepare(void **state)
{
    strcpy(folder, "/tmp/wyvern-test-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(target, sizeof target, "%s/file", folder);
    return 0;
}

static int finish(void **state)
{
    unlink(target);
    return rmdir(folder);
}

static unsigned files_there(void)
{
    unsigned count = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static void assert_content(const char *text)
{
    char found[64] = {0};
    FILE *file = fopen(target, "rb");
    assert_non_null(file);
    assert_int_equal(fread(found, 1, sizeof found - 1, file), strlen(text));
    fclose(file);
    assert_string_equal(found, text);
}

static void write_text(struct outfile *out, const char *text)
{
    assert_int_equal(outfile_open(out, target), ERR_OK);
    assert_int_equal(write(out->fd, text, strlen(text)), strlen(text));
}

static void appears_and_is_replaced(void **state)
{
    struct outfile out;
    struct stat info;
    mode_t mask = umask(022);
    write_text(&out, "one");
    assert_int_equal(access(target, F_OK), -1);
    assert_int_equal(outfile_publish(&out), ERR_OK);
    assert_content("one");
    assert_int_equal(stat(target, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0644);
    write_text(&out, "another");
    assert_content("one");
    assert_int_equal(outfile_publish(&out), ERR_OK);
    assert_content("another");
    assert_int_equal(files_there(), 1);
    umask(mask);
}

/* As the model runtime writes it: by path. */
static void is_written_by_path(void **state)
{
    struct outfile out;
    assert_int_equal(outfile_open(&out, target), ERR_OK);
    FILE *file = fopen(out.path, "wb");
    assert_non_null(file);
    fputs("by path", file);
    fclose(file);
    assert_int_equal(outfile_publish(&out), ERR_OK);
    assert_content("by path");
}

static void is_discarded(void **state)
{
    struct outfile out;
    unlink(target);
    write_text(&out, "nothing");
    outfile_discard(&out);
    outfile_discard(&out);
    assert_int_equal(files_there(), 0);
}

static void cannot_be_written(void **state)
{
    struct outfile out;
    char path[256];
    snprintf(path, sizeof path, "%s/none/file", folder);
    assert_int_equal(outfile_open(&out, path), ERR_NOT_FOUND);
    assert_non_null(strstr(err_text(), path));
    /* a folder has the name */
    assert_int_equal(mkdir(target, 0700), 0);
    assert_int_equal(outfile_open(&out, target), ERR_OK);
    assert_int_equal(outfile_publish(&out), ERR_IO);
    assert_int_equal(files_there(), 1);
    assert_int_equal(rmdir(target), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appears_and_is_replaced),
        cmocka_unit_test(is_written_by_path),
        cmocka_unit_test(is_discarded),
        cmocka_unit_test(cannot_be_written),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
