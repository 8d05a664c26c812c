#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/grammar.h"

#define TEXTS_LIMIT ((size_t)1 << 28)

struct word {
    const char *text; /* in the buffer, once that is whole */
    size_t at, len;
    int32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    if (order == 0 && x->len != y->len)
        order = x->len < y->len ? -1 : 1;
    return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
}

static uint32_t shared_bytes(const struct word *a, const struct word *b)
{
    uint32_t count = 0;
    while (count < a->len && count < b->len && a->text[count] == b->text[count])
        count++;
    return count;
}

static void write_sorted(struct grammar_words *out, const struct word *words, size_t count)
{
    uint32_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(out->texts + at, words[i].text, words[i].len);
        out->starts[i] = at;
        out->ids[i] = words[i].id;
        out->shared[i] = i > 0 ? shared_bytes(&words[i - 1], &words[i]) : 0;
        at += (uint32_t)words[i].len;
    }
    out->starts[count] = at;
    out->count = count;
}

enum err grammar_words_make(struct grammar_words *out, size_t vocab_size, grammar_word_fn *get,
                            void *arg)
{
    struct grammar_words made = {0};
    struct word *words = calloc(vocab_size + 1, sizeof *words);
    struct buf texts;
    size_t count = 0;
    buf_init(&texts, TEXTS_LIMIT);
    enum err err = words != NULL ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
    for (size_t id = 0; id < vocab_size && err == ERR_OK; id++) {
        size_t len = 0;
        const char *text = get(arg, (int32_t)id, &len);
        if (len == 0)
            continue;
        words[count++] = (struct word){.at = texts.len, .len = len, .id = (int32_t)id};
        err = buf_append(&texts, text, len);
    }
    if (err != ERR_OK)
        goto out;
    made.texts = malloc(texts.len + 1);
    made.starts = calloc(count + 1, sizeof *made.starts);
    made.ids = calloc(count + 1, sizeof *made.ids);
    made.shared = calloc(count + 1, sizeof *made.shared);
    if (made.texts == NULL || made.starts == NULL || made.ids == NULL || made.shared == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        words[i].text = texts.data + words[i].at;
    qsort(words, count, sizeof *words, by_bytes);
    write_sorted(&made, words, count);
    *out = made;
out:
    if (err != ERR_OK)
        grammar_words_done(&made);
    free(words);
    buf_done(&texts);
    return err;
}

void grammar_words_done(struct grammar_words *words)
{
    free(words->texts);
    free(words->starts);
    free(words->ids);
    free(words->shared);
    *words = (struct grammar_words){0};
}
