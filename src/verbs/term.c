#include "verbs/term.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config/wrap.h"
#include "wire/utf8.h"

static bool locale_is_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = getenv(names[i]);
        if (value != NULL && *value != '\0')
            return strcasestr(value, "utf-8") != NULL || strcasestr(value, "utf8") != NULL;
    }
    return true; /* nothing said: as nearly every terminal today */
}

struct term_style term_style_of(FILE *stream)
{
    const char *kind = getenv("TERM");
    const char *no_colour = getenv("NO_COLOR");
    bool moves = isatty(fileno(stream)) && kind != NULL && strcmp(kind, "dumb") != 0;
    struct term_style style = {
        .width = wrap_width(fileno(stream)),
        .utf8 = locale_is_utf8(),
        .colour = moves && (no_colour == NULL || *no_colour == '\0'),
        .redraw = moves,
    };
    return style;
}

const char *term_bold(const struct term_style *style)
{
    return style->colour ? "\033[1m" : "";
}

const char *term_dim(const struct term_style *style)
{
    return style->colour ? "\033[2m" : "";
}

const char *term_red(const struct term_style *style)
{
    return style->colour ? "\033[31m" : "";
}

const char *term_green(const struct term_style *style)
{
    return style->colour ? "\033[32m" : "";
}

const char *term_yellow(const struct term_style *style)
{
    return style->colour ? "\033[33m" : "";
}

const char *term_cyan(const struct term_style *style)
{
    return style->colour ? "\033[36m" : "";
}

const char *term_reset(const struct term_style *style)
{
    return style->colour ? "\033[0m" : "";
}

bool term_is_harmful(const char *text, size_t len)
{
    unsigned char a = (unsigned char)text[0];
    unsigned char b = len > 1 ? (unsigned char)text[1] : 0;
    unsigned char c = len > 2 ? (unsigned char)text[2] : 0;
    if (len == 1)
        return a < 0x20 || a == 0x7f;
    if (len == 2)
        return a == 0xc2 && b < 0xa0;
    return a == 0xe2 && ((b == 0x80 && (c == 0x8e || c == 0x8f || (c >= 0xa8 && c <= 0xae))) ||
                         (b == 0x81 && c >= 0xa6 && c <= 0xa9));
}

/* Bytes at text that may not reach a terminal, 0 when the character there may; *len: its own. */
static size_t control_len(const char *text, size_t left, size_t *len)
{
    *len = utf8_char_len(text, left);
    if (*len == 0)
        return 1; /* broken: a terminal may take it for a control */
    if (*text == '\n' || *text == '\t')
        return 0;
    return term_is_harmful(text, *len) ? *len : 0;
}

char *term_safe(const char *text)
{
    size_t left = strlen(text), to = 0;
    char *safe = malloc(left + 1);
    while (safe != NULL && left > 0) {
        size_t len = 0, control = control_len(text, left, &len);
        size_t step = control > 0 ? control : len;
        if (control > 0)
            safe[to++] = '?';
        else
            memcpy(safe + to, text, len);
        to += control > 0 ? 0 : len;
        text += step;
        left -= step;
    }
    if (safe != NULL)
        safe[to] = '\0';
    return safe;
}

/* Why a write to standard output failed first; errno is another one by the time we say it. */
static int write_fault;

static bool write_ended(FILE *out)
{
    if (!ferror(out))
        return true;
    if (out == stdout && write_fault == 0)
        write_fault = errno;
    return false;
}

bool term_text(FILE *out, const char *text, size_t len)
{
    if (!isatty(fileno(out))) {
        fwrite(text, 1, len, out);
        return write_ended(out);
    }
    size_t start = 0;
    for (size_t at = 0; at < len;) {
        size_t whole = 0;
        size_t control = control_len(text + at, len - at, &whole);
        if (control == 0) {
            at += whole;
            continue;
        }
        fwrite(text + start, 1, at - start, out);
        fputc('?', out);
        at += control;
        start = at;
    }
    fwrite(text + start, 1, len - start, out);
    return write_ended(out);
}

bool term_words(void *arg, const char *text, size_t len)
{
    (void)arg;
    if (!term_text(stdout, text, len))
        return false;
    (void)fflush(stdout); /* its failure shows in ferror() */
    return write_ended(stdout);
}

bool term_drawn(const char *text, size_t len)
{
    if (len > 0)
        fwrite(text, 1, len, stdout);
    if (write_ended(stdout) && len == 0)
        (void)fflush(stdout);
    return write_ended(stdout);
}

void term_truncated(uint64_t tokens)
{
    struct term_style style = term_style_of(stderr);
    if (tokens > 0)
        fprintf(stderr, "%s(%llu token%s of the prompt did not fit and %s left out)%s\n",
                term_dim(&style), (unsigned long long)tokens, tokens == 1 ? "" : "s",
                tokens == 1 ? "was" : "were", term_reset(&style));
}

void term_say(const char *label, const char *text, int indent)
{
    fputs(label, stderr);
    if (!isatty(STDERR_FILENO)) {
        fprintf(stderr, "%s\n", text);
        return;
    }
    char *safe = term_safe(text);
    wrap_print(stderr, safe != NULL ? safe : "", (int)wrap_columns(label), indent,
               wrap_width(STDERR_FILENO));
    free(safe);
}

int term_fail(enum err err)
{
    term_say("wyvern: ", err_text(), 0);
    return err_exit_status(err);
}

int term_finish(int status)
{
    errno = 0;
    (void)fflush(stdout);
    if (write_ended(stdout) || write_fault == EPIPE || write_fault == 0)
        return status;
    fprintf(stderr, "wyvern: can't write the output: %s\n", strerror(write_fault));
    return status == EX_OK ? EX_IOERR : status;
}

void term_live_clear(struct term_live *live)
{
    if (live->lines > 0)
        fprintf(stderr, "\033[%dA\r\033[J", live->lines);
    live->lines = 0;
    fflush(stderr);
}

void term_live_draw(struct term_live *live, const struct buf *frame)
{
    /* One write a frame: nothing flickers, and no half frame stays when we are stopped. */
    struct buf out;
    buf_init(&out, (size_t)1 << 20);
    bool whole = true;
    if (live->lines > 0)
        whole = buf_printf(&out, "\033[%dA\r", live->lines) == ERR_OK;
    int lines = 0;
    const char *end = buf_text(frame) + frame->len;
    for (const char *at = buf_text(frame); whole && at < end; lines++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = newline != NULL ? (size_t)(newline - at) : (size_t)(end - at);
        whole = buf_append(&out, at, len) == ERR_OK && buf_append_text(&out, "\033[K\n") == ERR_OK;
        at += len + (newline != NULL);
    }
    if (whole && buf_append_text(&out, "\033[J") == ERR_OK) {
        fwrite(out.data, 1, out.len, stderr);
        fflush(stderr);
        live->lines = lines;
    }
    buf_done(&out);
}
