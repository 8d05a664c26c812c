#include "verbs/prompts.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

static const char *const built_in[] = {
    "What would you cook for six friends when two of them eat no meat?",
    "My neighbour plays the drums every evening. How do I bring it up politely?",
    "Can you explain to a child why the sky turns red at sunset?",
    "I have three days in Lisbon. What should I not miss?",
    "How do I start running when I have not done any sport for years?",
    "What is the difference between weather and climate?",
    "Tell me a short story about a lighthouse keeper and a fox.",
    "Which plants survive on a north-facing balcony?",
    "I can't fall asleep before two in the morning. What could help?",
    "How does a bicycle stay upright while it is moving?",
    "What should I ask before I rent my first flat?",
    "My grandmother turns ninety. Do you have an idea for a present?",
    "Why do cats purr, and do they only do it when they are happy?",
    "How can I learn to play chess well as an adult?",
    "What is a good way to say no to extra work without sounding rude?",
};

static enum err file_read(FILE *file, const char *path, struct buf *out)
{
    char part[65536];
    size_t len;
    while ((len = fread(part, 1, sizeof part, file)) > 0) {
        if (buf_append(out, part, len) != ERR_OK)
            return err_set(ERR_LIMIT, "%s is larger than %zu MiB", path, PROMPTS_FILE_MAX >> 20);
    }
    if (ferror(file))
        return err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
    if (out->len > 0 && memchr(out->data, '\0', out->len) != NULL)
        return err_set(ERR_INVALID, "%s is no text file", path);
    return ERR_OK;
}

static enum err lines_split(struct prompts *prompts, const char *path)
{
    size_t room = 1;
    for (const char *at = prompts->text; *at != '\0'; at++)
        room += *at == '\n';
    prompts->lines = calloc(room, sizeof *prompts->lines);
    if (prompts->lines == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    char *state = NULL;
    for (char *line = strtok_r(prompts->text, "\r\n", &state); line != NULL;
         line = strtok_r(NULL, "\r\n", &state)) {
        if (line[strspn(line, " \t")] != '\0')
            prompts->lines[prompts->count++] = line;
    }
    if (prompts->count == 0)
        return err_set(ERR_INVALID, "%s holds no prompts; write one a line", path);
    if (prompts->count > PROMPTS_MAX)
        return err_set(ERR_LIMIT, "%s holds more than %d prompts", path, PROMPTS_MAX);
    prompts->items = (const char *const *)prompts->lines;
    return ERR_OK;
}

enum err prompts_read(struct prompts *out, const char *path)
{
    if (path == NULL) {
        *out = (struct prompts){.items = built_in, .count = sizeof built_in / sizeof built_in[0]};
        return ERR_OK;
    }
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "re");
    if (file == NULL)
        return err_set(errno == EACCES ? ERR_DENIED : ERR_NOT_FOUND, "can't open %s: %s", path,
                       strerror(errno));
    struct prompts found = {0};
    struct buf text;
    buf_init(&text, PROMPTS_FILE_MAX);
    enum err err = file_read(file, path, &text);
    if (err == ERR_OK) {
        found.text = buf_take(&text, NULL);
        if (found.text == NULL)
            err = err_set(ERR_INVALID, "%s is empty; write one prompt a line", path);
        else
            err = lines_split(&found, path);
    }
    buf_done(&text);
    if (!is_stdin)
        fclose(file);
    if (err == ERR_OK)
        *out = found;
    else
        prompts_done(&found);
    return err;
}

void prompts_done(struct prompts *prompts)
{
    if (prompts == NULL)
        return;
    free(prompts->lines);
    free(prompts->text);
    memset(prompts, 0, sizeof *prompts);
}
