/*
 * draw.c - bars and columns in a terminal.
 */
#include <string.h>

#include "config/wrap.h"
#include "verbs/report.h"

static enum err repeat(struct buf *out, const char *text, int count)
{
    enum err err = ERR_OK;
    for (int i = 0; i < count && err == ERR_OK; i++)
        err = buf_append_text(out, text);
    return err;
}

static int share(double part, double whole, int columns)
{
    if (!(whole > 0) || !(part > 0))
        return 0;
    double of = part / whole * columns + 0.5;
    return of >= columns ? columns : (int)of;
}

enum err draw_bar(struct buf *out, const struct term_style *style, double full, double half,
                  double whole, int columns)
{
    int first = share(full, whole, columns);
    int both = share(full + half, whole, columns);
    enum err err = repeat(out, style->utf8 ? "█" : "#", first);
    if (err == ERR_OK)
        err = repeat(out, style->utf8 ? "▒" : "+", both - first);
    if (err == ERR_OK)
        err = repeat(out, style->utf8 ? "░" : ".", columns - both);
    return err;
}

enum err draw_levels(struct buf *out, const struct term_style *style, const double *levels,
                     size_t count)
{
    static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const signs[] = {" ", ".", ".", ":", ":", "=", "=", "#", "#"};
    const char *const *marks = style->utf8 ? blocks : signs;
    enum err err = ERR_OK;
    for (size_t i = 0; i < count && err == ERR_OK; i++) {
        double level = levels[i] < 0 ? 0 : levels[i] > 1 ? 1 : levels[i];
        size_t mark = (size_t)(level * 8 + 0.5);
        if (mark == 0 && level > 0.005)
            mark = 1; /* little is not nothing */
        err = buf_append_text(out, marks[mark]);
    }
    return err;
}

/* Bytes of the character at text. */
static size_t char_len(const char *text)
{
    size_t len = 1;
    while (((unsigned char)text[len] & 0xc0) == 0x80)
        len++;
    return len;
}

enum err draw_text(struct buf *out, const char *text, int columns)
{
    int used = 0;
    enum err err = ERR_OK;
    while (*text != '\0' && err == ERR_OK) {
        char one[8] = "?";
        size_t len = char_len(text);
        if ((unsigned char)text[0] >= 0x20 && text[0] != 0x7f && len < sizeof one &&
            !((unsigned char)text[0] == 0xc2 && (unsigned char)text[1] < 0xa0)) {
            memcpy(one, text, len);
            one[len] = '\0';
        }
        int wide = (int)wrap_columns(one);
        if (used + wide > columns)
            break;
        err = buf_append_text(out, one);
        used += wide;
        text += len;
    }
    return err == ERR_OK ? repeat(out, " ", columns - used) : err;
}
