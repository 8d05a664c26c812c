/* Headers that lie: refused before the model runtime reads them, without memory for what they only
 * claim. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <gguf.h>

#include "base/buf.h"
#include "engine/engine.h"
#include "engine/gguf_head.h"

static char path[64];
static struct buf file;

static int prepare(void **state)
{
    engine_log_init();
    strcpy(path, "/tmp/wyvern-test-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    close(fd);
    buf_init(&file, 1 << 20);
    return 0;
}

static int finish(void **state)
{
    buf_done(&file);
    return unlink(path);
}

/* ---- a header by hand ---- */

static void bytes(const void *data, size_t len)
{
    assert_int_equal(buf_append(&file, data, len), ERR_OK);
}

static void u32(uint32_t number)
{
    bytes(&number, sizeof number);
}

static void u64(uint64_t number)
{
    bytes(&number, sizeof number);
}

static void text(const char *string)
{
    u64(strlen(string));
    bytes(string, strlen(string));
}

static void begin(uint64_t tensors, uint64_t keys)
{
    buf_clear(&file);
    bytes("GGUF", 4);
    u32(3);
    u64(tensors);
    u64(keys);
}

static void key_u32(const char *key, uint32_t value)
{
    text(key);
    u32(GGUF_TYPE_UINT32);
    u32(value);
}

static void array(const char *key, uint32_t type, uint64_t count)
{
    text(key);
    u32(GGUF_TYPE_ARRAY);
    u32(type);
    u64(count);
}

static void tensor(const char *name, uint32_t dims, const uint64_t *sizes, uint32_t type)
{
    text(name);
    u32(dims);
    for (uint32_t i = 0; i < dims; i++)
        u64(sizes[i]);
    u32(type);
    u64(0);
}

static void store(size_t behind)
{
    static const char zeros[4096];
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(file.data, 1, file.len, out), file.len);
    assert_int_equal(fwrite(zeros, 1, behind, out), behind);
    fclose(out);
}

/* What the walk alone says, and that the engine refuses it too. */
static enum err check(size_t behind)
{
    struct engine *engine = NULL;
    struct engine_config config = {.model = path, .device = "cpu:0", .slots = 1, .threads = 1};
    store(behind);
    assert_int_equal(engine_open(&engine, &config), ERR_INVALID);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    enum err err = gguf_head_check(in, file.len + behind);
    fclose(in);
    return err;
}

static void refused(size_t behind, const char *word)
{
    enum err err = check(behind);
    assert_true(err == ERR_INVALID || err == ERR_LIMIT);
    assert_non_null(strstr(err_text(), word));
}

/* ---- the lies ---- */

static void counts(void **state)
{
    const uint64_t many[] = {1, 1000, 1u << 31, 1ull << 60, UINT64_MAX};
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        begin(many[i], 0);
        refused(0, i < 2 ? "cut short" : "claims");
        begin(0, many[i]);
        refused(0, i < 2 ? "cut short" : "claims");
    }
}

static void keys(void **state)
{
    const uint64_t lengths[] = {0, 5000, 1ull << 40, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        begin(0, 1);
        u64(lengths[i]);
        refused(64, "a key of");
    }
    begin(0, 1);
    text("general.name");
    u32(99);
    refused(64, "general.name");
    begin(0, 1);
    text("general.name");
    u32(GGUF_TYPE_STRING);
    u64(1ull << 62);
    refused(64, "cut short");
}

static void arrays(void **state)
{
    const uint64_t many[] = {100, 1ull << 33, 1ull << 61, UINT64_MAX};
    const uint32_t types[] = {GGUF_TYPE_UINT8, GGUF_TYPE_FLOAT64, GGUF_TYPE_STRING};
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            begin(0, 1);
            array("an.array", types[k], many[i]);
            refused(64, "an.array");
        }
    }
    begin(0, 1);
    array("an.array", GGUF_TYPE_ARRAY, 1);
    refused(64, "an.array");
}

static void alignments(void **state)
{
    const uint32_t values[] = {0, 3, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        begin(0, 1);
        key_u32("general.alignment", values[i]);
        refused(64, "general.alignment");
    }
    begin(0, 1); /* asserted on by the runtime */
    text("general.alignment");
    u32(GGUF_TYPE_STRING);
    text("32");
    refused(64, "general.alignment");
}

static void tensors(void **state)
{
    const struct {
        uint32_t dims;
        uint64_t sizes[5];
        uint32_t type;
        const char *word;
    } rows[] = {
        {5, {1, 1, 1, 1, 1}, 0, "dimensions"},
        {2, {8, 0}, 0, "shape"},
        {2, {0, 8}, 0, "shape"},
        {2, {8, UINT64_MAX}, 0, "shape"},
        {4, {1u << 20, 1u << 20, 1u << 20, 1u << 20}, 0, "shape"},
        {1, {64}, 4, "type"}, /* one that was removed */
        {1, {64}, 200, "type"},
        {1, {64}, UINT32_MAX, "type"},
        {1, {33}, 8, "rows"},
        {1, {1u << 20}, 0, "cut short"},
        {2, {1ull << 30, 1ull << 28}, 0, "cut short"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin(1, 0);
        tensor("a.weight", rows[i].dims, rows[i].sizes, rows[i].type);
        refused(1024, rows[i].word);
    }
    begin(1, 0);
    tensor("a name that is longer than the runtime has room for in its own struct of a tensor", 1,
           rows[5].sizes, 0);
    refused(1024, "name");
}

/* For llama.cpp: lists beside the vocabulary, which it reads without asking how long they are. */
static void lists(void **state)
{
    const struct {
        const char *key;
        uint32_t type;
        uint64_t count;
    } rows[] = {{"tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, 1},
                {"tokenizer.ggml.scores", GGUF_TYPE_UINT8, 3},
                {"tokenizer.ggml.token_type", GGUF_TYPE_INT32, 2},
                {"tokenizer.ggml.token_type", GGUF_TYPE_UINT8, 3},
                {"tokenizer.ggml.merges", GGUF_TYPE_UINT8, 3},
                {"tokenizer.ggml.precompiled_charsmap", GGUF_TYPE_UINT32, 1}};
    const char zeros[64] = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin(1, 6);
        text("general.architecture");
        u32(GGUF_TYPE_STRING);
        text("llama");
        key_u32("llama.block_count", 1);
        key_u32("llama.context_length", 16);
        key_u32("llama.embedding_length", 8);
        array("tokenizer.ggml.tokens", GGUF_TYPE_STRING, 3);
        text("a");
        text("b");
        text("c");
        array(rows[i].key, rows[i].type, rows[i].count);
        bytes(zeros, rows[i].count * (rows[i].type == GGUF_TYPE_UINT8 ? 1 : 4));
        tensor("a.weight", 1, (uint64_t[]){8}, 0);
        struct engine *engine = NULL;
        struct engine_config config = {.model = path, .slots = 1, .threads = 1};
        store(1024);
        assert_int_equal(engine_open(&engine, &config), ERR_INVALID);
        assert_non_null(strstr(err_text(), rows[i].key));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts),     cmocka_unit_test(keys),    cmocka_unit_test(arrays),
        cmocka_unit_test(alignments), cmocka_unit_test(tensors), cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
