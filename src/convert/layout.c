#include "convert/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_ELEMENTS (1u << 18) /* matrices are compared in blocks of about this size */

/* Names of the one matrix that is embedding of both sides and output.  The first that is there
 * counts; the others have to be the same. */
static const struct {
    const char *name;
    bool outside; /* of "model." */
} embedding_names[] = {{"shared.weight", false},
                       {"encoder.embed_tokens.weight", false},
                       {"decoder.embed_tokens.weight", false},
                       {"lm_head.weight", true}};
#define EMBEDDING_NAMES (sizeof embedding_names / sizeof *embedding_names)

/* A linear layer or a norm of a block. */
static const struct part_row {
    const char *ours, *theirs;
    bool norm, cross;
} rows[] = {
    {"attn_norm", "self_attn_layer_norm", true, false},
    {"attn_q", "self_attn.q_proj", false, false},
    {"attn_k", "self_attn.k_proj", false, false},
    {"attn_v", "self_attn.v_proj", false, false},
    {"attn_o", "self_attn.out_proj", false, false},
    {"cross_attn_norm", "encoder_attn_layer_norm", true, true},
    {"cross_attn_q", "encoder_attn.q_proj", false, true},
    {"cross_attn_k", "encoder_attn.k_proj", false, true},
    {"cross_attn_v", "encoder_attn.v_proj", false, true},
    {"cross_attn_o", "encoder_attn.out_proj", false, true},
    {"ffn_norm", "final_layer_norm", true, false},
    {"ffn_up", "fc1", false, false},
    {"ffn_down", "fc2", false, false},
};

struct maker {
    struct layout layout;
    struct checkpoint *checkpoint;
    const struct hf_config *config;
    const char *prefix; /* "model.", or nothing where the model was saved without its head */
};

static void shape_text(char *out, size_t cap, const struct tensor *tensor)
{
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < tensor->dims && len < cap; i++)
        len += (size_t)snprintf(out + len, cap - len, "%s%llu", i > 0 ? "x" : "",
                                (unsigned long long)tensor->shape[i]);
}

/* Rows are PyTorch's first dimension.  A vector may come as one row (final_logits_bias does). */
static bool has_shape(const struct tensor *tensor, unsigned dims, const int64_t ne[2])
{
    if (dims == 2)
        return tensor->dims == 2 && tensor->shape[0] == (uint64_t)ne[1] &&
               tensor->shape[1] == (uint64_t)ne[0];
    return (tensor->dims == 1 && tensor->shape[0] == (uint64_t)ne[0]) ||
           (tensor->dims == 2 && tensor->shape[0] == 1 && tensor->shape[1] == (uint64_t)ne[0]);
}

static enum err add_placing(struct layout *layout, const struct placing *placing)
{
    if (layout->count == layout->cap) {
        size_t cap = layout->cap > 0 ? layout->cap * 2 : 128;
        struct placing *items = realloc(layout->items, cap * sizeof *items);
        if (items == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        layout->items = items;
        layout->cap = cap;
    }
    layout->items[layout->count++] = *placing;
    return ERR_OK;
}

static enum err place(struct maker *maker, const struct placing *wanted, const char *theirs)
{
    struct layout *layout = &maker->layout;
    struct placing placing = *wanted;
    char shape[96];

    placing.tensor = checkpoint_find(maker->checkpoint, theirs);
    if (placing.tensor == NULL)
        return err_set(ERR_INVALID, "the checkpoint has no tensor %s", theirs);
    if (!has_shape(placing.tensor, placing.dims, placing.ne)) {
        shape_text(shape, sizeof shape, placing.tensor);
        return err_set(ERR_INVALID, "tensor %s is %s where config.json wants %lld%s%.0lld", theirs,
                       shape[0] != '\0' ? shape : "a single number",
                       (long long)(placing.dims == 2 ? placing.ne[1] : placing.ne[0]),
                       placing.dims == 2 ? "x" : "",
                       (long long)(placing.dims == 2 ? placing.ne[0] : 0));
    }
    if (placing.tensor->dtype == DTYPE_OTHER)
        return err_set(ERR_UNSUPPORTED, "tensor %s holds %s: only f32, f16 and bf16 are read",
                       theirs, placing.tensor->dtype_name);
    return add_placing(layout, &placing);
}

static enum err place_vector(struct maker *maker, const char *ours, const char *theirs, int64_t len)
{
    struct placing placing = {.kind = PLACING_EXACT, .dims = 1, .ne = {len, 1}};
    snprintf(placing.name, sizeof placing.name, "%s", ours);
    return place(maker, &placing, theirs);
}

static enum err place_matrix(struct maker *maker, enum placing_kind kind, const char *ours,
                             const char *theirs, int64_t width, int64_t height)
{
    struct placing placing = {.kind = kind, .dims = 2, .ne = {width, height}};
    snprintf(placing.name, sizeof placing.name, "%s", ours);
    return place(maker, &placing, theirs);
}

/* ours.weight and ours.bias; in 0: a norm, whose weight is a vector. */
static enum err place_pair(struct maker *maker, const char *ours, const char *theirs, int64_t in,
                           int64_t out)
{
    char our_name[64], their_name[128];
    enum err err;

    snprintf(our_name, sizeof our_name, "%s.weight", ours);
    snprintf(their_name, sizeof their_name, "%s.weight", theirs);
    if (in == 0)
        err = place_vector(maker, our_name, their_name, out);
    else
        err = place_matrix(maker, PLACING_MATRIX, our_name, their_name, in, out);
    if (err != ERR_OK)
        return err;
    snprintf(our_name, sizeof our_name, "%s.bias", ours);
    snprintf(their_name, sizeof their_name, "%s.bias", theirs);
    return place_vector(maker, our_name, their_name, out);
}

static enum err place_block(struct maker *maker, bool decoder, uint32_t block)
{
    const struct hf_side *side = decoder ? &maker->config->decoder : &maker->config->encoder;
    int64_t width = maker->config->width, ffn = side->ffn;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct part_row *row = &rows[i];
        char ours[48], theirs[112];
        if (row->cross && !decoder)
            continue;
        snprintf(ours, sizeof ours, "%s.blk.%u.%s", decoder ? "dec" : "enc", block, row->ours);
        snprintf(theirs, sizeof theirs, "%s%s.layers.%u.%s", maker->prefix,
                 decoder ? "decoder" : "encoder", block, row->theirs);
        bool up = strcmp(row->ours, "ffn_up") == 0, down = strcmp(row->ours, "ffn_down") == 0;
        enum err err = place_pair(maker, ours, theirs,
                                  row->norm ? 0
                                  : down    ? ffn
                                            : width,
                                  up ? ffn : width);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err place_side(struct maker *maker, bool decoder)
{
    const struct hf_config *config = maker->config;
    const char *ours = decoder ? "dec" : "enc", *theirs = decoder ? "decoder" : "encoder";
    uint32_t blocks = decoder ? config->decoder.blocks : config->encoder.blocks;
    char our_name[64], their_name[112];

    snprintf(our_name, sizeof our_name, "%s.position_embd.weight", ours);
    snprintf(their_name, sizeof their_name, "%s%s.embed_positions.weight", maker->prefix, theirs);
    enum err err =
        place_matrix(maker, PLACING_EXACT, our_name, their_name, config->width, config->positions);
    for (uint32_t i = 0; err == ERR_OK && i < blocks; i++)
        err = place_block(maker, decoder, i);
    if (err != ERR_OK)
        return err;
    snprintf(our_name, sizeof our_name, "%s.output_norm", ours);
    snprintf(their_name, sizeof their_name, "%s%s.layer_norm", maker->prefix, theirs);
    return place_pair(maker, our_name, their_name, 0, config->width);
}

static const struct tensor *find_embedding(const struct maker *maker, size_t i, char name[64])
{
    snprintf(name, 64, "%s%s", embedding_names[i].outside ? "" : maker->prefix,
             embedding_names[i].name);
    return checkpoint_find(maker->checkpoint, name);
}

static enum err place_embedding(struct maker *maker)
{
    char name[64];
    size_t i = 0;

    while (i < EMBEDDING_NAMES && find_embedding(maker, i, name) == NULL)
        i++;
    find_embedding(maker, i < EMBEDDING_NAMES ? i : 0, name);
    return place_matrix(maker, PLACING_EMBEDDING, "token_embd.weight", name, maker->config->width,
                        maker->config->vocab);
}

/* Old checkpoints may lack it: all zero then. */
static enum err place_output_bias(struct maker *maker)
{
    if (checkpoint_find(maker->checkpoint, "final_logits_bias") != NULL)
        return place_vector(maker, "output.bias", "final_logits_bias", maker->config->vocab);
    struct placing placing = {.kind = PLACING_EXACT, .dims = 1, .ne = {maker->config->vocab, 1}};
    snprintf(placing.name, sizeof placing.name, "output.bias");
    return add_placing(&maker->layout, &placing);
}

/* ---- tied matrices ---- */

/* A sum over all values of a matrix: other ones have another. */
static enum err sum_matrix(struct checkpoint *checkpoint, const struct tensor *tensor,
                           uint64_t *sum)
{
    uint64_t width = tensor->shape[1], height = tensor->shape[0], hash = 0xCBF29CE484222325u;
    uint64_t block = width < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / width : 1;
    if (block > height || !tensor->contiguous)
        block = height;
    float *values = malloc(block * width * sizeof *values);
    enum err err = values == NULL ? err_set(ERR_NOMEM, "out of memory") : ERR_OK;
    for (uint64_t row = 0; err == ERR_OK && row < height; row += block) {
        uint64_t count = (height - row < block ? height - row : block) * width;
        err = checkpoint_read(checkpoint, tensor, row * width, count, values);
        for (uint64_t i = 0; err == ERR_OK && i < count; i++) {
            uint32_t bits;
            float value = values[i] + 0.0f; /* −0 is 0 */
            memcpy(&bits, &value, sizeof bits);
            hash = (hash ^ bits) * 0x100000001B3u;
            hash ^= hash >> 29;
        }
    }
    free(values);
    if (err == ERR_OK)
        *sum = hash;
    return err;
}

static bool is_same_place(const struct tensor *a, const struct tensor *b)
{
    return a->part == b->part && a->entry == b->entry && a->offset == b->offset &&
           a->dtype == b->dtype && a->contiguous && b->contiguous;
}

/* The model has one matrix for embeddings and output: a checkpoint with others is another model,
 * whatever its config.json says. */
static enum err check_tied(struct maker *maker)
{
    const struct placing *embedding = &maker->layout.items[0];
    uint64_t wanted = 0, sum = 0;
    bool summed = false;
    for (size_t i = 0; i < EMBEDDING_NAMES; i++) {
        char name[64];
        const struct tensor *copy = find_embedding(maker, i, name);
        enum err err = ERR_OK;
        if (copy == NULL && !maker->config->tied)
            return err_set(ERR_INVALID,
                           "the checkpoint has no tensor %s, and tie_word_embeddings "
                           "is false",
                           name);
        if (copy == NULL || copy == embedding->tensor)
            continue;
        if (!has_shape(copy, 2, embedding->ne))
            return err_set(ERR_INVALID, "tensor %s has another shape than %s, to which it is tied",
                           copy->name, embedding->tensor->name);
        if (copy->dtype == DTYPE_OTHER)
            return err_set(ERR_UNSUPPORTED, "tensor %s holds %s: only f32, f16 and bf16 are read",
                           name, copy->dtype_name);
        if (is_same_place(copy, embedding->tensor))
            continue;
        if (!summed)
            err = sum_matrix(maker->checkpoint, embedding->tensor, &wanted);
        summed = true;
        if (err == ERR_OK)
            err = sum_matrix(maker->checkpoint, copy, &sum);
        if (err != ERR_OK)
            return err;
        if (sum != wanted)
            return err_set(ERR_UNSUPPORTED,
                           "tensor %s differs from %s: a matrix of its own is not supported",
                           copy->name, embedding->tensor->name);
    }
    return ERR_OK;
}

/* What the checkpoint holds beyond the model; a copy of the tied matrix is none of that. */
static enum err count_left_out(struct maker *maker)
{
    const struct tensor_list *list = &maker->checkpoint->tensors;
    bool *taken = calloc(list->count + 1, sizeof *taken);

    if (taken == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < maker->layout.count; i++) {
        if (maker->layout.items[i].tensor != NULL)
            taken[maker->layout.items[i].tensor - list->items] = true;
    }
    for (size_t i = 0; i < EMBEDDING_NAMES; i++) {
        char name[64];
        const struct tensor *copy = find_embedding(maker, i, name);
        if (copy != NULL)
            taken[copy - list->items] = true;
    }
    for (size_t i = 0; i < list->count; i++) {
        if (!taken[i] && maker->layout.left_out++ == 0)
            snprintf(maker->layout.first_left, sizeof maker->layout.first_left, "%.63s",
                     list->items[i].name);
    }
    free(taken);
    return ERR_OK;
}

static bool has_prefix(const struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->tensors.count; i++) {
        if (strncmp(checkpoint->tensors.items[i].name, "model.", 6) == 0)
            return true;
    }
    return false;
}

static struct maker make_maker(struct checkpoint *checkpoint, const struct hf_config *config)
{
    bool headless = checkpoint_find(checkpoint, "shared.weight") != NULL && !has_prefix(checkpoint);
    return (struct maker){
        .checkpoint = checkpoint, .config = config, .prefix = headless ? "" : "model."};
}

enum err layout_check_vocab(struct checkpoint *checkpoint, const struct hf_config *config)
{
    struct maker maker = make_maker(checkpoint, config);
    const struct tensor *found = NULL;
    char name[64];

    for (size_t i = 0; i < EMBEDDING_NAMES && found == NULL; i++)
        found = find_embedding(&maker, i, name);
    if (found != NULL && found->dims == 2 && found->shape[0] >= config->vocab)
        return ERR_OK;
    enum err err = place_embedding(&maker); /* says what is wrong with it */
    layout_done(&maker.layout);
    return err;
}

enum err layout_make(struct layout *out, struct checkpoint *checkpoint,
                     const struct hf_config *config)
{
    struct maker maker = make_maker(checkpoint, config);
    enum err err = place_embedding(&maker);
    if (err == ERR_OK)
        err = check_tied(&maker);
    if (err == ERR_OK)
        err = place_output_bias(&maker);
    if (err == ERR_OK)
        err = place_side(&maker, false);
    if (err == ERR_OK)
        err = place_side(&maker, true);
    if (err == ERR_OK)
        err = count_left_out(&maker);
    if (err != ERR_OK) {
        layout_done(&maker.layout);
        return err;
    }
    *out = maker.layout;
    return ERR_OK;
}

void layout_done(struct layout *layout)
{
    free(layout->items);
    *layout = (struct layout){0};
}
