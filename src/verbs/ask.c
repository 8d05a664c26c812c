/*
 * ask.c - one question; its words on standard output as they are made.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/wrap.h"
#include "verbs/apiclient.h"
#include "verbs/replyview.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define PROMPT_MAX ((size_t)16 << 20)

static volatile sig_atomic_t stop_asked;

static void on_stop(int signum)
{
    (void)signum;
    stop_asked = 1;
}

/* ---- the question ---- */

/* May there be something on standard input besides the arguments?  A terminal and /dev/null are not
 * asked: nothing was put there for us. */
static bool stdin_offers(void)
{
    struct stat about;
    return fstat(STDIN_FILENO, &about) == 0 &&
           (S_ISFIFO(about.st_mode) || S_ISREG(about.st_mode) || S_ISSOCK(about.st_mode));
}

/* Standard input to its end; newlines at its end are none of the text. */
static enum err stdin_read(struct buf *out)
{
    char part[65536];
    size_t start = out->len, len;
    if (isatty(STDIN_FILENO))
        fputs("Type the question, then Ctrl-D on a line of its own.\n", stderr);
    enum err err = ERR_OK;
    while (err == ERR_OK && (len = fread(part, 1, sizeof part, stdin)) > 0)
        err = buf_append(out, part, len);
    if (err == ERR_OK && ferror(stdin))
        return err_set(ERR_IO, "can't read standard input: %s", strerror(errno));
    while (out->len > start && strchr("\r\n", out->data[out->len - 1]) != NULL)
        buf_truncate(out, out->len - 1);
    return err;
}

static enum err argument_add(struct buf *out, const char *text, const char *between)
{
    enum err err = out->len > 0 ? buf_append_text(out, between) : ERR_OK;
    return err == ERR_OK ? buf_append_text(out, text) : err;
}

/* The arguments with spaces between them and standard input behind them, or where a "-" stands. */
static enum err question_read(struct buf *out, int argc, char **argv)
{
    enum err err = ERR_OK;
    bool placed = false;
    for (int i = 0; i < argc && err == ERR_OK; i++) {
        if (strcmp(argv[i], "-") != 0) {
            err =
                argument_add(out, argv[i], placed && strcmp(argv[i - 1], "-") == 0 ? "\n\n" : " ");
        } else if (placed) {
            return err_set(ERR_USAGE, "standard input can be read once only: one -");
        } else {
            err = out->len > 0 ? buf_append_text(out, "\n\n") : ERR_OK;
            if (err == ERR_OK)
                err = stdin_read(out);
            placed = true;
        }
    }
    if (err == ERR_OK && !placed && (argc == 0 || stdin_offers())) {
        size_t before = out->len;
        err = out->len > 0 ? buf_append_text(out, "\n\n") : ERR_OK;
        size_t start = out->len;
        if (err == ERR_OK)
            err = stdin_read(out);
        if (out->len == start)
            buf_truncate(out, before); /* nothing was there */
    }
    return err;
}

static enum err prompt_read(struct buf *out, int argc, char **argv)
{
    enum err err = question_read(out, argc, argv);
    if (err == ERR_LIMIT)
        return err_set(err, "the question is larger than %zu MiB", PROMPT_MAX >> 20);
    if (err != ERR_OK)
        return err;
    if (out->len == 0 || strspn(out->data, " \t\r\n") == out->len)
        return err_set(ERR_USAGE, "there is no question: wyvern ask \"…\"");
    if (memchr(out->data, '\0', out->len) != NULL)
        return err_set(ERR_INVALID, "the question holds a NUL byte; it must be text");
    return ERR_OK;
}

/* ---- the reply ---- */

static enum err reply_print_json(const struct api_reply *reply, const char *prompt)
{
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:O?}", "prompter",
        api_reply_field(reply, "prompter"), "prompt_id", api_reply_field(reply, "prompt_id"),
        "prompt", prompt, "response_id", api_reply_field(reply, "response_id"), "response",
        buf_text(&reply->text), "inference_worker", api_reply_field(reply, "inference_worker"),
        "response_worker", api_reply_field(reply, "response_worker"), "node",
        api_reply_field(reply, "node"), "finish_reason", reply->finish_reason, "truncated_tokens",
        (json_int_t)api_reply_truncated(reply), "usage", reply->usage);
    if (root == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    struct buf out;
    buf_init(&out, API_TEXT_MAX * 8);
    enum err err = json_write(root, &out);
    if (err == ERR_OK) {
        term_text(stdout, out.data, out.len); /* JSON leaves some controls as they are */
        fputc('\n', stdout);
    }
    buf_done(&out);
    json_decref(root);
    return err;
}

/* Text for a terminal, wrapped behind its label. */
static void field_print(const struct term_style *style, const char *label, const char *text)
{
    enum { COLUMN = 18 };
    printf("%s%-*s%s", term_bold(style), COLUMN, label, term_reset(style));
    char *safe = isatty(STDOUT_FILENO) ? term_safe(text) : strdup(text);
    wrap_print(stdout, safe != NULL ? safe : "", COLUMN, COLUMN, style->width);
    free(safe);
}

/* The original's Figure 1. */
static void reply_print_details(const struct api_reply *reply, const char *prompt)
{
    struct term_style style = term_style_of(stdout);
    field_print(&style, "prompter", api_reply_field(reply, "prompter"));
    field_print(&style, "prompt id", api_reply_field(reply, "prompt_id"));
    field_print(&style, "prompt", prompt);
    field_print(&style, "response", buf_text(&reply->text));
    field_print(&style, "response id", api_reply_field(reply, "response_id"));
    field_print(&style, "inference worker", api_reply_field(reply, "inference_worker"));
    field_print(&style, "response worker", api_reply_field(reply, "response_worker"));
    field_print(&style, "node", api_reply_field(reply, "node"));
}

/* Ended by Ctrl-C: as a program that does not catch it, so that a script's loop ends too. */
static void stop_as_signal(void)
{
    fflush(stdout);
    signal(SIGINT, SIG_DFL);
    raise(SIGINT);
}

static enum err reply_print(const struct settings *settings, const struct api_reply *reply,
                            const char *prompt)
{
    enum err err = ERR_OK;
    if (settings->json)
        err = reply_print_json(reply, prompt);
    else if (settings->details)
        reply_print_details(reply, prompt);
    if (err == ERR_OK && !settings->json && !settings->quiet)
        term_truncated(api_reply_truncated(reply));
    return err;
}

int verb_ask(const struct settings *settings, int argc, char **argv)
{
    bool streams = !settings->json && !settings->details;
    struct reply_view *view = NULL;
    struct buf prompt;
    struct api_reply reply;
    buf_init(&prompt, PROMPT_MAX);
    enum err err = reply_view_new(&view, settings->quiet);
    api_reply_init(&reply, streams ? reply_view_text : NULL, view);
    reply.on_wait = reply_view_wait;
    if (err == ERR_OK)
        err = prompt_read(&prompt, argc, argv);
    if (err == ERR_OK) {
        struct sigaction action = {.sa_handler = on_stop};
        struct api_message message = {.role = "user", .content = buf_text(&prompt)};
        sigaction(SIGINT, &action, NULL);
        err = api_ask(&reply, settings, &message, 1, &stop_asked);
        reply_view_end(view);
    }
    if (err == ERR_CANCELLED && stop_asked)
        stop_as_signal();
    if (err == ERR_OK)
        err = reply_print(settings, &reply, buf_text(&prompt));
    /* Our own reader left in mid-reply: that is no failure of the asking. */
    int status = err == ERR_OK || ferror(stdout) ? EX_OK : term_fail(err);
    api_reply_done(&reply);
    reply_view_free(view);
    buf_done(&prompt);
    return status;
}
