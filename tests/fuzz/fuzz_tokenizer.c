/* The tokenizer on any bytes: what it says of a text must spell the text. */
#include <gguf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/hf_config.h"
#include "convert/vocab.h"
#include "engine/blenderbot/tokenizer.h"
#include "fuzz.h"
#include "wire/utf8.h"

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_binary;

static struct bb_tokenizer *open_tokenizer(void)
{
    struct bb_tokenizer *tokenizer = NULL;
    struct hf_config config;
    struct gguf_context *gguf = gguf_init_empty();
    if (hf_config_read(&config, gguf, TEST_MODEL) != ERR_OK ||
        vocab_read(gguf, TEST_MODEL, &config) != ERR_OK ||
        bb_tokenizer_open(&tokenizer, gguf, config.vocab) != ERR_OK) {
        fprintf(stderr, "fuzz: %s\n", err_text());
        exit(1);
    }
    gguf_free(gguf);
    return tokenizer;
}

static void compare(const struct bb_tokenizer *tokenizer, const struct buf *ids, const char *text,
                    size_t len)
{
    const int32_t *id = (const int32_t *)(const void *)ids->data;
    size_t at = 0, begin = len > 0 && text[0] != ' ';
    for (size_t i = 0; i < ids->len / sizeof *id; i++) {
        size_t part;
        const char *piece = bb_tokenizer_text(tokenizer, id[i], &part);
        for (size_t k = 0; k < part; k++, at++) {
            char want = at < begin ? ' ' : at - begin < len ? text[at - begin] : '\0';
            if (piece[k] != want || at >= len + begin)
                abort();
        }
    }
    if (at != len + begin)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bb_tokenizer *tokenizer; /* reachable for ever: no leak */
    struct buf ids;

    if (tokenizer == NULL)
        tokenizer = open_tokenizer();
    buf_init(&ids, size * sizeof(int32_t) * 2 + 64);
    fuzz_begin(FUZZ_BASE, size, 64);
    enum err err = bb_tokenizer_encode(tokenizer, (const char *)data, size, &ids);
    fuzz_end();
    if ((err == ERR_OK) != utf8_is_valid((const char *)data, size)) {
        fprintf(stderr, "fuzz: %s: %s\n", err_name(err), err_text());
        abort();
    }
    if (err == ERR_OK)
        compare(tokenizer, &ids, (const char *)data, size);
    buf_done(&ids);
    return 0;
}
