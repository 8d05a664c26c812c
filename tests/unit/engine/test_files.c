/* Broken model files, and conversion.  Uses $WYVERN_TEST_MODEL. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"

#define HEAD_SIZE (4u << 20) /* header and vocabulary are within these bytes */

static const char *model;
static char folder[64];
static char path[128];
static char *head;
static size_t head_len;
static off_t model_size;

static int prepare(void **state)
{
    engine_log_init();
    strcpy(folder, "/tmp/wyvern-test-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    model = getenv("WYVERN_TEST_MODEL");
    if (model == NULL || model[0] == '\0')
        return 0;
    FILE *file = fopen(model, "rb");
    struct stat info;
    head = malloc(HEAD_SIZE);
    if (file == NULL || head == NULL || fstat(fileno(file), &info) != 0)
        return -1;
    head_len = fread(head, 1, HEAD_SIZE, file);
    model_size = info.st_size;
    fclose(file);
    return 0;
}

static unsigned files_left(void)
{
    unsigned count = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static int finish(void **state)
{
    unlink(path);
    free(head);
    return rmdir(folder);
}

static void skip_without_model(void)
{
    if (head == NULL) {
        print_message("skipped: WYVERN_TEST_MODEL names no GGUF file\n");
        skip();
    }
}

/* The first len bytes of data, zeros from there to size. */
static void write_file(const char *data, size_t len, off_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    fflush(file);
    assert_int_equal(ftruncate(fileno(file), size), 0);
    fclose(file);
}

/* The error of opening the file, with the sentence naming it. */
static enum err open_file(void)
{
    struct engine *engine = NULL;
    struct engine_config config = {
        .model = path, .device = "cpu:0", .slots = 1, .context = 256, .threads = 1};
    enum err err = engine_open(&engine, &config);
    if (err == ERR_OK)
        engine_close(engine);
    else
        assert_non_null(strstr(err_text(), "model"));
    return err;
}

static void no_file(void **state)
{
    unlink(path);
    assert_int_equal(open_file(), ERR_NOT_FOUND);
    assert_non_null(strstr(err_text(), path));
}

static void a_folder(void **state)
{
    struct engine *engine = NULL;
    struct engine_config config = {.model = folder, .slots = 1};
    assert_int_equal(engine_open(&engine, &config), ERR_INVALID);
}

static void garbage(void **state)
{
    char bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 37 + i / 7);
    write_file(bytes, sizeof bytes, sizeof bytes);
    assert_int_equal(open_file(), ERR_INVALID);
    memcpy(bytes, "GGUF\3\0\0", 8); /* the magic, then garbage */
    write_file(bytes, sizeof bytes, sizeof bytes);
    assert_int_equal(open_file(), ERR_INVALID);
    write_file(bytes, 0, 0);
    assert_int_equal(open_file(), ERR_INVALID);
}

static void cut_short(void **state)
{
    skip_without_model();
    const off_t sizes[] = {4, 5, 24, 1000, 1 << 20, model_size / 2, model_size - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t len = (off_t)head_len < sizes[i] ? head_len : (size_t)sizes[i];
        write_file(head, len, sizes[i]);
        assert_int_equal(open_file(), ERR_INVALID);
    }
}

/* Overwrites the value of a key that is a 32-bit number. */
static void set_key(const char *key, uint32_t value)
{
    char *at = memmem(head, head_len, key, strlen(key));
    assert_non_null(at);
    memcpy(at + strlen(key) + 4, &value, sizeof value);
}

static void senseless_headers(void **state)
{
    skip_without_model();
    static const struct {
        const char *key;
        uint32_t value;
    } cases[] = {
        {"llama.block_count", 0},
        {"llama.block_count", 100000},
        {"llama.context_length", 0},
        {"llama.embedding_length", 0},
        {"llama.attention.head_count", 0},
        {"llama.attention.head_count", 0x7fffffff},
        {"tokenizer.ggml.eos_token_id", 0x7fffffff},
    };
    char *whole = malloc(head_len);
    assert_non_null(whole);
    memcpy(whole, head, head_len);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        set_key(cases[i].key, cases[i].value);
        write_file(head, head_len, model_size);
        assert_int_equal(open_file(), ERR_INVALID);
        assert_non_null(strstr(err_text(), cases[i].key));
        memcpy(head, whole, head_len);
    }
    free(whole);
}

static void unknown_architecture(void **state)
{
    skip_without_model();
    char *copy = malloc(head_len);
    assert_non_null(copy);
    memcpy(copy, head, head_len);
    char *end = copy + head_len - 6; /* "llama" in every key, and as the value */
    for (char *at = copy; (at = memmem(at, (size_t)(end - at), "llama", 5)) != NULL && at < end;)
        memcpy(at, "lemur", 5);
    write_file(copy, head_len, model_size);
    free(copy);
    assert_int_equal(open_file(), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "lemur"));
}

static void unknown_chat_template(void **state)
{
    skip_without_model();
    struct engine *engine = NULL;
    struct engine_config config = {.model = model,
                                   .device = "cpu:0",
                                   .chat_template = "no such thing",
                                   .slots = 1,
                                   .context = 256,
                                   .threads = 1};
    assert_int_equal(engine_open(&engine, &config), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "--chat-template"));
    config.chat_template = "llama3";
    assert_int_equal(engine_open(&engine, &config), ERR_OK);
    engine_close(engine);
}

static void a_context_beyond_the_model(void **state)
{
    skip_without_model();
    struct engine *engine = NULL;
    struct engine_config config = {.model = model, .slots = 1, .context = 1000000};
    assert_int_equal(engine_open(&engine, &config), ERR_USAGE);
}

static double furthest;

static void note_progress(void *arg, double done)
{
    assert_true(done >= 0 && done <= 1 && done >= furthest);
    furthest = done;
}

static void converts(void **state)
{
    skip_without_model();
    unlink(path);
    furthest = 0;
    assert_int_equal(engine_quantize(model, path, "Q4_0", 2, note_progress, NULL), ERR_OK);
    assert_true(furthest > 0.9);
    assert_int_equal(files_left(), 1);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_size > 1000000 && info.st_size < model_size);
    assert_int_equal(open_file(), ERR_OK);
    unlink(path);
}

static void failed_conversions_leave_nothing(void **state)
{
    skip_without_model();
    unlink(path);
    assert_int_equal(engine_quantize(model, path, "q9_9", 1, NULL, NULL), ERR_USAGE);
    assert_int_equal(engine_quantize("/nowhere.gguf", path, "q8_0", 1, NULL, NULL), ERR_NOT_FOUND);
    assert_int_equal(engine_quantize(model, "/nowhere/x.gguf", "q8_0", 1, NULL, NULL),
                     ERR_NOT_FOUND);
    assert_int_equal(files_left(), 0);
    /* The disk is full in the middle of it. */
    struct rlimit usual, small = {.rlim_cur = 30 << 20};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &usual), 0);
    small.rlim_max = usual.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum err err = engine_quantize(model, path, "q8_0", 1, NULL, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &usual), 0);
    assert_int_equal(err, ERR_IO);
    assert_int_equal(files_left(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_file),
        cmocka_unit_test(a_folder),
        cmocka_unit_test(garbage),
        cmocka_unit_test(cut_short),
        cmocka_unit_test(senseless_headers),
        cmocka_unit_test(unknown_architecture),
        cmocka_unit_test(unknown_chat_template),
        cmocka_unit_test(a_context_beyond_the_model),
        cmocka_unit_test(converts),
        cmocka_unit_test(failed_conversions_leave_nothing),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
