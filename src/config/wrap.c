#include "config/wrap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int wrap_width(int fd)
{
    struct winsize size;
    int width = 0;
    if (isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0)
        width = size.ws_col;
    const char *columns = getenv("COLUMNS");
    if (width == 0 && columns != NULL)
        width = (int)strtol(columns, NULL, 10);
    if (width <= 0)
        width = WRAP_WIDTH_DEFAULT;
    if (width < WRAP_WIDTH_LEAST)
        return WRAP_WIDTH_LEAST;
    return width > WRAP_WIDTH_MOST ? WRAP_WIDTH_MOST : width;
}

/* The blocks that terminals draw two columns wide, and the marks that take none (Unicode 15, East
 * Asian Width W and F, general category Mn, by block). */
static size_t char_columns(uint32_t c)
{
    static const uint32_t wide[][2] = {
        {0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0x33ff},   {0x3400, 0x4dbf},
        {0x4e00, 0x9fff},   {0xa000, 0xa4cf},   {0xac00, 0xd7a3},   {0xf900, 0xfaff},
        {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},   {0x1f300, 0x1f64f},
        {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd},
    };
    static const uint32_t none[][2] = {
        {0x0300, 0x036f}, {0x200b, 0x200f}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        if (c >= none[i][0] && c <= none[i][1])
            return 0;
    }
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        if (c >= wide[i][0] && c <= wide[i][1])
            return 2;
    }
    return 1;
}

static size_t columns_of(const char *text, size_t len)
{
    size_t columns = 0;
    for (size_t at = 0; at < len;) {
        unsigned char lead = (unsigned char)text[at];
        size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
        uint32_t c = more == 0 ? lead : lead & (0x3fu >> more);
        at++;
        for (; more > 0 && at < len && ((unsigned char)text[at] & 0xc0) == 0x80; more--, at++)
            c = c << 6 | ((unsigned char)text[at] & 0x3fu);
        columns += char_columns(c);
    }
    return columns;
}

size_t wrap_columns(const char *text)
{
    return columns_of(text, strlen(text));
}

void wrap_print(FILE *out, const char *text, int column, int indent, int width)
{
    int start = column;
    while (*text != '\0') {
        if (*text == '\n') {
            fprintf(out, "\n%*s", indent, "");
            start = column = indent;
            text++;
            continue;
        }
        size_t spaces = strspn(text, " ");
        size_t len = strcspn(text + spaces, " \n");
        int word = (int)columns_of(text + spaces, len);
        if (column > start && column + (int)spaces + word > width) {
            fprintf(out, "\n%*s", indent, "");
            start = column = indent;
        } else {
            fwrite(text, 1, spaces, out);
            column += (int)spaces;
        }
        fwrite(text + spaces, 1, len, out);
        column += word;
        text += spaces + len;
    }
    fputc('\n', out);
}
