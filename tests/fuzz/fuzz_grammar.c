/* Grammars from anyone: the input is a grammar, then, behind a NUL, a text.  Taking the text byte
 * by byte, by words of three bytes, and sifting it out of a vocabulary must come to the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/grammar.h"
#include "fuzz.h"

#define TEXT_MAX 48
#define MEMORY   (24u << 20) /* what a grammar of few bytes may come to: all its bounds together */

fuzz_mutate_fn *const fuzz_mutator = fuzz_mutate_text;

struct words {
    const char *text;
    size_t len;
};

static const char *get_word(void *arg, int32_t id, size_t *len)
{
    const struct words *words = arg;
    *len = (size_t)id < words->len ? words->len - (size_t)id : 0;
    return words->text + ((size_t)id < words->len ? id : 0);
}

/* Says whether the next bytes may come, in all ways. */
static bool compare(struct grammar *grammar, const char *text, size_t len)
{
    struct words words = {text, len};
    struct grammar_words sorted = {0};
    unsigned char allowed[TEXT_MAX] = {0};
    bool all = false;
    size_t count = 0;
    if (grammar_words_make(&sorted, len, get_word, &words) != ERR_OK)
        abort();
    enum err tested = grammar_test(grammar, text, len, &all);
    enum err sifted = grammar_sift(grammar, &sorted, allowed, &count);
    if (tested == ERR_OK && sifted == ERR_OK && all != (allowed[0] == 1))
        abort();
    grammar_words_done(&sorted);
    return tested == ERR_OK && all;
}

static void run(const char *rules, const char *text, size_t len)
{
    struct grammar *slow = NULL, *fast = NULL;
    enum err err = grammar_open(&slow, rules);
    if (err != ERR_OK) {
        if (err != ERR_INVALID || strncmp(err_text(), "grammar ", 8) != 0)
            abort();
        return;
    }
    if (grammar_open(&fast, rules) != ERR_OK)
        abort();
    for (size_t at = 0; at < len; at += 3) {
        size_t part = len - at < 3 ? len - at : 3, done = 0;
        bool all = compare(fast, text + at, part);
        while (done < part && grammar_accept(slow, text + at + done, 1) == ERR_OK)
            done++;
        err = grammar_accept(fast, text + at, part);
        if ((err == ERR_OK && (!all || done < part)) ||
            (all && err == ERR_OK && grammar_may_end(fast) != grammar_may_end(slow)))
            abort();
        if (err != ERR_OK)
            break;
    }
    grammar_close(slow);
    grammar_close(fast);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *rules = malloc(size + 1); /* just as long as it is */
    memcpy(rules, data, size);
    rules[size] = '\0';
    size_t behind = strlen(rules) + 1, len = behind < size ? size - behind : 0;
    fuzz_begin(MEMORY, size, 512);
    run(rules, rules + (behind < size ? behind : size), len < TEXT_MAX ? len : TEXT_MAX);
    fuzz_end();
    free(rules);
    return 0;
}
