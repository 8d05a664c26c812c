/*
 * lineedit.c - libedit, with a reader of our own below it: that one knows bracketed paste, and what
 * to do when a signal comes.
 */
#include "verbs/lineedit.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "base/buf.h"
#include "verbs/histfile.h"
#include "verbs/term.h"

#define PASTE_ON  "\033[?2004h"
#define PASTE_OFF "\033[?2004l"
#define PASTE_MS  2000           /* a terminal that does not end what it began */
#define ESCAPE_MS 50             /* the rest of an escape sequence comes at once */
#define NEWLINE   "\xe2\x8f\x8e" /* U+23CE stands for a newline while a line is edited */
#define SEQUENCE  6              /* bytes of "\033[200~" */

struct lineedit {
    const char *prompt;
    EditLine *editor; /* NULL: plain lines */
    History *history;
    char *history_path;
    char *line; /* the last one */
    size_t room;
    line_words_fn *words;
    void *arg;
    unsigned char unread[SEQUENCE]; /* of a sequence that was another one */
    size_t unread_len;
    bool pastes; /* the locale can show NEWLINE */
    bool colour;
    bool stopped;
};

/* ---- signals ---- */

static struct termios terminal_before;
static volatile sig_atomic_t resized, suspend_asked, continued;

static void on_resize(int signum)
{
    (void)signum;
    resized = 1;
}

static void on_suspend(int signum)
{
    (void)signum;
    suspend_asked = 1;
}

static void on_continue(int signum)
{
    (void)signum;
    continued = 1;
}

/* Ended from outside: the terminal gets its old ways back first. */
static void on_end(int signum)
{
    (void)!write(STDOUT_FILENO, PASTE_OFF "\n", sizeof PASTE_OFF);
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
    raise(signum); /* SA_RESETHAND: by its default now */
}

static void signals_set(void (*resize)(int), void (*suspend)(int), void (*go_on)(int))
{
    struct sigaction action = {.sa_handler = resize}; /* no SA_RESTART: reads end */
    sigaction(SIGWINCH, &action, NULL);
    action.sa_handler = suspend;
    sigaction(SIGTSTP, &action, NULL);
    action.sa_handler = go_on;
    sigaction(SIGCONT, &action, NULL);
}

static void ends_catch(void)
{
    static const int ends[] = {SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction action = {.sa_handler = on_end, .sa_flags = (int)SA_RESETHAND};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        sigaction(ends[i], &action, NULL);
}

static void paste_mode(const struct lineedit *edit, bool on)
{
    if (!edit->pastes)
        return;
    fputs(on ? PASTE_ON : PASTE_OFF, stdout);
    fflush(stdout);
}

/* Ctrl-Z: stops as one expects it, and draws the line again when it goes on. */
static void suspend(struct lineedit *edit)
{
    el_set(edit->editor, EL_PREP_TERM, 0);
    paste_mode(edit, false);
    fputc('\n', stdout);
    fflush(stdout);
    raise(SIGSTOP);
    continued = 1;
}

/* What signals asked for while the read waited; false: the line is to end. */
static bool signals_serve(struct lineedit *edit)
{
    bool served = false;
    if (suspend_asked) {
        suspend_asked = 0;
        suspend(edit);
    }
    if (continued) {
        continued = 0;
        el_set(edit->editor, EL_PREP_TERM, 1);
        paste_mode(edit, true);
        el_set(edit->editor, EL_REFRESH);
        served = true;
    }
    if (resized) {
        resized = 0;
        el_resize(edit->editor);
        served = true;
    }
    return served;
}

/* ---- bytes ---- */

/* 1, 0 at the end, -1 when Ctrl-C came. */
static int byte_read(struct lineedit *edit, unsigned char *out)
{
    if (edit->unread_len > 0) {
        *out = edit->unread[0];
        memmove(edit->unread, edit->unread + 1, --edit->unread_len);
        return 1;
    }
    for (;;) {
        ssize_t len = read(STDIN_FILENO, out, 1);
        if (len >= 0)
            return (int)len;
        if (errno != EINTR)
            return 0;
        if (!signals_serve(edit)) {
            edit->stopped = true;
            return -1;
        }
    }
}

static bool byte_waits(const struct lineedit *edit, int timeout_ms)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return edit->unread_len > 0 || poll(&input, 1, timeout_ms) == 1;
}

/* Behind an ESC: is it this sequence?  If not, what was read is read again. */
static bool sequence_follows(struct lineedit *edit, const char *rest)
{
    unsigned char seen[SEQUENCE];
    size_t len = 0;
    while (rest[len] != '\0' && byte_waits(edit, ESCAPE_MS)) {
        if (byte_read(edit, &seen[len]) != 1)
            break;
        len++;
        if (seen[len - 1] != (unsigned char)rest[len - 1]) {
            memmove(edit->unread + len, edit->unread, edit->unread_len);
            memcpy(edit->unread, seen, len);
            edit->unread_len += len;
            return false;
        }
    }
    if (rest[len] == '\0')
        return true;
    memcpy(edit->unread, seen, len);
    edit->unread_len = len;
    return false;
}

/* Pasted text to its end, into the line.  No control of it acts. */
static unsigned char on_paste(EditLine *editor, int ch)
{
    (void)ch;
    struct lineedit *edit = NULL;
    el_get(editor, EL_CLIENTDATA, &edit);
    struct buf text;
    unsigned char byte, before = '\0';
    buf_init(&text, LINE_BYTES_MAX);
    while (byte_waits(edit, PASTE_MS) && byte_read(edit, &byte) == 1) {
        enum err err = ERR_OK;
        if (byte == 0x1b && sequence_follows(edit, "[201~"))
            break;
        if (byte == '\r' || (byte == '\n' && before != '\r'))
            err = buf_append_text(&text, NEWLINE);
        else if (byte == '\t')
            err = buf_append_text(&text, "    ");
        else if (byte >= ' ' && byte != 0x7f)
            err = buf_append(&text, &byte, 1);
        before = byte;
        if (err != ERR_OK)
            continue; /* too much: its beginning */
    }
    size_t sign = sizeof NEWLINE - 1;
    while (text.len >= sign && memcmp(text.data + text.len - sign, NEWLINE, sign) == 0)
        buf_truncate(&text, text.len - sign); /* whole lines were copied: the last is whole too */
    bool put = text.len > 0 && el_insertstr(editor, text.data) == 0;
    buf_done(&text);
    return put ? CC_REFRESH : CC_NORM;
}

/* Keys that ask for a signal come to us as bytes, so that those within pasted text do nothing. */
static bool is_signal(struct lineedit *edit, unsigned char byte)
{
    const cc_t *keys = terminal_before.c_cc;
    if (byte == keys[VINTR])
        edit->stopped = true;
    else if (byte == keys[VSUSP])
        suspend_asked = 1;
    else if (byte == keys[VQUIT])
        raise(SIGQUIT);
    else
        return false;
    (void)signals_serve(edit);
    return true;
}

/* libedit's reader. */
static int char_read(EditLine *editor, wchar_t *out)
{
    struct lineedit *edit = NULL;
    el_get(editor, EL_CLIENTDATA, &edit);
    mbstate_t state;
    memset(&state, 0, sizeof state);
    unsigned char byte;
    while (byte_read(edit, &byte) == 1) {
        char c = (char)byte;
        if (is_signal(edit, byte)) {
            if (edit->stopped)
                break;
            continue;
        }
        size_t len = mbrtowc(out, &c, 1, &state);
        if (len == 0 || len == 1)
            return 1;
        if (len == (size_t)-1)
            memset(&state, 0, sizeof state); /* broken: not there */
    }
    if (!edit->stopped)
        return 0;
    errno = EINTR;
    return -1;
}

/* ---- completion ---- */

static void words_list(const struct line_words *words)
{
    fputc('\n', stdout);
    for (size_t i = 0; i < words->count; i++)
        fprintf(stdout, "%s%s", words->words[i], i + 1 < words->count ? "  " : "\n");
}

static unsigned char on_tab(EditLine *editor, int ch)
{
    (void)ch;
    struct lineedit *edit = NULL;
    el_get(editor, EL_CLIENTDATA, &edit);
    const LineInfo *info = el_line(editor);
    size_t len = (size_t)(info->cursor - info->buffer);
    char *before = strndup(info->buffer, len);
    struct line_words *words = calloc(1, sizeof *words);
    unsigned char result = CC_ERROR;
    if (before == NULL || words == NULL)
        goto out;
    edit->words(edit->arg, before, words);
    if (words->count == 0 || words->from > len)
        goto out;
    size_t common = strlen(words->words[0]), typed = len - words->from;
    for (size_t i = 1; i < words->count; i++) {
        size_t same = 0;
        while (same < common && words->words[i][same] == words->words[0][same])
            same++;
        common = same;
    }
    bool whole = words->count == 1;
    if (common > typed || whole) {
        char insert[LINE_WORD_SIZE + 1];
        bool folder = common > 0 && words->words[0][common - 1] == '/';
        snprintf(insert, sizeof insert, "%.*s%s", (int)(common > typed ? common - typed : 0),
                 words->words[0] + (common > typed ? typed : common), whole && !folder ? " " : "");
        if (*insert == '\0' || el_insertstr(editor, insert) == 0)
            result = CC_REFRESH;
    } else {
        words_list(words);
        result = CC_REDISPLAY;
    }
out:
    free(before);
    free(words);
    return result;
}

/* ---- life ---- */

static char *prompt_give(EditLine *editor)
{
    struct lineedit *edit = NULL;
    el_get(editor, EL_CLIENTDATA, &edit);
    if (!edit->colour)
        return (char *)(uintptr_t)edit->prompt; /* libedit only reads it */
    /* libedit writes a sequence with the character behind it: the blank at the prompt's end. */
    static char drawn[64];
    snprintf(drawn, sizeof drawn, "\1\033[1;36m\1%.*s\1\033[0m\1 ", (int)strcspn(edit->prompt, " "),
             edit->prompt);
    return drawn;
}

/* libedit reads characters by the locale; without one, UTF-8. */
static bool locale_prepare(void)
{
    const char *locale = setlocale(LC_CTYPE, "");
    if (locale == NULL || strcmp(locale, "C") == 0 || strcmp(locale, "POSIX") == 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

static bool editor_make(struct lineedit *edit)
{
    HistEvent event;
    edit->editor = el_init("wyvern", stdin, stdout, stderr);
    edit->history = history_init();
    if (edit->editor == NULL || edit->history == NULL)
        return false;
    history(edit->history, &event, H_SETSIZE, HISTFILE_ENTRIES);
    history(edit->history, &event, H_SETUNIQUE, 1);
    el_set(edit->editor, EL_CLIENTDATA, edit);
    el_set(edit->editor, EL_PROMPT_ESC, prompt_give, '\1'); /* between these it takes no columns */
    el_set(edit->editor, EL_EDITOR, "emacs");
    el_set(edit->editor, EL_HIST, history, edit->history);
    el_set(edit->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    if (edit->words != NULL) {
        el_set(edit->editor, EL_ADDFN, "wyvern-words", "what could stand here", on_tab);
        el_set(edit->editor, EL_BIND, "^I", "wyvern-words", NULL);
    }
    el_set(edit->editor, EL_ADDFN, "wyvern-paste", "what the terminal pastes", on_paste);
    el_set(edit->editor, EL_BIND, "\\e[200~", "wyvern-paste", NULL);
    el_source(edit->editor, NULL);
    el_set(edit->editor, EL_SETTY, "-d", "-isig", "-icrnl", "-inlcr", NULL);
    el_set(edit->editor, EL_GETCFN, char_read);
    return true;
}

enum err lineedit_new(struct lineedit **out, line_words_fn *words, void *arg)
{
    struct lineedit *edit = calloc(1, sizeof *edit);
    if (edit == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    edit->words = words;
    edit->arg = arg;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
        const char *kind = getenv("TERM");
        edit->pastes = locale_prepare() && kind != NULL && strcmp(kind, "dumb") != 0;
        edit->colour = term_style_of(stdout).colour;
        if (tcgetattr(STDIN_FILENO, &terminal_before) != 0 || !editor_make(edit)) {
            lineedit_free(edit);
            return err_set(ERR_OS, "can't set up line editing on this terminal");
        }
        ends_catch();
    }
    *out = edit;
    return ERR_OK;
}

void lineedit_free(struct lineedit *edit)
{
    if (edit == NULL)
        return;
    if (edit->history != NULL)
        history_end(edit->history);
    if (edit->editor != NULL)
        el_end(edit->editor);
    free(edit->history_path);
    free(edit->line);
    free(edit);
}

bool lineedit_is_interactive(const struct lineedit *edit)
{
    return edit->editor != NULL;
}

/* ---- history ---- */

/* The text with one thing in the place of another; NULL without memory. */
static char *replaced(const char *text, const char *what, const char *with)
{
    struct buf out;
    buf_init(&out, LINE_BYTES_MAX * 4);
    enum err err = ERR_OK;
    while (err == ERR_OK && *text != '\0') {
        const char *found = strstr(text, what);
        size_t len = found != NULL ? (size_t)(found - text) : strlen(text);
        err = buf_append(&out, text, len);
        text += len;
        if (err == ERR_OK && found != NULL) {
            err = buf_append_text(&out, with);
            text += strlen(what);
        }
    }
    char *result = err == ERR_OK ? buf_take(&out, NULL) : NULL;
    buf_done(&out);
    return result;
}

static void history_enter(void *arg, const char *text)
{
    struct lineedit *edit = arg;
    HistEvent event;
    char *line = replaced(text, "\n", edit->pastes ? NEWLINE : " ");
    if (line != NULL)
        history(edit->history, &event, H_ENTER, line);
    free(line);
}

enum err lineedit_history(struct lineedit *edit, const char *path)
{
    if (edit->history == NULL)
        return ERR_OK;
    edit->history_path = strdup(path);
    if (edit->history_path == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    return histfile_read(path, history_enter, edit);
}

enum err lineedit_remember(struct lineedit *edit, const char *text)
{
    if (edit->history == NULL)
        return ERR_OK;
    history_enter(edit, text);
    return edit->history_path != NULL ? histfile_add(edit->history_path, text) : ERR_OK;
}

/* ---- lines ---- */

static enum line_kind plain_read(struct lineedit *edit)
{
    errno = 0;
    if (getline(&edit->line, &edit->room, stdin) < 0)
        return errno == EINTR ? LINE_STOPPED : LINE_END;
    edit->line[strcspn(edit->line, "\r\n")] = '\0';
    return LINE_TEXT;
}

static enum line_kind edited_read(struct lineedit *edit)
{
    int len = 0;
    edit->stopped = false;
    suspend_asked = continued = resized = 0;
    signals_set(on_resize, on_suspend, on_continue);
    el_resize(edit->editor); /* it may have changed during the reply */
    paste_mode(edit, true);
    const char *typed = el_gets(edit->editor, &len);
    paste_mode(edit, false);
    signals_set(SIG_DFL, SIG_DFL, SIG_DFL);
    if (typed == NULL || len <= 0) {
        el_reset(edit->editor);
        clearerr(stdin);
        fputc('\n', stdout);
        fflush(stdout);
        return edit->stopped ? LINE_STOPPED : LINE_END;
    }
    char *line = strndup(typed, strcspn(typed, "\r\n"));
    free(edit->line);
    edit->line = line != NULL && edit->pastes ? replaced(line, NEWLINE, "\n") : line;
    if (edit->line != line)
        free(line);
    if (edit->line == NULL)
        edit->line = strdup("");
    return edit->line != NULL ? LINE_TEXT : LINE_END;
}

enum line_kind lineedit_read(struct lineedit *edit, const char *prompt, const char **line)
{
    edit->prompt = prompt;
    enum line_kind kind = edit->editor != NULL ? edited_read(edit) : plain_read(edit);
    if (kind == LINE_TEXT)
        *line = edit->line;
    return kind;
}
