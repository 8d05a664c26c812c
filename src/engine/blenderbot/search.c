#include "engine/blenderbot/search.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blenderbot/scores.h"
#include "engine/blenderbot/topk.h"

#define HOPELESS   (-1.0e9f) /* what the original adds to a score that must not win */
#define ALIVE_FROM (-5.0e8f) /* scores below this carry a HOPELESS */

struct candidate { /* a running sequence and its next token */
    float score;
    size_t beam;
    int32_t token;
    bool ends;
};

struct scratch {
    struct candidate *candidates; /* best first */
    size_t candidate_count;
    struct topk_item *items;
    struct bb_hypothesis *next; /* as running; their memory is exchanged */
    struct bb_hypothesis *best; /* as done */
    uint8_t *seen;              /* vocab_size */
    float *sorted;              /* vocab_size */
    struct sampler sampler;
};

/* Candidates for each beam: enough that `beams` remain when each beam ends in every way. */
static size_t count_ways(const struct bb_search_params *params)
{
    return params->ends.count > 1 ? params->ends.count + 1 : 2;
}

bool bb_token_set_has(const struct bb_token_set *set, int32_t token)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->ids[i] == token)
            return true;
    }
    return false;
}

/* ---- making and freeing ---- */

static struct bb_hypothesis *make_hypotheses(size_t count, size_t length)
{
    struct bb_hypothesis *list = calloc(count, sizeof *list);
    for (size_t i = 0; list != NULL && i < count; i++) {
        list[i].tokens = calloc(length, sizeof *list[i].tokens);
        if (list[i].tokens != NULL)
            continue;
        for (size_t k = 0; k < i; k++)
            free(list[k].tokens);
        free(list);
        return NULL;
    }
    return list;
}

/* Room for choosing among all tokens of all beams, and among the candidates and finished ones. */
static enum err make_candidates(struct scratch *scratch, const struct bb_search_params *params,
                                size_t vocab_size)
{
    size_t total = params->beams * vocab_size, most = params->beams * count_ways(params);
    if (most > total)
        most = total;
    size_t room = topk_room(total, most), few = params->beams + most;
    scratch->candidate_count = most;
    scratch->candidates = calloc(most, sizeof *scratch->candidates);
    scratch->items = calloc(room > few ? room : few, sizeof *scratch->items);
    return scratch->candidates != NULL && scratch->items != NULL
               ? ERR_OK
               : err_set(ERR_NOMEM, "out of memory");
}

static void free_hypotheses(struct bb_hypothesis *list, size_t count)
{
    for (size_t i = 0; list != NULL && i < count; i++)
        free(list[i].tokens);
    free(list);
}

enum err bb_search_init(struct bb_search *search, const struct bb_search_params *params,
                        size_t vocab_size, const int32_t *prompt, size_t prompt_count)
{
    assert(params->beams >= 1 && params->beams <= BB_BEAMS_MAX && params->max_length >= 2);
    size_t beams = params->beams, most = params->max_length;
    struct scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *search = (struct bb_search){
        .params = *params,
        .vocab_size = vocab_size,
        .prompt = prompt,
        .prompt_count = prompt_count,
        .length = 1,
        .uniform = true,
        .improvable = true,
        .running = make_hypotheses(beams, most),
        .done = make_hypotheses(beams, most),
        .parent = calloc(beams, sizeof *search->parent),
        .scratch = scratch,
    };
    enum err err = make_candidates(scratch, params, vocab_size);
    scratch->next = make_hypotheses(beams, most);
    scratch->best = make_hypotheses(beams, most);
    scratch->seen = calloc(vocab_size, 1);
    scratch->sorted = calloc(vocab_size, sizeof *scratch->sorted);
    if (err != ERR_OK || search->running == NULL || search->done == NULL ||
        search->parent == NULL || scratch->next == NULL || scratch->best == NULL ||
        scratch->seen == NULL || scratch->sorted == NULL) {
        bb_search_done(search);
        return err_set(ERR_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < beams; i++) {
        search->running[i].tokens[0] = params->start;
        search->running[i].length = 1;
        search->running[i].score = i == 0 ? 0 : HOPELESS; /* else all beams would be one */
        search->done[i].tokens[0] = params->start;
        search->done[i].length = 1;
        search->done[i].score = HOPELESS;
    }
    return ERR_OK;
}

void bb_search_done(struct bb_search *search)
{
    struct scratch *scratch = search->scratch;
    size_t beams = search->params.beams;
    if (scratch != NULL) {
        free(scratch->candidates);
        free(scratch->items);
        free_hypotheses(scratch->next, beams);
        free_hypotheses(scratch->best, beams);
        free(scratch->seen);
        free(scratch->sorted);
        sampler_done(&scratch->sampler);
        free(scratch);
    }
    free_hypotheses(search->running, beams);
    free_hypotheses(search->done, beams);
    free(search->parent);
    *search = (struct bb_search){0};
}

size_t bb_search_rows(const struct bb_search *search)
{
    return search->uniform ? 1 : search->params.beams;
}

/* ---- one sequence: greedy and sampling ---- */

/* All rules together may forbid every token: the original then takes the first. */
static bool is_all_forbidden(const float *scores, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (scores[i] != -INFINITY)
            return false;
    }
    return true;
}

static enum err step_single(struct bb_search *search, float *scores, int32_t forced)
{
    struct scratch *scratch = search->scratch;
    struct bb_hypothesis *only = &search->running[0];
    bb_scores_restrict(search, only->tokens, scores, scratch->seen);
    struct sample_params draw = search->params.draw;
    if (!search->params.sample)
        draw.temperature = 0;
    int32_t token = forced;
    if (forced == BB_NO_TOKEN && draw.temperature <= 0 &&
        is_all_forbidden(scores, search->vocab_size)) {
        token = 0;
    } else if (forced == BB_NO_TOKEN) {
        enum err err = sampler_pick(&scratch->sampler, scores, search->vocab_size, &draw,
                                    search->length - 1, &token);
        if (err != ERR_OK)
            return err;
    }
    only->tokens[only->length++] = token;
    only->finished = bb_token_set_has(&search->params.ends, token);
    search->length++;
    search->parent[0] = 0;
    search->ended = only->finished || search->length >= search->params.max_length;
    return ERR_OK;
}

/* ---- beams ---- */

static double noise(const struct bb_search *search, size_t index)
{
    double uniform =
        sample_uniform(search->params.draw.seed ^ ((uint64_t)search->length << 32), index);
    return -log(-log(uniform > 0 ? uniform : 0x1p-60));
}

/* Rows of scores to what each running sequence may go on with. */
static enum err weigh_rows(struct bb_search *search, float *scores)
{
    struct scratch *scratch = search->scratch;
    const struct bb_search_params *params = &search->params;
    size_t rows = bb_search_rows(search), vocab_size = search->vocab_size;
    for (size_t row = 0; row < rows; row++) {
        float *own = scores + row * vocab_size;
        bb_scores_normalise(own, vocab_size);
        if (own[0] != own[0])
            return err_set(ERR_INTERNAL, "the model's scores are no numbers");
        bb_scores_restrict(search, search->running[row].tokens, own, scratch->seen);
        if (params->sample)
            bb_scores_narrow(own, vocab_size, &params->draw, params->ends.count + 1,
                             scratch->sorted);
        if (params->renormalise && !is_all_forbidden(own, vocab_size))
            bb_scores_normalise(own, vocab_size);
    }
    return ERR_OK;
}

/* The best (or drawn) continuations of all running sequences. */
static enum err find_candidates(struct bb_search *search, float *scores)
{
    struct scratch *scratch = search->scratch;
    size_t rows = bb_search_rows(search), vocab_size = search->vocab_size;
    size_t beams = search->params.beams;
    struct topk topk;
    enum err err = weigh_rows(search, scores);
    if (err != ERR_OK)
        return err;
    topk_begin(&topk, scratch->items, beams * vocab_size, scratch->candidate_count);
    float threshold = topk_threshold(&topk);
    for (size_t beam = 0; beam < beams; beam++) {
        const float *own = scores + (rows == 1 ? 0 : beam) * vocab_size;
        float before = search->running[beam].score;
        for (size_t i = 0; i < vocab_size; i++) {
            float score = own[i] + before;
            if (search->params.sample && score > -INFINITY)
                score += (float)noise(search, beam * vocab_size + i);
            if (score <= threshold) {
                topk_skip(&topk, 1);
                continue;
            }
            topk_offer(&topk, score);
            threshold = topk_threshold(&topk);
        }
    }
    topk_end(&topk);
    for (size_t i = 0; i < scratch->candidate_count; i++) {
        size_t beam = scratch->items[i].at / vocab_size, token = scratch->items[i].at % vocab_size;
        const float *own = scores + (rows == 1 ? 0 : beam) * vocab_size;
        bool ends = bb_token_set_has(&search->params.ends, (int32_t)token) ||
                    search->length + 1 >= search->params.max_length;
        scratch->candidates[i] = (struct candidate){own[token] + search->running[beam].score, beam,
                                                    (int32_t)token, ends};
    }
    return ERR_OK;
}

static void extend(struct bb_hypothesis *to, const struct bb_hypothesis *from, int32_t token,
                   float score)
{
    memcpy(to->tokens, from->tokens, from->length * sizeof *from->tokens);
    to->tokens[from->length] = token;
    to->length = from->length + 1;
    to->score = score;
    to->finished = false;
}

/* The best candidates that do not end run on; those that end only fill places nobody wants. */
static void run_on(struct bb_search *search)
{
    struct scratch *scratch = search->scratch;
    struct topk topk;
    topk_begin(&topk, scratch->items, scratch->candidate_count, search->params.beams);
    for (size_t i = 0; i < scratch->candidate_count; i++) {
        const struct candidate *next = &scratch->candidates[i];
        topk_offer(&topk, next->score + (next->ends ? HOPELESS : 0));
    }
    topk_end(&topk);
    for (size_t place = 0; place < search->params.beams; place++) {
        const struct candidate *chosen = &scratch->candidates[scratch->items[place].at];
        extend(&scratch->next[place], &search->running[chosen->beam], chosen->token,
               scratch->items[place].score);
        search->parent[place] = chosen->beam;
    }
}

static void copy_hypothesis(struct bb_hypothesis *to, const struct bb_hypothesis *from)
{
    memcpy(to->tokens, from->tokens, from->length * sizeof *from->tokens);
    to->length = from->length;
    to->score = from->score;
    to->finished = from->finished;
}

/* Of the finished sequences and those of the first `beams` candidates that end, the best stay.  As
 * in the original an empty place and a candidate that does not count differ by nothing, and either
 * may be what stays. */
static void finish(struct bb_search *search)
{
    struct scratch *scratch = search->scratch;
    const struct bb_search_params *params = &search->params;
    bool closed = params->early_stop == BB_STOP_FULL;
    for (size_t i = 0; i < params->beams; i++)
        closed = closed && search->done[i].finished;
    closed = closed || !search->improvable;
    float divisor = (float)pow((double)search->length, (double)params->length_penalty);
    struct topk topk;
    topk_begin(&topk, scratch->items, params->beams + scratch->candidate_count, params->beams);
    for (size_t i = 0; i < params->beams; i++)
        topk_offer(&topk, search->done[i].score);
    for (size_t i = 0; i < scratch->candidate_count; i++) {
        const struct candidate *next = &scratch->candidates[i];
        bool counts = next->ends && i < params->beams;
        float score = next->score / divisor + (closed ? HOPELESS : 0);
        topk_offer(&topk, score + (counts ? 0 : HOPELESS));
    }
    topk_end(&topk);
    for (size_t place = 0; place < params->beams; place++) {
        struct bb_hypothesis *to = &scratch->best[place];
        size_t at = scratch->items[place].at;
        if (at < params->beams) {
            copy_hypothesis(to, &search->done[at]);
            continue;
        }
        const struct candidate *chosen = &scratch->candidates[at - params->beams];
        extend(to, &search->running[chosen->beam], chosen->token, scratch->items[place].score);
        to->finished = chosen->ends && at - params->beams < params->beams;
    }
    struct bb_hypothesis *swapped = search->done;
    search->done = scratch->best;
    scratch->best = swapped;
}

/* Could the best running sequence still beat one of the finished ones?  By the original's rules of
 * thumb. */
static bool is_improvable(const struct bb_search *search)
{
    const struct bb_search_params *params = &search->params;
    size_t length = search->length - 1;
    if (params->early_stop == BB_STOP_NEVER && params->length_penalty > 0)
        length = params->max_length - 1;
    float best =
        search->running[0].score / (float)pow((double)length, (double)params->length_penalty);
    float worst = search->done[params->beams - 1].score;
    for (size_t i = 0; i < params->beams; i++) {
        if (best > (search->done[i].finished ? worst : HOPELESS))
            return true;
    }
    return false;
}

static enum err step_beams(struct bb_search *search, float *scores)
{
    struct scratch *scratch = search->scratch;
    const struct bb_search_params *params = &search->params;
    enum err err = find_candidates(search, scores);
    if (err != ERR_OK)
        return err;
    run_on(search);
    finish(search);
    struct bb_hypothesis *swapped = search->running;
    search->running = scratch->next;
    scratch->next = swapped;
    search->length++;
    search->uniform = false;
    search->improvable = search->improvable && is_improvable(search);
    bool all_end = true, all_finished = true;
    for (size_t i = 0; i < scratch->candidate_count; i++)
        all_end = all_end && scratch->candidates[i].ends;
    for (size_t i = 0; i < params->beams; i++)
        all_finished = all_finished && search->done[i].finished;
    search->ended =
        !search->improvable || all_end || (all_finished && params->early_stop == BB_STOP_FULL);
    return ERR_OK;
}

/* Goes along a token that was settled before: one sequence, the others stay hopeless. */
static enum err step_forced(struct bb_search *search, float *scores, int32_t token)
{
    struct scratch *scratch = search->scratch;
    struct bb_hypothesis *first = &search->running[0];
    bb_scores_normalise(scores, search->vocab_size);
    bb_scores_restrict(search, first->tokens, scores, scratch->seen);
    float gained = scores[token];
    if (!(gained > ALIVE_FROM)) /* a rule forbids it here: go on as if it were certain */
        gained = 0;
    for (size_t i = 0; i < search->params.beams; i++) {
        struct bb_hypothesis *running = &search->running[i];
        running->tokens[running->length++] = token;
        running->score += gained;
        search->parent[i] = 0;
    }
    search->length++;
    search->ended = search->led_to_end = search->length >= search->params.max_length;
    return ERR_OK;
}

enum err bb_search_step(struct bb_search *search, float *scores, int32_t forced)
{
    assert(!search->ended);
    if (search->params.beams == 1)
        return step_single(search, scores, forced);
    assert(forced == BB_NO_TOKEN || search->uniform);
    return forced == BB_NO_TOKEN ? step_beams(search, scores) : step_forced(search, scores, forced);
}

static size_t shared_length(const struct bb_hypothesis *a, size_t most,
                            const struct bb_hypothesis *b)
{
    size_t count = 0;
    while (count < most && count < b->length && a->tokens[count] == b->tokens[count])
        count++;
    return count;
}

size_t bb_search_settled(const struct bb_search *search)
{
    const struct bb_hypothesis *one = &search->running[0];
    size_t shared = one->length;
    for (size_t i = 0; i < search->params.beams; i++) {
        if (search->running[i].score > ALIVE_FROM)
            shared = shared_length(one, shared, &search->running[i]);
        if (search->done[i].finished)
            shared = shared_length(one, shared, &search->done[i]);
    }
    return shared;
}

const struct bb_hypothesis *bb_search_result(const struct bb_search *search, size_t i)
{
    bool running = search->params.beams == 1 || search->led_to_end;
    return running ? &search->running[i] : &search->done[i];
}
