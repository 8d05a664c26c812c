/* What a chat keeps: questions of several lines, its history, talks in files. */
#include <jansson.h>
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

#include "base/buf.h"
#include "verbs/histfile.h"
#include "verbs/question.h"
#include "verbs/talkfile.h"

static char folder[] = "/tmp/wyvern-chat-XXXXXX";
static char path[64];

static int folder_make(void **state)
{
    snprintf(path, sizeof path, "%s/file", mkdtemp(folder));
    return 0;
}

static int folder_remove(void **state)
{
    unlink(path);
    return rmdir(folder);
}

static void file_put(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* ---- questions ---- */

static void expect_question(const char *const *lines, size_t count, const char *wanted)
{
    struct question question;
    question_init(&question);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            assert_true(question.open);
        assert_int_equal(question_line(&question, lines[i]), ERR_OK);
    }
    assert_false(question.open);
    assert_string_equal(buf_text(&question.text), wanted);
    question_done(&question);
}

#define EXPECT(wanted, ...)                                                                        \
    do {                                                                                           \
        const char *const lines[] = {__VA_ARGS__};                                                 \
        expect_question(lines, sizeof lines / sizeof lines[0], wanted);                            \
    } while (0)

static void test_questions(void **state)
{
    EXPECT("one", "one");
    EXPECT("", "");
    EXPECT("a\nb\nc", "a\\", "b\\", "c");
    EXPECT("a\n", "a\\", "");
    EXPECT("path C:\\\\", "path C:\\\\");
    EXPECT("x\ny", "\"\"\"", "x", "y", "\"\"\"");
    EXPECT("x\n\n  y\\", "\"\"\"x", "", "  y\\\"\"\"");
    EXPECT("all in one", "\"\"\"all in one\"\"\"");
    EXPECT("", "\"\"\"", "\"\"\"");
    EXPECT("/etc/hosts?", "  \"\"\"/etc/hosts?\"\"\"  ");
    EXPECT("say \"\"\"hi\"\"\"", "say \"\"\"hi\"\"\""); /* not at its beginning */
}

static void test_question_is_bounded(void **state)
{
    struct question question;
    size_t len = QUESTION_MAX / 2 + 10;
    char *line = malloc(len + 2);
    memset(line, 'x', len);
    memcpy(line + len, "\\", 2);
    question_init(&question);
    assert_int_equal(question_line(&question, line), ERR_OK);
    assert_int_equal(question_line(&question, line), ERR_LIMIT);
    question_clear(&question);
    assert_false(question.open);
    question_done(&question);
    free(line);
}

/* ---- history ---- */

struct seen {
    size_t count;
    char first[64], last[64];
    size_t longest;
};

static void see(void *arg, const char *text)
{
    struct seen *seen = arg;
    snprintf(seen->count == 0 ? seen->first : seen->last, sizeof seen->last, "%s", text);
    if (seen->count++ == 0)
        memcpy(seen->last, seen->first, sizeof seen->last);
    seen->longest = strlen(text) > seen->longest ? strlen(text) : seen->longest;
}

static void test_history(void **state)
{
    struct seen seen = {0};
    struct stat about;
    unlink(path);
    assert_int_equal(histfile_read(path, see, &seen), ERR_OK);
    assert_int_equal(seen.count, 0);
    assert_int_equal(histfile_add(path, "first \\n \\ line"), ERR_OK);
    assert_int_equal(histfile_add(path, "two\nlines\033[2J"), ERR_OK);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    assert_int_equal(histfile_read(path, see, &seen), ERR_OK);
    assert_int_equal(seen.count, 2);
    assert_string_equal(seen.first, "first \\n \\ line");
    assert_string_equal(seen.last, "two\nlines[2J");
    /* What others could read is closed again; what is no file is refused. */
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(histfile_read(path, see, &seen), ERR_OK);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    assert_int_equal(histfile_read(folder, see, &seen), ERR_IO);
    assert_int_equal(histfile_add("/no/such/folder/x", "x"), ERR_IO);
}

static void test_history_is_bounded(void **state)
{
    struct seen seen = {0};
    struct stat about;
    unlink(path);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 40000; i++)
        fprintf(file, "question number %d, and some words so that it is long\n", i);
    fclose(file);
    assert_int_equal(histfile_read(path, see, &seen), ERR_OK);
    assert_int_equal(seen.count, HISTFILE_ENTRIES);
    assert_string_equal(seen.last, "question number 39999, and some words so that it is long");
    assert_int_equal(stat(path, &about), 0);
    assert_true(about.st_size < 100000); /* cut down */
    assert_int_equal(about.st_mode & 0777, 0600);
    seen = (struct seen){0};
    assert_int_equal(histfile_read(path, see, &seen), ERR_OK);
    assert_int_equal(seen.count, HISTFILE_ENTRIES);
    assert_string_equal(seen.first, "question number 39500, and some words so that it is long");
    char *large = calloc(1, HISTFILE_ENTRY_MAX + 2);
    memset(large, 'y', HISTFILE_ENTRY_MAX + 1);
    assert_int_equal(histfile_add(path, large), ERR_OK); /* not kept */
    free(large);
    seen = (struct seen){0};
    assert_int_equal(histfile_read(path, see, &seen), ERR_OK);
    assert_true(seen.longest < 100);
}

/* ---- talks ---- */

static void test_talk_file(void **state)
{
    static struct talk talk, other;
    char *system = NULL;
    struct stat about;
    unlink(path);
    assert_int_equal(talk_add(&talk, "user", "a \"quoted\"\nquestion é"), ERR_OK);
    assert_int_equal(talk_add(&talk, "assistant", "\033[2J answer"), ERR_OK);
    assert_int_equal(talkfile_write(path, &talk, "be brief", false), ERR_OK);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    assert_int_equal(talkfile_write(path, &talk, NULL, false), ERR_EXISTS);
    assert_int_equal(talkfile_write(path, &talk, "be brief", true), ERR_OK);
    assert_int_equal(talk_add(&other, "user", "gone"), ERR_OK);
    assert_int_equal(talkfile_read(path, &other, &system), ERR_OK);
    assert_string_equal(system, "be brief");
    assert_int_equal(other.count, 2);
    assert_string_equal(other.messages[0].role, "user");
    assert_string_equal(other.messages[0].content, "a \"quoted\"\nquestion é");
    assert_string_equal(other.messages[1].content, "\033[2J answer");
    free(system);
    talk_clear(&talk);
    /* Broken files leave the talk as it was. */
    static const char *const broken[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"messages\":5}",
        "{\"messages\":[5]}",
        "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}",
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        file_put(broken[i]);
        assert_int_equal(talkfile_read(path, &other, &system), ERR_INVALID);
        assert_int_equal(other.count, 2);
    }
    assert_int_equal(talkfile_read(folder, &other, &system), ERR_INVALID);
    assert_int_equal(talkfile_read("/no/such", &other, &system), ERR_NOT_FOUND);
    talk_clear(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_questions), cmocka_unit_test(test_question_is_bounded),
        cmocka_unit_test(test_history),   cmocka_unit_test(test_history_is_bounded),
        cmocka_unit_test(test_talk_file),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
