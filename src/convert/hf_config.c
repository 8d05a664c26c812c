#include "convert/hf_config.h"

#include <stdio.h>
#include <string.h>

#include "convert/files.h"
#include "convert/gguf_blenderbot.h"
#include "convert/hf_generation.h"

#define CONFIG     "config.json"
#define GENERATION "generation_config.json"

enum err hf_bad_field(const struct hf_source *from, const char *key, const char *what)
{
    return err_set(ERR_INVALID, "%.300s/%s: %s %s", from->folder, from->file, key, what);
}

/* An integer within bounds; absent: fallback, which must be within them too. */
enum err hf_read_uint(const struct hf_source *from, const char *key, uint32_t fallback,
                      uint32_t low, uint32_t high, uint32_t *out)
{
    const json_t *value = json_object_get(from->object, key);
    char bounds[64];

    snprintf(bounds, sizeof bounds, "is no number from %u to %u", low, high);
    if (value == NULL || json_is_null(value)) {
        if (fallback < low || fallback > high)
            return hf_bad_field(from, key, bounds);
        *out = fallback;
        return ERR_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < (json_int_t)low ||
        json_integer_value(value) > (json_int_t)high)
        return hf_bad_field(from, key, bounds);
    *out = (uint32_t)json_integer_value(value);
    return ERR_OK;
}

static enum err check_kind(const struct hf_source *from)
{
    const char *type = json_text(from->object, "model_type", "");
    const char *variant = json_text(from->object, "layernorm_variant", "prelayernorm");

    if (strcmp(type, "blenderbot-small") == 0 || strcmp(variant, "prelayernorm") != 0)
        return err_set(ERR_UNSUPPORTED,
                       "%.300s is a BlenderbotSmall model: another architecture (norms behind each "
                       "part, another tokenizer), which is not supported",
                       from->folder);
    if (strcmp(type, "blenderbot") != 0)
        return err_set(ERR_UNSUPPORTED, "%.300s/" CONFIG ": model_type \"%.60s\" is not blenderbot",
                       from->folder, type);
    return ERR_OK;
}

static enum err read_activation(const struct hf_source *from, struct hf_config *out)
{
    static const char *const known[] = {
        "gelu",          "gelu_python",      "gelu_new", "gelu_fast", "gelu_pytorch_tanh",
        "gelu_accurate", "gelu_python_tanh", "relu",     "silu",      "swish"};
    const json_t *value = json_object_get(from->object, "activation_function");
    const char *name = value == NULL ? "gelu" : json_string_value(value);

    for (size_t i = 0; name != NULL && i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i], name) == 0) {
            snprintf(out->activation, sizeof out->activation, "%s", name);
            return ERR_OK;
        }
    }
    return err_set(ERR_UNSUPPORTED, "%.300s/" CONFIG ": activation_function \"%.60s\" is unknown",
                   from->folder, name != NULL ? name : "");
}

/* The model's sizes; what config.json leaves out has BlenderbotConfig's own default. */
static enum err read_sizes(const struct hf_source *from, struct hf_config *out)
{
    const struct {
        const char *key, *alias;      /* the other name goes before, as in the original */
        uint32_t fallback, low, high; /* no wider than the engine has them */
        uint32_t *to;
    } rows[] = {
        {"vocab_size", NULL, 8008, 2, 1u << 20, &out->vocab},
        {"d_model", "hidden_size", 2560, 1, 1u << 15, &out->width},
        {"max_position_embeddings", NULL, 128, 2, 1u << 14, &out->positions},
        {"encoder_layers", "num_hidden_layers", 2, 1, BLENDERBOT_MAX_BLOCKS, &out->encoder.blocks},
        {"decoder_layers", NULL, 24, 1, BLENDERBOT_MAX_BLOCKS, &out->decoder.blocks},
        {"encoder_attention_heads", "num_attention_heads", 32, 1, 1u << 10, &out->encoder.heads},
        {"decoder_attention_heads", NULL, 32, 1, 1u << 10, &out->decoder.heads},
        {"encoder_ffn_dim", NULL, 10240, 1, 1u << 17, &out->encoder.ffn},
        {"decoder_ffn_dim", NULL, 10240, 1, 1u << 17, &out->decoder.ffn},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool other = rows[i].alias != NULL && json_object_get(from->object, rows[i].alias) != NULL;
        enum err err = hf_read_uint(from, other ? rows[i].alias : rows[i].key, rows[i].fallback,
                                    rows[i].low, rows[i].high, rows[i].to);
        if (err != ERR_OK)
            return err;
    }
    if (out->width % out->encoder.heads != 0)
        return hf_bad_field(from, "encoder_attention_heads", "does not divide d_model");
    if (out->width % out->decoder.heads != 0)
        return hf_bad_field(from, "decoder_attention_heads", "does not divide d_model");
    const json_t *scale = json_object_get(from->object, "scale_embedding");
    if (scale != NULL && !json_is_boolean(scale))
        return hf_bad_field(from, "scale_embedding", "is neither true nor false");
    out->scale_embedding = json_is_true(scale);
    const json_t *tied = json_object_get(from->object, "tie_word_embeddings");
    if (tied != NULL && !json_is_boolean(tied))
        return hf_bad_field(from, "tie_word_embeddings", "is neither true nor false");
    out->tied = tied == NULL || json_is_true(tied);
    return read_activation(from, out);
}

static void write_model(const struct hf_config *config, struct gguf_context *gguf)
{
    gguf_set_val_u32(gguf, "blenderbot.vocab_size", config->vocab);
    gguf_set_val_u32(gguf, "blenderbot.embedding_length", config->width);
    gguf_set_val_u32(gguf, "blenderbot.context_length", config->positions);
    gguf_set_val_u32(gguf, "blenderbot.encoder.block_count", config->encoder.blocks);
    gguf_set_val_u32(gguf, "blenderbot.decoder.block_count", config->decoder.blocks);
    gguf_set_val_u32(gguf, "blenderbot.encoder.attention.head_count", config->encoder.heads);
    gguf_set_val_u32(gguf, "blenderbot.decoder.attention.head_count", config->decoder.heads);
    gguf_set_val_u32(gguf, "blenderbot.encoder.feed_forward_length", config->encoder.ffn);
    gguf_set_val_u32(gguf, "blenderbot.decoder.feed_forward_length", config->decoder.ffn);
    gguf_set_val_f32(gguf, "blenderbot.attention.layer_norm_epsilon", LAYER_NORM_EPSILON);
    gguf_set_val_str(gguf, "blenderbot.activation_function", config->activation);
    gguf_set_val_bool(gguf, "blenderbot.scale_embedding", config->scale_embedding);
    gguf_set_val_u32(gguf, "blenderbot.decoder_start_token_id", config->decoder_start);
}

enum err hf_config_read(struct hf_config *out, struct gguf_context *gguf, const char *folder)
{
    struct hf_config config = {0};
    json_t *main_file = NULL, *generation_file = NULL;
    bool own = files_exists(folder, GENERATION);
    enum err err = files_read_json(&main_file, folder, CONFIG);
    if (err == ERR_OK && own)
        err = files_read_json(&generation_file, folder, GENERATION);
    struct hf_source from = {main_file, folder, CONFIG};
    struct hf_source generation = {generation_file, folder, GENERATION};
    if (err == ERR_OK)
        err = check_kind(&from);
    if (err == ERR_OK)
        err = read_sizes(&from, &config);
    if (err == ERR_OK)
        err = hf_generation_read(&config, gguf, own ? &generation : &from, own ? &from : NULL);
    if (err == ERR_OK)
        write_model(&config, gguf);
    json_decref(main_file);
    json_decref(generation_file);
    if (err == ERR_OK)
        *out = config;
    return err;
}
