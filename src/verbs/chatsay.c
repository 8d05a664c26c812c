/*
 * chatsay.c - what begins with a slash in a talk, and what Tab makes of its beginning.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/params.h"
#include "config/wrap.h"
#include "verbs/chat.h"
#include "verbs/talkfile.h"
#include "verbs/term.h"
#include "wire/json.h"

#define HELP_COLUMN 22

static void text_say(const char *text)
{
    term_text(stderr, text, strlen(text));
}

static enum err copy_set(char **place, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    free(*place);
    *place = copy;
    return ERR_OK;
}

/* ---- the commands ---- */

static enum err say_quit(struct chat *chat, const char *rest)
{
    (void)rest;
    chat->ended = true;
    return ERR_OK;
}

static enum err say_clear(struct chat *chat, const char *rest)
{
    (void)rest;
    talk_clear(&chat->talk);
    fputs("(a new talk)\n", stderr);
    return ERR_OK;
}

static enum err say_system(struct chat *chat, const char *rest)
{
    if (*rest == '\0') {
        fputs("system message: ", stderr);
        text_say(chat->settings.system != NULL ? chat->settings.system : "none");
        fputc('\n', stderr);
        return ERR_OK;
    }
    enum err err = copy_set(&chat->system, rest);
    if (err != ERR_OK)
        return err;
    chat->settings.system = chat->system;
    talk_clear(&chat->talk);
    fputs("(system message set; a new talk)\n", stderr);
    return ERR_OK;
}

static enum err models_get(struct chat *chat)
{
    json_t *found = NULL;
    enum err err = api_get(&found, &chat->settings, "/v1/models");
    if (err != ERR_OK)
        return err;
    json_decref(chat->models);
    chat->models = found;
    return ERR_OK;
}

static const char *model_name(const struct chat *chat, size_t i)
{
    return json_text(json_array_get(json_object_get(chat->models, "data"), i), "id", "");
}

static size_t model_count(const struct chat *chat)
{
    return json_array_size(json_object_get(chat->models, "data"));
}

static enum err say_model(struct chat *chat, const char *rest)
{
    enum err err = models_get(chat);
    if (err != ERR_OK)
        return err;
    const char *now = chat->settings.asked_model;
    for (size_t i = 0; i < model_count(chat); i++) {
        const char *name = model_name(chat, i);
        if (*rest == '\0') {
            bool chosen = now != NULL ? strcmp(now, name) == 0 : i == 0;
            fputs(chosen ? "* " : "  ", stderr);
            text_say(name);
            fputc('\n', stderr);
        } else if (strcmp(name, rest) == 0) {
            err = copy_set(&chat->model, rest);
            if (err == ERR_OK)
                chat->settings.asked_model = chat->model;
            fputs("(model set)\n", stderr);
            return err;
        }
    }
    if (*rest != '\0')
        return err_set(ERR_NOT_FOUND, "the service has no model %.100s; /model lists what it has",
                       rest);
    return ERR_OK;
}

/* "~/x" → the home's. */
static enum err path_of(struct buf *out, const char *text)
{
    const char *home = getenv("HOME");
    buf_init(out, 8192);
    bool homely = strncmp(text, "~/", 2) == 0 && home != NULL;
    enum err err = homely ? buf_append_text(out, home) : ERR_OK;
    if (err == ERR_OK)
        err = buf_append_text(out, homely ? text + 1 : text);
    while (out->len > 0 && strchr(" \t", out->data[out->len - 1]) != NULL)
        buf_truncate(out, out->len - 1);
    return err == ERR_LIMIT ? err_set(err, "the file's name is too long") : err;
}

static enum err save(struct chat *chat, const char *rest, bool over)
{
    struct buf path;
    if (*rest == '\0' && chat->file == NULL)
        return err_set(ERR_USAGE, "where to? /save FILE");
    enum err err = path_of(&path, *rest != '\0' ? rest : chat->file);
    bool ours = err == ERR_OK && chat->file != NULL && strcmp(buf_text(&path), chat->file) == 0;
    if (err == ERR_OK)
        err = talkfile_write(buf_text(&path), &chat->talk, chat->settings.system, over || ours);
    if (err == ERR_OK && !ours)
        err = copy_set(&chat->file, buf_text(&path));
    if (err == ERR_OK) {
        fprintf(stderr, "(%zu message%s saved to ", chat->talk.count,
                chat->talk.count == 1 ? "" : "s");
        text_say(chat->file);
        fputs(")\n", stderr);
    }
    buf_done(&path);
    return err;
}

static enum err say_save(struct chat *chat, const char *rest)
{
    return save(chat, rest, false);
}

static enum err say_save_over(struct chat *chat, const char *rest)
{
    return save(chat, rest, true);
}

static enum err say_load(struct chat *chat, const char *rest)
{
    struct buf path;
    char *system = NULL;
    if (*rest == '\0')
        return err_set(ERR_USAGE, "which file? /load FILE");
    enum err err = path_of(&path, rest);
    if (err == ERR_OK)
        err = talkfile_read(buf_text(&path), &chat->talk, &system);
    if (err == ERR_OK) {
        free(chat->system);
        chat->system = system;
        chat->settings.system = system;
        err = copy_set(&chat->file, buf_text(&path));
        fprintf(stderr, "(%zu message%s loaded; the talk goes on from there)\n", chat->talk.count,
                chat->talk.count == 1 ? "" : "s");
    }
    buf_done(&path);
    return err;
}

static enum err say_regenerate(struct chat *chat, const char *rest)
{
    (void)rest;
    const struct talk *talk = &chat->talk;
    bool answered = talk->count >= 2 &&
                    strcmp(talk->messages[talk->count - 1].role, "assistant") == 0 &&
                    strcmp(talk->messages[talk->count - 2].role, "user") == 0;
    /* After a question that was not answered it is that one; else the last of the talk. */
    const char *question = answered ? talk->messages[talk->count - 2].content : NULL;
    if (chat->question != NULL && (question == NULL || strcmp(chat->question, question) != 0)) {
        question = chat->question;
        answered = false;
    }
    if (question == NULL)
        return err_set(ERR_USAGE, "nothing was asked yet");
    char *copy = strdup(question);
    if (copy == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    if (answered) {
        talk_drop_last(&chat->talk);
        talk_drop_last(&chat->talk);
    }
    enum err err = chat_ask(chat, copy);
    free(copy);
    return err;
}

/* ---- parameters ---- */

static enum err param_add(json_t *object, const char *word, size_t len)
{
    const char *equals = memchr(word, '=', len);
    if (equals == NULL || equals == word)
        return err_set(ERR_USAGE, "parameters are NAME=VALUE …, a JSON object, or reset");
    json_t *value = NULL;
    size_t value_len = len - (size_t)(equals + 1 - word);
    if (json_parse(&value, equals + 1, value_len) != ERR_OK)
        value = json_stringn(equals + 1, value_len); /* NAME=left */
    if (value == NULL || json_object_setn_new(object, word, (size_t)(equals - word), value) != 0)
        return err_set(ERR_INVALID, "the parameters are no valid UTF-8 text");
    return ERR_OK;
}

static enum err params_read(json_t *object, const char *rest)
{
    json_t *given = NULL;
    if (*rest == '{') {
        enum err err = json_parse(&given, rest, strlen(rest));
        if (err == ERR_OK)
            json_object_update(object, given);
        json_decref(given);
        return err;
    }
    enum err err = ERR_OK;
    for (size_t len; *rest != '\0' && err == ERR_OK; rest += len + strspn(rest + len, " \t")) {
        len = strcspn(rest, " \t");
        err = param_add(object, rest, len);
    }
    return err;
}

static enum err params_set(struct chat *chat, const char *rest)
{
    json_t *object = NULL, *checked = NULL;
    struct prompt_params params;
    const char *now = chat->settings.params;
    if (now == NULL || json_parse(&object, now, strlen(now)) != ERR_OK)
        object = json_object();
    enum err err = params_read(object, rest);
    char *text = err == ERR_OK ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    if (err == ERR_OK && text == NULL)
        err = err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK)
        err = params_parse(&params, &checked, text, false);
    if (err == ERR_OK) {
        free(chat->params);
        chat->params = text;
        chat->settings.params = text;
        text = NULL;
    }
    free(text);
    json_decref(checked);
    json_decref(object);
    return err;
}

static enum err say_params(struct chat *chat, const char *rest)
{
    enum err err = ERR_OK;
    if (strcmp(rest, "reset") == 0) {
        free(chat->params);
        chat->params = NULL;
        chat->settings.params = NULL;
    } else if (*rest != '\0') {
        err = params_set(chat, rest);
    }
    if (err != ERR_OK)
        return err;
    fputs("parameters: ", stderr);
    text_say(chat->settings.params != NULL ? chat->settings.params : "the service's own");
    fputc('\n', stderr);
    return ERR_OK;
}

static enum err say_stats(struct chat *chat, const char *rest)
{
    (void)rest;
    fprintf(stderr, "%zu %s, %llu tokens", chat->replies, chat->replies == 1 ? "reply" : "replies",
            (unsigned long long)chat->tokens);
    if (chat->replies > 0) {
        double rate = chat->seconds > 0 ? (double)chat->tokens / chat->seconds : 0;
        fprintf(stderr, ", %.1f tokens/s\n", rate);
        fprintf(stderr, "the last: %llu tokens in %.1f s, the first after %.0f ms, by ",
                (unsigned long long)chat->last_tokens, chat->last_s, chat->ttft_s * 1000);
        text_say(chat->worker);
    }
    fprintf(stderr, "\n%zu message%s in this talk\n", chat->talk.count,
            chat->talk.count == 1 ? "" : "s");
    return ERR_OK;
}

static enum err say_help(struct chat *chat, const char *rest);

static const struct {
    const char *name, *argument, *help;
    enum err (*run)(struct chat *chat, const char *rest);
} sayings[] = {
    {"/help", "", "this list", say_help},
    {"/regenerate", "", "ask the last question again, for another reply", say_regenerate},
    {"/clear", "", "begin a new talk", say_clear},
    {"/system", "TEXT", "set the system message and begin a new talk", say_system},
    {"/model", "NAME", "ask this model; without a name: list them", say_model},
    {"/params", "NAME=VALUE …", "set parameters, as temperature=0.2; reset: none", say_params},
    {"/save", "FILE", "write the talk to a file (/save! over one that is there)", say_save},
    {"/save!", NULL, NULL, say_save_over},
    {"/load", "FILE", "go on with a talk that was saved", say_load},
    {"/stats", "", "replies, tokens and speed so far", say_stats},
    {"/quit", "", "leave (also Ctrl-D)", say_quit},
    {"/reset", NULL, NULL, say_clear},
    {"/exit", NULL, NULL, say_quit},
};
#define SAYINGS (sizeof sayings / sizeof sayings[0])

static enum err say_help(struct chat *chat, const char *rest)
{
    (void)chat;
    (void)rest;
    for (size_t i = 0; i < SAYINGS; i++) {
        char left[40], label[64];
        if (sayings[i].help == NULL)
            continue;
        snprintf(left, sizeof left, "%s %s", sayings[i].name, sayings[i].argument);
        snprintf(label, sizeof label, "%s%*s", left, HELP_COLUMN - (int)wrap_columns(left), "");
        term_say(label, sayings[i].help, HELP_COLUMN);
    }
    fputc('\n', stderr);
    term_say("", "Several lines: end each with a backslash, or put them between \"\"\" and \"\"\".",
             0);
    term_say("", "Pasted text stays one question. What begins with a blank is not remembered.", 0);
    term_say("", "Ctrl-C stops a reply, or clears the line. Tab completes, arrows recall.", 0);
    return ERR_OK;
}

enum err chat_command(struct chat *chat, const char *line)
{
    const char *names[SAYINGS];
    char name[40];
    size_t len = strcspn(line, " \t\r");
    for (size_t i = 0; i < SAYINGS; i++) {
        names[i] = sayings[i].name;
        if (strlen(sayings[i].name) == len && memcmp(sayings[i].name, line, len) == 0) {
            size_t end = strlen(line);
            while (end > len && isspace((unsigned char)line[end - 1]))
                end--;
            const char *rest = line + len + strspn(line + len, " \t\r");
            char *trimmed = strndup(rest, rest < line + end ? (size_t)(line + end - rest) : 0);
            enum err err = trimmed != NULL ? sayings[i].run(chat, trimmed)
                                           : err_set(ERR_NOMEM, "out of memory");
            free(trimmed);
            return err;
        }
    }
    snprintf(name, sizeof name, "%.*s", (int)(len < 36 ? len : 36), line);
    const char *near = options_nearest(name, names, SAYINGS);
    if (near != NULL)
        return err_set(ERR_USAGE, "there is no %s; did you mean %s?", name, near);
    return err_set(ERR_USAGE,
                   "there is no %s; /help lists what there is (text that begins with a slash goes "
                   "between \"\"\" and \"\"\")",
                   name);
}

/* ---- Tab ---- */

static void word_add(struct line_words *words, const char *typed, const char *word)
{
    size_t len = strlen(word);
    if (words->count == LINE_WORDS_MAX || len >= LINE_WORD_SIZE ||
        strncmp(word, typed, strlen(typed)) != 0)
        return;
    for (const char *at = word; *at != '\0'; at++) {
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            return; /* a name that no one types */
    }
    memcpy(words->words[words->count++], word, len + 1);
}

static void files_add(struct line_words *words, const char *typed)
{
    char word[LINE_WORD_SIZE * 2 + 2];
    struct buf path;
    const char *slash = strrchr(typed, '/');
    size_t folder_len = slash != NULL ? (size_t)(slash + 1 - typed) : 0;
    if (folder_len >= LINE_WORD_SIZE)
        return;
    snprintf(word, sizeof word, "%.*s", (int)folder_len, typed);
    DIR *folder = NULL;
    if (path_of(&path, folder_len > 0 ? word : ".") == ERR_OK)
        folder = opendir(buf_text(&path));
    buf_done(&path);
    if (folder == NULL)
        return;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.' && typed[folder_len] != '.')
            continue;
        snprintf(word, sizeof word, "%.*s%.255s%s", (int)folder_len, typed, entry->d_name,
                 entry->d_type == DT_DIR ? "/" : "");
        word_add(words, typed, word);
    }
    closedir(folder);
}

void chat_words(void *arg, const char *before, struct line_words *words)
{
    struct chat *chat = arg;
    size_t len = strcspn(before, " ");
    const char *typed = before + len + strspn(before + len, " ");
    if (before[0] != '/')
        return;
    words->from = before[len] == '\0' ? 0 : (size_t)(typed - before);
    if (before[len] == '\0') {
        for (size_t i = 0; i < SAYINGS; i++) {
            if (sayings[i].help != NULL)
                word_add(words, before, sayings[i].name);
        }
    } else if (strncmp(before, "/save", 5) == 0 || strncmp(before, "/load", 5) == 0) {
        files_add(words, typed);
    } else if (strncmp(before, "/model ", 7) == 0) {
        if (chat->models == NULL && models_get(chat) != ERR_OK)
            return;
        for (size_t i = 0; i < model_count(chat); i++)
            word_add(words, typed, model_name(chat, i));
    } else if (strncmp(before, "/params ", 8) == 0 && strchr(typed, ' ') == NULL) {
        static const char *const names[] = {"reset",       "temperature=", "top_p=", "top_k=",
                                            "max_tokens=", "min_tokens=",  "seed=",  "stop="};
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            word_add(words, typed, names[i]);
    }
}
