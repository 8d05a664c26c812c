#include "verbs/replyview.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "config/wrap.h"
#include "verbs/markdown.h"
#include "verbs/term.h"

#define NOTICE_AFTER_S 3
#define SILENT_AFTER_S 30 /* the gateway says something every 15 s, if only that it is there */
#define WIDTH_LEAST    10

struct reply_view {
    struct markdown *markdown; /* NULL: plain text */
    struct term_style notice;
    bool quiet;
    bool open;       /* plain text stands on this line */
    int column;      /* how much of it, where the terminal breaks the lines */
    int notice_cols; /* columns of the notice that stands behind the cursor; 0: none */
    int notice_s;
};

static bool view_write(void *arg, const char *text, size_t len)
{
    (void)arg;
    return term_drawn(text, len);
}

/* The terminal's own, also when that is narrower than our helps and lists can be. */
static int view_width(void *arg)
{
    struct winsize size;
    (void)arg;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= WIDTH_LEAST)
        return size.ws_col < WRAP_WIDTH_MOST ? size.ws_col : WRAP_WIDTH_MOST;
    return wrap_width(STDOUT_FILENO);
}

enum err reply_view_new(struct reply_view **out, bool quiet)
{
    struct reply_view *view = calloc(1, sizeof *view);
    if (view == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    struct term_style style = term_style_of(stdout);
    view->notice = term_style_of(stderr);
    view->quiet = quiet || !view->notice.redraw || !style.redraw;
    if (style.colour) {
        enum err err = markdown_new(&view->markdown, view_write, view_width, view, style.utf8);
        if (err != ERR_OK) {
            free(view);
            return err;
        }
    }
    *out = view;
    return ERR_OK;
}

void reply_view_free(struct reply_view *view)
{
    if (view == NULL)
        return;
    markdown_free(view->markdown);
    free(view);
}

static void notice_clear(struct reply_view *view)
{
    for (int i = 0; i < view->notice_cols; i++)
        fputs("\b \b", stderr);
    if (view->notice_cols > 0)
        fflush(stderr);
    view->notice_cols = 0;
    view->notice_s = 0;
}

static void column_move(struct reply_view *view, const char *text, size_t len)
{
    const char *newline = memrchr(text, '\n', len);
    size_t skip = newline != NULL ? (size_t)(newline + 1 - text) : 0;
    char *tail = strndup(text + skip, len - skip);
    int columns = tail != NULL ? (int)wrap_columns(tail) : 0;
    view->column = (newline != NULL ? 0 : view->column) + columns;
    view->open = len > skip || (newline == NULL && view->open);
    free(tail);
}

bool reply_view_text(void *arg, const char *text, size_t len)
{
    struct reply_view *view = arg;
    notice_clear(view);
    if (view->markdown == NULL) {
        column_move(view, text, len);
        return term_words(NULL, text, len);
    }
    return markdown_feed(view->markdown, text, len) && term_drawn("", 0);
}

void reply_view_wait(void *arg, const struct api_reply *reply)
{
    struct reply_view *view = arg;
    int64_t now = clock_mono_ns();
    int64_t since = reply->last_ns > reply->sent_ns ? reply->last_ns : reply->sent_ns;
    int64_t heard = reply->heard_ns > reply->sent_ns ? reply->heard_ns : reply->sent_ns;
    int waited = (int)((now - since) / NS_PER_S);
    if (view->quiet || waited < NOTICE_AFTER_S || waited == view->notice_s)
        return;
    char text[80];
    if ((now - heard) / NS_PER_S >= SILENT_AFTER_S)
        snprintf(text, sizeof text, " (the service is silent for %d s; Ctrl-C stops)",
                 (int)((now - heard) / NS_PER_S));
    else
        snprintf(text, sizeof text, " (%s words for %d s; Ctrl-C stops)",
                 reply->text.len > 0 ? "no more" : "no", waited);
    /* It may not reach the line's end: there the terminal would break, and nothing takes that
     * back. */
    int width = view_width(NULL);
    int left =
        view->markdown != NULL ? markdown_left(view->markdown) : width - view->column % width;
    if (view->notice_cols == 0 && left <= (int)strlen(text))
        snprintf(text, sizeof text, " (%d s)", waited);
    if (left <= (int)strlen(text))
        return;
    fflush(stdout);
    notice_clear(view);
    fprintf(stderr, "%s%s%s", term_dim(&view->notice), text, term_reset(&view->notice));
    fflush(stderr);
    view->notice_cols = (int)strlen(text);
    view->notice_s = waited;
}

void reply_view_end(struct reply_view *view)
{
    notice_clear(view);
    if (view->markdown != NULL)
        markdown_end(view->markdown);
    else if (view->open)
        fputc('\n', stdout);
    view->open = false;
    view->column = 0;
    (void)term_drawn("", 0);
}
