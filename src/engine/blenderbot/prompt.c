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
