/*
 * ask.c - one question; its words on standard output as they are made.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/wrap.h"
#include "verbs/apiclient.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define PROMPT_MAX ((size_t)16 << 20)

/* The arguments with spaces between them, or standard input to its end. */
static enum err prompt_read(struct buf *out, int argc, char **argv)
{
    enum err err = ERR_OK;
    for (int i = 0; i < argc && err == ERR_OK; i++) {
        err = buf_append_text(out, argv[i]);
        if (err == ERR_OK && i + 1 < argc)
            err = buf_append_text(out, " ");
    }
    if (argc == 0 && isatty(STDIN_FILENO))
        fputs("Type the question, then Ctrl-D on a line of its own.\n", stderr);
    char part[65536];
    size_t len;
    while (argc == 0 && err == ERR_OK && (len = fread(part, 1, sizeof part, stdin)) > 0)
        err = buf_append(out, part, len);
    if (err != ERR_OK)
        return err_set(ERR_LIMIT, "the prompt is larger than %zu bytes", PROMPT_MAX);
    while (argc == 0 && out->len > 0 && strchr("\r\n", out->data[out->len - 1]) != NULL)
        out->data[--out->len] = '\0';
    if (out->len == 0)
        return err_set(ERR_USAGE, "there is no question: wyvern ask \"…\"");
    if (memchr(out->data, '\0', out->len) != NULL)
        return err_set(ERR_INVALID, "the prompt holds a NUL byte; it must be text");
    return ERR_OK;
}

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
        fwrite(out.data, 1, out.len, stdout);
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
    bool terminal = isatty(STDOUT_FILENO);
    printf("%s%-*s%s", term_bold(style), COLUMN, label, term_reset(style));
    char *safe = strdup(text);
    for (char *at = safe; terminal && at != NULL && *at != '\0'; at++) {
        if (((unsigned char)*at < 0x20 && *at != '\n') || *at == 0x7f)
            *at = ' ';
    }
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

int verb_ask(const struct settings *settings, int argc, char **argv)
{
    bool streams = !settings->json && !settings->details;
    struct buf prompt;
    struct api_reply reply;
    buf_init(&prompt, PROMPT_MAX);
    api_reply_init(&reply, streams ? term_words : NULL, NULL);
    enum err err = prompt_read(&prompt, argc, argv);
    if (err == ERR_OK) {
        struct api_message message = {.role = "user", .content = buf_text(&prompt)};
        err = api_ask(&reply, settings, &message, 1, NULL);
    }
    bool ends_open = streams && reply.text.len > 0 && reply.text.data[reply.text.len - 1] != '\n';
    if (ends_open)
        fputc('\n', stdout);
    if (err == ERR_OK && settings->json)
        err = reply_print_json(&reply, buf_text(&prompt));
    else if (err == ERR_OK && settings->details)
        reply_print_details(&reply, buf_text(&prompt));
    if (err == ERR_OK && !settings->json && !settings->quiet)
        term_truncated(api_reply_truncated(&reply));
    /* Our own reader left in mid-reply: that is no failure of the asking. */
    int status = err == ERR_OK || ferror(stdout) ? EX_OK : term_fail(err);
    api_reply_done(&reply);
    buf_done(&prompt);
    return status;
}
