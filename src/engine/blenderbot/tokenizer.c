#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/blenderbot/tokenizer.h"

#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_MAX  512 /* bytes of one token as the file spells it */
#define TYPE_PLAIN 1   /* tokenizer.ggml.token_type: an ordinary token */
#define TYPE_ADDED 4   /* one that was added, and is text */
#define NO_RANK    SIZE_MAX

/* White space is spelt out: what PCRE2 and Unicode hold for it differs by one character. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"             \
    "\\x{202f}\\x{205f}\\x{3000}"
/* Letters and numbers of Unicode 15 and 16, which older PCRE2 do not know and the original does. */
#define NEW_LETTERS                                                                                \
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"               \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"         \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}"           \
    "\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"          \
    "\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"                    \
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"                     \
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"          \
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NEW_NUMBERS                                                                                \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"         \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"         \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
#define LETTER "\\p{L}" NEW_LETTERS
#define NUMBER "\\p{N}" NEW_NUMBERS
static const char split_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?[" LETTER "]+| ?[" NUMBER "]+| ?[^" SPACES LETTER NUMBER
    "]+|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]+";

struct token {
    char *spelt; /* as the file has it */
    char *text;  /* the bytes it stands for */
    size_t len;
};

struct merge {
    int32_t left, right, joined;
    size_t rank;
};

struct bb_tokenizer {
    struct token *tokens;
    int32_t *by_spelling; /* ids, sorted by spelling */
    size_t token_count;
    struct merge *merges; /* sorted by left and right */
    size_t merge_count;
    int32_t letters[256]; /* the token of each byte, −1: none */
    bool add_space;
    size_t longest;
    pcre2_code *split;
};

/* ---- the alphabet ---- */

/* The character that stands for a byte: itself where it is printable, else one beyond U+0100. */
static unsigned letter_of_byte(unsigned byte)
{
    unsigned strange = 0;
    for (unsigned b = 0; b <= byte; b++) {
        bool plain = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        if (b == byte)
            return plain ? b : 256 + strange;
        strange += !plain;
    }
    return 0;
}

static size_t write_char(unsigned letter, char out[3])
{
    if (letter < 0x80) {
        out[0] = (char)letter;
        return 1;
    }
    out[0] = (char)(0xC0 | letter >> 6); /* all are below U+0800 */
    out[1] = (char)(0x80 | (letter & 0x3F));
    return 2;
}

/* The bytes behind a spelling; one that is not all of the alphabet stands for itself.  out has
 * room.
 */
static size_t read_spelling(const unsigned *letters, const char *spelt, char *out)
{
    size_t len = strlen(spelt), made = 0;
    for (size_t i = 0; i < len;) {
        unsigned char first = (unsigned char)spelt[i];
        bool two = (first & 0xE0) == 0xC0 && i + 1 < len;
        unsigned letter = first;
        if (two)
            letter = (first & 0x1Fu) << 6 | ((unsigned char)spelt[i + 1] & 0x3Fu);
        size_t byte = 0;
        while (byte < 256 && letters[byte] != letter)
            byte++;
        if (byte < 256 && (two || first < 0x80)) {
            out[made++] = (char)byte;
            i += two ? 2 : 1;
        } else {
            memcpy(out, spelt, len);
            return len;
        }
    }
    return made;
}

/* ---- reading the file ---- */

static int compare_spellings(const void *a, const void *b, void *arg)
{
    const struct token *tokens = arg;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    int order = strcmp(tokens[x].spelt, tokens[y].spelt);
    return order != 0 ? order : (x > y) - (x < y);
}

static int compare_merges(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    if (x->right != y->right)
        return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* The first token spelt so; −1: none. */
static int32_t find_token(const struct bb_tokenizer *tok, const char *spelt, size_t len)
{
    size_t low = 0, high = tok->token_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *there = tok->tokens[tok->by_spelling[middle]].spelt;
        int order = strncmp(there, spelt, len);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == tok->token_count)
        return -1;
    const char *found = tok->tokens[tok->by_spelling[low]].spelt;
    return strncmp(found, spelt, len) == 0 && found[len] == '\0' ? tok->by_spelling[low] : -1;
}

/* An array of a kind in the header; −1: there is none. */
static int64_t find_array(const struct gguf_context *gguf, const char *key, enum gguf_type type)
{
    int64_t id = gguf_find_key(gguf, key);
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf, id) != type)
        return -1;
    return id;
}

static enum err read_tokens(struct bb_tokenizer *tok, const struct gguf_context *gguf,
                            size_t vocab_size)
{
    int64_t id = find_array(gguf, "tokenizer.ggml.tokens", GGUF_TYPE_STRING);
    int64_t types_id = find_array(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32);
    if (id < 0 || types_id < 0)
        return err_set(ERR_INVALID, "it has no vocabulary");
    if (gguf_get_arr_n(gguf, id) != vocab_size || gguf_get_arr_n(gguf, types_id) != vocab_size)
        return err_set(ERR_INVALID, "its vocabulary has %zu tokens instead of %zu",
                       gguf_get_arr_n(gguf, id), vocab_size);
    const int32_t *types = gguf_get_arr_data(gguf, types_id);
    tok->tokens = calloc(vocab_size, sizeof *tok->tokens);
    tok->by_spelling = calloc(vocab_size, sizeof *tok->by_spelling);
    if (tok->tokens == NULL || tok->by_spelling == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    unsigned letters[256];
    for (unsigned b = 0; b < 256; b++)
        letters[b] = letter_of_byte(b);
    for (size_t i = 0; i < vocab_size; i++) {
        const char *spelt = gguf_get_arr_str(gguf, id, i);
        size_t len = strlen(spelt);
        if (len > TOKEN_MAX)
            return err_set(ERR_INVALID, "its token %zu has more than %d bytes", i, TOKEN_MAX);
        struct token *token = &tok->tokens[i];
        token->spelt = strdup(spelt);
        token->text = malloc(len + 1);
        if (token->spelt == NULL || token->text == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        bool is_text = types[i] == TYPE_PLAIN || types[i] == TYPE_ADDED;
        token->len = is_text ? read_spelling(letters, spelt, token->text) : 0;
        if (token->len > tok->longest)
            tok->longest = token->len;
        tok->by_spelling[i] = (int32_t)i;
        tok->token_count++;
    }
    qsort_r(tok->by_spelling, vocab_size, sizeof *tok->by_spelling, compare_spellings, tok->tokens);
    for (unsigned b = 0; b < 256; b++) {
        char spelt[3];
        tok->letters[b] = find_token(tok, spelt, write_char(letters[b], spelt));
    }
    return ERR_OK;
}

static enum err read_merges(struct bb_tokenizer *tok, const struct gguf_context *gguf)
{
    int64_t id = find_array(gguf, "tokenizer.ggml.merges", GGUF_TYPE_STRING);
    size_t count = id < 0 ? 0 : gguf_get_arr_n(gguf, id);
    tok->merges = calloc(count + 1, sizeof *tok->merges);
    if (tok->merges == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        const char *text = gguf_get_arr_str(gguf, id, i);
        const char *space = strchr(text, ' ');
        size_t len = strlen(text);
        if (space == NULL || len > 2 * TOKEN_MAX + 1)
            return err_set(ERR_INVALID, "its merge %zu makes no sense", i);
        size_t left = (size_t)(space - text), right = len - left - 1;
        char joined[2 * TOKEN_MAX + 1];
        memcpy(joined, text, left);
        memcpy(joined + left, space + 1, right);
        struct merge merge = {find_token(tok, text, left), find_token(tok, space + 1, right),
                              find_token(tok, joined, left + right), i};
        if (merge.left < 0 || merge.right < 0 || merge.joined < 0)
            return err_set(ERR_INVALID, "its merge %zu is of tokens that it does not have", i);
        tok->merges[tok->merge_count++] = merge;
    }
    qsort(tok->merges, tok->merge_count, sizeof *tok->merges, compare_merges);
    return ERR_OK;
}

enum err bb_tokenizer_open(struct bb_tokenizer **out, const struct gguf_context *gguf,
                           size_t vocab_size)
{
    struct bb_tokenizer *tok = calloc(1, sizeof *tok);
    if (tok == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    int64_t space_id = gguf_find_key(gguf, "tokenizer.ggml.add_space_prefix");
    tok->add_space = space_id < 0 || gguf_get_kv_type(gguf, space_id) != GGUF_TYPE_BOOL ||
                     gguf_get_val_bool(gguf, space_id);
    enum err err = read_tokens(tok, gguf, vocab_size);
    if (err == ERR_OK)
        err = read_merges(tok, gguf);
    if (err == ERR_OK) {
        int code;
        size_t at;
        tok->split = pcre2_compile((PCRE2_SPTR)split_pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (tok->split == NULL)
            err = err_set(ERR_NOMEM, "out of memory");
    }
    if (err != ERR_OK) {
        bb_tokenizer_close(tok);
        return err;
    }
    *out = tok;
    return ERR_OK;
}

void bb_tokenizer_close(struct bb_tokenizer *tok)
{
    if (tok == NULL)
        return;
    for (size_t i = 0; tok->tokens != NULL && i < tok->token_count; i++) {
        free(tok->tokens[i].spelt);
        free(tok->tokens[i].text);
    }
    free(tok->tokens);
    free(tok->by_spelling);
    free(tok->merges);
    pcre2_code_free(tok->split);
    free(tok);
}

/* ---- text to ids ---- */

static const struct merge *find_merge(const struct bb_tokenizer *tok, int32_t left, int32_t right)
{
    size_t low = 0, high = tok->merge_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct merge *merge = &tok->merges[middle];
        if (merge->left < left || (merge->left == left && merge->right < right))
            low = middle + 1;
        else
            high = middle;
    }
    const struct merge *merge = &tok->merges[low];
    bool hit = low < tok->merge_count && merge->left == left && merge->right == right;
    return hit ? merge : NULL;
}

/* Joins neighbours, best merge first and leftmost among equals.  pairs is scratch as long as ids.
 */
static size_t join_letters(const struct bb_tokenizer *tok, int32_t *ids, const struct merge **pairs,
                           size_t count)
{
    for (size_t i = 0; i + 1 < count; i++)
        pairs[i] = find_merge(tok, ids[i], ids[i + 1]);
    for (;;) {
        size_t best = 0, rank = NO_RANK;
        for (size_t i = 0; i + 1 < count; i++) {
            if (pairs[i] != NULL && pairs[i]->rank < rank) {
                best = i;
                rank = pairs[i]->rank;
            }
        }
        if (rank == NO_RANK)
            return count;
        ids[best] = pairs[best]->joined;
        count--;
        memmove(ids + best + 1, ids + best + 2, (count - best - 1) * sizeof *ids);
        if (best + 1 < count) {
            memmove(pairs + best + 1, pairs + best + 2, (count - best - 1) * sizeof *pairs);
            pairs[best] = find_merge(tok, ids[best], ids[best + 1]);
        }
        if (best > 0)
            pairs[best - 1] = find_merge(tok, ids[best - 1], ids[best]);
    }
}

struct scratch { /* for one text: no word is longer */
    int32_t *ids;
    const struct merge **pairs;
};

static enum err encode_word(const struct bb_tokenizer *tok, const char *word, size_t len,
                            struct scratch *scratch, struct buf *ids)
{
    size_t count = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t letter = tok->letters[(unsigned char)word[i]];
        if (letter >= 0) /* a byte that the vocabulary lacks is left out */
            scratch->ids[count++] = letter;
    }
    count = join_letters(tok, scratch->ids, scratch->pairs, count);
    return buf_append(ids, scratch->ids, count * sizeof *scratch->ids);
}

static enum err encode_words(const struct bb_tokenizer *tok, const char *text, size_t len,
                             pcre2_match_data *match, struct scratch *scratch, struct buf *ids)
{
    enum err err = ERR_OK;
    for (size_t at = 0; err == ERR_OK && at < len;) {
        int found = pcre2_match(tok->split, (PCRE2_SPTR)text, len, at, 0, match, NULL);
        if (found < 0)
            return err_set(found == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_INVALID,
                           "the text can't be cut into words (pcre2: %d)", found);
        const size_t *bounds = pcre2_get_ovector_pointer(match);
        err = encode_word(tok, text + bounds[0], bounds[1] - bounds[0], scratch, ids);
        at = bounds[1];
    }
    return err;
}

enum err bb_tokenizer_encode(const struct bb_tokenizer *tok, const char *text, size_t len,
                             struct buf *ids)
{
    if (len == 0)
        return ERR_OK;
    bool add = tok->add_space && text[0] != ' ';
    size_t whole = len + add;
    char *spaced = malloc(whole);
    struct scratch scratch = {malloc(whole * sizeof *scratch.ids),
                              malloc(whole * sizeof *scratch.pairs)};
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(tok->split, NULL);
    enum err err;
    if (spaced == NULL || scratch.ids == NULL || scratch.pairs == NULL || match == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
    } else {
        spaced[0] = ' ';
        memcpy(spaced + add, text, len);
        err = encode_words(tok, spaced, whole, match, &scratch, ids);
    }
    pcre2_match_data_free(match);
    free(scratch.pairs);
    free(scratch.ids);
    free(spaced);
    return err;
}

const char *bb_tokenizer_text(const struct bb_tokenizer *tok, int32_t id, size_t *len)
{
    *len = tok->tokens[id].len;
    return tok->tokens[id].text;
}

size_t bb_tokenizer_longest(const struct bb_tokenizer *tok)
{
    return tok->longest;
}
