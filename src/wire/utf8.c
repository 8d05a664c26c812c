#include "wire/utf8.h"

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

size_t utf8_char_len(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;

    if (len == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || len < 2 || !is_continuation(s[1]))
        return 0;
    if (s[0] < 0xe0)
        return 2;
    if (len < 3 || !is_continuation(s[2]))
        return 0;
    if (s[0] < 0xf0) {
        if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f))
            return 0; /* overlong; surrogate */
        return 3;
    }
    if (s[0] > 0xf4 || len < 4 || !is_continuation(s[3]))
        return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0; /* overlong; above U+10FFFF */
    return 4;
}

bool utf8_is_valid(const char *text, size_t len)
{
    size_t at = 0;

    while (at < len) {
        size_t step = utf8_char_len(text + at, len - at);
        if (step == 0)
            return false;
        at += step;
    }
    return true;
}
