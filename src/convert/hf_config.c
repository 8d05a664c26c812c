#include "convert/hf_config.h"

#include <stdio.h>
#include <string.h>

#include "convert/files.h"
#include "convert/gguf_blenderbot.h"

#define CONFIG     "config.json"
#define GENERATION "generation_config.json"

/* What a key of one of the files is called in sentences. */
struct source {
    const json_t *object;
    const char *folder, *file;
};

static enum err bad_field(const struct source *from, const char *key, const char *what)
{
    return err_set(ERR_INVALID, "%.300s/%s: %s %s", from->folder, from->file, key, what);
}

/* An integer within bounds; absent: fallback, which must be within them too. */
static enum err read_uint(const struct source *from, const char *key, uint32_t fallback,
                          uint32_t low, uint32_t high, uint32_t *out)
{
    const json_t *value = json_object_get(from->object, key);
    char bounds[64];

    snprintf(bounds, sizeof bounds, "is no number from %u to %u", low, high);
    if (value == NULL || json_is_null(value)) {
        if (fallback < low || fallback > high)
            return bad_field(from, key, bounds);
        *out = fallback;
        return ERR_OK;
    }
    if (json_is_array(value) && json_array_size(value) == 1) /* token ids may be given as a list */
        value = json_array_get(value, 0);
    if (!json_is_integer(value) || json_integer_value(value) < (json_int_t)low ||
        json_integer_value(value) > (json_int_t)high)
        return bad_field(from, key, bounds);
    *out = (uint32_t)json_integer_value(value);
    return ERR_OK;
}

static enum err check_kind(const struct source *from)
{
    const char *type = json_text(from->object, "model_type", "");
    const char *variant = json_text(from->object, "layernorm_variant", "prelayernorm");
    const json_t *tied = json_object_get(from->object, "tie_word_embeddings");

    if (strcmp(type, "blenderbot-small") == 0 || strcmp(variant, "prelayernorm") != 0)
        return err_set(ERR_UNSUPPORTED,
                       "%.300s is a BlenderbotSmall model: another architecture (norms behind each "
                       "part, another tokenizer), which is not supported",
                       from->folder);
    if (strcmp(type, "blenderbot") != 0)
        return err_set(ERR_UNSUPPORTED, "%.300s/" CONFIG ": model_type \"%.60s\" is not blenderbot",
                       from->folder, type);
    if (tied != NULL && !json_is_true(tied))
        return err_set(ERR_UNSUPPORTED,
                       "%.300s/" CONFIG
                       ": tie_word_embeddings is not true: an output matrix of its "
                       "own is not supported",
                       from->folder);
    return ERR_OK;
}

static enum err read_activation(const struct source *from, struct hf_config *out)
{
    static const char *const known[] = {
        "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh",
        "relu", "silu",        "swish"};
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
static enum err read_sizes(const struct source *from, struct hf_config *out)
{
    const struct {
        const char *key;
        uint32_t fallback, low, high; /* no wider than the engine has them */
        uint32_t *to;
    } rows[] = {
        {"vocab_size", 8008, 2, 1u << 20, &out->vocab},
        {"d_model", 2560, 1, 1u << 15, &out->width},
        {"max_position_embeddings", 128, 2, 1u << 14, &out->positions},
        {"encoder_layers", 2, 1, BLENDERBOT_MAX_BLOCKS, &out->encoder.blocks},
        {"decoder_layers", 24, 1, BLENDERBOT_MAX_BLOCKS, &out->decoder.blocks},
        {"encoder_attention_heads", 32, 1, 1u << 10, &out->encoder.heads},
        {"decoder_attention_heads", 32, 1, 1u << 10, &out->decoder.heads},
        {"encoder_ffn_dim", 10240, 1, 1u << 17, &out->encoder.ffn},
        {"decoder_ffn_dim", 10240, 1, 1u << 17, &out->decoder.ffn},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        enum err err =
            read_uint(from, rows[i].key, rows[i].fallback, rows[i].low, rows[i].high, rows[i].to);
        if (err != ERR_OK)
            return err;
    }
    if (out->width % out->encoder.heads != 0)
        return bad_field(from, "encoder_attention_heads", "does not divide d_model");
    if (out->width % out->decoder.heads != 0)
        return bad_field(from, "decoder_attention_heads", "does not divide d_model");
    const json_t *scale = json_object_get(from->object, "scale_embedding");
    if (scale != NULL && !json_is_boolean(scale))
        return bad_field(from, "scale_embedding", "is neither true nor false");
    out->scale_embedding = json_is_true(scale);
    return read_activation(from, out);
}

/* Token ids: generation_config.json where it has them, else config.json, else the class's own. */
static enum err read_ids(const struct source *config, const struct source *generation,
                         struct hf_config *out)
{
    const struct {
        const char *key;
        uint32_t fallback;
        uint32_t *to;
    } rows[] = {
        {"bos_token_id", 1, &out->bos},
        {"eos_token_id", 2, &out->eos},
        {"pad_token_id", 0, &out->pad},
        {"decoder_start_token_id", 1, &out->decoder_start},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t id;
        enum err err = read_uint(config, rows[i].key, rows[i].fallback, 0, out->vocab - 1, &id);
        if (err == ERR_OK)
            err = read_uint(generation, rows[i].key, id, 0, out->vocab - 1, &id);
        if (err != ERR_OK)
            return err;
        *rows[i].to = id;
    }
    return ERR_OK;
}

/* ---- defaults of generate ---- */

enum setting_kind { SETTING_COUNT, SETTING_TOKEN, SETTING_NUMBER, SETTING_FLAG, SETTING_STOPPING };

/* low, high: no wider than the engine has them. */
static const struct {
    const char *name;
    enum setting_kind kind;
    int64_t
        class_default; /* BlenderbotConfig's own, where config.json alone holds them; −1: none */
    double low, high;
} settings[] = {
    {"num_beams", SETTING_COUNT, -1, 1, 64},
    {"no_repeat_ngram_size", SETTING_COUNT, -1, 0, 1 << 14},
    {"encoder_no_repeat_ngram_size", SETTING_COUNT, 3, 0, 1 << 14},
    {"min_length", SETTING_COUNT, -1, 0, INT32_MAX},
    {"min_new_tokens", SETTING_COUNT, -1, 0, INT32_MAX},
    {"max_length", SETTING_COUNT, -1, 1, INT32_MAX},
    {"max_new_tokens", SETTING_COUNT, -1, 1, INT32_MAX},
    {"top_k", SETTING_COUNT, -1, 0, 1 << 20},
    {"num_return_sequences", SETTING_COUNT, -1, 1, 64},
    {"forced_bos_token_id", SETTING_TOKEN, -1, 0, 0},
    {"forced_eos_token_id", SETTING_TOKEN, 2, 0, 0},
    {"length_penalty", SETTING_NUMBER, -1, -100, 100},
    {"repetition_penalty", SETTING_NUMBER, -1, 1e-3, 1e3},
    {"temperature", SETTING_NUMBER, -1, 0, 1e6},
    {"top_p", SETTING_NUMBER, -1, 0, 1},
    {"do_sample", SETTING_FLAG, -1, 0, 0},
    {"early_stopping", SETTING_STOPPING, -1, 0, 0},
};

static enum err write_number(const struct source *from, struct gguf_context *gguf, size_t i,
                             const json_t *value, const char *key)
{
    char bounds[64];
    double number = json_number_value(value);

    snprintf(bounds, sizeof bounds, "is no number from %g to %g", settings[i].low,
             settings[i].high);
    if (!json_is_number(value) || !(number >= settings[i].low && number <= settings[i].high))
        return bad_field(from, settings[i].name, bounds);
    gguf_set_val_f32(gguf, key, (float)number);
    return ERR_OK;
}

static enum err write_setting(const struct source *from, struct gguf_context *gguf, size_t i,
                              const json_t *value, uint32_t vocab)
{
    char key[96];
    uint32_t count;
    enum err err;

    snprintf(key, sizeof key, "blenderbot.generation.%s", settings[i].name);
    switch (settings[i].kind) {
    case SETTING_COUNT:
    case SETTING_TOKEN:
        err = read_uint(from, settings[i].name, 0, (uint32_t)settings[i].low,
                        settings[i].kind == SETTING_TOKEN ? vocab - 1 : (uint32_t)settings[i].high,
                        &count);
        if (err != ERR_OK)
            return err;
        gguf_set_val_u32(gguf, key, count);
        return ERR_OK;
    case SETTING_NUMBER:
        return write_number(from, gguf, i, value, key);
    case SETTING_FLAG:
        if (!json_is_boolean(value))
            return bad_field(from, settings[i].name, "is neither true nor false");
        gguf_set_val_bool(gguf, key, json_is_true(value));
        return ERR_OK;
    case SETTING_STOPPING:
        if (!json_is_boolean(value) &&
            (!json_is_string(value) || strcmp(json_string_value(value), "never") != 0))
            return bad_field(from, settings[i].name, "is neither true, false nor \"never\"");
        gguf_set_val_str(gguf, key,
                         json_is_string(value) ? "never"
                         : json_is_true(value) ? "true"
                                               : "false");
        return ERR_OK;
    }
    return ERR_OK;
}

static enum err write_settings(const struct source *from, struct gguf_context *gguf, uint32_t vocab,
                               bool class_defaults)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const json_t *value = json_object_get(from->object, settings[i].name);
        char key[96];
        if (value == NULL && class_defaults && settings[i].class_default >= 0) {
            if (settings[i].kind == SETTING_TOKEN && settings[i].class_default >= vocab)
                return bad_field(from, settings[i].name, "is missing, and its default no token");
            snprintf(key, sizeof key, "blenderbot.generation.%s", settings[i].name);
            gguf_set_val_u32(gguf, key, (uint32_t)settings[i].class_default);
        }
        if (value == NULL || json_is_null(value))
            continue;
        enum err err = write_setting(from, gguf, i, value, vocab);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
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
    struct source from = {main_file, folder, CONFIG};
    struct source generation = {generation_file, folder, GENERATION};
    if (err == ERR_OK)
        err = check_kind(&from);
    if (err == ERR_OK)
        err = read_sizes(&from, &config);
    if (err == ERR_OK)
        err = read_ids(&from, &generation, &config);
    if (err == ERR_OK) {
        write_model(&config, gguf);
        err = write_settings(own ? &generation : &from, gguf, config.vocab, !own);
    }
    json_decref(main_file);
    json_decref(generation_file);
    if (err == ERR_OK)
        *out = config;
    return err;
}
