/*
 * pieces.c - the message of every decode step, written and read without a JSON tree (claim.h).
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "wire/claim.h"
#include "wire/json.h"
#include "wire/prompt.h"
#include "wire/utf8.h"

enum err pieces_encode(const struct pieces *pieces, struct buf *buf)
{
    struct json_out out;

    if (pieces->count > PIECES_MAX)
        return err_set(ERR_LIMIT, "%zu pieces in one message", pieces->count);
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_int(&out, "v", WIRE_VERSION);
    json_out_text(&out, "nonce", pieces->nonce);
    json_out_uint(&out, "first", pieces->first);
    json_out_array(&out, "pieces");
    for (size_t i = 0; i < pieces->count; i++) {
        const struct piece *piece = &pieces->items[i];
        json_out_array(&out, NULL);
        json_out_text_len(&out, NULL, piece->text_len > 0 ? piece->text : "", piece->text_len);
        json_out_array(&out, NULL);
        for (size_t k = 0; k < piece->token_count; k++)
            json_out_int(&out, NULL, piece->tokens[k]);
        json_out_array_end(&out);
        if (piece->logprobs != NULL)
            json_out_text_len(&out, NULL, piece->logprobs, piece->logprobs_len);
        json_out_array_end(&out);
    }
    json_out_array_end(&out);
    json_out_flag(&out, "done", pieces->done);
    json_out_object_end(&out);
    return json_out_end(&out);
}

/* Reading.  `bad` is set at the first byte that is not what has to stand there. */
struct reader {
    const char *at, *end;
    char *text;      /* room for the next unescaped text */
    int32_t *tokens; /* room for the next tokens */
    bool bad;
};

static void expect(struct reader *reader, const char *literal)
{
    size_t len = strlen(literal);

    if (reader->bad || (size_t)(reader->end - reader->at) < len ||
        memcmp(reader->at, literal, len) != 0)
        reader->bad = true;
    else
        reader->at += len;
}

static bool next_is(const struct reader *reader, char c)
{
    return !reader->bad && reader->at < reader->end && *reader->at == c;
}

static uint64_t read_uint(struct reader *reader, uint64_t max)
{
    uint64_t value = 0;
    const char *start = reader->at;

    while (!reader->bad && reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
        unsigned digit = (unsigned)(*reader->at++ - '0');
        if (value > (max - digit) / 10)
            reader->bad = true;
        else
            value = value * 10 + digit;
    }
    if (reader->at == start)
        reader->bad = true;
    return value;
}

static int32_t read_token(struct reader *reader)
{
    if (next_is(reader, '-')) {
        reader->at++;
        return (int32_t) - (int64_t)read_uint(reader, INT32_MAX);
    }
    return (int32_t)read_uint(reader, INT32_MAX);
}

static unsigned read_hex4(struct reader *reader)
{
    unsigned value = 0;

    for (int i = 0; i < 4; i++) {
        char c = '\0';
        if (reader->at < reader->end)
            c = *reader->at++;
        if (c >= '0' && c <= '9')
            value = value * 16 + (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (unsigned)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (unsigned)(c - 'A' + 10);
        else
            reader->bad = true;
    }
    return value;
}

static void put_char(struct reader *reader, unsigned code)
{
    if (code < 0x80) {
        *reader->text++ = (char)code;
    } else if (code < 0x800) {
        *reader->text++ = (char)(unsigned char)(0xc0 | code >> 6);
        *reader->text++ = (char)(unsigned char)(0x80 | (code & 0x3f));
    } else {
        if (code < 0x10000) {
            *reader->text++ = (char)(unsigned char)(0xe0 | code >> 12);
        } else {
            *reader->text++ = (char)(unsigned char)(0xf0 | code >> 18);
            *reader->text++ = (char)(unsigned char)(0x80 | (code >> 12 & 0x3f));
        }
        *reader->text++ = (char)(unsigned char)(0x80 | (code >> 6 & 0x3f));
        *reader->text++ = (char)(unsigned char)(0x80 | (code & 0x3f));
    }
}

/* Behind a backslash.  What it stands for is never longer than how it is written. */
static void read_escape(struct reader *reader)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = '\0';
    const char *found;
    unsigned code;

    if (reader->at < reader->end)
        c = *reader->at++;
    found = c == '\0' ? NULL : strchr(from, c);
    if (found != NULL) {
        *reader->text++ = to[found - from];
        return;
    }
    if (c != 'u') {
        reader->bad = true;
        return;
    }
    code = read_hex4(reader);
    if (code >= 0xd800 && code < 0xdc00) {
        unsigned low;
        expect(reader, "\\u");
        low = reader->bad ? 0 : read_hex4(reader);
        if (low < 0xdc00 || low > 0xdfff)
            reader->bad = true;
        else
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code == 0 || (code >= 0xdc00 && code < 0xe000)) {
        reader->bad = true;
    }
    if (!reader->bad)
        put_char(reader, code);
}

/* A string; *len is that of what it stands for. */
static const char *read_text(struct reader *reader, size_t *len)
{
    char *start = reader->text;

    expect(reader, "\"");
    while (!reader->bad && reader->at < reader->end && *reader->at != '"') {
        size_t left = (size_t)(reader->end - reader->at);
        if (*reader->at == '\\') {
            reader->at++;
            read_escape(reader);
            continue;
        }
        size_t step = (unsigned char)*reader->at < 0x20 ? 0 : utf8_char_len(reader->at, left);
        if (step == 0)
            reader->bad = true;
        for (; step > 0; step--)
            *reader->text++ = *reader->at++;
    }
    expect(reader, "\"");
    *len = (size_t)(reader->text - start);
    *reader->text++ = '\0'; /* in place of the quotes */
    return start;
}

static void read_piece(struct reader *reader, struct piece *piece)
{
    expect(reader, "[");
    piece->text = read_text(reader, &piece->text_len);
    expect(reader, ",[");
    piece->tokens = reader->tokens;
    while (!reader->bad && !next_is(reader, ']')) {
        if (reader->tokens != piece->tokens)
            expect(reader, ",");
        *reader->tokens = read_token(reader);
        if (!reader->bad)
            reader->tokens++;
    }
    expect(reader, "]");
    piece->token_count = (size_t)(reader->tokens - piece->tokens);
    piece->logprobs = NULL;
    piece->logprobs_len = 0;
    if (next_is(reader, ',')) {
        expect(reader, ",");
        piece->logprobs = read_text(reader, &piece->logprobs_len);
    }
    expect(reader, "]");
}

static void read_nonce(struct reader *reader, char nonce[TAG_SIZE])
{
    if (reader->bad || reader->end - reader->at < TAG_LEN) {
        reader->bad = true;
        return;
    }
    memcpy(nonce, reader->at, TAG_LEN);
    nonce[TAG_LEN] = '\0';
    reader->bad = !id_is_valid(nonce, TAG_LEN);
    reader->at += TAG_LEN;
}

#define VERSION_TEXT_(n) #n
#define VERSION_TEXT(n)  VERSION_TEXT_(n)

enum err pieces_decode(struct pieces *out, const char *data, size_t len)
{
    /* upper bounds of what len bytes can hold: ["",[]] is 7 bytes, a token and its comma 2 */
    size_t most = len / 7 + 1 < PIECES_MAX ? len / 7 + 1 : PIECES_MAX;
    size_t items_size = most * sizeof(struct piece), tokens_size = (len / 2 + 1) * sizeof(int32_t);
    struct pieces pieces = {.store = malloc(items_size + tokens_size + len + 1)};
    struct reader reader = {.at = data, .end = data + len};

    if (pieces.store == NULL)
        return err_set(ERR_NOMEM, "no memory for pieces of %zu bytes", len);
    pieces.items = pieces.store;
    reader.tokens = (int32_t *)(void *)((char *)pieces.store + items_size);
    reader.text = (char *)pieces.store + items_size + tokens_size;
    expect(&reader, "{\"v\":" VERSION_TEXT(WIRE_VERSION) ",\"nonce\":\"");
    read_nonce(&reader, pieces.nonce);
    expect(&reader, "\",\"first\":");
    pieces.first = read_uint(&reader, INT64_MAX);
    expect(&reader, ",\"pieces\":[");
    while (!reader.bad && !next_is(&reader, ']')) {
        if (pieces.count > 0)
            expect(&reader, ",");
        if (pieces.count == most)
            reader.bad = true;
        if (!reader.bad)
            read_piece(&reader, &pieces.items[pieces.count++]);
    }
    expect(&reader, "],\"done\":");
    pieces.done = next_is(&reader, 't');
    expect(&reader, pieces.done ? "true}" : "false}");
    if (reader.bad || reader.at != reader.end) {
        size_t at = (size_t)(reader.at - data);
        pieces_done(&pieces);
        return err_set(ERR_INVALID, "pieces message: unexpected byte at %zu", at);
    }
    *out = pieces;
    return ERR_OK;
}

void pieces_done(struct pieces *pieces)
{
    if (pieces == NULL)
        return;
    free(pieces->store);
    *pieces = (struct pieces){.count = 0};
}
