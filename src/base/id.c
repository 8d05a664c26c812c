#include "base/id.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void id_random(char *out, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[64];
    assert(digits % 2 == 0 && digits / 2 <= sizeof bytes);
    size_t have = 0;
    while (have < digits / 2) {
        ssize_t got = getrandom(bytes + have, digits / 2 - have, 0);
        if (got < 0 && errno != EINTR)
            abort(); /* no kernel we run on is without getrandom; a guessable id must not be made */
        if (got > 0)
            have += (size_t)got;
    }
    for (size_t i = 0; i < digits / 2; i++) {
        out[2 * i] = hex[bytes[i] >> 4];
        out[2 * i + 1] = hex[bytes[i] & 15];
    }
    out[digits] = '\0';
}

bool id_is_valid(const char *text, size_t digits)
{
    return strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}
