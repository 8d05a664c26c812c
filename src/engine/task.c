#include "engine/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/emit.h"

void task_result_init(struct task_result *result)
{
    *result = (struct task_result){0};
    buf_init(&result->text, TASK_BYTES_MAX);
    buf_init(&result->tokens, TASK_BYTES_MAX);
    buf_init(&result->words, TASK_BYTES_MAX);
}

void task_result_done(struct task_result *result)
{
    buf_done(&result->text);
    buf_done(&result->tokens);
    buf_done(&result->words);
    free(result->word_texts);
    free(result->vectors);
    *result = (struct task_result){0};
}

enum err task_add_token(struct task_result *result, int32_t token, const char *text, size_t len)
{
    enum err err = buf_append(&result->tokens, &token, sizeof token);
    if (err == ERR_OK)
        err = len == 0 || memchr(text, '\0', len) == NULL ? buf_append(&result->words, text, len)
                                                          : emit_clean(&result->words, text, len);
    return err == ERR_OK ? buf_append(&result->words, "", 1) : err;
}

enum err task_add_text(struct task_result *result, const char *text, size_t len)
{
    result->has_text = true;
    return emit_clean(&result->text, text, len);
}

enum err task_add_vectors(struct task_result *result, size_t count, size_t size)
{
    result->vectors = calloc(count, size * sizeof *result->vectors);
    if (result->vectors == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    result->vector_count = count;
    result->vector_size = size;
    return ERR_OK;
}

enum err task_normalise(float *vector, size_t size)
{
    double sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += (double)vector[i] * (double)vector[i];
    if (!(sum > 0) || !isfinite(sum))
        return err_set(ERR_INTERNAL, "the model's embedding is no vector with a length");
    double length = sqrt(sum);
    for (size_t i = 0; i < size; i++)
        vector[i] = (float)((double)vector[i] / length);
    return ERR_OK;
}

enum err task_fill_event(struct task_result *result, struct engine_event *event)
{
    size_t count = result->tokens.len / sizeof(int32_t);
    if (result->word_texts == NULL && count > 0) {
        result->word_texts = calloc(count, sizeof *result->word_texts);
        if (result->word_texts == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        const char *at = result->words.data;
        for (size_t i = 0; i < count; at += strlen(at) + 1)
            result->word_texts[i++] = at;
    }
    event->text = result->has_text ? buf_text(&result->text) : NULL;
    event->text_len = result->text.len;
    event->tokens = (const int32_t *)(const void *)result->tokens.data;
    event->token_count = count;
    event->token_texts = result->word_texts;
    event->vectors = result->vectors;
    event->vector_count = result->vector_count;
    event->vector_size = result->vector_size;
    event->prompt_tokens = result->prompt_tokens;
    event->finish = ENGINE_FINISH_STOP;
    event->last = true;
    return ERR_OK;
}
