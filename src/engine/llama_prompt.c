/*
 * llama_prompt.c - chat template and tokenizer: a request becomes tokens.
 *
 * What people wrote must never become a control token ("<|im_end|>" in a message is ordinary
 * text).  The template is applied to placeholders first, which shows what text is the template's
 * own.  Then the whole prompt is tokenized at once, as the model was trained, and if that holds
 * just the control tokens that the template's own text makes, that is the result.  If it holds
 * others, the parts are tokenized one by one, control tokens being recognised in the template's
 * parts alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/llama_engine.h"

#define MARK_BEGIN     '\x02' /* around the number of a message, in place of its content */
#define MARK_END       '\x03'
#define MARK_SIZE      24
#define SKELETON_LIMIT ((size_t)1 << 22)
#define BYTES_A_TOKEN  32 /* text longer than this times the context can't fit it */
#define CHUNK_SIZE     ((size_t)16384)
#define CHUNK_SLACK    64 /* tokens that cutting text into chunks may add */

struct part {
    const char *text;
    size_t len;
    bool written; /* by a person; else the template's */
};

bool llama_prompt_knows(const char *chat_template)
{
    struct llama_chat_message message = {"user", "x"};
    return llama_chat_apply_template(chat_template, &message, 1, true, NULL, 0) >= 0;
}

/* The template around placeholders, into out (NUL-terminated). */
static enum err make_skeleton(const struct llama_engine *llama,
                              const struct engine_request *request, struct buf *out)
{
    size_t count = request->message_count;
    struct llama_chat_message *chat = calloc(count, sizeof *chat);
    char(*marks)[MARK_SIZE] = calloc(count, sizeof *marks);
    char *text = NULL;
    enum err err = ERR_OK;
    if (chat == NULL || marks == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        snprintf(marks[i], MARK_SIZE, "%c%zu%c", MARK_BEGIN, i, MARK_END);
        chat[i].role = request->messages[i].role;
        chat[i].content = marks[i];
    }
    int32_t len = llama_chat_apply_template(llama->chat_template, chat, count, true, NULL, 0);
    if (len < 0) {
        err = err_set(ERR_INVALID, "the model's chat template can't say these messages");
        goto out;
    }
    text = calloc((size_t)len + 1, 1);
    if (text == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    llama_chat_apply_template(llama->chat_template, chat, count, true, text, len);
    err = buf_append(out, text, (size_t)len);
out:
    free(text);
    free(marks);
    free(chat);
    return err;
}

/* Cuts the skeleton at its placeholders.  parts holds 2 * message_count + 1. */
static enum err cut_skeleton(const struct engine_request *request, const struct buf *skeleton,
                             struct part *parts, size_t *part_count)
{
    size_t most = 2 * request->message_count + 1, count = 0;
    const char *at = skeleton->data, *end = skeleton->data + skeleton->len;
    while (at < end) {
        const char *mark = memchr(at, MARK_BEGIN, (size_t)(end - at));
        if (mark == NULL)
            mark = end;
        if (count == most)
            return err_set(ERR_UNSUPPORTED, "the model's chat template says a message twice");
        if (mark > at)
            parts[count++] = (struct part){at, (size_t)(mark - at), false};
        if (mark == end)
            break;
        char *behind;
        size_t number = strtoul(mark + 1, &behind, 10);
        if (*behind != MARK_END || number >= request->message_count || count == most)
            return err_set(ERR_UNSUPPORTED, "the model's chat template changes what is written");
        const char *content = request->messages[number].content;
        parts[count++] = (struct part){content, strlen(content), true};
        at = behind + 1;
    }
    *part_count = count;
    return ERR_OK;
}

static enum err tokenize(const struct llama_engine *llama, const char *text, size_t len,
                         bool at_start, bool parse_special, struct buf *out)
{
    size_t most = len + 8;
    int32_t *ids = malloc(most * sizeof *ids);
    if (ids == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    int32_t count = llama_tokenize(llama->vocab, text, (int32_t)len, ids, (int32_t)most, at_start,
                                   parse_special);
    enum err err = count < 0 ? err_set(ERR_INTERNAL, "the tokenizer failed")
                             : buf_append(out, ids, (size_t)count * sizeof *ids);
    free(ids);
    return err;
}

static bool is_control(const struct llama_engine *llama, int32_t id)
{
    return (llama_vocab_get_attr(llama->vocab, id) &
            (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) != 0;
}

/* Do two token lists hold the same control tokens in the same order? */
static bool same_controls(const struct llama_engine *llama, const struct buf *a,
                          const struct buf *b)
{
    const int32_t *x = (const int32_t *)(const void *)a->data;
    const int32_t *y = (const int32_t *)(const void *)b->data;
    size_t x_count = a->len / sizeof *x, y_count = b->len / sizeof *y, i = 0, j = 0;
    for (;;) {
        while (i < x_count && !is_control(llama, x[i]))
            i++;
        while (j < y_count && !is_control(llama, y[j]))
            j++;
        if (i == x_count || j == y_count)
            return i == x_count && j == y_count;
        if (x[i++] != y[j++])
            return false;
    }
}

static enum err tokenize_parts(const struct llama_engine *llama, const struct part *parts,
                               size_t count, struct buf *out)
{
    struct buf joined, apart;
    buf_init(&joined, (size_t)1 << 30);
    buf_init(&apart, (size_t)1 << 30);
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && i < count; i++)
        err = buf_append(&joined, parts[i].text, parts[i].len);
    if (err == ERR_OK)
        err = tokenize(llama, buf_text(&joined), joined.len, true, true, out);
    for (size_t i = 0; err == ERR_OK && i < count; i++)
        err = tokenize(llama, parts[i].text, parts[i].len, i == 0, !parts[i].written, &apart);
    if (err == ERR_OK && !same_controls(llama, out, &apart)) {
        buf_clear(out);
        err = buf_append(out, apart.data, apart.len);
    }
    buf_done(&joined);
    buf_done(&apart);
    return err;
}

/* A template that writes the beginning-of-text token itself must not get a second one. */
static void drop_double_start(const struct llama_engine *llama, struct buf *out)
{
    const int32_t *ids = (const int32_t *)(const void *)out->data;
    int32_t start = llama_vocab_bos(llama->vocab);
    if (out->len >= 2 * sizeof *ids && ids[0] == start && ids[1] == start)
        buf_consume(out, sizeof *ids);
}

/* Adds at least about as many tokens as text has, stopping when there are more than `most`.  The
 * tokenizer takes seconds for long text of some kinds, during which nobody's reply goes on: what
 * can't fit must be found out from its beginning. */
static enum err count_roughly(const struct llama_engine *llama, const char *text, size_t most,
                              size_t *count)
{
    enum err err = ERR_OK;
    struct buf ids;
    buf_init(&ids, CHUNK_SIZE * 2 * sizeof(int32_t));
    size_t len = strlen(text);
    while (err == ERR_OK && len > 0 && *count <= most) {
        size_t take = len < CHUNK_SIZE ? len : CHUNK_SIZE;
        while (take < len && ((unsigned char)text[take] & 0xC0) == 0x80)
            take--; /* not within a character */
        err = tokenize(llama, text, take, false, false, &ids);
        size_t found = ids.len / sizeof(int32_t);
        *count += found > CHUNK_SLACK ? found - CHUNK_SLACK : 0;
        buf_clear(&ids);
        text += take;
        len -= take;
    }
    buf_done(&ids);
    return err;
}

/* Refuses texts that can't fit the context, before the time is spent to tokenize them. */
static enum err check_size(const struct llama_engine *llama, const char *what,
                           const struct engine_message *messages, size_t message_count)
{
    size_t bytes = 0, count = 0, context = llama->base.info.context;
    for (size_t i = 0; i < message_count; i++)
        bytes += strlen(messages[i].content);
    if (bytes > context * BYTES_A_TOKEN)
        return err_set(ERR_LIMIT, "%s has %zu bytes and the model takes at most %zu tokens", what,
                       bytes, context - 1);
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && bytes > CHUNK_SIZE && i < message_count; i++)
        err = count_roughly(llama, messages[i].content, context, &count);
    if (err == ERR_OK && count > context)
        return err_set(ERR_LIMIT, "%s has more than %zu tokens and the model takes at most %zu",
                       what, count, context - 1);
    return err;
}

enum err llama_text_tokens(struct llama_engine *llama, const char *text, const char *what,
                           bool with_start, struct buf *out)
{
    const struct engine_message message = {"user", text};
    size_t context = llama->base.info.context;
    enum err err = check_size(llama, what, &message, 1);
    if (err == ERR_OK)
        err = tokenize(llama, text, strlen(text), with_start, false, out);
    if (err == ERR_OK && out->len / sizeof(int32_t) > context)
        err = err_set(ERR_LIMIT, "%s has %zu tokens and the model takes at most %zu", what,
                      out->len / sizeof(int32_t), context);
    return err;
}

/* A chat's parts, in order; free(*parts).  The template's lie in skeleton, which is initialised by
 * the caller. */
static enum err make_parts(const struct llama_engine *llama, const struct engine_request *request,
                           struct buf *skeleton, struct part **parts, size_t *count)
{
    enum err err = check_size(llama, "the prompt", request->messages, request->message_count);
    if (err != ERR_OK)
        return err;
    *parts = calloc(2 * request->message_count + 1, sizeof **parts);
    if (*parts == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    err = make_skeleton(llama, request, skeleton);
    return err == ERR_OK ? cut_skeleton(request, skeleton, *parts, count) : err;
}

enum err llama_prompt_text(struct llama_engine *llama, const struct engine_request *request,
                           struct buf *out)
{
    struct buf skeleton;
    struct part *parts = NULL;
    size_t count = 0;
    buf_init(&skeleton, SKELETON_LIMIT);
    enum err err = make_parts(llama, request, &skeleton, &parts, &count);
    for (size_t i = 0; err == ERR_OK && i < count; i++)
        err = buf_append(out, parts[i].text, parts[i].len);
    free(parts);
    buf_done(&skeleton);
    return err;
}

enum err llama_prompt_tokens(struct llama_engine *llama, const struct engine_request *request,
                             struct buf *out)
{
    if (request->messages == NULL) {
        const struct engine_message raw = {"user", request->raw_prompt};
        struct part whole = {raw.content, strlen(raw.content), true};
        enum err err = check_size(llama, "the prompt", &raw, 1);
        return err == ERR_OK ? tokenize_parts(llama, &whole, 1, out) : err;
    }
    struct buf skeleton;
    struct part *parts = NULL;
    size_t count = 0;
    buf_init(&skeleton, SKELETON_LIMIT);
    enum err err = make_parts(llama, request, &skeleton, &parts, &count);
    if (err == ERR_OK)
        err = tokenize_parts(llama, parts, count, out);
    if (err == ERR_OK)
        drop_double_start(llama, out);
    free(parts);
    buf_done(&skeleton);
    return err;
}
