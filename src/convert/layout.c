#include "convert/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names of the one matrix that is embedding of both sides and output; the first that is there
 * counts, as the others are tied to it. */
static const char *const embedding_names[] = {
    "model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
    "lm_head.weight"};

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
    const struct checkpoint *checkpoint;
    const struct hf_config *config;
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
    if (layout->count == layout->cap) {
        size_t cap = layout->cap > 0 ? layout->cap * 2 : 128;
        struct placing *items = realloc(layout->items, cap * sizeof *items);
        if (items == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        layout->items = items;
        layout->cap = cap;
    }
    layout->items[layout->count++] = placing;
    return ERR_OK;
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
        snprintf(theirs, sizeof theirs, "model.%s.layers.%u.%s", decoder ? "decoder" : "encoder",
                 block, row->theirs);
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
    snprintf(their_name, sizeof their_name, "model.%s.embed_positions.weight", theirs);
    enum err err =
        place_matrix(maker, PLACING_EXACT, our_name, their_name, config->width, config->positions);
    for (uint32_t i = 0; err == ERR_OK && i < blocks; i++)
        err = place_block(maker, decoder, i);
    if (err != ERR_OK)
        return err;
    snprintf(our_name, sizeof our_name, "%s.output_norm", ours);
    snprintf(their_name, sizeof their_name, "model.%s.layer_norm", theirs);
    return place_pair(maker, our_name, their_name, 0, config->width);
}

static const char *embedding_name(const struct checkpoint *checkpoint)
{
    size_t count = sizeof embedding_names / sizeof *embedding_names, i = 0;

    while (i < count && checkpoint_find(checkpoint, embedding_names[i]) == NULL)
        i++;
    return embedding_names[i < count ? i : 0];
}

static enum err place_embedding(struct maker *maker)
{
    return place_matrix(maker, PLACING_EMBEDDING, "token_embd.weight",
                        embedding_name(maker->checkpoint), maker->config->width,
                        maker->config->vocab);
}

enum err layout_check_vocab(const struct checkpoint *checkpoint, const struct hf_config *config)
{
    struct maker maker = {.checkpoint = checkpoint, .config = config};
    const struct tensor *found = checkpoint_find(checkpoint, embedding_name(checkpoint));

    if (found != NULL && found->dims == 2 && found->shape[0] >= config->vocab)
        return ERR_OK;
    enum err err = place_embedding(&maker); /* says what is wrong with it */
    layout_done(&maker.layout);
    return err;
}

/* What the checkpoint holds beyond the model: a copy of the tied matrix is none of that, unless its
 * shape is another. */
static enum err count_left_out(struct maker *maker)
{
    const struct tensor_list *list = &maker->checkpoint->tensors;
    const struct placing *embedding = &maker->layout.items[0];
    bool *taken = calloc(list->count + 1, sizeof *taken);

    if (taken == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < maker->layout.count; i++)
        taken[maker->layout.items[i].tensor - list->items] = true;
    for (size_t i = 0; i < sizeof embedding_names / sizeof *embedding_names; i++) {
        const struct tensor *copy = checkpoint_find(maker->checkpoint, embedding_names[i]);
        if (copy == NULL)
            continue;
        taken[copy - list->items] = true;
        if (!has_shape(copy, 2, embedding->ne)) {
            free(taken);
            return err_set(ERR_INVALID, "tensor %s has another shape than %s, to which it is tied",
                           copy->name, embedding->tensor->name);
        }
    }
    for (size_t i = 0; i < list->count; i++) {
        if (!taken[i] && maker->layout.left_out++ == 0)
            snprintf(maker->layout.first_left, sizeof maker->layout.first_left, "%.63s",
                     list->items[i].name);
    }
    free(taken);
    return ERR_OK;
}

enum err layout_make(struct layout *out, const struct checkpoint *checkpoint,
                     const struct hf_config *config)
{
    struct maker maker = {.checkpoint = checkpoint, .config = config};
    enum err err = place_embedding(&maker);

    if (err == ERR_OK)
        err = place_vector(&maker, "output.bias", "final_logits_bias", config->vocab);
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
