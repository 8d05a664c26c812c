#include "roles/infer/kept.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void kept_init(struct kept *kept, size_t limit)
{
    *kept = (struct kept){0};
    buf_init(&kept->text, limit);
}

void kept_done(struct kept *kept)
{
    buf_done(&kept->text);
    free(kept->tokens);
    free(kept->marks);
    kept->tokens = NULL;
    kept->marks = NULL;
}

void kept_clear(struct kept *kept)
{
    buf_clear(&kept->text);
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
    if (err != ERR_OK)
        return err;
    if (piece->token_count > 0)
        memcpy(kept->tokens + kept->token_count, piece->tokens,
               piece->token_count * sizeof *piece->tokens);
    kept->token_count += piece->token_count;
    kept->marks[kept->count++] = (struct kept_mark){kept->text.len, kept->token_count};
    return ERR_OK;
}

void kept_slice(const struct kept *kept, size_t first, size_t count, struct piece *items)
{
    assert(first + count <= kept->count);
    struct kept_mark from = first > 0 ? kept->marks[first - 1] : (struct kept_mark){0, 0};
    for (size_t i = 0; i < count; i++) {
        struct kept_mark to = kept->marks[first + i];
        items[i] = (struct piece){
            .text = buf_text(&kept->text) + from.text_end,
            .text_len = to.text_end - from.text_end,
            .tokens = kept->tokens != NULL ? kept->tokens + from.token_end : NULL,
            .token_count = to.token_end - from.token_end,
        };
        from = to;
    }
}
