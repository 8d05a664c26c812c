#include "engine/fake_task.h"

#include <stdio.h>
#include <string.h>

#include "engine/logprobs.h"

#define WIDTH      16 /* of vectors */
#define NOTE_LIMIT 65536
#define SPACE      " \t\r\n\v\f"

static uint64_t hash_bytes(const char *text, size_t len)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325); /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001B3);
    return hash ^ hash >> 29;
}

static void add_word(float *vector, const char *word, size_t len)
{
    uint64_t hash = hash_bytes(word, len);
    vector[hash % WIDTH] += 1;
    vector[hash / WIDTH % WIDTH] += 0.5f;
    vector[hash / WIDTH / WIDTH % WIDTH] += 0.25f;
}

static enum err embed(const struct engine_request *request, struct task_result *result)
{
    enum err err = task_add_vectors(result, request->input_count, WIDTH);
    for (size_t i = 0; i < request->input_count && err == ERR_OK; i++) {
        float *vector = result->vectors + i * WIDTH;
        const char *text = request->inputs[i];
        unsigned words = 0;
        for (text += strspn(text, SPACE); *text != '\0'; text += strspn(text, SPACE)) {
            size_t len = strcspn(text, SPACE);
            add_word(vector, text, len);
            text += len;
            words++;
        }
        if (words == 0)
            add_word(vector, request->inputs[i], strlen(request->inputs[i]));
        result->prompt_tokens += words > 0 ? words : 1;
        err = task_normalise(vector, WIDTH);
    }
    return err;
}

static enum err split(const char *text, struct task_result *result)
{
    enum err err = ERR_OK;
    for (; *text != '\0' && err == ERR_OK; text++)
        err = task_add_token(result, (unsigned char)*text, text, 1);
    result->prompt_tokens = (unsigned)(result->tokens.len / sizeof(int32_t));
    return err;
}

static enum err join(const struct engine_request *request, struct task_result *result)
{
    struct buf bytes;
    buf_init(&bytes, TASK_BYTES_MAX);
    enum err err = ERR_OK;
    for (size_t i = 0; i < request->resume_token_count && err == ERR_OK; i++) {
        int32_t token = request->resume_tokens[i];
        char byte = (char)token;
        if (token < 0 || token > 255)
            err = err_set(ERR_INVALID, "tokens has %d, which the model has not", token);
        else
            err = buf_append(&bytes, &byte, 1);
    }
    if (err == ERR_OK)
        err = task_add_text(result, buf_text(&bytes), bytes.len);
    result->prompt_tokens = (unsigned)request->resume_token_count;
    buf_done(&bytes);
    return err;
}

static enum err write_chat(const struct engine_request *request, struct task_result *result)
{
    enum err err = ERR_OK;
    for (size_t i = 0; i < request->message_count && err == ERR_OK; i++) {
        const struct engine_message *message = &request->messages[i];
        err = buf_printf(&result->text, "%s: %s\n", message->role, message->content);
    }
    result->has_text = true;
    return err;
}

enum err fake_task_run(const struct engine_request *request, struct task_result *result)
{
    switch (request->task) {
    case ENGINE_EMBED:
        return embed(request, result);
    case ENGINE_TOKENIZE:
        return split(request->raw_prompt, result);
    case ENGINE_DETOKENIZE:
        return join(request, result);
    case ENGINE_TEMPLATE:
        return write_chat(request, result);
    case ENGINE_GENERATE:
        break;
    }
    return err_set(ERR_INTERNAL, "a reply is no task");
}

enum err fake_tell_logprobs(struct emit *emit, int64_t number, const char *text, size_t len,
                            int alternatives)
{
    struct buf note;
    struct json_out out;
    double logprob = -0.125 * (double)(1 + number % 4);
    buf_init(&note, NOTE_LIMIT);
    json_out_begin(&out, &note);
    json_out_object(&out, NULL);
    logprobs_write_token(&out, text, len, logprob);
    json_out_array(&out, "top_logprobs");
    for (int i = 0; i < alternatives; i++) {
        char other[32];
        snprintf(other, sizeof other, "alt.%d ", i);
        json_out_object(&out, NULL);
        logprobs_write_token(&out, i == 0 ? text : other, i == 0 ? len : strlen(other),
                             i == 0 ? logprob : -3.0 - i);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
    enum err err = json_out_end(&out);
    if (err == ERR_OK)
        err = emit_note(emit, note.data, note.len);
    buf_done(&note);
    return err;
}
