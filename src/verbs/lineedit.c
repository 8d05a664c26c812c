#include "verbs/lineedit.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HISTORY_MAX 500

struct lineedit {
    const char *prompt;
    EditLine *editor; /* NULL: plain lines */
    History *history;
    char *line; /* the last one */
    size_t room;
};

static char *prompt_give(EditLine *editor)
{
    struct lineedit *edit = NULL;
    el_get(editor, EL_CLIENTDATA, &edit);
    return (char *)(uintptr_t)edit->prompt; /* libedit only reads it */
}

enum err lineedit_new(struct lineedit **out, const char *prompt)
{
    struct lineedit *edit = calloc(1, sizeof *edit);
    if (edit == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    edit->prompt = prompt;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
        /* libedit reads characters by the locale; without one, UTF-8. */
        const char *locale = setlocale(LC_CTYPE, "");
        if (locale == NULL || strcmp(locale, "C") == 0)
            setlocale(LC_CTYPE, "C.UTF-8");
        edit->editor = el_init("wyvern", stdin, stdout, stderr);
        edit->history = history_init();
        if (edit->editor == NULL || edit->history == NULL) {
            lineedit_free(edit);
            return err_set(ERR_OS, "can't set up line editing on this terminal");
        }
        HistEvent event;
        history(edit->history, &event, H_SETSIZE, HISTORY_MAX);
        history(edit->history, &event, H_SETUNIQUE, 1);
        el_set(edit->editor, EL_CLIENTDATA, edit);
        el_set(edit->editor, EL_PROMPT, prompt_give);
        el_set(edit->editor, EL_EDITOR, "emacs");
        el_set(edit->editor, EL_HIST, history, edit->history);
        el_set(edit->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
        el_source(edit->editor, NULL);
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
    free(edit->line);
    free(edit);
}

bool lineedit_is_interactive(const struct lineedit *edit)
{
    return edit->editor != NULL;
}

static enum line_kind plain_read(struct lineedit *edit, const char **line)
{
    errno = 0;
    ssize_t len = getline(&edit->line, &edit->room, stdin);
    if (len < 0)
        return errno == EINTR ? LINE_STOPPED : LINE_END;
    *line = edit->line;
    return LINE_TEXT;
}

static enum line_kind edited_read(struct lineedit *edit, const char **line)
{
    int len = 0;
    errno = 0;
    const char *typed = el_gets(edit->editor, &len);
    if (typed == NULL || len <= 0) {
        bool stopped = len < 0 && errno == EINTR;
        el_reset(edit->editor);
        clearerr(stdin);
        fputc('\n', stdout);
        return stopped ? LINE_STOPPED : LINE_END;
    }
    free(edit->line);
    edit->line = strdup(typed);
    if (edit->line == NULL)
        return LINE_END;
    if (strspn(typed, " \t\r\n") < strlen(typed)) {
        HistEvent event;
        history(edit->history, &event, H_ENTER, typed);
    }
    *line = edit->line;
    return LINE_TEXT;
}

enum line_kind lineedit_read(struct lineedit *edit, const char **line)
{
    const char *found = NULL;
    enum line_kind kind =
        edit->editor != NULL ? edited_read(edit, &found) : plain_read(edit, &found);
    if (kind != LINE_TEXT)
        return kind;
    edit->line[strcspn(edit->line, "\r\n")] = '\0';
    *line = edit->line;
    return LINE_TEXT;
}
