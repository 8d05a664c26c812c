#include "roles/infer/kept.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wire/reply.h"

void kept_init(struct kept *kept, size_t text_limit, size_t logprobs_limit)
{
    *kept = (struct kept){0};
    buf_init(&kept->text, text_limit);
    buf_init(&kept->logprobs, logprobs_limit);
}

void kept_done(struct kept *kept)
{
    buf_done(&kept->text);
    buf_done(&kept->logprobs);
    free(kept->tokens);
    free(kept->marks);
    kept->tokens = NULL;
    kept->marks = NULL;
}

void kept_clear(struct kept *kept)
{
    buf_clear(&kept->text);
    buf_clear(&kept->logprobs);
    kept->token_count = kept->count = 0;
}

static enum err grow(void **data, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return ERR_OK;
    size_t more = *cap ? *cap * 2 : 64;
    while (more < need)
        more *= 2;
    void *bigger = realloc(*data, more * size);
    if (bigger == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *data = bigger;
    *cap = more;
    return ERR_OK;
}

enum err kept_add(struct kept *kept, const struct piece *piece)
{
    void *tokens = kept->tokens, *marks = kept->marks;
    enum err err = grow(&tokens, &kept->token_cap, kept->token_count + piece->token_count,
                        sizeof *kept->tokens);
    kept->tokens = tokens;
    if (err == ERR_OK)
        err = grow(&marks, &kept->cap, kept->count + 1, sizeof *kept->marks);
    kept->marks = marks;
    if (err == ERR_OK)
        err = buf_append(&kept->text, piece->text, piece->text_len);
    if (err == ERR_OK && piece->logprobs != NULL) {
        err = buf_append(&kept->logprobs, piece->logprobs, piece->logprobs_len);
        if (err != ERR_OK)
            buf_truncate(&kept->text, kept->text.len - piece->text_len);
    }
    if (err != ERR_OK)
        return err;
    if (piece->token_count > 0)
        memcpy(kept->tokens + kept->token_count, piece->tokens,
               piece->token_count * sizeof *piece->tokens);
    kept->token_count += piece->token_count;
    kept->marks[kept->count++] =
        (struct kept_mark){kept->text.len, kept->token_count, kept->logprobs.len};
    return ERR_OK;
}

static struct kept_mark mark_before(const struct kept *kept, size_t piece)
{
    return piece > 0 ? kept->marks[piece - 1] : (struct kept_mark){0, 0, 0};
}

void kept_slice(const struct kept *kept, size_t first, size_t count, struct piece *items)
{
    assert(first + count <= kept->count);
    struct kept_mark from = mark_before(kept, first);
    for (size_t i = 0; i < count; i++) {
        struct kept_mark to = kept->marks[first + i];
        size_t logprobs_len = to.logprobs_end - from.logprobs_end;
        items[i] = (struct piece){
            .text = buf_text(&kept->text) + from.text_end,
            .text_len = to.text_end - from.text_end,
            .tokens = kept->tokens != NULL ? kept->tokens + from.token_end : NULL,
            .token_count = to.token_end - from.token_end,
            .logprobs = logprobs_len > 0 ? kept->logprobs.data + from.logprobs_end : NULL,
            .logprobs_len = logprobs_len,
        };
        from = to;
    }
}

size_t kept_fitting(const struct kept *kept, size_t first, size_t most, size_t bytes)
{
    struct kept_mark from = mark_before(kept, first);
    size_t count = 0;
    while (count < most && first + count < kept->count) {
        const struct kept_mark *to = &kept->marks[first + count];
        size_t size = to->text_end - from.text_end + to->logprobs_end - from.logprobs_end +
                      (to->token_end - from.token_end) * sizeof(int32_t);
        if (count > 0 && size > bytes)
            break;
        count++;
    }
    return count;
}

enum err kept_cuts(const struct kept *kept, json_t **out)
{
    json_t *cuts = json_array();
    size_t from = 0;
    for (size_t i = 0; i < kept->count; i++) {
        size_t to = kept->marks[i].text_end;
        if (json_array_append_new(cuts, json_integer((json_int_t)(to - from))) != 0) {
            json_decref(cuts);
            return err_set(ERR_NOMEM, "out of memory");
        }
        from = to;
    }
    *out = cuts;
    return ERR_OK;
}

enum err kept_logprobs(const struct kept *kept, json_t **out)
{
    json_t *array = NULL;
    size_t from = 0;
    enum err err = ERR_OK;
    for (size_t i = 0; i < kept->count && kept->logprobs.len > 0 && err == ERR_OK; i++) {
        size_t to = kept->marks[i].logprobs_end;
        if (to > from)
            err = reply_logprobs_add(&array, kept->logprobs.data + from, to - from);
        from = to;
    }
    if (err == ERR_OK)
        *out = array;
    else
        json_decref(array);
    return err;
}
