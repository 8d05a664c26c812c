#include "convert/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/files.h"
#include "wire/utf8.h"

#define MAX_TOKEN_BYTES 512  /* no more than the engine takes */
#define MAX_EXTRA       4096 /* special tokens beyond the known roles: each is looked for */

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_ADDED, TYPE_UNUSED };

struct vocab {
    const char *folder;
    json_t *tokenizer, *tokenizer_config, *special, *added, *words; /* NULL: no such file */
    struct buf merges_text;
    char **tokens; /* by id; NULL: none */
    int32_t *types;
    uint32_t size;
    const char **merges; /* into merges_text or merges_made */
    char **merges_made;
    size_t merge_count, made_count;
};

static enum err no_memory(void)
{
    return err_set(ERR_NOMEM, "out of memory");
}

static enum err read_if_there(json_t **out, const char *folder, const char *name)
{
    return files_exists(folder, name) ? files_read_json(out, folder, name) : ERR_OK;
}

static enum err read_files(struct vocab *vocab)
{
    const char *folder = vocab->folder;
    enum err err = read_if_there(&vocab->tokenizer, folder, "tokenizer.json");
    if (err == ERR_OK)
        err = read_if_there(&vocab->tokenizer_config, folder, "tokenizer_config.json");
    if (err == ERR_OK)
        err = read_if_there(&vocab->special, folder, "special_tokens_map.json");
    if (err == ERR_OK)
        err = read_if_there(&vocab->added, folder, "added_tokens.json");
    if (err != ERR_OK)
        return err;
    json_t *model = json_object_get(vocab->tokenizer, "model");
    if (files_exists(folder, "vocab.json") && files_exists(folder, "merges.txt")) {
        err = files_read_json(&vocab->words, folder, "vocab.json");
        if (err == ERR_OK)
            err = files_read(&vocab->merges_text, folder, "merges.txt", FILES_JSON_LIMIT);
        return err;
    }
    if (model == NULL)
        return err_set(ERR_NOT_FOUND,
                       "%s holds no vocabulary: neither vocab.json with merges.txt nor "
                       "tokenizer.json",
                       folder);
    if (strcmp(json_text(model, "type", "BPE"), "BPE") != 0)
        return err_set(ERR_UNSUPPORTED, "%s/tokenizer.json: its model is no BPE", folder);
    vocab->words = json_incref(json_object_get(model, "vocab"));
    return ERR_OK;
}

/* Puts a token in its place.  A special token may be put again. */
static enum err put(struct vocab *vocab, const char *token, const json_t *id_value, int32_t type)
{
    json_int_t id = json_integer_value(id_value);

    if (!json_is_integer(id_value) || id < 0 || strlen(token) > MAX_TOKEN_BYTES)
        return err_set(ERR_INVALID, "%s: the vocabulary's token \"%.60s\" makes no sense",
                       vocab->folder, token);
    if (id >= (json_int_t)vocab->size)
        return err_set(ERR_INVALID,
                       "%s: the vocabulary does not fit: token \"%.60s\" has id %lld and the model "
                       "%u of them",
                       vocab->folder, token, (long long)id, vocab->size);
    char *there = vocab->tokens[id];
    if (there != NULL && strcmp(there, token) != 0)
        return err_set(ERR_INVALID, "%s: the tokens \"%.60s\" and \"%.60s\" have the same id %lld",
                       vocab->folder, there, token, (long long)id);
    if (there == NULL && (vocab->tokens[id] = strdup(token)) == NULL)
        return no_memory();
    if (type != TYPE_NORMAL || there == NULL)
        vocab->types[id] = type;
    return ERR_OK;
}

/* A token behind the vocabulary's end: published checkpoints add <mask> there, which has no row in
 * the model and can't be said or read.  Any other that does not fit is a fault. */
static enum err put_added(struct vocab *vocab, const char *token, const json_t *id, bool special)
{
    if (strcmp(token, "<mask>") == 0 && json_is_integer(id) &&
        json_integer_value(id) >= (json_int_t)vocab->size)
        return ERR_OK;
    return put(vocab, token, id, special ? TYPE_CONTROL : TYPE_ADDED);
}

static enum err put_all_added(struct vocab *vocab)
{
    const char *key;
    json_t *row;
    size_t i;
    enum err err = ERR_OK;

    json_object_foreach(vocab->added, key, row)
    {
        err = put_added(vocab, key, row, false); /* special ones have a role, see below */
        if (err != ERR_OK)
            return err;
    }
    json_array_foreach(json_object_get(vocab->tokenizer, "added_tokens"), i, row)
    {
        err = put_added(vocab, json_text(row, "content", ""), json_object_get(row, "id"),
                        json_flag(row, "special", false));
        if (err != ERR_OK)
            return err;
    }
    json_object_foreach(json_object_get(vocab->tokenizer_config, "added_tokens_decoder"), key, row)
    {
        char *end;
        unsigned long id = strtoul(key, &end, 10);
        json_t *number = json_integer((json_int_t)(id & INT32_MAX));
        if (*end != '\0' || id > INT32_MAX || number == NULL)
            err = err_set(ERR_INVALID, "%s/tokenizer_config.json: \"%.60s\" is no token id",
                          vocab->folder, key);
        else
            err = put_added(vocab, json_text(row, "content", ""), number,
                            json_flag(row, "special", false));
        json_decref(number);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static bool find_token(const struct vocab *vocab, const char *token, uint32_t *id)
{
    for (uint32_t i = 0; i < vocab->size; i++) {
        if (vocab->tokens[i] != NULL && strcmp(vocab->tokens[i], token) == 0) {
            *id = i;
            return true;
        }
    }
    return false;
}

/* The text of a role ("unk_token"), as the tokenizer's files name it; NULL: they don't. */
static const char *role_text(const struct vocab *vocab, const char *role)
{
    const json_t *files[] = {vocab->special, vocab->tokenizer_config};

    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_object_get(files[i], role);
        if (json_is_string(value))
            return json_string_value(value);
        if (json_is_object(value))
            return json_text(value, "content", "");
    }
    return NULL;
}

/* Other tokens that are never text. */
static enum err mark_extra(struct vocab *vocab, const json_t *list)
{
    const json_t *row;
    size_t i;
    if (json_array_size(list) > MAX_EXTRA)
        return err_set(ERR_LIMIT, "%s: more than %d special tokens", vocab->folder, MAX_EXTRA);
    json_array_foreach(list, i, row)
    {
        const char *text =
            json_is_string(row) ? json_string_value(row) : json_text(row, "content", "");
        uint32_t id;
        if (find_token(vocab, text, &id))
            vocab->types[id] = TYPE_CONTROL;
    }
    return ERR_OK;
}

/* Tokens with a role are never text.  *end: the tokenizer's end token, where it has one. */
static enum err mark_roles(struct vocab *vocab, struct gguf_context *gguf, uint32_t *end)
{
    static const char *const roles[][2] = {{"bos_token", "<s>"},   {"eos_token", "</s>"},
                                           {"pad_token", "<pad>"}, {"sep_token", "</s>"},
                                           {"cls_token", "<s>"},   {"mask_token", "<mask>"},
                                           {"unk_token", "<unk>"}};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const char *text = role_text(vocab, roles[i][0]);
        bool unknown = strcmp(roles[i][0], "unk_token") == 0;
        uint32_t id;
        if (!find_token(vocab, text != NULL ? text : roles[i][1], &id))
            continue;
        vocab->types[id] = unknown ? TYPE_UNKNOWN : TYPE_CONTROL;
        if (unknown)
            gguf_set_val_u32(gguf, "tokenizer.ggml.unknown_token_id", id);
        if (strcmp(roles[i][0], "eos_token") == 0)
            *end = id;
    }
    enum err err = mark_extra(vocab, json_object_get(vocab->special, "additional_special_tokens"));
    if (err == ERR_OK)
        err = mark_extra(vocab,
                         json_object_get(vocab->tokenizer_config, "additional_special_tokens"));
    if (err == ERR_OK)
        err = mark_extra(vocab, json_object_get(vocab->tokenizer_config, "extra_special_tokens"));
    return err;
}

/* ---- merges ---- */

/* Both parts and what they make are tokens. */
static bool merge_fits(const struct vocab *vocab, const char *merge, size_t left_len)
{
    char left[MAX_TOKEN_BYTES + 1], whole[2 * MAX_TOKEN_BYTES + 1];
    const char *right = merge + left_len + 1;

    if (left_len > MAX_TOKEN_BYTES || strlen(right) > MAX_TOKEN_BYTES)
        return false;
    snprintf(left, sizeof left, "%.*s", (int)left_len, merge);
    snprintf(whole, sizeof whole, "%s%s", left, right);
    return json_object_get(vocab->words, left) != NULL &&
           json_object_get(vocab->words, right) != NULL &&
           json_object_get(vocab->words, whole) != NULL;
}

static enum err add_merge(struct vocab *vocab, size_t *cap, const char *merge)
{
    const char *space = strchr(merge, ' ');

    if (space == NULL || space == merge || space[1] == '\0' || strchr(space + 1, ' ') != NULL)
        return err_set(ERR_INVALID, "%s: merge %zu, \"%.60s\", is not two tokens", vocab->folder,
                       vocab->merge_count + 1, merge);
    if (!merge_fits(vocab, merge, (size_t)(space - merge)))
        return err_set(ERR_INVALID,
                       "%s: the vocabulary does not fit its merges: \"%.60s\" makes no token",
                       vocab->folder, merge);
    if (vocab->merge_count == *cap) {
        *cap = *cap > 0 ? *cap * 2 : 1024;
        const char **merges = realloc(vocab->merges, *cap * sizeof *merges);
        if (merges == NULL)
            return no_memory();
        vocab->merges = merges;
    }
    vocab->merges[vocab->merge_count++] = merge;
    return ERR_OK;
}

static enum err read_merges_text(struct vocab *vocab)
{
    char *at = vocab->merges_text.data, *rest = NULL;
    size_t cap = 0;
    bool first = true;
    if (at == NULL)
        return ERR_OK;
    if (strlen(at) != vocab->merges_text.len || !utf8_is_valid(at, vocab->merges_text.len))
        return err_set(ERR_INVALID, "%s/merges.txt is not UTF-8 text", vocab->folder);
    for (char *line = strtok_r(at, "\r\n", &rest); line != NULL;
         line = strtok_r(NULL, "\r\n", &rest)) {
        /* only the first line may be a comment: "# #" is a merge */
        bool comment = first && strncmp(line, "#version", 8) == 0;
        first = false;
        enum err err = comment ? ERR_OK : add_merge(vocab, &cap, line);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* "a b", or ["a", "b"]. */
static enum err read_merges_json(struct vocab *vocab)
{
    const json_t *list = json_object_get(json_object_get(vocab->tokenizer, "model"), "merges");
    size_t i, cap = 0;
    const json_t *row;

    vocab->merges_made = calloc(json_array_size(list) + 1, sizeof *vocab->merges_made);
    if (vocab->merges_made == NULL)
        return no_memory();
    json_array_foreach(list, i, row)
    {
        const char *left = json_string_value(json_array_get(row, 0));
        const char *right = json_string_value(json_array_get(row, 1));
        char *made = NULL;
        if (json_is_string(row))
            made = strdup(json_string_value(row));
        else if (left == NULL || right == NULL || json_array_size(row) != 2)
            return err_set(ERR_INVALID, "%s/tokenizer.json: merge %zu is not two tokens",
                           vocab->folder, i + 1);
        else if (asprintf(&made, "%s %s", left, right) < 0)
            made = NULL;
        if (made == NULL)
            return no_memory();
        vocab->merges_made[vocab->made_count++] = made;
        enum err err = add_merge(vocab, &cap, made);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* From merges.txt, tokenizer.json, or both: then all has to agree.  The original reads
 * tokenizer.json alone; we would not know which is meant. */
static enum err read_merges(struct vocab *vocab)
{
    const json_t *model = json_object_get(vocab->tokenizer, "model");
    if (vocab->merges_text.len == 0)
        return read_merges_json(vocab);
    enum err err = read_merges_text(vocab);
    if (err != ERR_OK || model == NULL)
        return err;
    const char **merges = vocab->merges;
    size_t count = vocab->merge_count;
    vocab->merges = NULL;
    vocab->merge_count = 0;
    err = read_merges_json(vocab);
    bool same =
        count == vocab->merge_count && json_equal(vocab->words, json_object_get(model, "vocab"));
    for (size_t i = 0; same && i < count; i++)
        same = strcmp(merges[i], vocab->merges[i]) == 0;
    free(merges);
    if (err == ERR_OK && !same)
        err = err_set(ERR_INVALID,
                      "%s: tokenizer.json holds another vocabulary than vocab.json and merges.txt: "
                      "take the wrong one away",
                      vocab->folder);
    return err;
}

/* ---- the whole ---- */

static enum err fill(struct vocab *vocab)
{
    const char *key;
    json_t *id;
    enum err err = ERR_OK;

    if (!json_is_object(vocab->words) || json_object_size(vocab->words) == 0)
        return err_set(ERR_INVALID, "%s: its vocabulary is empty", vocab->folder);
    vocab->tokens = calloc(vocab->size, sizeof *vocab->tokens);
    vocab->types = calloc(vocab->size, sizeof *vocab->types);
    if (vocab->tokens == NULL || vocab->types == NULL)
        return no_memory();
    json_object_foreach(vocab->words, key, id)
    {
        err = put(vocab, key, id, TYPE_NORMAL);
        if (err != ERR_OK)
            return err;
    }
    return put_all_added(vocab);
}

/* A row of the model that no token has. */
static enum err fill_holes(struct vocab *vocab)
{
    for (uint32_t i = 0; i < vocab->size; i++) {
        if (vocab->tokens[i] != NULL)
            continue;
        if (asprintf(&vocab->tokens[i], "[UNUSED%u]", i) < 0) {
            vocab->tokens[i] = NULL;
            return no_memory();
        }
        vocab->types[i] = TYPE_UNUSED;
    }
    return ERR_OK;
}

static bool add_space_prefix(const struct vocab *vocab)
{
    return json_flag(vocab->tokenizer_config, "add_prefix_space", true);
}

static void write_keys(const struct vocab *vocab, struct gguf_context *gguf,
                       const struct hf_config *config, uint32_t end)
{
    gguf_set_val_str(gguf, "tokenizer.ggml.model", "gpt2");
    gguf_set_val_str(gguf, "tokenizer.ggml.pre", "gpt-2");
    gguf_set_arr_str(gguf, "tokenizer.ggml.tokens", (const char **)vocab->tokens, vocab->size);
    gguf_set_arr_data(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, vocab->types,
                      vocab->size);
    gguf_set_arr_str(gguf, "tokenizer.ggml.merges", vocab->merges, vocab->merge_count);
    gguf_set_val_u32(gguf, "tokenizer.ggml.bos_token_id", config->bos);
    gguf_set_val_u32(gguf, "tokenizer.ggml.eos_token_id", end);
    gguf_set_val_u32(gguf, "tokenizer.ggml.padding_token_id", config->pad);
    gguf_set_val_bool(gguf, "tokenizer.ggml.add_space_prefix", add_space_prefix(vocab));
    gguf_set_val_bool(gguf, "tokenizer.ggml.add_bos_token", false);
    gguf_set_val_bool(gguf, "tokenizer.ggml.add_eos_token", true);
}

static void vocab_done(struct vocab *vocab)
{
    for (uint32_t i = 0; vocab->tokens != NULL && i < vocab->size; i++)
        free(vocab->tokens[i]);
    for (size_t i = 0; i < vocab->made_count; i++)
        free(vocab->merges_made[i]);
    free(vocab->tokens);
    free(vocab->types);
    free(vocab->merges);
    free(vocab->merges_made);
    buf_done(&vocab->merges_text);
    json_decref(vocab->tokenizer);
    json_decref(vocab->tokenizer_config);
    json_decref(vocab->special);
    json_decref(vocab->added);
    json_decref(vocab->words);
}

enum err vocab_read(struct gguf_context *gguf, const char *folder, const struct hf_config *config)
{
    struct vocab vocab = {.folder = folder, .size = config->vocab};

    buf_init(&vocab.merges_text, FILES_JSON_LIMIT);
    enum err err = read_files(&vocab);
    if (err == ERR_OK)
        err = fill(&vocab);
    if (err == ERR_OK)
        err = read_merges(&vocab);
    if (err == ERR_OK && vocab.merge_count == 0)
        err = err_set(ERR_INVALID, "%s: its vocabulary has no merges", folder);
    uint32_t end = config->end_count > 0 ? (uint32_t)config->ends[0] : config->bos;
    if (err == ERR_OK)
        err = mark_roles(&vocab, gguf, &end);
    if (err == ERR_OK)
        err = fill_holes(&vocab);
    if (err == ERR_OK)
        write_keys(&vocab, gguf, config, end);
    vocab_done(&vocab);
    return err;
}
