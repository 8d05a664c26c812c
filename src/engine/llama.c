/*
 * llama.c - runs sequences side by side: continuous batching over the slots of one context.
 *
 * A step is one call of llama_decode with the newest token of every sequence that decodes and, up
 * to sched/budget's number, tokens of prompts that are not computed yet, first come first served.
 * Then each sequence with scores gets its next token.  Sampling takes some 20 µs a token beside
 * milliseconds of computing: spreading it over threads would cost more than it saves.
 *
 * A slot keeps its cache when its sequence ends.  A prompt goes to the free slot whose cache
 * begins most like it; if another slot's cache (also a busy one's) holds more of its beginning,
 * that is copied; if an earlier prompt is just computing a common beginning, it waits for that.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "engine/llama_engine.h"
#include "sched/budget.h"

#define PROMPT_LIMIT      ((size_t)1 << 26) /* bytes of token ids */
#define SHARE_BYTES_LIMIT ((size_t)1 << 28) /* a bigger cache is not copied */

static void view_slots(struct llama_engine *llama)
{
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        const struct llama_slot *slot = &llama->slots[i];
        llama->views[i] = (struct slot_view){
            .busy = slot->state != SLOT_FREE,
            .growing = slot->state == SLOT_PROMPT,
            .order = slot->order,
            .tokens = slot->tokens,
            .planned = slot->count,
            .cached = slot->cached,
        };
    }
}

/* Keeps the first `keep` tokens of the slot's cache, or none where a part can't be kept. */
static void trim_cache(struct llama_engine *llama, struct llama_slot *slot, size_t keep)
{
    llama_memory_t memory = llama_get_memory(llama->ctx);
    llama_seq_id seq = (llama_seq_id)(slot - llama->slots);
    if (keep > 0 && llama->can_share && llama_memory_seq_rm(memory, seq, (llama_pos)keep, -1)) {
        slot->cached = keep;
        return;
    }
    llama_memory_seq_rm(memory, seq, -1, -1);
    slot->cached = 0;
}

/* ---- starting ---- */

static void choose_sampling(const struct llama_engine *llama, const struct engine_params *params,
                            struct sample_params *out)
{
    *out = llama->defaults;
    if (!isnan(params->temperature))
        out->temperature = params->temperature;
    if (!isnan(params->top_p))
        out->top_p = params->top_p;
    if (params->top_k >= 0)
        out->top_k = params->top_k;
    if (params->seed >= 0) {
        out->seed = (uint64_t)params->seed;
    } else {
        char digits[TAG_SIZE];
        id_random(digits, TAG_LEN);
        out->seed = strtoull(digits, NULL, 16);
    }
}

static enum err put_token(struct llama_engine *llama, struct llama_slot *slot, int32_t token)
{
    char text[LLAMA_PIECE_MAX];
    size_t len = 0;
    enum err err = llama_token_text(llama, token, false, text, &len);
    if (err == ERR_OK && slot->asks.grammar != NULL)
        err = grammar_accept(slot->asks.grammar, text, len);
    if (err != ERR_OK)
        return err;
    slot->tokens[slot->count++] = token;
    slot->reply_count++;
    return emit_token(&slot->emit, token, text, len);
}

/* Is the reply at its end after the token just put? */
static bool reached_end(const struct llama_engine *llama, struct llama_slot *slot)
{
    const struct grammar *grammar = slot->asks.grammar;
    if (slot->emit.stopped || (grammar != NULL && grammar_must_end(grammar)))
        slot->finish = ENGINE_FINISH_STOP;
    else if (slot->reply_count >= slot->max_reply || slot->count >= llama->base.info.context)
        slot->finish = ENGINE_FINISH_LENGTH;
    return slot->finish != ENGINE_FINISH_NONE;
}

/* Fills the chosen slot in.  Its cache is trimmed to what it has in common with the prompt. */
static enum err fill_slot(struct llama_engine *llama, struct llama_slot *slot,
                          const struct engine_request *request, const int32_t *prompt, size_t count)
{
    const struct engine_params *params = &request->params;
    struct emit emit;
    struct llama_asks asks;
    enum err err = llama_asks_read(llama, &asks, params);
    if (err != ERR_OK)
        return err;
    err = emit_init(&emit, params->stop, params->stop_count);
    if (err != ERR_OK) {
        llama_asks_done(&asks);
        return err;
    }
    size_t common = slots_common(slot->tokens, slot->cached, prompt, count);
    if (common == count)
        common--; /* the last one must be computed for its scores */
    llama_task_done(slot);
    llama_asks_done(&slot->asks);
    slot->asks = asks;
    emit_done(&slot->emit);
    slot->emit = emit;
    trim_cache(llama, slot, common);
    memcpy(slot->tokens, prompt, count * sizeof *prompt);
    slot->count = slot->prompt_count = count;
    slot->reused = slot->cached;
    slot->reply_count = 0;
    slot->min_reply = params->min_tokens > 0 ? (size_t)params->min_tokens : 0;
    slot->max_reply = params->max_tokens > 0 ? (size_t)params->max_tokens : SIZE_MAX;
    slot->finish = ENGINE_FINISH_NONE;
    slot->start_ns = slot->first_ns = slot->last_ns = 0;
    slot->placed = !llama->can_share;
    slot->user = request->user;
    choose_sampling(llama, params, &slot->sample);
    for (size_t i = 0; err == ERR_OK && i < request->resume_token_count; i++)
        err = put_token(llama, slot, request->resume_tokens[i]);
    if (err == ERR_OK && request->resume_token_count > 0)
        err = emit_resume(&slot->emit, request->resume_text != NULL ? request->resume_text : "");
    return err;
}

static enum err check_fit(const struct llama_engine *llama, const struct engine_request *request,
                          size_t prompt_count)
{
    size_t context = llama->base.info.context;
    if (prompt_count == 0)
        return err_set(ERR_INVALID, "the prompt is empty");
    if (prompt_count >= context)
        return err_set(ERR_LIMIT, "the prompt has %zu tokens and the model takes at most %zu",
                       prompt_count, context - 1);
    if (request->resume_token_count > context - prompt_count)
        return err_set(ERR_INVALID, "the reply to go on from is longer than the context");
    for (size_t i = 0; i < request->resume_token_count; i++) {
        int32_t token = request->resume_tokens[i];
        if (token < 0 || (size_t)token >= llama->vocab_size)
            return err_set(ERR_INVALID, "token %d to go on from is none of this model's", token);
    }
    return ERR_OK;
}

static void take_slot(struct llama_engine *llama, struct llama_slot *slot)
{
    slot->order = ++llama->orders;
    llama->active++;
}

static enum err start_reply(struct llama_engine *llama, const struct engine_request *request)
{
    struct buf prompt;
    buf_init(&prompt, PROMPT_LIMIT);
    enum err err = llama_prompt_tokens(llama, request, &prompt);
    size_t count = prompt.len / sizeof(int32_t);
    if (err == ERR_OK)
        err = check_fit(llama, request, count);
    if (err == ERR_OK) {
        const int32_t *tokens = (const int32_t *)(const void *)prompt.data;
        view_slots(llama);
        struct llama_slot *slot =
            &llama->slots[slots_choose(llama->views, llama->base.info.slots, tokens, count)];
        err = fill_slot(llama, slot, request, tokens, count);
        if (err == ERR_OK)
            slot->state = reached_end(llama, slot) ? SLOT_ENDING : SLOT_PROMPT;
        if (err == ERR_OK)
            take_slot(llama, slot);
    }
    buf_done(&prompt);
    return err;
}

static enum err start_task(struct llama_engine *llama, const struct engine_request *request)
{
    view_slots(llama);
    struct llama_slot *slot =
        &llama->slots[slots_choose(llama->views, llama->base.info.slots, NULL, 0)];
    enum err err = llama_task_start(llama, slot, request);
    if (err != ERR_OK)
        return err;
    slot->user = request->user;
    slot->finish = ENGINE_FINISH_NONE;
    slot->start_ns = slot->first_ns = slot->last_ns = 0;
    slot->state = request->task == ENGINE_EMBED ? SLOT_TASK : SLOT_ENDING;
    take_slot(llama, slot);
    return ERR_OK;
}

static enum err llama_start(struct engine *engine, const struct engine_request *request)
{
    struct llama_engine *llama = (struct llama_engine *)engine;
    if (llama->active >= engine->info.slots)
        return err_set(ERR_FULL, "no free slot");
    return request->task == ENGINE_GENERATE ? start_reply(llama, request)
                                            : start_task(llama, request);
}

static void free_slot(struct llama_engine *llama, struct llama_slot *slot)
{
    slot->state = SLOT_FREE;
    slot->order = ++llama->orders;
    llama->active--;
    llama_asks_done(&slot->asks);
}

static void llama_cancel(struct engine *engine, const void *user)
{
    struct llama_engine *llama = (struct llama_engine *)engine;
    for (unsigned i = 0; i < engine->info.slots; i++) {
        struct llama_slot *slot = &llama->slots[i];
        if (slot->state != SLOT_FREE && slot->user == user)
            free_slot(llama, slot);
    }
}

static unsigned llama_active(const struct engine *engine)
{
    return ((const struct llama_engine *)engine)->active;
}

static bool is_reply(const struct llama_slot *slot)
{
    return slot->state != SLOT_FREE && slot->task == NULL;
}

static size_t llama_kv_held(const struct engine *engine)
{
    const struct llama_engine *llama = (const struct llama_engine *)engine;
    size_t held = 0;
    for (unsigned i = 0; i < engine->info.slots; i++)
        held += is_reply(&llama->slots[i]) ? llama->slots[i].cached : 0;
    return held;
}

static int64_t llama_due_ns(const struct engine *engine)
{
    return llama_active(engine) > 0 ? 0 : INT64_MAX;
}

/* ---- one step ---- */

/* Copies the first `common` tokens of another slot's cache; on failure the slot computes them. */
static void copy_cache(struct llama_engine *llama, struct llama_slot *slot, size_t from,
                       size_t common)
{
    size_t size = llama_state_seq_get_size(llama->ctx, (llama_seq_id)from);
    if (size == 0 || size > SHARE_BYTES_LIMIT)
        return;
    uint8_t *state = malloc(size);
    if (state == NULL)
        return;
    size_t own = slot->cached;
    llama_seq_id seq = (llama_seq_id)(slot - llama->slots);
    size = llama_state_seq_get_data(llama->ctx, state, size, (llama_seq_id)from);
    if (size > 0 && llama_state_seq_set_data(llama->ctx, state, size, seq) > 0) {
        trim_cache(llama, slot, common);
        if (slot->cached > own)
            slot->reused += slot->cached - own;
    } else {
        trim_cache(llama, slot, 0); /* what is there now is not known */
        slot->reused = 0;
    }
    free(state);
}

/* Finds the beginning of a prompt in other slots.  False: it comes soon, compute nothing now. */
static bool place_prompt(struct llama_engine *llama, struct llama_slot *slot)
{
    if (slot->placed)
        return true;
    unsigned slots = llama->base.info.slots;
    view_slots(llama);
    size_t self = (size_t)(slot - llama->slots);
    struct slots_source source = slots_find_source(llama->views, slots, self, slot->cached);
    if (source.slot < slots && source.wait)
        return false;
    slot->placed = true;
    if (source.slot < slots) {
        size_t most = slot->count - 1;
        copy_cache(llama, slot, source.slot, source.common < most ? source.common : most);
    }
    return true;
}

static struct llama_slot *next_prompt(struct llama_engine *llama, uint64_t after)
{
    struct llama_slot *next = NULL;
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        struct llama_slot *slot = &llama->slots[i];
        if (slot->state == SLOT_PROMPT && slot->order > after &&
            (next == NULL || slot->order < next->order))
            next = slot;
    }
    return next;
}

/* Decides how many tokens of each slot go into this step. */
static void plan_step(struct llama_engine *llama, int64_t now_ns)
{
    unsigned decoding = 0, waiting = 0;
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        struct llama_slot *slot = &llama->slots[i];
        slot->row = -1;
        slot->take = slot->state == SLOT_DECODE ? 1 : 0;
        decoding += slot->state == SLOT_DECODE;
        waiting += slot->state == SLOT_PROMPT;
    }
    size_t budget = budget_prefill(decoding, waiting);
    struct llama_slot *slot = next_prompt(llama, 0);
    for (; slot != NULL && budget > 0; slot = next_prompt(llama, slot->order)) {
        if (slot->start_ns == 0)
            slot->start_ns = now_ns;
        if (!place_prompt(llama, slot))
            continue;
        size_t left = slot->count - slot->cached;
        slot->take = left < budget ? left : budget;
        budget -= slot->take;
    }
}

/* The batch, in the order of slots: only neighbouring streams are computed together. */
static void fill_batch(struct llama_engine *llama)
{
    struct llama_batch *batch = &llama->batch;
    int32_t row = 0;
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        struct llama_slot *slot = &llama->slots[i];
        for (size_t k = 0; k < slot->take; k++, row++) {
            size_t at = slot->cached + k;
            batch->token[row] = slot->tokens[at];
            batch->pos[row] = (llama_pos)at;
            batch->n_seq_id[row] = 1;
            batch->seq_id[row][0] = (llama_seq_id)i;
            batch->logits[row] = at + 1 == slot->count;
            if (at + 1 == slot->count)
                slot->row = row;
        }
    }
    batch->n_tokens = row;
}

/* Picks the slot's next token.  ERR: of this sequence alone. */
static enum err take_token(struct llama_engine *llama, struct llama_slot *slot, int64_t now_ns)
{
    float *scores = llama_get_logits_ith(llama->ctx, slot->row);
    if (scores == NULL)
        return err_set(ERR_INTERNAL, "the model gave no scores");
    int32_t token = 0;
    bool over = false;
    enum err err = llama_pick(llama, slot, scores, &token, &over);
    if (err != ERR_OK)
        return err;
    slot->state = SLOT_DECODE;
    slot->last_ns = now_ns;
    if (slot->first_ns == 0)
        slot->first_ns = now_ns;
    if (over || llama_vocab_is_eog(llama->vocab, token)) {
        slot->finish = ENGINE_FINISH_STOP;
        return ERR_OK;
    }
    err = put_token(llama, slot, token);
    if (err == ERR_OK)
        reached_end(llama, slot);
    return err;
}

static void set_timings(const struct llama_slot *slot, struct engine_event *event)
{
    if (slot->first_ns > 0) {
        event->timings.prompt_ms = (double)(slot->first_ns - slot->start_ns) / (double)NS_PER_MS;
        event->timings.decode_ms = (double)(slot->last_ns - slot->first_ns) / (double)NS_PER_MS;
    }
}

static void fill_last(const struct llama_slot *slot, struct engine_event *event)
{
    event->last = true;
    event->finish = slot->finish;
    set_timings(slot, event);
    event->prompt_tokens = (unsigned)slot->prompt_count;
    event->reply_tokens = (unsigned)slot->reply_count;
    size_t reused = slot->reused < slot->prompt_count ? slot->reused : slot->prompt_count;
    event->cached_tokens = (unsigned)reused;
}

static void fill_failure(struct llama_slot *slot, enum err err, struct engine_event *event)
{
    snprintf(slot->error_text, sizeof slot->error_text, "%s", err_text());
    event->last = true;
    event->finish = ENGINE_FINISH_NONE;
    event->error = err;
    event->error_text = slot->error_text;
}

/* What this step brought for the slot; whether there is an event.  Frees a slot that ended. */
static bool make_event(struct llama_engine *llama, struct llama_slot *slot, enum err err,
                       struct engine_event *event)
{
    *event = (struct engine_event){.user = slot->user};
    bool ended = slot->finish != ENGINE_FINISH_NONE, any = false;
    if (err == ERR_OK)
        err = emit_take(&slot->emit, ended, &any);
    if (err != ERR_OK) {
        fill_last(slot, event);
        fill_failure(slot, err, event);
        trim_cache(llama, slot, 0); /* what spoilt it may be in there */
        free_slot(llama, slot);
        return true;
    }
    event->text = slot->emit.piece.len > 0 ? slot->emit.piece.data : NULL;
    event->text_len = slot->emit.piece.len;
    event->tokens = (const int32_t *)(const void *)slot->emit.tokens.data;
    event->token_count = slot->emit.tokens.len / sizeof(int32_t);
    event->logprobs = slot->emit.notes.len > 0 ? slot->emit.notes.data : NULL;
    event->logprobs_len = slot->emit.notes.len;
    if (ended) {
        fill_last(slot, event);
        free_slot(llama, slot);
    }
    return any || ended;
}

/* A task that is over. */
static void make_task_event(struct llama_engine *llama, struct llama_slot *slot, enum err err,
                            struct engine_event *event)
{
    *event = (struct engine_event){.user = slot->user};
    if (err == ERR_OK)
        err = task_fill_event(&slot->task->result, event);
    if (err != ERR_OK)
        fill_failure(slot, err, event);
    set_timings(slot, event);
    free_slot(llama, slot);
}

/* With as many threads as pays. */
static void set_threads(struct llama_engine *llama, unsigned rows)
{
    unsigned threads = crowd_threads(&llama->crowd, rows);
    if (threads == llama->threads)
        return;
    struct ggml_threadpool *pool = pools_for(&llama->pools, threads);
    if (pool != NULL)
        llama_attach_threadpool(llama->ctx, pool, NULL);
    llama_set_n_threads(llama->ctx, (int32_t)threads, (int32_t)threads);
    llama->threads = threads;
}

/* Computes the batch. */
static enum err decode(struct llama_engine *llama)
{
    unsigned rows = (unsigned)llama->batch.n_tokens;
    set_threads(llama, rows);
    int64_t start_ns = clock_mono_ns();
    int32_t status = llama_decode(llama->ctx, llama->batch);
    int64_t spent_ns = clock_mono_ns() - start_ns;
    crowd_note(&llama->crowd, rows, spent_ns);
    size_t prefill = 0, decode = 0;
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        const struct llama_slot *slot = &llama->slots[i];
        *(slot->state == SLOT_PROMPT ? &prefill : &decode) += slot->take;
    }
    engine_spent(&llama->base, spent_ns, prefill, decode);
    if (status != 0)
        return err_set(ERR_INTERNAL, "the model runtime failed (llama_decode: %d)", status);
    return ERR_OK;
}

/* The task that began first goes on: whether it came to its end.  Beside replies it gets as many
 * tokens as a prompt would. */
static bool step_tasks(struct llama_engine *llama, struct engine_event *event)
{
    struct llama_slot *first = NULL;
    unsigned decoding = 0, waiting = 0;
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        struct llama_slot *slot = &llama->slots[i];
        decoding += slot->state == SLOT_DECODE;
        waiting += slot->state == SLOT_PROMPT || slot->state == SLOT_TASK;
        if (slot->state == SLOT_TASK && (first == NULL || slot->order < first->order))
            first = slot;
    }
    if (first == NULL)
        return false;
    bool ended = false;
    int64_t start_ns = clock_mono_ns();
    enum err err = llama_task_step(llama, first, budget_prefill(decoding, waiting), &ended);
    int64_t now_ns = clock_mono_ns();
    engine_spent(&llama->base, now_ns - start_ns, 1, 0);
    if (first->start_ns == 0)
        first->start_ns = start_ns;
    first->first_ns = first->last_ns = now_ns;
    if (err != ERR_OK || ended)
        make_task_event(llama, first, err, event);
    return err != ERR_OK || ended;
}

/* What tasks that ended gave was read by now. */
static void forget_results(struct llama_engine *llama)
{
    for (unsigned i = 0; i < llama->base.info.slots; i++) {
        if (llama->slots[i].state == SLOT_FREE)
            llama_task_done(&llama->slots[i]);
    }
}

static enum err llama_step(struct engine *engine, struct engine_event *events, size_t *count)
{
    struct llama_engine *llama = (struct llama_engine *)engine;
    forget_results(llama);
    plan_step(llama, clock_mono_ns());
    fill_batch(llama);
    if (llama->batch.n_tokens > 0) {
        enum err err = decode(llama);
        if (err != ERR_OK)
            return err;
    }
    int64_t now_ns = clock_mono_ns();
    size_t made = 0;
    for (unsigned i = 0; i < engine->info.slots; i++) {
        struct llama_slot *slot = &llama->slots[i];
        slot->cached += slot->take;
        enum err err = ERR_OK;
        if (slot->state == SLOT_ENDING && slot->task != NULL) {
            make_task_event(llama, slot, ERR_OK, &events[made++]);
            continue;
        }
        if (slot->row >= 0)
            err = take_token(llama, slot, now_ns);
        else if (slot->state != SLOT_ENDING)
            continue;
        if (make_event(llama, slot, err, &events[made]))
            made++;
    }
    made += step_tasks(llama, &events[made]);
    *count = made;
    return ERR_OK;
}

static enum err llama_tokenize_request(struct engine *engine, const struct engine_request *request,
                                       int32_t **ids, size_t *count)
{
    struct buf tokens;
    buf_init(&tokens, PROMPT_LIMIT);
    enum err err = llama_prompt_tokens((struct llama_engine *)engine, request, &tokens);
    if (err == ERR_OK) {
        size_t bytes;
        *ids = (int32_t *)(void *)buf_take(&tokens, &bytes);
        *count = bytes / sizeof(int32_t);
    }
    buf_done(&tokens);
    return err;
}

const struct engine_ops llama_ops = {
    .open = llama_engine_open,
    .close = llama_engine_close,
    .start = llama_start,
    .cancel = llama_cancel,
    .active = llama_active,
    .kv_held = llama_kv_held,
    .due_ns = llama_due_ns,
    .step = llama_step,
    .tokenize = llama_tokenize_request,
};
