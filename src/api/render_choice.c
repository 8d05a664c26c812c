/*
 * render_choice.c - chat completions and completions: their choices, whole and in chunks.
 */
#include <string.h>

#include "api/write.h"

static bool is_chat(const struct render *render)
{
    return render->kind == API_CHAT;
}

/* {"id":…,"object":…,"created":…,"model":…,"system_fingerprint":… */
static void write_head(struct json_out *out, const struct render *render, bool chunk)
{
    const char *object = "text_completion";

    if (is_chat(render))
        object = chunk ? "chat.completion.chunk" : "chat.completion";
    json_out_object(out, NULL);
    json_out_text(out, "id", render->id);
    json_out_text(out, "object", object);
    json_out_int(out, "created", write_seconds(render->created));
    json_out_text(out, "model", render->model);
    json_out_text(out, "system_fingerprint", FINGERPRINT);
}

/* ---- logprobs ---- */

/* Where in the reply's text a token begins, in characters; a token that is the later part of one
 * begins where that does. */
static size_t offset_of(size_t *characters, const json_t *entry)
{
    const json_t *bytes = json_object_get(entry, "bytes");
    size_t begun = *characters;
    bool goes_on = (json_integer_value(json_array_get(bytes, 0)) & 0xc0) == 0x80;

    for (size_t i = 0; i < json_array_size(bytes); i++)
        *characters += (json_integer_value(json_array_get(bytes, i)) & 0xc0) != 0x80;
    return goes_on && begun > 0 ? begun - 1 : begun;
}

/* "token":logprob; tokens are any text, so no key that json_out_number takes. */
static void write_pair(struct json_out *out, const json_t *entry)
{
    const char *token = json_text(entry, "token", "");

    if (out->err == ERR_OK && out->comma)
        out->err = buf_append(out->buf, ",", 1);
    if (out->err == ERR_OK)
        out->err = json_append_string(out->buf, token, strlen(token));
    if (out->err == ERR_OK)
        out->err = buf_append(out->buf, ":", 1);
    out->comma = false;
    json_out_number(out, NULL, json_number(entry, "logprob", 0));
}

/* Is there an entry of this token before the one at `end`? */
static bool is_among(const json_t *entries, size_t end, const char *token)
{
    for (size_t i = 0; i < end; i++)
        if (strcmp(json_text(json_array_get(entries, i), "token", ""), token) == 0)
            return true;
    return false;
}

/* {token: logprob, …}: the alternatives, and the token itself where it is none of them.  Tokens
 * that are parts of characters look alike: the likeliest stands for all. */
static void write_tops(struct json_out *out, const json_t *entry)
{
    const json_t *tops = json_object_get(entry, "top_logprobs");

    json_out_object(out, NULL);
    for (size_t i = 0; i < json_array_size(tops); i++) {
        const json_t *top = json_array_get(tops, i);
        if (!is_among(tops, i, json_text(top, "token", "")))
            write_pair(out, top);
    }
    if (!is_among(tops, json_array_size(tops), json_text(entry, "token", "")))
        write_pair(out, entry);
    json_out_object_end(out);
}

static bool have_tops(const json_t *entries)
{
    for (size_t i = 0; i < json_array_size(entries); i++)
        if (json_array_size(json_object_get(json_array_get(entries, i), "top_logprobs")) > 0)
            return true;
    return false;
}

/* The older form: an array for each property. */
static void write_parallel(struct json_out *out, struct render *render, const json_t *entries)
{
    size_t count = json_array_size(entries);

    json_out_object(out, "logprobs");
    json_out_array(out, "tokens");
    for (size_t i = 0; i < count; i++)
        json_out_text(out, NULL, json_text(json_array_get(entries, i), "token", ""));
    json_out_array_end(out);
    json_out_array(out, "token_logprobs");
    for (size_t i = 0; i < count; i++)
        json_out_number(out, NULL, json_number(json_array_get(entries, i), "logprob", 0));
    json_out_array_end(out);
    if (have_tops(entries)) {
        json_out_array(out, "top_logprobs");
        for (size_t i = 0; i < count; i++)
            write_tops(out, json_array_get(entries, i));
        json_out_array_end(out);
    } else {
        json_out_null(out, "top_logprobs");
    }
    json_out_array(out, "text_offset");
    for (size_t i = 0; i < count; i++)
        json_out_uint(out, NULL, offset_of(&render->text_offset, json_array_get(entries, i)));
    json_out_array_end(out);
    json_out_object_end(out);
}

/* OpenAI's newer form: one object for each token.  Written field by field, because a JSON tree's
 * numbers come out with more digits than they have. */
static void write_entry(struct json_out *out, const json_t *entry, bool tops)
{
    const json_t *others = json_object_get(entry, "top_logprobs");

    json_out_object(out, NULL);
    json_out_text(out, "token", json_text(entry, "token", ""));
    json_out_number(out, "logprob", json_number(entry, "logprob", 0));
    json_out_json(out, "bytes", json_object_get(entry, "bytes"));
    if (tops) {
        json_out_array(out, "top_logprobs");
        for (size_t i = 0; i < json_array_size(others); i++)
            write_entry(out, json_array_get(others, i), false);
        json_out_array_end(out);
    }
    json_out_object_end(out);
}

static void write_entries(struct json_out *out, const json_t *entries)
{
    json_out_object(out, "logprobs");
    json_out_array(out, "content");
    for (size_t i = 0; i < json_array_size(entries); i++)
        write_entry(out, json_array_get(entries, i), true);
    json_out_array_end(out);
    json_out_null(out, "refusal");
    json_out_object_end(out);
}

void write_logprobs(struct json_out *out, struct render *render, const json_t *entries)
{
    if (!render->logprobs || entries == NULL) {
        json_out_null(out, "logprobs");
    } else if (is_chat(render)) {
        write_entries(out, entries);
    } else {
        write_parallel(out, render, entries);
    }
}

/* ---- chunks ---- */

static void write_chunk_choice(struct json_out *out, struct render *render, const char *text,
                               size_t len, const json_t *logprobs, const char *finish, bool last)
{
    json_out_array(out, "choices");
    json_out_object(out, NULL);
    json_out_uint(out, "index", render->index);
    if (is_chat(render)) {
        json_out_object(out, "delta");
        if (!render->opened)
            json_out_text(out, "role", "assistant");
        if (!last)
            json_out_text_len(out, "content", text, len);
        json_out_object_end(out);
    } else {
        json_out_text_len(out, "text", text, len);
    }
    write_logprobs(out, render, logprobs);
    json_out_text(out, "finish_reason", finish);
    json_out_object_end(out);
    json_out_array_end(out);
}

static enum err send_text(struct render *render, const char *text, size_t len,
                          const json_t *logprobs, render_event_fn *fn, void *arg)
{
    struct json_out out;
    struct buf json;
    enum err err;

    buf_init(&json, RENDER_BYTES_MAX);
    json_out_begin(&out, &json);
    write_head(&out, render, true);
    write_chunk_choice(&out, render, text, len, logprobs, NULL, false);
    json_out_object_end(&out);
    err = json_out_end(&out);
    if (err == ERR_OK) {
        render->opened = true;
        fn(arg, NULL, -1, &json);
    }
    buf_done(&json);
    return err;
}

/* The first text is preceded by what is echoed. */
static enum err send_echo(struct render *render, render_event_fn *fn, void *arg)
{
    if (render->opened || is_chat(render) || render->echo == NULL)
        return ERR_OK;
    return send_text(render, render->echo, strlen(render->echo), NULL, fn, arg);
}

enum err choice_piece(struct render *render, const struct piece *piece, render_event_fn *fn,
                      void *arg)
{
    json_t *logprobs = NULL;
    enum err err = send_echo(render, fn, arg);

    if (err == ERR_OK && render->logprobs && piece->logprobs != NULL)
        err = json_parse(&logprobs, piece->logprobs, piece->logprobs_len);
    if (err == ERR_OK)
        err = send_text(render, piece->text, piece->text_len, logprobs, fn, arg);
    json_decref(logprobs);
    return err;
}

enum err choice_close(struct render *render, const struct reply *record, render_event_fn *fn,
                      void *arg)
{
    struct json_out out;
    struct buf json;
    enum err err = send_echo(render, fn, arg);

    if (err == ERR_OK && !render->opened) /* an empty reply */
        err = send_text(render, "", 0, NULL, fn, arg);
    if (err != ERR_OK)
        return err;
    buf_init(&json, RENDER_BYTES_MAX);
    json_out_begin(&out, &json);
    write_head(&out, render, true);
    write_chunk_choice(&out, render, "", 0, NULL, text_given(record->finish_reason), true);
    write_timings(&out, &record, 1);
    write_wyvern(&out, &record, 1, render->id);
    json_out_object_end(&out);
    err = json_out_end(&out);
    if (err == ERR_OK)
        fn(arg, NULL, -1, &json);
    buf_done(&json);
    return err;
}

enum err render_usage(const struct render *render, const struct reply *const *records, size_t count,
                      render_event_fn *fn, void *arg)
{
    struct json_out out;
    struct buf json;
    enum err err;

    buf_init(&json, RENDER_BYTES_MAX);
    json_out_begin(&out, &json);
    write_head(&out, render, true);
    json_out_array(&out, "choices");
    json_out_array_end(&out);
    write_usage(&out, records, count, render->n);
    json_out_object_end(&out);
    err = json_out_end(&out);
    if (err == ERR_OK)
        fn(arg, NULL, -1, &json);
    buf_done(&json);
    return err;
}

/* ---- whole ---- */

static void write_text(struct json_out *out, const struct render *render, const char *text)
{
    struct buf whole;

    if (render->echo == NULL) {
        json_out_text(out, "text", text);
        return;
    }
    buf_init(&whole, RENDER_BYTES_MAX);
    if (out->err == ERR_OK)
        out->err = buf_append_text(&whole, render->echo);
    if (out->err == ERR_OK)
        out->err = buf_append_text(&whole, text);
    json_out_text_len(out, "text", buf_text(&whole), whole.len);
    buf_done(&whole);
}

static void write_choice(struct json_out *out, const struct render *render, size_t index,
                         const char *text, const json_t *logprobs, const char *finish)
{
    struct render begun = *render; /* counts its text's characters */

    json_out_object(out, NULL);
    json_out_uint(out, "index", index);
    if (is_chat(render)) {
        json_out_object(out, "message");
        json_out_text(out, "role", "assistant");
        json_out_text(out, "content", text);
        json_out_null(out, "refusal");
        json_out_object_end(out);
    } else {
        write_text(out, render, text);
    }
    write_logprobs(out, &begun, logprobs);
    json_out_text(out, "finish_reason", finish);
    json_out_object_end(out);
}

enum err choice_whole(const struct render *render, const struct reply *const *records, size_t count,
                      unsigned n, struct buf *buf)
{
    struct json_out out;
    size_t index = 0;

    json_out_begin(&out, buf);
    write_head(&out, render, false);
    json_out_array(&out, "choices");
    for (size_t i = 0; i < count; i++) {
        const struct reply *record = records[i];
        write_choice(&out, &render[i], index++, record->text != NULL ? record->text : "",
                     record->logprobs, text_given(record->finish_reason));
        for (size_t k = 1; k < json_array_size(record->choices); k++) {
            const json_t *choice = json_array_get(record->choices, k);
            write_choice(&out, &render[i], index++, json_text(choice, "text", ""), NULL,
                         text_given(json_text(choice, "finish_reason", NULL)));
        }
    }
    json_out_array_end(&out);
    write_usage(&out, records, count, n);
    json_out_json(&out, "metadata", json_object_get(render->request, "metadata"));
    write_timings(&out, records, count);
    write_wyvern(&out, records, count, render->id);
    json_out_object_end(&out);
    return json_out_end(&out);
}
