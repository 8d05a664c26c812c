/*
 * blenderbot.c - runs sequences side by side: prompts of any length, greedy ones and beams.
 *
 * A step encodes the prompts that came (one, while others are being answered; all, when nobody
 * would wait), then computes one row for each running beam of every reply in one graph, and lets
 * each search take its rows of scores.
 *
 * Under beam search a piece is what all beams that may still win agree on.
 *
 * A reply that goes on from another worker's tokens: with one sequence they are rows of its first
 * step.  A beam search's state is more than what it had settled, so it is done again from its
 * start, saying nothing until it is past those tokens: its end is that of an undisturbed one.  Only
 * if it settles on others (another machine rounds differently where two beams are nearly equal) is
 * it led along them instead, and searches on from there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/blenderbot/open.h"

#define PROMPT_LIMIT ((size_t)1 << 26) /* bytes of ids */
#define TEXTS_LIMIT  ((size_t)1 << 26) /* bytes of several results */

/* ---- starting ---- */

static bool is_end(const struct bb_engine *engine, int32_t token)
{
    return bb_token_set_has(&engine->model.defaults.ends, token);
}

static enum err say_token(struct bb_engine *engine, struct bb_sequence *seq, int32_t token)
{
    size_t len;
    const char *text = bb_tokenizer_text(engine->model.tokenizer, token, &len);
    return emit_token(&seq->emit, token, text, len);
}

static enum err take_resumed(struct bb_engine *engine, struct bb_sequence *seq,
                             const struct engine_request *request)
{
    size_t count = request->resume_token_count;
    if (count == 0)
        return ERR_OK;
    if (count > seq->search.params.max_length - 1)
        return err_set(ERR_INVALID, "the reply to go on from is longer than it may be");
    seq->resumed = malloc(count * sizeof *seq->resumed);
    if (seq->resumed == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    memcpy(seq->resumed, request->resume_tokens, count * sizeof *seq->resumed);
    seq->resumed_count = count;
    enum err err = ERR_OK;
    for (size_t i = 0; i < count && err == ERR_OK; i++) {
        int32_t token = seq->resumed[i];
        if (token < 0 || (size_t)token >= engine->model.vocab_size || is_end(engine, token))
            return err_set(ERR_INVALID, "token %d can't be gone on from", token);
        err = say_token(engine, seq, token);
    }
    seq->said += count;
    if (err == ERR_OK)
        err = emit_resume(&seq->emit, request->resume_text != NULL ? request->resume_text : "");
    return err;
}

static void clear_sequence(struct bb_sequence *seq)
{
    bb_search_done(&seq->search);
    emit_done(&seq->emit);
    task_result_done(&seq->task);
    buf_done(&seq->texts);
    free(seq->prompt);
    free(seq->resumed);
    *seq = (struct bb_sequence){.cells = seq->cells, .next_cells = seq->next_cells};
}

static enum err fill_sequence(struct bb_engine *engine, struct bb_sequence *seq,
                              const struct engine_request *request)
{
    struct bb_search_params params;
    struct buf ids;
    buf_init(&ids, PROMPT_LIMIT);
    clear_sequence(seq);
    enum err err = bb_params_resolve(engine, &request->params, &params);
    if (err == ERR_OK)
        err = bb_prompt_ids(engine, request, &ids, &seq->truncated);
    if (err == ERR_OK) {
        seq->prompt_count = ids.len / sizeof *seq->prompt;
        seq->prompt = (int32_t *)(void *)buf_take(&ids, NULL);
        err = bb_search_init(&seq->search, &params, engine->model.vocab_size, seq->prompt,
                             seq->prompt_count);
    }
    if (err == ERR_OK)
        err = emit_init(&seq->emit, request->params.stop, request->params.stop_count);
    buf_init(&seq->texts, TEXTS_LIMIT);
    seq->said = 1; /* nobody hears the start token */
    seq->user = request->user;
    seq->wants_trace = request->trace;
    if (err == ERR_OK)
        err = take_resumed(engine, seq, request);
    buf_done(&ids);
    return err;
}

static enum err fill_task(struct bb_engine *engine, struct bb_sequence *seq,
                          const struct engine_request *request)
{
    clear_sequence(seq);
    seq->is_task = true;
    seq->user = request->user;
    task_result_init(&seq->task);
    return bb_task_run(engine, request, &seq->task);
}

static enum err bb_start(struct engine *base, const struct engine_request *request)
{
    struct bb_engine *engine = (struct bb_engine *)base;
    struct bb_sequence *seq = NULL;
    if (request->task == ENGINE_GENERATE && request->messages == NULL)
        return err_set(ERR_UNSUPPORTED, "prompt can't be continued by a model of this kind: it "
                                        "answers messages");
    for (unsigned i = 0; i < base->info.slots && seq == NULL; i++) {
        if (!engine->sequences[i].active)
            seq = &engine->sequences[i];
    }
    if (seq == NULL)
        return err_set(ERR_FULL, "no free slot");
    enum err err = request->task == ENGINE_GENERATE ? fill_sequence(engine, seq, request)
                                                    : fill_task(engine, seq, request);
    if (err == ERR_OK) {
        seq->active = true;
        engine->active++;
    }
    return err;
}

static void free_sequence(struct bb_engine *engine, struct bb_sequence *seq)
{
    seq->active = false;
    engine->active--;
}

static void bb_cancel(struct engine *base, const void *user)
{
    struct bb_engine *engine = (struct bb_engine *)base;
    for (unsigned i = 0; i < base->info.slots; i++) {
        struct bb_sequence *seq = &engine->sequences[i];
        if (seq->active && seq->user == user)
            free_sequence(engine, seq);
    }
}

static unsigned bb_active(const struct engine *base)
{
    return ((const struct bb_engine *)base)->active;
}

/* Those of the prompt once, for cross-attention, and those of the reply for each beam. */
static size_t bb_kv_held(const struct engine *base)
{
    const struct bb_engine *engine = (const struct bb_engine *)base;
    size_t held = 0;
    for (unsigned i = 0; i < base->info.slots; i++) {
        const struct bb_sequence *seq = &engine->sequences[i];
        if (seq->active && seq->encoded)
            held += seq->prompt_count + seq->search.params.beams * seq->search.length;
    }
    return held;
}

static int64_t bb_due_ns(const struct engine *base)
{
    return bb_active(base) > 0 ? 0 : INT64_MAX;
}

/* ---- one step: the encoder ---- */

/* With as many threads as pays. */
static void set_threads(struct bb_engine *engine, unsigned threads)
{
    if (threads == engine->threads)
        return;
    bb_runner_set_threads(engine->runner, threads, pools_for(&engine->pools, threads));
    engine->threads = threads;
}

static enum err encode(struct bb_engine *engine, struct bb_sequence *seq)
{
    size_t width = engine->model.width, numbers = seq->prompt_count * width;
    float *states = NULL;
    seq->start_ns = clock_mono_ns();
    if (seq->wants_trace) {
        states = calloc(numbers > ENGINE_TRACE_TOP ? numbers : ENGINE_TRACE_TOP, sizeof *states);
        if (states == NULL)
            return err_set(ERR_NOMEM, "out of memory");
    }
    size_t slot = (size_t)(seq - engine->sequences);
    unsigned rows = (unsigned)seq->prompt_count;
    set_threads(engine, crowd_threads(&engine->encode_crowd, rows));
    enum err err = bb_runner_encode(engine->runner, slot, seq->prompt, rows, states);
    crowd_note(&engine->encode_crowd, rows, clock_mono_ns() - seq->start_ns);
    if (err == ERR_OK && states != NULL) {
        double sum = 0;
        for (size_t i = 0; i < numbers; i++)
            sum += (double)states[i];
        seq->trace.encoder_mean = sum / (double)numbers;
        memcpy(seq->trace.encoder_first, states, sizeof seq->trace.encoder_first);
    }
    free(states);
    seq->encoded = err == ERR_OK;
    return err;
}

static enum err encode_new(struct bb_engine *engine)
{
    bool busy = false;
    for (unsigned i = 0; i < engine->base.info.slots; i++)
        busy = busy || (engine->sequences[i].active && engine->sequences[i].encoded);
    for (unsigned i = 0; i < engine->base.info.slots; i++) {
        struct bb_sequence *seq = &engine->sequences[i];
        if (!seq->active || seq->encoded || seq->is_task)
            continue;
        enum err err = encode(engine, seq);
        if (err != ERR_OK || busy)
            return err;
    }
    return ERR_OK;
}

/* ---- one step: the decoder ---- */

/* Is it led along another worker's tokens? */
static bool is_resuming(const struct bb_sequence *seq)
{
    bool led = seq->search.params.beams == 1 || seq->strayed;
    return led && seq->resumed_count >= seq->search.length;
}

/* Rows of a sequence in this step: its beams, or all tokens that it is led along. */
static size_t count_rows(const struct bb_sequence *seq)
{
    if (!seq->active || !seq->encoded)
        return 0;
    if (!is_resuming(seq))
        return bb_search_rows(&seq->search);
    size_t most = seq->search.params.max_length - 1;
    return seq->resumed_count + 1 < most ? seq->resumed_count + 1 : most;
}

static void add_row(struct bb_engine *engine, struct bb_sequence *seq, size_t beam, size_t position,
                    int32_t token, size_t at)
{
    size_t slot = (size_t)(seq - engine->sequences);
    int32_t *cells = seq->cells + beam * engine->model.positions;
    cells[position] = bb_runner_cell(engine->runner, slot, beam, position);
    engine->rows[at] = (struct bb_row){token, position, slot, cells[position], cells};
}

static size_t fill_rows(struct bb_engine *engine)
{
    size_t made = 0;
    for (unsigned i = 0; i < engine->base.info.slots; i++) {
        struct bb_sequence *seq = &engine->sequences[i];
        size_t count = count_rows(seq);
        const struct bb_search *search = &seq->search;
        bool resuming = count > 0 && is_resuming(seq);
        for (size_t k = 0; k < count; k++) {
            if (resuming)
                add_row(engine, seq, 0, k, k == 0 ? search->params.start : seq->resumed[k - 1],
                        made++);
            else
                add_row(engine, seq, k, search->length - 1,
                        search->running[k].tokens[search->length - 1], made++);
        }
    }
    return made;
}

static enum err reserve_scores(struct bb_engine *engine, size_t rows)
{
    if (engine->scores_rows >= rows)
        return ERR_OK;
    float *scores = realloc(engine->scores, rows * engine->model.vocab_size * sizeof *scores);
    if (scores == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    engine->scores = scores;
    engine->scores_rows = rows;
    return ERR_OK;
}

static enum err decode(struct bb_engine *engine, size_t rows)
{
    enum err err = reserve_scores(engine, rows);
    if (err != ERR_OK)
        return err;
    set_threads(engine, crowd_threads(&engine->crowd, (unsigned)rows));
    int64_t start_ns = clock_mono_ns();
    err = bb_runner_decode(engine->runner, engine->rows, rows, engine->scores);
    crowd_note(&engine->crowd, (unsigned)rows, clock_mono_ns() - start_ns);
    return err;
}

/* ---- one step: tokens ---- */

static void trace_scores(struct bb_sequence *seq, const float *scores, size_t count)
{
    struct engine_trace *trace = &seq->trace;
    size_t made = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = made < ENGINE_TRACE_TOP ? made++ : ENGINE_TRACE_TOP;
        for (; at > 0 && scores[i] > trace->top_scores[at - 1]; at--) {
            if (at < ENGINE_TRACE_TOP) {
                trace->top_scores[at] = trace->top_scores[at - 1];
                trace->top_ids[at] = trace->top_ids[at - 1];
            }
        }
        if (at < ENGINE_TRACE_TOP) {
            trace->top_scores[at] = scores[i];
            trace->top_ids[at] = (int32_t)i;
        }
    }
}

/* The cells of the sequences that run on are those of the ones they come from. */
static void follow_beams(const struct bb_engine *engine, struct bb_sequence *seq, bool uniform)
{
    size_t positions = engine->model.positions, beams = seq->search.params.beams;
    size_t count = seq->search.length - 1;
    if (beams == 1)
        return;
    for (size_t i = 0; i < beams; i++) {
        size_t from = uniform ? 0 : seq->search.parent[i];
        memcpy(seq->next_cells + i * positions, seq->cells + from * positions,
               count * sizeof *seq->cells);
    }
    int32_t *swapped = seq->cells;
    seq->cells = seq->next_cells;
    seq->next_cells = swapped;
}

/* Lets the search take its rows. */
static enum err search_on(struct bb_engine *engine, struct bb_sequence *seq, float *scores,
                          size_t rows)
{
    struct bb_search *search = &seq->search;
    size_t vocab_size = engine->model.vocab_size;
    if (seq->wants_trace && search->length == 1)
        trace_scores(seq, scores, vocab_size);
    if (!is_resuming(seq)) {
        bool uniform = search->uniform;
        enum err err = bb_search_step(search, scores, BB_NO_TOKEN);
        if (err == ERR_OK)
            follow_beams(engine, seq, uniform);
        return err;
    }
    for (size_t row = 0; row < rows && !search->ended; row++) {
        int32_t forced = row < seq->resumed_count ? seq->resumed[row] : BB_NO_TOKEN;
        enum err err = bb_search_step(search, scores + row * vocab_size, forced);
        if (err != ERR_OK)
            return err;
    }
    follow_beams(engine, seq, true);
    return ERR_OK;
}

static bool ends_whole(const struct bb_engine *engine, const struct bb_hypothesis *result)
{
    return is_end(engine, result->tokens[result->length - 1]);
}

/* An end token may also be text, which belongs to the reply then. */
static bool ends_silently(const struct bb_engine *engine, const struct bb_hypothesis *result)
{
    size_t len;
    bb_tokenizer_text(engine->model.tokenizer, result->tokens[result->length - 1], &len);
    return len == 0 && ends_whole(engine, result);
}

/* Has a search that is done again settled on other tokens than those that were said? */
static bool has_strayed(const struct bb_engine *engine, const struct bb_sequence *seq,
                        const struct bb_hypothesis *from, size_t settled)
{
    size_t said = seq->resumed_count < settled - 1 ? seq->resumed_count : settled - 1;
    if (seq->search.params.beams == 1 || seq->strayed || seq->resumed_count == 0)
        return false;
    if (memcmp(from->tokens + 1, seq->resumed, said * sizeof *seq->resumed) != 0)
        return true;
    if (!seq->search.ended)
        return false;
    bool end = settled > 1 && ends_silently(engine, from);
    return settled - 1 - end < seq->resumed_count;
}

/* Begins the search anew, to be led along what was said. */
static enum err search_led(struct bb_sequence *seq)
{
    struct bb_search search;
    enum err err = bb_search_init(&search, &seq->search.params, seq->search.vocab_size, seq->prompt,
                                  seq->prompt_count);
    if (err != ERR_OK)
        return err;
    bb_search_done(&seq->search);
    seq->search = search;
    seq->strayed = true;
    return ERR_OK;
}

static enum engine_finish finish_of(const struct bb_engine *engine, const struct bb_search *search,
                                    const struct bb_hypothesis *result)
{
    bool full = result->length >= search->params.max_length;
    bool forced = search->params.forced_last.count > 0;
    return full && (forced || !ends_whole(engine, result)) ? ENGINE_FINISH_LENGTH
                                                           : ENGINE_FINISH_STOP;
}

/* What is settled now goes to the emitter. */
static enum err say_settled(struct bb_engine *engine, struct bb_sequence *seq)
{
    const struct bb_search *search = &seq->search;
    const struct bb_hypothesis *from = &search->running[0];
    size_t settled = bb_search_settled(search);
    if (search->ended) {
        from = bb_search_result(search, 0);
        settled = from->length;
    }
    if (has_strayed(engine, seq, from, settled))
        return search_led(seq);
    enum err err = ERR_OK;
    for (; err == ERR_OK && seq->said < settled && !seq->emit.stopped; seq->said++) {
        int32_t token = from->tokens[seq->said];
        if (search->ended && seq->said + 1 == from->length && ends_silently(engine, from))
            break;
        err = say_token(engine, seq, token);
    }
    if (err == ERR_OK && search->ended)
        err = emit_end(&seq->emit);
    /* Of several results the others may go on beyond a stop string of the first. */
    if (seq->emit.stopped && (search->ended || search->params.returned == 1))
        seq->finish = ENGINE_FINISH_STOP;
    else if (search->ended)
        seq->finish = finish_of(engine, search, from);
    return err;
}

/* One of several results as its reader gets it: up to its end token or a stop string. */
static enum err write_result(struct bb_engine *engine, struct bb_sequence *seq,
                             const struct bb_hypothesis *result, struct engine_sequence *out)
{
    struct emit emit = {0};
    size_t count = result->length - ends_silently(engine, result), at = 1;
    const char *const *stop = (const char *const *)seq->emit.stop;
    bool any;
    enum err err = emit_init(&emit, stop, seq->emit.stop_count);
    for (; err == ERR_OK && at < count && !emit.stopped; at++) {
        size_t len;
        const char *text = bb_tokenizer_text(engine->model.tokenizer, result->tokens[at], &len);
        err = emit_token(&emit, result->tokens[at], text, len);
    }
    if (err == ERR_OK)
        err = emit_end(&emit);
    if (err == ERR_OK)
        err = emit_take(&emit, true, &any);
    out->text_len = emit.piece.len;
    out->reply_tokens = (unsigned)(at - 1);
    if (emit.stopped)
        out->finish = ENGINE_FINISH_STOP;
    if (err == ERR_OK)
        err = buf_append(&seq->texts, buf_text(&emit.piece), emit.piece.len);
    emit_done(&emit);
    return err;
}

static enum err fill_results(struct bb_engine *engine, struct bb_sequence *seq)
{
    const struct bb_search *search = &seq->search;
    size_t count = search->params.returned, at = 0;
    enum err err = ERR_OK;
    for (size_t i = 0; i < count && err == ERR_OK; i++) {
        const struct bb_hypothesis *result = bb_search_result(search, i);
        seq->results[i] = (struct engine_sequence){.ids = result->tokens,
                                                   .count = result->length,
                                                   .score = result->score,
                                                   .finish = finish_of(engine, search, result)};
        if (count > 1)
            err = write_result(engine, seq, result, &seq->results[i]);
    }
    for (size_t i = 0; i < count && count > 1 && err == ERR_OK; i++) {
        seq->results[i].text = buf_text(&seq->texts) + at;
        at += seq->results[i].text_len;
    }
    return err;
}

static void fill_last(struct bb_sequence *seq, struct engine_event *event)
{
    event->last = true;
    event->finish = seq->finish;
    event->prompt_tokens = (unsigned)seq->prompt_count;
    event->reply_tokens = (unsigned)(seq->said - 1);
    event->truncated_tokens = (unsigned)seq->truncated;
    event->trace = seq->wants_trace ? &seq->trace : NULL;
    event->timings.prompt_ms = (double)(seq->first_ns - seq->start_ns) / (double)NS_PER_MS;
    event->timings.decode_ms = (double)(seq->last_ns - seq->first_ns) / (double)NS_PER_MS;
    if (!seq->search.ended)
        return; /* a stop string, or an error */
    event->sequences = seq->results;
    event->sequence_count = seq->search.params.returned;
}

/* What this step brought; whether there is an event.  Frees a sequence that ended. */
static bool make_event(struct bb_engine *engine, struct bb_sequence *seq, enum err err,
                       struct engine_event *event)
{
    *event = (struct engine_event){.user = seq->user};
    bool ended = seq->finish != ENGINE_FINISH_NONE, any = false;
    if (err == ERR_OK)
        err = emit_take(&seq->emit, ended, &any);
    if (err == ERR_OK && seq->search.ended)
        err = fill_results(engine, seq);
    if (err != ERR_OK) {
        snprintf(seq->error_text, sizeof seq->error_text, "%s", err_text());
        seq->finish = ENGINE_FINISH_NONE;
        fill_last(seq, event);
        event->sequence_count = 0;
        event->error = err;
        event->error_text = seq->error_text;
        free_sequence(engine, seq);
        return true;
    }
    event->text = seq->emit.piece.len > 0 ? seq->emit.piece.data : NULL;
    event->text_len = seq->emit.piece.len;
    event->tokens = (const int32_t *)(const void *)seq->emit.tokens.data;
    event->token_count = seq->emit.tokens.len / sizeof(int32_t);
    if (ended) {
        fill_last(seq, event);
        free_sequence(engine, seq);
    }
    return any || ended;
}

/* A task is over with its first step. */
static void make_task_event(struct bb_engine *engine, struct bb_sequence *seq,
                            struct engine_event *event)
{
    *event = (struct engine_event){.user = seq->user};
    enum err err = task_fill_event(&seq->task, event);
    if (err != ERR_OK) {
        snprintf(seq->error_text, sizeof seq->error_text, "%s", err_text());
        event->error = err;
        event->error_text = seq->error_text;
        event->last = true;
    }
    free_sequence(engine, seq);
}

static enum err bb_step(struct engine *base, struct engine_event *events, size_t *count)
{
    struct bb_engine *engine = (struct bb_engine *)base;
    int64_t start_ns = clock_mono_ns();
    enum err err = encode_new(engine);
    int64_t encoded_ns = clock_mono_ns();
    engine_spent(base, encoded_ns - start_ns, 1, 0);
    size_t rows = err == ERR_OK ? fill_rows(engine) : 0, row = 0, made = 0;
    if (rows > 0)
        err = decode(engine, rows);
    if (err != ERR_OK)
        return err;
    int64_t now_ns = clock_mono_ns();
    engine_spent(base, now_ns - encoded_ns, 0, 1);
    for (unsigned i = 0; i < base->info.slots; i++) {
        struct bb_sequence *seq = &engine->sequences[i];
        size_t own = count_rows(seq);
        if (seq->active && seq->is_task)
            make_task_event(engine, seq, &events[made++]);
        if (own == 0)
            continue;
        float *scores = engine->scores + row * engine->model.vocab_size;
        row += own;
        seq->last_ns = now_ns;
        if (seq->first_ns == 0)
            seq->first_ns = now_ns;
        enum err failed = search_on(engine, seq, scores, own);
        if (failed == ERR_OK)
            failed = say_settled(engine, seq);
        if (make_event(engine, seq, failed, &events[made]))
            made++;
    }
    base->info.compute_bytes = bb_runner_scratch_bytes(engine->runner);
    *count = made;
    return ERR_OK;
}

static enum err bb_tokenize(struct engine *base, const struct engine_request *request,
                            int32_t **ids, size_t *count)
{
    struct buf prompt;
    size_t truncated, bytes;
    buf_init(&prompt, PROMPT_LIMIT);
    enum err err = bb_prompt_ids((struct bb_engine *)base, request, &prompt, &truncated);
    if (err == ERR_OK) {
        *ids = (int32_t *)(void *)buf_take(&prompt, &bytes);
        *count = bytes / sizeof(int32_t);
    }
    buf_done(&prompt);
    return err;
}

const struct engine_ops blenderbot_ops = {
    .open = bb_engine_open,
    .close = bb_engine_close,
    .start = bb_start,
    .cancel = bb_cancel,
    .active = bb_active,
    .kv_held = bb_kv_held,
    .due_ns = bb_due_ns,
    .step = bb_step,
    .tokenize = bb_tokenize,
};
