#include "engine/emit.h"

#include <stdlib.h>
#include <string.h>

#define HELD_LIMIT   ((size_t)1 << 24)
#define TOKENS_LIMIT ((size_t)1 << 26)
#define REPLACEMENT  "\xEF\xBF\xBD"

enum shape { SHAPE_WHOLE, SHAPE_PARTIAL, SHAPE_BAD };

/* Looks at the character at the front of data (len ≥ 1).  *size: its bytes, or for SHAPE_BAD how
 * many bytes one U+FFFD stands for (the longest beginning of a character, as Unicode advises). */
static enum shape char_shape(const char *data, size_t len, size_t *size)
{
    const unsigned char *s = (const unsigned char *)data;
    unsigned char low = 0x80, high = 0xBF;
    size_t need;
    *size = 1;
    if (s[0] == '\0')
        return SHAPE_BAD; /* many a reader would take it for the text's end */
    if (s[0] < 0x80)
        return SHAPE_WHOLE;
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        need = 2;
    } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        need = 3;
        low = s[0] == 0xE0 ? 0xA0 : 0x80;
        high = s[0] == 0xED ? 0x9F : 0xBF;
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        need = 4;
        low = s[0] == 0xF0 ? 0x90 : 0x80;
        high = s[0] == 0xF4 ? 0x8F : 0xBF;
    } else {
        return SHAPE_BAD;
    }
    for (size_t i = 1; i < need; i++) {
        *size = i;
        if (i == len)
            return SHAPE_PARTIAL;
        if (s[i] < low || s[i] > high)
            return SHAPE_BAD;
        low = 0x80;
        high = 0xBF;
    }
    *size = need;
    return SHAPE_WHOLE;
}

enum err emit_init(struct emit *emit, const char *const *stop, size_t stop_count)
{
    *emit = (struct emit){0};
    buf_init(&emit->held, HELD_LIMIT);
    buf_init(&emit->piece, HELD_LIMIT);
    buf_init(&emit->taken, TOKENS_LIMIT);
    buf_init(&emit->tokens, TOKENS_LIMIT);
    buf_init(&emit->noted, TOKENS_LIMIT);
    buf_init(&emit->notes, TOKENS_LIMIT);
    if (stop_count == 0)
        return ERR_OK;
    emit->stop = calloc(stop_count, sizeof *emit->stop);
    if (emit->stop == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < stop_count; i++) {
        emit->stop[i] = strdup(stop[i]);
        if (emit->stop[i] == NULL) {
            emit_done(emit);
            return err_set(ERR_NOMEM, "out of memory");
        }
        emit->stop_count++;
    }
    return ERR_OK;
}

void emit_done(struct emit *emit)
{
    for (size_t i = 0; i < emit->stop_count; i++)
        free(emit->stop[i]);
    free(emit->stop);
    buf_done(&emit->held);
    buf_done(&emit->piece);
    buf_done(&emit->taken);
    buf_done(&emit->tokens);
    buf_done(&emit->noted);
    buf_done(&emit->notes);
    *emit = (struct emit){0};
}

/* Appends the whole characters of data to held; returns how many bytes of an unfinished one are
 * left at the end. */
static enum err hold(struct emit *emit, const char *data, size_t len, size_t *left)
{
    size_t i = 0, plain = 0, size;
    enum err err = ERR_OK;
    *left = 0;
    while (i < len && err == ERR_OK) {
        enum shape shape = char_shape(data + i, len - i, &size);
        if (shape == SHAPE_WHOLE) {
            i += size;
            continue;
        }
        err = buf_append(&emit->held, data + plain, i - plain);
        if (shape == SHAPE_PARTIAL) {
            *left = len - i;
            return err;
        }
        if (err == ERR_OK)
            err = buf_append_text(&emit->held, REPLACEMENT);
        i += size;
        plain = i;
    }
    return err == ERR_OK ? buf_append(&emit->held, data + plain, i - plain) : err;
}

/* Ends held before the first stop string in it, looking at bytes from `from` on. */
static void cut_at_stop(struct emit *emit, size_t from)
{
    size_t cut = emit->held.len;
    for (size_t i = 0; i < emit->stop_count; i++) {
        const char *stop = emit->stop[i];
        size_t stop_len = strlen(stop);
        size_t start = from > stop_len - 1 ? from - (stop_len - 1) : 0;
        if (emit->held.len - start < stop_len)
            continue;
        const char *hit = memmem(emit->held.data + start, emit->held.len - start, stop, stop_len);
        if (hit == NULL)
            continue;
        emit->stopped = true;
        if ((size_t)(hit - emit->held.data) < cut)
            cut = (size_t)(hit - emit->held.data);
    }
    if (emit->stopped)
        emit->held.len = cut;
}

enum err emit_token(struct emit *emit, int32_t token, const char *text, size_t len)
{
    enum err err = buf_append(&emit->taken, &token, sizeof token);
    if (err != ERR_OK || emit->stopped || len == 0)
        return err;
    size_t before = emit->held.len, left;
    char *joined = NULL;
    if (emit->partial_len > 0) {
        joined = malloc(emit->partial_len + len);
        if (joined == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        memcpy(joined, emit->partial, emit->partial_len);
        memcpy(joined + emit->partial_len, text, len);
        text = joined;
        len += emit->partial_len;
    }
    err = hold(emit, text, len, &left);
    if (err == ERR_OK) {
        memcpy(emit->partial, text + len - left, left);
        emit->partial_len = left;
        cut_at_stop(emit, before);
    }
    free(joined);
    return err;
}

enum err emit_note(struct emit *emit, const char *json, size_t len)
{
    enum err err = emit->noted.len > 0 ? buf_append(&emit->noted, ",", 1) : ERR_OK;
    return err == ERR_OK ? buf_append(&emit->noted, json, len) : err;
}

enum err emit_resume(struct emit *emit, const char *text)
{
    size_t len = strlen(text);
    if (len > emit->held.len || (len > 0 && memcmp(emit->held.data, text, len) != 0))
        return err_set(ERR_INVALID,
                       "the tokens to go on from do not make up the text already said");
    buf_consume(&emit->held, len);
    buf_clear(&emit->taken);
    return ERR_OK;
}

/* How many bytes at the end of held could be the beginning of a stop string. */
static size_t maybe_stop(const struct emit *emit)
{
    size_t most = 0;
    for (size_t i = 0; i < emit->stop_count; i++) {
        size_t len = strlen(emit->stop[i]) - 1;
        if (len > emit->held.len)
            len = emit->held.len;
        while (len > most &&
               memcmp(emit->held.data + emit->held.len - len, emit->stop[i], len) != 0)
            len--;
        if (len > most)
            most = len;
    }
    return most;
}

enum err emit_end(struct emit *emit)
{
    if (emit->partial_len == 0 || emit->stopped)
        return ERR_OK;
    emit->partial_len = 0;
    return buf_append_text(&emit->held, REPLACEMENT);
}

enum err emit_take(struct emit *emit, bool last, bool *any)
{
    buf_clear(&emit->piece);
    buf_clear(&emit->tokens);
    buf_clear(&emit->notes);
    size_t len = emit->held.len;
    if (!last && !emit->stopped)
        len -= maybe_stop(emit);
    if (len > 0) {
        enum err err = buf_append(&emit->piece, emit->held.data, len);
        if (err != ERR_OK)
            return err;
        buf_consume(&emit->held, len);
    }
    if (len > 0 || last) {
        struct buf given = emit->tokens;
        emit->tokens = emit->taken;
        emit->taken = given;
    }
    if ((len > 0 || last) && emit->noted.len > 0) {
        enum err err = buf_append(&emit->notes, "[", 1);
        if (err == ERR_OK)
            err = buf_append(&emit->notes, emit->noted.data, emit->noted.len);
        if (err == ERR_OK)
            err = buf_append(&emit->notes, "]", 1);
        if (err != ERR_OK)
            return err;
        buf_clear(&emit->noted);
    }
    *any = emit->piece.len > 0 || emit->tokens.len > 0;
    return ERR_OK;
}

enum err emit_clean(struct buf *out, const char *data, size_t len)
{
    enum err err = ERR_OK;
    size_t size = 0;
    for (size_t i = 0; i < len && err == ERR_OK; i += size) {
        bool whole = char_shape(data + i, len - i, &size) == SHAPE_WHOLE && data[i] != '\0';
        err = whole ? buf_append(out, data + i, size) : buf_append_text(out, REPLACEMENT);
    }
    return err;
}
