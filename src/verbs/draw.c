/*
 * draw.c - bars and columns in a terminal.
 */
#include <math.h>
#include <string.h>

#include "config/wrap.h"
#include "verbs/report.h"
#include "wire/utf8.h"

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
        if (isnan(levels[i])) {
            err = buf_append_text(out, style->utf8 ? "·" : "-");
            continue;
        }
        double level = levels[i] < 0 ? 0 : levels[i] > 1 ? 1 : levels[i];
        size_t mark = (size_t)(level * 8 + 0.5);
        if (mark == 0 && level > 0.005)
            mark = 1; /* little is not nothing */
        err = buf_append_text(out, marks[mark]);
    }
    return err;
}

enum err draw_text(struct buf *out, const char *text, int columns)
{
    int used = 0;
    enum err err = ERR_OK;
    size_t left = strlen(text);
    while (left > 0 && err == ERR_OK) {
        char one[8] = "?";
        size_t len = utf8_char_len(text, left);
        if (len > 0 && !term_is_harmful(text, len)) {
            memcpy(one, text, len);
            one[len] = '\0';
        }
        int wide = (int)wrap_columns(one);
        if (used + wide > columns)
            break;
        err = buf_append_text(out, one);
        used += wide;
        text += len > 0 ? len : 1;
        left -= len > 0 ? len : 1;
    }
    return err == ERR_OK ? repeat(out, " ", columns - used) : err;
}
