/*
 * grammar.c - a grammar's program (grammar_rules.h) run along all its ways at once.
 *
 * A way is an instruction that takes a character, and what comes after the rule it stands in: a
 * frame, which names the instruction behind the call and the frame below.  Frames are kept in one
 * array, each once, newer ones behind those that they stand on; ways that share what is below share
 * the frames.  A call at the end of a rule needs none.
 */
#include "engine/grammar.h"

#include <stdlib.h>
#include <string.h>

#include "engine/grammar_rules.h"

#define AT_END     (-1) /* in place of an instruction: the grammar is through */
#define DEPTH_MAX  1024 /* frames on one another: deeper ways are not gone */
#define FRAMES_MAX ((size_t)1 << 18)
#define SEEN_SIZE  32768           /* power of two */
#define SEEN_MAX   (SEEN_SIZE / 2) /* instructions gone through for one character */
#define TRAIL_MAX  ((size_t)1 << 18)
#define LEVELS_MAX 1024     /* bytes of one word */
#define WORK_MAX   16000000 /* instructions gone through in one call: some 50 ms */
#define SWEEP_MIN  1024

struct frame {
    int32_t back;
    uint32_t below; /* number of a frame; 0: none */
    uint32_t depth;
    uint32_t chain; /* the next with the same hash */
};

struct way {
    int32_t at;
    uint32_t frame;
};

struct seen {
    struct way way;
    uint32_t stamp;
};

struct level {                /* after so many bytes */
    size_t first, count;      /* ways, in trail */
    uint32_t value;           /* of a character that is not whole yet */
    unsigned size, need;      /* its bytes, and how many of them are missing */
    size_t trail_end, frames; /* how much of either there was */
};

struct grammar {
    struct grammar_rules rules;
    struct frame *frames; /* frames[0] is none */
    size_t frame_count, frame_cap;
    uint32_t *heads;   /* hash → frame */
    size_t head_count; /* power of two */
    size_t sweep_at;
    struct way *trail; /* ways of all levels */
    size_t trail_count, trail_cap;
    struct level *levels; /* levels[0]: what was taken so far */
    struct seen *seen;
    uint32_t stamp;
    size_t seen_count;
    struct way *todo;
    int64_t work; /* left */
};

static enum err too_much(void)
{
    return err_set(ERR_INVALID, "grammar is too ambiguous: it has too many ways to go on");
}

static uint32_t hash_of(int32_t at, uint32_t frame)
{
    uint32_t x = (uint32_t)at * UINT32_C(0x9E3779B1) ^ frame * UINT32_C(0x85EBCA77);
    return x ^ x >> 15;
}

/* ---- frames ---- */

static void put_in_chain(struct grammar *grammar, size_t number)
{
    struct frame *frame = &grammar->frames[number];
    uint32_t *head =
        &grammar->heads[hash_of(frame->back, frame->below) & (grammar->head_count - 1)];
    frame->chain = *head;
    *head = (uint32_t)number;
}

static void hash_frames(struct grammar *grammar)
{
    memset(grammar->heads, 0, grammar->head_count * sizeof *grammar->heads);
    for (size_t i = 1; i < grammar->frame_count; i++)
        put_in_chain(grammar, i);
}

static enum err grow_frames(struct grammar *grammar)
{
    size_t cap = grammar->frame_cap > 0 ? grammar->frame_cap * 2 : 256;
    if (cap > FRAMES_MAX)
        return too_much();
    struct frame *frames = realloc(grammar->frames, cap * sizeof *frames);
    if (frames == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    grammar->frames = frames;
    grammar->frame_cap = cap;
    uint32_t *heads = realloc(grammar->heads, cap * sizeof *heads);
    if (heads == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    grammar->heads = heads;
    grammar->head_count = cap;
    hash_frames(grammar);
    return ERR_OK;
}

/* The frame with these two; *out 0: it would be too deep. */
static enum err find_frame(struct grammar *grammar, int32_t back, uint32_t below, uint32_t *out)
{
    uint32_t at = grammar->heads[hash_of(back, below) & (grammar->head_count - 1)];
    for (; at != 0; at = grammar->frames[at].chain) {
        if (grammar->frames[at].back == back && grammar->frames[at].below == below) {
            *out = at;
            return ERR_OK;
        }
    }
    uint32_t depth = grammar->frames[below].depth + 1;
    *out = 0;
    if (depth > DEPTH_MAX)
        return ERR_OK;
    if (grammar->frame_count == grammar->frame_cap) {
        enum err err = grow_frames(grammar);
        if (err != ERR_OK)
            return err;
    }
    *out = (uint32_t)grammar->frame_count;
    grammar->frames[grammar->frame_count] = (struct frame){back, below, depth, 0};
    put_in_chain(grammar, grammar->frame_count++);
    return ERR_OK;
}

/* Forgets the newest frames: each is the first of its chain, when they go last to first. */
static void drop_frames(struct grammar *grammar, size_t count)
{
    while (grammar->frame_count > count) {
        const struct frame *frame = &grammar->frames[--grammar->frame_count];
        grammar->heads[hash_of(frame->back, frame->below) & (grammar->head_count - 1)] =
            frame->chain;
    }
}

/* Forgets the frames that no way stands on any more. */
static enum err sweep_frames(struct grammar *grammar)
{
    if (grammar->frame_count < grammar->sweep_at)
        return ERR_OK;
    uint32_t *moved = calloc(grammar->frame_count, sizeof *moved);
    if (moved == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    struct level *level = &grammar->levels[0];
    for (size_t i = 0; i < level->count; i++)
        moved[grammar->trail[level->first + i].frame] = 1;
    for (size_t i = grammar->frame_count; i-- > 1;) {
        if (moved[i] != 0)
            moved[grammar->frames[i].below] = 1;
    }
    size_t count = 1;
    moved[0] = 0;
    for (size_t i = 1; i < grammar->frame_count; i++) {
        if (moved[i] == 0)
            continue;
        struct frame frame = grammar->frames[i];
        frame.below = moved[frame.below];
        moved[i] = (uint32_t)count;
        grammar->frames[count++] = frame;
    }
    for (size_t i = 0; i < level->count; i++) {
        struct way *way = &grammar->trail[level->first + i];
        way->frame = moved[way->frame];
    }
    grammar->frame_count = level->frames = count;
    grammar->sweep_at = count * 2 + SWEEP_MIN;
    hash_frames(grammar);
    free(moved);
    return ERR_OK;
}

/* ---- ways ---- */

static enum err put_way(struct grammar *grammar, struct way way)
{
    if (grammar->trail_count == grammar->trail_cap) {
        size_t cap = grammar->trail_cap > 0 ? grammar->trail_cap * 2 : 256;
        struct way *trail = cap <= TRAIL_MAX ? realloc(grammar->trail, cap * sizeof *trail) : NULL;
        if (trail == NULL)
            return cap <= TRAIL_MAX ? err_set(ERR_NOMEM, "out of memory") : too_much();
        grammar->trail = trail;
        grammar->trail_cap = cap;
    }
    grammar->trail[grammar->trail_count++] = way;
    return ERR_OK;
}

/* Notes a way to be looked at, once for a character. */
static enum err come_by(struct grammar *grammar, size_t *count, int32_t at, uint32_t frame)
{
    size_t slot = hash_of(at, frame) & (SEEN_SIZE - 1);
    for (; grammar->seen[slot].stamp == grammar->stamp; slot = (slot + 1) & (SEEN_SIZE - 1)) {
        if (grammar->seen[slot].way.at == at && grammar->seen[slot].way.frame == frame)
            return ERR_OK;
    }
    if (grammar->seen_count == SEEN_MAX || --grammar->work < 0)
        return too_much();
    grammar->seen_count++;
    grammar->seen[slot] = (struct seen){{at, frame}, grammar->stamp};
    grammar->todo[(*count)++] = (struct way){at, frame};
    return ERR_OK;
}

static enum err call(struct grammar *grammar, size_t *count, struct way way)
{
    const struct rule_instr *code = grammar->rules.code;
    int32_t back = way.at + 1, rule = code[way.at].a;
    uint32_t frame = way.frame;
    while (code[back].op == RULE_JUMP)
        back += code[back].a;
    if (code[back].op != RULE_RETURN) {
        enum err err = find_frame(grammar, back, way.frame, &frame);
        if (err != ERR_OK || frame == 0)
            return err;
    }
    return come_by(grammar, count, grammar->rules.rules[rule].start, frame);
}

/* Adds to the trail the ways that lead on from one. */
static enum err follow(struct grammar *grammar, int32_t at, uint32_t frame)
{
    const struct rule_instr *code = grammar->rules.code;
    size_t count = 0;
    enum err err = come_by(grammar, &count, at, frame);
    while (err == ERR_OK && count > 0) {
        struct way way = grammar->todo[--count];
        const struct rule_instr *instr = way.at >= 0 ? &code[way.at] : NULL;
        if (instr == NULL || instr->op == RULE_CHARS) {
            err = put_way(grammar, way);
        } else if (instr->op == RULE_CALL) {
            err = call(grammar, &count, way);
        } else if (instr->op == RULE_RETURN) {
            const struct frame *below = &grammar->frames[way.frame];
            err = way.frame == 0 ? come_by(grammar, &count, AT_END, 0)
                                 : come_by(grammar, &count, below->back, below->below);
        } else {
            err = come_by(grammar, &count, way.at + instr->a, way.frame);
            if (err == ERR_OK && instr->op == RULE_SPLIT)
                err = come_by(grammar, &count, way.at + instr->b, way.frame);
        }
    }
    return err;
}

static void next_stamp(struct grammar *grammar)
{
    grammar->seen_count = 0;
    if (++grammar->stamp == 0) {
        memset(grammar->seen, 0, SEEN_SIZE * sizeof *grammar->seen);
        grammar->stamp = 1;
    }
}

/* Does the way take one of the characters low … high? */
static bool takes(const struct grammar *grammar, struct way way, uint32_t low, uint32_t high)
{
    if (way.at < 0)
        return false;
    const struct rule_instr *instr = &grammar->rules.code[way.at];
    const struct rule_range *range = grammar->rules.ranges + instr->a;
    for (int32_t i = 0; i < instr->b && range[i].low <= high; i++) {
        if (range[i].high >= low)
            return true;
    }
    return false;
}

/* ---- bytes ---- */

/* One byte more of a character: false, it can't become one. */
static bool add_byte(struct level *level, unsigned char byte)
{
    if (level->need == 0) {
        level->need = byte < 0x80 ? 0 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
        level->size = level->need + 1;
        level->value = byte < 0x80 ? byte : byte & (0x3Fu >> level->need);
        return byte < 0x80 || (byte >= 0xC2 && byte <= 0xF4);
    }
    level->value = level->value << 6 | (byte & 0x3Fu);
    level->need--;
    return (byte & 0xC0) == 0x80;
}

/* The characters that it may become: false, none. */
static bool chars_of(const struct level *level, uint32_t *low, uint32_t *high)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned shift = level->need * 6;
    *low = level->value << shift;
    *high = *low | ((UINT32_C(1) << shift) - 1);
    if (*low < least[level->size])
        *low = least[level->size];
    if (*high > 0x10FFFF)
        *high = 0x10FFFF;
    return *low <= *high && !(*low >= 0xD800 && *high <= 0xDFFF);
}

/* From levels[depth] to the next by one byte; *ok false: it may not come there. */
static enum err step(struct grammar *grammar, size_t depth, char byte, bool *ok)
{
    struct level *next = &grammar->levels[depth + 1];
    uint32_t low, high;
    *ok = false;
    *next = grammar->levels[depth];
    if (!add_byte(next, (unsigned char)byte) || !chars_of(next, &low, &high))
        return ERR_OK;
    enum err err = ERR_OK;
    size_t first = next->first, count = next->count;
    if (next->need == 0) {
        next->first = grammar->trail_count;
        next_stamp(grammar);
    }
    for (size_t i = first; i < first + count && err == ERR_OK; i++) {
        struct way way = grammar->trail[i];
        if (--grammar->work < 0)
            return too_much();
        if (!takes(grammar, way, low, high))
            continue;
        *ok = true;
        if (next->need > 0)
            break;
        err = follow(grammar, way.at + 1, way.frame);
    }
    if (next->need == 0) {
        next->count = grammar->trail_count - next->first;
        *ok = next->count > 0;
    }
    next->trail_end = grammar->trail_count;
    next->frames = grammar->frame_count;
    return err;
}

/* Back to a level: what came behind it is forgotten. */
static void step_back(struct grammar *grammar, size_t depth)
{
    grammar->trail_count = grammar->levels[depth].trail_end;
    drop_frames(grammar, grammar->levels[depth].frames);
}

/* From levels[0] through a text; *depth: how far it got. */
static enum err walk(struct grammar *grammar, const char *text, size_t len, size_t *depth)
{
    enum err err = ERR_OK;
    bool ok = true;
    *depth = 0;
    grammar->work = WORK_MAX;
    while (*depth < len && *depth < LEVELS_MAX) {
        err = step(grammar, *depth, text[*depth], &ok);
        if (err != ERR_OK || !ok)
            break;
        ++*depth;
    }
    return err;
}

enum err grammar_test(struct grammar *grammar, const char *text, size_t len, bool *allowed)
{
    size_t depth;
    enum err err = walk(grammar, text, len, &depth);
    if (err == ERR_OK)
        *allowed = depth == len;
    step_back(grammar, 0);
    return err;
}

enum err grammar_accept(struct grammar *grammar, const char *text, size_t len)
{
    size_t depth;
    enum err err = walk(grammar, text, len, &depth);
    if (err == ERR_OK && depth < len)
        err = err_set(ERR_INVALID, "grammar does not allow what the reply says");
    if (err != ERR_OK) {
        step_back(grammar, 0);
        return err;
    }
    struct level *end = &grammar->levels[0];
    *end = grammar->levels[depth];
    memmove(grammar->trail, grammar->trail + end->first, end->count * sizeof *grammar->trail);
    end->first = 0;
    end->trail_end = grammar->trail_count = end->count;
    end->frames = grammar->frame_count;
    return sweep_frames(grammar);
}

bool grammar_may_end(const struct grammar *grammar)
{
    const struct level *level = &grammar->levels[0];
    for (size_t i = 0; level->need == 0 && i < level->count; i++) {
        if (grammar->trail[level->first + i].at == AT_END)
            return true;
    }
    return false;
}

bool grammar_must_end(const struct grammar *grammar)
{
    return grammar->levels[0].count == 1 && grammar_may_end(grammar);
}

enum err grammar_open(struct grammar **out, const char *text)
{
    struct grammar *grammar = calloc(1, sizeof *grammar);
    if (grammar == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = grammar_rules_read(&grammar->rules, text);
    if (err == ERR_OK)
        err = grow_frames(grammar);
    if (err != ERR_OK)
        goto out;
    grammar->frames[0] = (struct frame){0};
    grammar->frame_count = 1;
    grammar->sweep_at = SWEEP_MIN;
    grammar->seen = calloc(SEEN_SIZE, sizeof *grammar->seen);
    grammar->todo = calloc(SEEN_MAX, sizeof *grammar->todo);
    grammar->levels = calloc(LEVELS_MAX + 1, sizeof *grammar->levels);
    if (grammar->seen == NULL || grammar->todo == NULL || grammar->levels == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    grammar->work = WORK_MAX;
    next_stamp(grammar);
    err = follow(grammar, grammar->rules.rules[grammar->rules.root].start, 0);
    struct level *begin = &grammar->levels[0];
    begin->count = begin->trail_end = grammar->trail_count;
    begin->frames = grammar->frame_count;
    if (err == ERR_OK && begin->count == 0)
        err = err_set(ERR_INVALID, "grammar allows no text at all");
out:
    if (err == ERR_OK)
        *out = grammar;
    else
        grammar_close(grammar);
    return err;
}

void grammar_close(struct grammar *grammar)
{
    if (grammar == NULL)
        return;
    grammar_rules_done(&grammar->rules);
    free(grammar->frames);
    free(grammar->heads);
    free(grammar->trail);
    free(grammar->levels);
    free(grammar->seen);
    free(grammar->todo);
    free(grammar);
}

/* ---- a whole vocabulary ---- */

enum err grammar_sift(struct grammar *grammar, const struct grammar_words *words,
                      unsigned char *allowed, size_t *count)
{
    enum err err = ERR_OK;
    size_t depth = 0, dead = SIZE_MAX; /* dead: so many bytes of the last word may not come */
    *count = 0;
    grammar->work = WORK_MAX;
    for (size_t i = 0; i < words->count && err == ERR_OK; i++) {
        const char *text = words->texts + words->starts[i];
        size_t len = words->starts[i + 1] - words->starts[i], shared = words->shared[i];
        if (shared >= dead)
            continue;
        dead = SIZE_MAX;
        if (shared < depth)
            depth = shared;
        step_back(grammar, depth);
        while (depth < len && err == ERR_OK) {
            bool ok = false;
            if (depth < LEVELS_MAX)
                err = step(grammar, depth, text[depth], &ok);
            if (!ok) {
                dead = depth + 1;
                break;
            }
            depth++;
        }
        if (depth == len && err == ERR_OK) {
            allowed[words->ids[i]] = 1;
            ++*count;
        }
    }
    step_back(grammar, 0);
    return err;
}
