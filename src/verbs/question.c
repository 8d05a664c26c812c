#include "verbs/question.h"

#include <string.h>

#define QUOTES "\"\"\""

void question_init(struct question *question)
{
    *question = (struct question){.block = false};
    buf_init(&question->text, QUESTION_MAX);
}

void question_done(struct question *question)
{
    if (question != NULL)
        buf_done(&question->text);
}

void question_clear(struct question *question)
{
    buf_clear(&question->text);
    question->block = question->open = false;
}

static size_t length_trimmed(const char *line)
{
    size_t len = strlen(line);
    while (len > 0 && strchr(" \t\r", line[len - 1]) != NULL)
        len--;
    return len;
}

static enum err text_add(struct question *question, const char *text, size_t len, bool goes_on)
{
    enum err err = buf_append(&question->text, text, len);
    if (err == ERR_OK && goes_on)
        err = buf_append_text(&question->text, "\n");
    if (err == ERR_LIMIT)
        return err_set(err, "the question is larger than %zu MiB", QUESTION_MAX >> 20);
    question->open = goes_on;
    return err;
}

static enum err block_line(struct question *question, const char *line)
{
    size_t len = length_trimmed(line);
    if (len < 3 || memcmp(line + len - 3, QUOTES, 3) != 0)
        return text_add(question, line, strlen(line), true);
    if (len == 3 && question->text.len > 0) /* alone on its line: the newline before is no text */
        question->text.data[--question->text.len] = '\0';
    question->block = false;
    return text_add(question, line, len - 3, false);
}

enum err question_line(struct question *question, const char *line)
{
    if (question->block)
        return block_line(question, line);
    const char *begin = line + strspn(line, " \t");
    if (!question->open && strncmp(begin, QUOTES, 3) == 0) {
        question->block = true;
        question->open = true;
        begin += 3;
        return *begin == '\0' ? ERR_OK : block_line(question, begin);
    }
    size_t len = strlen(line), slashes = 0;
    while (slashes < len && line[len - 1 - slashes] == '\\')
        slashes++;
    bool goes_on = slashes % 2 == 1; /* "\\\\" ends with a backslash of its own */
    return text_add(question, line, goes_on ? len - 1 : len, goes_on);
}
