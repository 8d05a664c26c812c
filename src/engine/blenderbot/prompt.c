/*
 * prompt.c - a request becomes the encoder's ids.
 *
 * One message of a user is what the tokenizer makes of it (it puts a space in front itself).
 * Several are joined as the published models' chat template says: a space before each of a user's,
 * two spaces between any two.  Of what does not fit, the oldest turns go first; a system message,
 * in front, says who speaks and stays.
 */
#include <string.h>

#include "engine/blenderbot/blenderbot_engine.h"

#define TEXT_LIMIT ((size_t)1 << 26)

struct turns {
    const struct engine_message *messages;
    size_t count;
    size_t first; /* older ones, except those of the system, are left out */
};

static bool is_kept(const struct turns *turns, size_t i)
{
    return i >= turns->first || strcmp(turns->messages[i].role, "system") == 0;
}

static enum err join_turns(const struct turns *turns, struct buf *text)
{
    if (turns->count == 1)
        return buf_append_text(text, turns->messages[0].content);
    enum err err = ERR_OK;
    bool any = false;
    for (size_t i = 0; i < turns->count && err == ERR_OK; i++) {
        if (!is_kept(turns, i))
            continue;
        const struct engine_message *message = &turns->messages[i];
        if (any)
            err = buf_append_text(text, "  ");
        if (err == ERR_OK && strcmp(message->role, "user") == 0)
            err = buf_append_text(text, " ");
        if (err == ERR_OK)
            err = buf_append_text(text, message->content);
        any = true;
    }
    return err;
}

/* The ids of the turns that are kept, without the end token.  Of a text that can't fit, only its
 * end is looked at: *cut says how many bytes were left out. */
static enum err encode_turns(const struct bb_engine *engine, const struct turns *turns,
                             struct buf *ids, size_t *cut)
{
    size_t most = engine->base.info.context * bb_tokenizer_longest(engine->model.tokenizer);
    struct buf text;
    buf_init(&text, TEXT_LIMIT);
    buf_clear(ids);
    enum err err = join_turns(turns, &text);
    *cut = 0;
    if (err == ERR_OK && text.len > most) {
        *cut = text.len - most;
        while (*cut < text.len && ((unsigned char)text.data[*cut] & 0xC0) == 0x80)
            ++*cut; /* not within a character */
    }
    if (err == ERR_OK)
        err = bb_tokenizer_encode(engine->model.tokenizer, buf_text(&text) + *cut, text.len - *cut,
                                  ids);
    buf_done(&text);
    return err;
}

/* The same from one turn on. */
static enum err encode_from(const struct bb_engine *engine, struct turns *turns, size_t first,
                            struct buf *ids, size_t *cut)
{
    turns->first = first;
    return encode_turns(engine, turns, ids, cut);
}

static bool is_fitting(const struct buf *ids, size_t cut, size_t room)
{
    return cut == 0 && ids->len / sizeof(int32_t) <= room;
}

/* Leaves out as few of the oldest turns as it takes to fit; all but the last, where that is not
 * enough.  By halving: there may be a thousand, and each try encodes all that are kept. */
static enum err drop_oldest(const struct bb_engine *engine, struct turns *turns, size_t room,
                            struct buf *ids, size_t *cut)
{
    size_t low = 0, high = turns->count - 1; /* from low on they do not fit */
    if (high == 0)
        return ERR_OK;
    enum err err = encode_from(engine, turns, high, ids, cut);
    if (err != ERR_OK || !is_fitting(ids, *cut, room))
        return err;
    while (err == ERR_OK && high - low > 1) {
        size_t middle = low + (high - low) / 2;
        err = encode_from(engine, turns, middle, ids, cut);
        *(is_fitting(ids, *cut, room) ? &high : &low) = middle;
    }
    return err == ERR_OK && turns->first != high ? encode_from(engine, turns, high, ids, cut) : err;
}

enum err bb_prompt_ids(const struct bb_engine *engine, const struct engine_request *request,
                       struct buf *out, size_t *truncated)
{
    size_t room = engine->base.info.context - 1, cut = 0; /* an end token follows */
    struct engine_message raw = {"user", request->raw_prompt};
    struct turns turns = {request->messages, request->message_count, 0};
    if (turns.messages == NULL)
        turns = (struct turns){&raw, 1, 0};
    enum err err = encode_turns(engine, &turns, out, &cut);
    size_t all = out->len / sizeof(int32_t);
    if (err == ERR_OK && !is_fitting(out, cut, room))
        err = drop_oldest(engine, &turns, room, out, &cut);
    if (err != ERR_OK)
        return err;
    size_t count = out->len / sizeof(int32_t);
    if (!is_fitting(out, cut, room) && !request->truncate_left)
        return err_set(ERR_LIMIT, "the prompt has %s%zu tokens and the model takes at most %zu",
                       cut > 0 ? "more than " : "", count + 1, room + 1);
    if (count > room)
        buf_consume(out, (count - room) * sizeof(int32_t));
    count = out->len / sizeof(int32_t);
    *truncated = all > count ? all - count : cut > 0;
    return buf_append(out, &engine->model.prompt_end, sizeof engine->model.prompt_end);
}

static enum err split_text(const struct bb_engine *engine, const char *text,
                           struct task_result *result)
{
    const struct bb_tokenizer *tokenizer = engine->model.tokenizer;
    size_t most = engine->base.info.context * bb_tokenizer_longest(tokenizer), len = strlen(text);
    if (len > most)
        return err_set(ERR_LIMIT, "content has %zu bytes and the model takes at most %u tokens",
                       len, engine->base.info.context);
    struct buf ids;
    buf_init(&ids, TEXT_LIMIT);
    enum err err = len > 0 ? bb_tokenizer_encode(tokenizer, text, len, &ids) : ERR_OK;
    for (size_t at = 0; at < ids.len && err == ERR_OK; at += sizeof(int32_t)) {
        int32_t id;
        memcpy(&id, ids.data + at, sizeof id);
        const char *word = bb_tokenizer_text(tokenizer, id, &len);
        err = task_add_token(result, id, word, len);
    }
    result->prompt_tokens = (unsigned)(ids.len / sizeof(int32_t));
    buf_done(&ids);
    return err;
}

/* Special tokens have no text. */
static enum err join_tokens(const struct bb_engine *engine, const struct engine_request *request,
                            struct task_result *result)
{
    struct buf text;
    buf_init(&text, TEXT_LIMIT);
    enum err err = ERR_OK;
    for (size_t i = 0; i < request->resume_token_count && err == ERR_OK; i++) {
        size_t len;
        int32_t id = request->resume_tokens[i];
        if (id < 0 || (size_t)id >= engine->model.vocab_size) {
            err = err_set(ERR_INVALID, "tokens has %d, which the model has not", id);
            break;
        }
        const char *word = bb_tokenizer_text(engine->model.tokenizer, id, &len);
        err = buf_append(&text, word, len);
    }
    if (err == ERR_OK)
        err = task_add_text(result, buf_text(&text), text.len);
    result->prompt_tokens = (unsigned)request->resume_token_count;
    buf_done(&text);
    return err;
}

enum err bb_task_run(const struct bb_engine *engine, const struct engine_request *request,
                     struct task_result *result)
{
    struct turns turns = {request->messages, request->message_count, 0};
    switch (request->task) {
    case ENGINE_TOKENIZE:
        return split_text(engine, request->raw_prompt, result);
    case ENGINE_DETOKENIZE:
        return join_tokens(engine, request, result);
    case ENGINE_TEMPLATE:
        result->has_text = true;
        return join_turns(&turns, &result->text);
    case ENGINE_EMBED:
    case ENGINE_GENERATE:
        break;
    }
    return err_set(ERR_UNSUPPORTED, "model gives no embeddings: it is an encoder-decoder");
}
