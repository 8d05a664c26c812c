/*
 * chat.c - a talk in the terminal.  Ctrl-C stops a reply (its slot is free at once), Ctrl-D leaves.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "verbs/apiclient.h"
#include "verbs/lineedit.h"
#include "verbs/talk.h"
#include "verbs/term.h"
#include "verbs/verbs.h"

struct chat {
    struct settings settings;
    struct talk talk;
    struct lineedit *edit;
    char *system; /* set by /system; owned */
    size_t replies;
    uint64_t tokens;
    double seconds; /* of replies, from question to end */
    double ttft_s;  /* of the last reply */
    char worker[128];
    bool ended;
};

static volatile sig_atomic_t stop_asked;

static void on_stop(int signum)
{
    (void)signum;
    stop_asked = 1;
}

static void figures_add(struct chat *chat, const struct api_reply *reply)
{
    chat->replies++;
    chat->tokens += api_reply_tokens(reply);
    if (reply->first_ns > 0) {
        chat->ttft_s = (double)(reply->first_ns - reply->sent_ns) / 1e9;
        chat->seconds += (double)(reply->last_ns - reply->sent_ns) / 1e9;
    }
    snprintf(chat->worker, sizeof chat->worker, "%.60s on %.60s",
             api_reply_field(reply, "inference_worker"), api_reply_field(reply, "node"));
}

/* Asks with the whole talk.  A question without any answer leaves the talk again. */
static enum err question_ask(struct chat *chat, const char *question)
{
    struct api_reply reply;
    api_reply_init(&reply, term_words, NULL);
    enum err err = talk_add(&chat->talk, "user", question);
    if (err != ERR_OK)
        goto out;
    stop_asked = 0;
    err = api_ask(&reply, &chat->settings, chat->talk.messages, chat->talk.count, &stop_asked);
    if (reply.text.len > 0 && reply.text.data[reply.text.len - 1] != '\n')
        fputc('\n', stdout);
    bool stopped = err == ERR_CANCELLED && stop_asked;
    if (err == ERR_OK)
        figures_add(chat, &reply);
    if (err == ERR_OK && !chat->settings.quiet)
        term_truncated(api_reply_truncated(&reply));
    if ((err == ERR_OK || stopped) && reply.text.len > 0) {
        enum err kept = talk_add(&chat->talk, "assistant", buf_text(&reply.text));
        err = kept != ERR_OK ? kept : ERR_OK;
    } else {
        talk_drop_last(&chat->talk);
    }
    if (stopped && err != ERR_NOMEM) {
        fputs("(stopped)\n", stderr);
        err = ERR_OK;
    }
    stop_asked = 0;
    if (err != ERR_OK && strcmp(reply.error_code, "context_length_exceeded") == 0)
        err = err_prefix(err, "the talk has grown too long, /reset begins a new one");
out:
    api_reply_done(&reply);
    return err;
}

/* ---- what begins with a slash ---- */

static void say_quit(struct chat *chat, const char *rest)
{
    (void)rest;
    chat->ended = true;
}

static void say_reset(struct chat *chat, const char *rest)
{
    (void)rest;
    talk_clear(&chat->talk);
    fputs("(a new talk)\n", stderr);
}

static void say_system(struct chat *chat, const char *rest)
{
    if (*rest == '\0') {
        fprintf(stderr, "system message: %s\n",
                chat->settings.system != NULL ? chat->settings.system : "none");
        return;
    }
    char *text = strdup(rest);
    if (text == NULL)
        return;
    free(chat->system);
    chat->system = text;
    chat->settings.system = text;
    talk_clear(&chat->talk);
    fputs("(system message set; a new talk)\n", stderr);
}

static void say_stats(struct chat *chat, const char *rest)
{
    (void)rest;
    fprintf(stderr, "%zu %s, %llu tokens", chat->replies, chat->replies == 1 ? "reply" : "replies",
            (unsigned long long)chat->tokens);
    if (chat->replies > 0) {
        double rate = chat->seconds > 0 ? (double)chat->tokens / chat->seconds : 0;
        fprintf(stderr, ", %.1f tokens/s; last: first token after %.0f ms, by ", rate,
                chat->ttft_s * 1000);
        term_text(stderr, chat->worker, strlen(chat->worker));
    }
    fprintf(stderr, "; %zu messages in this talk\n", chat->talk.count);
}

static void say_help(struct chat *chat, const char *rest);

static const struct {
    const char *name, *help;
    void (*run)(struct chat *chat, const char *rest);
} sayings[] = {
    {"/help", "this list", say_help},
    {"/quit", "leave (also Ctrl-D)", say_quit},
    {"/reset", "begin a new talk", say_reset},
    {"/system", "TEXT: set the system message and begin a new talk", say_system},
    {"/stats", "replies, tokens and speed so far", say_stats},
};

static void say_help(struct chat *chat, const char *rest)
{
    (void)chat;
    (void)rest;
    for (size_t i = 0; i < sizeof sayings / sizeof sayings[0]; i++)
        fprintf(stderr, "%-8s  %s\n", sayings[i].name, sayings[i].help);
    fputs("Ctrl-C stops a reply.\n", stderr);
}

static void command_run(struct chat *chat, const char *line)
{
    size_t len = strcspn(line, " \t");
    for (size_t i = 0; i < sizeof sayings / sizeof sayings[0]; i++) {
        if (strlen(sayings[i].name) == len && memcmp(sayings[i].name, line, len) == 0) {
            sayings[i].run(chat, line + len + strspn(line + len, " \t"));
            return;
        }
    }
    fprintf(stderr, "There is no %.*s.\n", (int)(len < 40 ? len : 40), line);
    say_help(chat, "");
}

/* ---- the talk ---- */

/* A reply that failed does not end an interactive talk; plain input ends with its status. */
static int chat_run(struct chat *chat)
{
    int status = EX_OK;
    bool interactive = lineedit_is_interactive(chat->edit);
    while (!chat->ended) {
        const char *line = NULL;
        enum line_kind kind = lineedit_read(chat->edit, &line);
        if (kind == LINE_END || (kind == LINE_STOPPED && !interactive))
            break;
        stop_asked = 0;
        if (kind == LINE_STOPPED)
            continue;
        line += strspn(line, " \t");
        if (*line == '/') {
            command_run(chat, line);
        } else if (*line != '\0') {
            enum err err = question_ask(chat, line);
            if (ferror(stdout))
                break;
            int failed = err == ERR_OK ? EX_OK : term_fail(err);
            if (!interactive && status == EX_OK)
                status = failed;
        }
    }
    return status;
}

int verb_chat(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct chat *chat = calloc(1, sizeof *chat);
    if (chat == NULL)
        return term_fail(err_set(ERR_NOMEM, "out of memory"));
    chat->settings = *settings;
    struct sigaction action = {.sa_handler = on_stop}; /* no SA_RESTART: reads end too */
    sigaction(SIGINT, &action, NULL);
    int status;
    enum err err = lineedit_new(&chat->edit, "> ");
    if (err == ERR_OK) {
        if (lineedit_is_interactive(chat->edit) && !settings->quiet)
            fprintf(stderr, "Talking to %s. /help shows what else there is; Ctrl-D leaves.\n",
                    settings->url);
        status = chat_run(chat);
    } else {
        status = term_fail(err);
    }
    lineedit_free(chat->edit);
    talk_clear(&chat->talk);
    free(chat->system);
    free(chat);
    return status;
}
