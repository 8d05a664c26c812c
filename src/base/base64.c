#include "base/base64.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#define CHUNK 3072 /* bytes at a time; a multiple of 3 */

size_t base64_len(size_t len)
{
    return (len + 2) / 3 * 4;
}

/* Up to CHUNK bytes → text; returns its length. */
static size_t encode_chunk(char *text, const unsigned char *data, size_t len)
{
    char *at = text;
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t bits = (uint32_t)data[i] << 16;
        if (left > 1)
            bits |= (uint32_t)data[i + 1] << 8;
        if (left > 2)
            bits |= data[i + 2];
        *at++ = alphabet[bits >> 18];
        *at++ = alphabet[bits >> 12 & 63];
        *at++ = left > 1 ? alphabet[bits >> 6 & 63] : '=';
        *at++ = left > 2 ? alphabet[bits & 63] : '=';
    }
    return (size_t)(at - text);
}

enum err base64_encode(struct buf *out, const void *data, size_t len)
{
    const unsigned char *bytes = data;
    size_t start = out->len;
    char text[CHUNK / 3 * 4];

    for (size_t i = 0; i < len; i += CHUNK) {
        size_t size = encode_chunk(text, bytes + i, len - i < CHUNK ? len - i : CHUNK);
        enum err err = buf_append(out, text, size);
        if (err != ERR_OK) {
            buf_truncate(out, start);
            return err;
        }
    }
    return ERR_OK;
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

/* Four characters → the bytes they stand for (1 … 3), 0 when they are none. */
static size_t decode_four(unsigned char out[3], const char *text, bool last)
{
    size_t pads = last && text[3] == '=' ? 1 + (text[2] == '=') : 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < 4; i++) {
        int value = i < 4 - pads ? value_of(text[i]) : 0;
        if (value < 0)
            return 0;
        bits = bits << 6 | (uint32_t)value;
    }
    out[0] = (unsigned char)(bits >> 16);
    out[1] = (unsigned char)(bits >> 8);
    out[2] = (unsigned char)bits;
    /* What the padding leaves over is nothing, so that each run of bytes has one text. */
    if ((pads == 1 && out[2] != 0) || (pads == 2 && (out[1] != 0 || out[2] != 0)))
        return 0;
    return 3 - pads;
}

enum err base64_decode(struct buf *out, const char *text, size_t len)
{
    size_t start = out->len;
    enum err err = len % 4 == 0 ? ERR_OK : err_set(ERR_INVALID, "base64 text is cut off");

    for (size_t i = 0; i < len && err == ERR_OK; i += 4) {
        unsigned char bytes[3];
        size_t size = decode_four(bytes, text + i, i + 4 == len);
        if (size == 0)
            err = err_set(ERR_INVALID, "no base64 text at byte %zu", i);
        else
            err = buf_append(out, bytes, size);
    }
    if (err != ERR_OK)
        buf_truncate(out, start);
    return err;
}
