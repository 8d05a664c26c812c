/* Conversions of the two small checkpoints, read back with ggml's own reader; and the same files
 * with bytes changed. */
#include <dirent.h>
#include <fcntl.h>
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
#include <ggml.h>
#include <gguf.h>

#include "convert/convert.h"

#define TINY     TEST_DATA "/blenderbot/tiny"
#define TINY_BIN TEST_DATA "/blenderbot/tiny-bin"
#define DAMAGES  400

static char folder[64], out_path[128];

static int prepare(void **state)
{
    strcpy(folder, "/tmp/wyvern-test-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(out_path, sizeof out_path, "%s/out.gguf", folder);
    return 0;
}

static int clean_up(void **state)
{
    DIR *dir = opendir(folder);
    char path[512];
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (dir != NULL)
        closedir(dir);
    return rmdir(folder);
}

static char *read_whole(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    char *data = malloc((size_t)info.st_size + 1);
    assert_non_null(data);
    *len = fread(data, 1, (size_t)info.st_size, file);
    data[*len] = '\0';
    fclose(file);
    return data;
}

static void write_whole(const char *path, const char *data, size_t len)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static uint32_t key_u32(const struct gguf_context *gguf, const char *key)
{
    int64_t id = gguf_find_key(gguf, key);
    assert_true(id >= 0);
    return gguf_get_val_u32(gguf, id);
}

static void watch_progress(void *arg, uint64_t done, uint64_t total)
{
    uint64_t *last = arg;
    assert_true(done >= *last && done <= total);
    *last = done;
}

/* The tensor's bytes in the safetensors file, found by its header's text. */
static const char *find_raw(const char *data, const char *name)
{
    uint64_t head;
    char quoted[96];
    unsigned long begin;
    memcpy(&head, data, sizeof head);
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *row = strstr(data + 8, quoted);
    assert_non_null(row);
    row = strstr(row, "\"data_offsets\":[");
    assert_non_null(row);
    assert_int_equal(sscanf(row, "\"data_offsets\":[%lu", &begin), 1);
    return data + 8 + head + begin;
}

static void test_safetensors(void **state)
{
    static const struct {
        const char *theirs, *ours;
        int64_t ne[2];
    } rows[] = {
        {"model.shared.weight", "token_embd.weight", {64, 881}},
        {"final_logits_bias", "output.bias", {881, 1}},
        {"model.encoder.layers.1.fc2.weight", "enc.blk.1.ffn_down.weight", {256, 64}},
        {"model.decoder.layers.2.encoder_attn.k_proj.bias", "dec.blk.2.cross_attn_k.bias", {64, 1}},
        {"model.decoder.layer_norm.weight", "dec.output_norm.weight", {64, 1}},
    };
    struct convert_report report;
    uint64_t last = 0;
    size_t len;

    assert_int_equal(convert_checkpoint(TINY, out_path, NULL, watch_progress, &last, &report),
                     ERR_OK);
    assert_string_equal(report.type, "f32");
    assert_int_equal(report.left_out, 0);
    assert_int_equal(report.bytes, last);
    struct ggml_context *context = NULL;
    struct gguf_context *gguf = gguf_init_from_file(
        out_path, (struct gguf_init_params){.no_alloc = false, .ctx = &context});
    assert_non_null(gguf);
    assert_int_equal(gguf_get_n_tensors(gguf), report.tensors);
    assert_int_equal(key_u32(gguf, "blenderbot.decoder.block_count"), 3);
    assert_int_equal(key_u32(gguf, "tokenizer.ggml.eos_token_id"), 2);
    assert_int_equal(gguf_get_arr_n(gguf, gguf_find_key(gguf, "tokenizer.ggml.tokens")), 881);
    char *data = read_whole(TINY "/model.safetensors", &len);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ggml_tensor *tensor = ggml_get_tensor(context, rows[i].ours);
        assert_non_null(tensor);
        assert_int_equal(tensor->type, GGML_TYPE_F32);
        assert_int_equal(tensor->ne[0], rows[i].ne[0]);
        assert_int_equal(tensor->ne[1], rows[i].ne[1]);
        assert_memory_equal(tensor->data, find_raw(data, rows[i].theirs), ggml_nbytes(tensor));
    }
    free(data);
    gguf_free(gguf);
    ggml_free(context);
    unlink(out_path);
}

static void test_torch(void **state)
{
    struct convert_report report;

    assert_int_equal(convert_checkpoint(TINY_BIN, out_path, NULL, NULL, NULL, &report), ERR_OK);
    assert_string_equal(report.type, "f16");
    struct gguf_context *gguf =
        gguf_init_from_file(out_path, (struct gguf_init_params){.no_alloc = true});
    assert_non_null(gguf);
    int64_t id = gguf_find_tensor(gguf, "dec.blk.0.attn_q.weight");
    assert_true(id >= 0);
    assert_int_equal(gguf_get_tensor_type(gguf, id), GGML_TYPE_F16);
    assert_int_equal(key_u32(gguf, "blenderbot.generation.num_beams"), 10);
    assert_true(gguf_find_key(gguf, "blenderbot.generation.top_k") < 0);
    gguf_free(gguf);
    unlink(out_path);
}

static void test_bad_types(void **state)
{
    struct convert_report report;
    assert_int_equal(convert_checkpoint(TINY, out_path, "q1_0", NULL, NULL, &report), ERR_USAGE);
    assert_int_equal(convert_checkpoint(folder, out_path, NULL, NULL, NULL, &report),
                     ERR_NOT_FOUND);
    assert_int_equal(convert_checkpoint(TINY, "/nowhere/at/all.gguf", NULL, NULL, NULL, &report),
                     ERR_NOT_FOUND);
    assert_int_equal(access(out_path, F_OK), -1);
}

/* The same numbers each time. */
static uint32_t random_next(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    return *seed ^= *seed << 5;
}

static void link_others(const char *source, const char *but)
{
    DIR *dir = opendir(source);
    char from[512], to[512];
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, but) == 0)
            continue;
        snprintf(from, sizeof from, "%s/%s", source, entry->d_name);
        snprintf(to, sizeof to, "%s/%s", folder, entry->d_name);
        assert_int_equal(symlink(from, to), 0);
    }
    closedir(dir);
}

/* Changes bytes of one file, mostly in its first `head` bytes, or cuts it; whatever comes of it:
 * a whole GGUF or nothing, and no crash. */
static void damage(const char *source, const char *name, size_t head)
{
    char from[512], to[512];
    struct convert_report report;
    uint32_t seed = 2463534242u;
    size_t len;

    link_others(source, name);
    snprintf(from, sizeof from, "%s/%s", source, name);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    char *data = read_whole(from, &len), *copy = malloc(len);
    assert_non_null(copy);
    for (int i = 0; i < DAMAGES; i++) {
        memcpy(copy, data, len);
        size_t size = random_next(&seed) % 8 == 0 ? random_next(&seed) % len : len;
        uint32_t changes = 1 + random_next(&seed) % 4;
        for (uint32_t k = 0; k < changes; k++) {
            size_t reach = random_next(&seed) % 4 != 0 && head < len ? head : len;
            size_t at = random_next(&seed) % reach;
            if (random_next(&seed) % 4 == 0)
                at = len - 1 - at; /* an archive's directory is at its end */
            copy[at] = (char)random_next(&seed);
        }
        write_whole(to, copy, size);
        enum err err = convert_checkpoint(folder, out_path, NULL, NULL, NULL, &report);
        assert_int_equal(access(out_path, F_OK), err == ERR_OK ? 0 : -1);
        if (err != ERR_OK)
            assert_true(err_text()[0] != '\0');
        unlink(out_path);
    }
    free(copy);
    free(data);
    assert_int_equal(clean_up(NULL), 0);
    assert_int_equal(prepare(NULL), 0);
}

static void test_damaged_safetensors(void **state)
{
    damage(TINY, "model.safetensors", 12000);
}

static void test_damaged_torch(void **state)
{
    damage(TINY_BIN, "pytorch_model.bin", 14400);
}

static void test_damaged_small_files(void **state)
{
    static const char *const names[] = {"config.json", "generation_config.json", "vocab.json",
                                        "merges.txt", "tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        damage(TINY, names[i], 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors),   cmocka_unit_test(test_torch),
        cmocka_unit_test(test_bad_types),     cmocka_unit_test(test_damaged_safetensors),
        cmocka_unit_test(test_damaged_torch), cmocka_unit_test(test_damaged_small_files),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}
