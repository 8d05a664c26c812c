/*
 * chat.c - a talk in the terminal.  Ctrl-C stops a reply (its slot is free at once) or clears the
 * line, never the program; Ctrl-D leaves.
 */
#include "verbs/chat.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/settings.h"
#include "verbs/apiclient.h"
#include "verbs/question.h"
#include "verbs/replyview.h"
#include "verbs/term.h"
#include "verbs/verbs.h"

static volatile sig_atomic_t stop_asked;

static void on_stop(int signum)
{
    (void)signum;
    stop_asked = 1;
}

/* ---- one question ---- */

static void figures_add(struct chat *chat, const struct api_reply *reply)
{
    chat->replies++;
    chat->last_tokens = api_reply_tokens(reply);
    chat->tokens += chat->last_tokens;
    if (reply->first_ns > 0) {
        chat->ttft_s = (double)(reply->first_ns - reply->sent_ns) / 1e9;
        chat->last_s = (double)(reply->last_ns - reply->sent_ns) / 1e9;
        chat->seconds += chat->last_s;
    }
    snprintf(chat->worker, sizeof chat->worker, "%.60s on %.60s",
             api_reply_field(reply, "inference_worker"), api_reply_field(reply, "node"));
}

static void note(const char *text)
{
    struct term_style style = term_style_of(stderr);
    fprintf(stderr, "%s(%s)%s\n", term_dim(&style), text, term_reset(&style));
}

/* What stays of a reply that did not come whole: with words, both stay; without, neither does. */
static enum err talk_keep(struct chat *chat, const struct api_reply *reply, enum err ended)
{
    if (reply->text.len > 0 && (ended == ERR_OK || ended == ERR_CANCELLED))
        return talk_add(&chat->talk, "assistant", buf_text(&reply->text));
    talk_drop_last(&chat->talk);
    return ERR_OK;
}

/* The mend that fits a talk. */
static enum err error_mend(const struct chat *chat, const struct api_reply *reply, enum err err)
{
    char text[400];
    snprintf(text, sizeof text, "%s", err_text());
    if (strcmp(reply->error_code, "context_length_exceeded") == 0)
        return err_set(err, "%s; the talk has grown too long: /clear begins a new one", text);
    if (chat->talk.count > 0 || lineedit_is_interactive(chat->edit))
        return err_set(err, "%s; the talk is kept, /regenerate asks again", text);
    return err;
}

static void stopped_note(const struct chat *chat, const struct api_reply *reply)
{
    (void)chat;
    note(reply->text.len > 0 ? "stopped; what came stays in the talk"
                             : "stopped before the first word; /regenerate asks again");
}

static enum err question_send(struct chat *chat, struct reply_view *view)
{
    struct api_reply reply;
    api_reply_init(&reply, reply_view_text, view);
    reply.on_wait = reply_view_wait;
    stop_asked = 0;
    enum err err =
        api_ask(&reply, &chat->settings, chat->talk.messages, chat->talk.count, &stop_asked);
    reply_view_end(view);
    if (err == ERR_OK)
        figures_add(chat, &reply);
    if (err == ERR_OK && !chat->settings.quiet)
        term_truncated(api_reply_truncated(&reply));
    bool stopped = err == ERR_CANCELLED && stop_asked;
    if (err == ERR_CANCELLED && !stopped)
        err = err_set(ERR_IO, "standard output can't be written");
    if (err != ERR_OK && !stopped)
        err = error_mend(chat, &reply, err);
    if (stopped)
        stopped_note(chat, &reply);
    enum err kept = err == ERR_OK || stopped ? talk_keep(chat, &reply, err) : ERR_OK;
    if (err != ERR_OK && !stopped)
        talk_drop_last(&chat->talk);
    stop_asked = 0;
    api_reply_done(&reply);
    return kept != ERR_OK ? kept : stopped ? ERR_OK : err;
}

enum err chat_ask(struct chat *chat, const char *question)
{
    struct reply_view *view = NULL;
    char *copy = strdup(question);
    if (copy == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    free(chat->question);
    chat->question = copy;
    enum err err = reply_view_new(&view, chat->settings.quiet);
    if (err == ERR_OK)
        err = talk_add(&chat->talk, "user", question);
    if (err == ERR_OK)
        err = question_send(chat, view);
    if (lineedit_is_interactive(chat->edit))
        fputc('\n', stdout); /* a reply stands by itself */
    reply_view_free(view);
    return err;
}

/* ---- the talk ---- */

/* Failing to remember is no reason not to ask; it is said once. */
static void question_remember(struct chat *chat, const char *text)
{
    static bool said;
    if (*text == ' ' || lineedit_remember(chat->edit, text) == ERR_OK || said)
        return;
    said = true;
    note(err_text());
}

static enum err question_run(struct chat *chat, const char *text)
{
    const char *begin = text + strspn(text, " \t\r\n");
    if (*begin == '\0')
        return ERR_OK;
    question_remember(chat, text);
    return *begin == '/' && strchr(begin, '\n') == NULL ? chat_command(chat, begin)
                                                        : chat_ask(chat, begin);
}

/* A reply that failed does not end an interactive talk; plain input ends with its status. */
static int chat_run(struct chat *chat, struct question *question)
{
    int status = EX_OK;
    bool interactive = lineedit_is_interactive(chat->edit);
    while (!chat->ended && !ferror(stdout)) {
        const char *line = "";
        enum line_kind kind = lineedit_read(chat->edit, question->open ? "… " : "> ", &line);
        stop_asked = 0;
        if (kind == LINE_STOPPED && interactive) {
            question_clear(question);
            continue;
        }
        bool ended = kind != LINE_TEXT;
        if (ended && (interactive || !question->open))
            break;
        enum err err = ended ? ERR_OK : question_line(question, line);
        if (err == ERR_OK && question->open && !ended)
            continue;
        if (err == ERR_OK)
            err = question_run(chat, buf_text(&question->text));
        question_clear(question);
        int failed = err == ERR_OK || ferror(stdout) ? EX_OK : term_fail(err);
        if (!interactive && status == EX_OK)
            status = failed;
        if (ended)
            break;
    }
    return status;
}

/* In the state directory, which is made where there is none. */
static void history_open(struct chat *chat)
{
    char folder[PATH_MAX], path[PATH_MAX + 16];
    enum err err = state_dir_prepare(folder, chat->settings.state_dir);
    if (err == ERR_OK) {
        snprintf(path, sizeof path, "%s/chat_history", folder);
        err = lineedit_history(chat->edit, path);
    }
    if (err != ERR_OK && !chat->settings.quiet)
        note(err_text());
}

static void greet(const struct chat *chat)
{
    struct term_style style = term_style_of(stderr);
    char text[1200];
    snprintf(text, sizeof text, "Talking to %s. /help lists the commands; Ctrl-D leaves.",
             chat->settings.url);
    fputs(term_dim(&style), stderr);
    term_say("", text, 0);
    fputs(term_reset(&style), stderr);
}

static void chat_free(struct chat *chat)
{
    lineedit_free(chat->edit);
    talk_clear(&chat->talk);
    json_decref(chat->models);
    free(chat->system);
    free(chat->model);
    free(chat->params);
    free(chat->question);
    free(chat->file);
    free(chat);
}

int verb_chat(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct question question;
    struct chat *chat = calloc(1, sizeof *chat);
    if (chat == NULL)
        return term_fail(err_set(ERR_NOMEM, "out of memory"));
    chat->settings = *settings;
    struct sigaction action = {.sa_handler = on_stop}; /* no SA_RESTART: reads end too */
    sigaction(SIGINT, &action, NULL);
    int status;
    enum err err = lineedit_new(&chat->edit, chat_words, chat);
    if (err == ERR_OK) {
        if (lineedit_is_interactive(chat->edit)) {
            history_open(chat);
            if (!settings->quiet)
                greet(chat);
        }
        question_init(&question);
        status = chat_run(chat, &question);
        question_done(&question);
    } else {
        status = term_fail(err);
    }
    chat_free(chat);
    return status;
}
