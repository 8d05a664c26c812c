/*
 * render_result.c - what tasks without a text bring: vectors, token ids, a prompt.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/write.h"
#include "base/base64.h"

#define VECTOR_BYTES_MAX ((size_t)8 << 20)

/* ---- embeddings ---- */

/* Nine digits say which float it is.  Written without a search for the shortest form: there may be
 * a hundred thousand of them. */
static void write_float(struct json_out *out, float value)
{
    char text[32];
    int len = snprintf(text, sizeof text, "%s%.9g", out->comma ? "," : "", (double)value);

    if (!isfinite(value)) {
        json_out_null(out, NULL);
        return;
    }
    out->comma = true;
    if (out->err == ERR_OK)
        out->err = buf_append(out->buf, text, (size_t)len);
}

static void write_floats(struct json_out *out, const char *base64)
{
    struct buf bytes;

    buf_init(&bytes, VECTOR_BYTES_MAX);
    json_out_array(out, "embedding");
    /* What is broken gives no numbers that were not there. */
    enum err err = base64_decode(&bytes, base64, strlen(base64));
    if (err == ERR_NOMEM && out->err == ERR_OK)
        out->err = err;
    for (size_t i = 0; i + 4 <= bytes.len; i += 4) {
        const unsigned char *at = (const unsigned char *)bytes.data + i;
        uint32_t bits =
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        float value;
        memcpy(&value, &bits, sizeof value);
        write_float(out, value);
    }
    json_out_array_end(out);
    buf_done(&bytes);
}

static void write_embeddings(struct json_out *out, const struct render *render,
                             const struct reply *record, bool as_base64)
{
    const json_t *vectors = json_object_get(record->result, "embeddings");

    json_out_text(out, "object", "list");
    json_out_array(out, "data");
    for (size_t i = 0; i < json_array_size(vectors); i++) {
        const char *base64 = json_string_value(json_array_get(vectors, i));
        json_out_object(out, NULL);
        json_out_text(out, "object", "embedding");
        json_out_uint(out, "index", i);
        if (as_base64)
            json_out_text(out, "embedding", base64 != NULL ? base64 : "");
        else
            write_floats(out, base64 != NULL ? base64 : "");
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_text(out, "model", render->model);
    json_out_object(out, "usage");
    json_out_uint(out, "prompt_tokens", record->prompt_tokens);
    json_out_uint(out, "total_tokens", record->prompt_tokens);
    json_out_object_end(out);
    write_wyvern(out, &record, 1, render->id);
}

/* ---- llama-server's ---- */

static void write_tokens(struct json_out *out, const json_t *result, bool with_pieces)
{
    const json_t *tokens = json_object_get(result, "tokens");
    const json_t *pieces = json_object_get(result, "pieces");

    json_out_array(out, "tokens");
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        int64_t id = json_integer_value(json_array_get(tokens, i));
        const json_t *piece = json_array_get(pieces, i);
        if (!with_pieces) {
            json_out_int(out, NULL, id);
            continue;
        }
        json_out_object(out, NULL);
        json_out_int(out, "id", id);
        if (json_is_array(piece))
            json_out_json(out, "piece", piece);
        else
            json_out_text(out, "piece", json_is_string(piece) ? json_string_value(piece) : "");
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

enum err result_whole(const struct render *render, const struct reply *record,
                      const struct api_request *request, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    switch (render->kind) {
    case API_EMBEDDING:
        write_embeddings(&out, render, record, request->as_base64);
        break;
    case API_TOKENIZE:
        write_tokens(&out, record->result, request->with_pieces);
        break;
    case API_DETOKENIZE:
        json_out_text(&out, "content", json_text(record->result, "content", ""));
        break;
    default:
        json_out_text(&out, "prompt", json_text(record->result, "prompt", ""));
        break;
    }
    json_out_object_end(&out);
    return json_out_end(&out);
}
