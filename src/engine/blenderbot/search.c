#include "engine/blenderbot/search.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blenderbot/scores.h"

#define HOPELESS   (-1.0e9f) /* what the original adds to a score that must not win */
#define ALIVE_FROM (-5.0e8f) /* scores below this carry a HOPELESS */
#define WAYS       2         /* candidates for each beam */

struct candidate { /* a running sequence and its next token */
    float score;
    size_t beam;
    int32_t token;
    bool ends;
};

struct scratch {
    struct candidate *candidates; /* WAYS × beams, best first */
    size_t candidate_count;
    struct bb_hypothesis *next; /* as running; their memory is exchanged */
    struct bb_hypothesis *best; /* as done */
    uint8_t *seen;              /* vocab_size */
    float *sorted;              /* vocab_size */
    struct sampler sampler;
};

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
    scratch->candidates = calloc(WAYS * beams, sizeof *scratch->candidates);
    scratch->next = make_hypotheses(beams, most);
    scratch->best = make_hypotheses(beams, most);
    scratch->seen = calloc(vocab_size, 1);
    scratch->sorted = calloc(vocab_size, sizeof *scratch->sorted);
    if (search->running == NULL || search->done == NULL || search->parent == NULL ||
        scratch->candidates == NULL || scratch->next == NULL || scratch->best == NULL ||
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

static enum err step_single(struct bb_search *search, float *scores, int32_t forced)
{
    struct scratch *scratch = search->scratch;
    struct bb_hypothesis *only = &search->running[0];
    bb_scores_restrict(search, only->tokens, scores, scratch->seen);
    struct sample_params draw = search->params.draw;
    if (!search->params.sample)
        draw.temperature = 0;
    int32_t token = forced;
    if (forced == BB_NO_TOKEN) {
        enum err err = sampler_pick(&scratch->sampler, scores, search->vocab_size, &draw,
                                    search->length - 1, &token);
        if (err != ERR_OK)
            return err;
    }
    only->tokens[only->length++] = token;
    only->finished = token == search->params.end;
    search->length++;
    search->parent[0] = 0;
    search->ended = only->finished || search->length >= search->params.max_length;
    return ERR_OK;
}

/* ---- beams ---- */

/* Puts a candidate among the `most` best, best first; equal ones stay in the order they came. */
static void keep_candidate(struct scratch *scratch, size_t most, struct candidate candidate)
{
    struct candidate *list = scratch->candidates;
    size_t at = scratch->candidate_count;
    if (at == most) {
        if (!(candidate.score > list[at - 1].score))
            return;
        at--;
    } else {
        scratch->candidate_count++;
    }
    for (; at > 0 && candidate.score > list[at - 1].score; at--)
        list[at] = list[at - 1];
    list[at] = candidate;
}

static double noise(const struct bb_search *search, size_t index)
{
    double uniform =
        sample_uniform(search->params.draw.seed ^ ((uint64_t)search->length << 32), index);
    return -log(-log(uniform > 0 ? uniform : 0x1p-60));
}

/* The best (or drawn) continuations of all running sequences. */
static enum err find_candidates(struct bb_search *search, float *scores)
{
    struct scratch *scratch = search->scratch;
    size_t most = WAYS * search->params.beams, rows = bb_search_rows(search);
    size_t vocab_size = search->vocab_size;
    scratch->candidate_count = 0;
    for (size_t row = 0; row < rows; row++) {
        float *own = scores + row * vocab_size;
        bb_scores_normalise(own, vocab_size);
        if (own[0] != own[0])
            return err_set(ERR_INTERNAL, "the model's scores are no numbers");
        bb_scores_restrict(search, search->running[row].tokens, own, scratch->seen);
        if (search->params.sample)
            bb_scores_narrow(own, vocab_size, &search->params.draw, WAYS, scratch->sorted);
    }
    for (size_t beam = 0; beam < search->params.beams; beam++) {
        const float *own = scores + (rows == 1 ? 0 : beam) * vocab_size;
        float before = search->running[beam].score;
        for (size_t i = 0; i < vocab_size; i++) {
            float score = own[i] + before;
            if (scratch->candidate_count == most && !search->params.sample &&
                !(score > scratch->candidates[most - 1].score))
                continue;
            struct candidate candidate = {score, beam, (int32_t)i, false};
            if (search->params.sample && score > -INFINITY)
                candidate.score += (float)noise(search, beam * vocab_size + i);
            keep_candidate(scratch, most, candidate);
        }
    }
    for (size_t i = 0; i < scratch->candidate_count; i++) {
        struct candidate *found = &scratch->candidates[i];
        const float *own = scores + (rows == 1 ? 0 : found->beam) * vocab_size;
        found->score = own[found->token] + search->running[found->beam].score;
        found->ends =
            found->token == search->params.end || search->length + 1 >= search->params.max_length;
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
    bool taken[WAYS * BB_BEAMS_MAX] = {false};
    for (size_t place = 0; place < search->params.beams; place++) {
        size_t best = SIZE_MAX;
        float best_score = 0;
        for (size_t i = 0; i < scratch->candidate_count; i++) {
            const struct candidate *next = &scratch->candidates[i];
            float score = next->score + (next->ends ? HOPELESS : 0);
            if (!taken[i] && (best == SIZE_MAX || score > best_score)) {
                best = i;
                best_score = score;
            }
        }
        const struct candidate *chosen = &scratch->candidates[best];
        taken[best] = true;
        extend(&scratch->next[place], &search->running[chosen->beam], chosen->token, best_score);
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

/* Of the finished sequences and those of the first `beams` candidates that end, the best stay. */
static void finish(struct bb_search *search)
{
    struct scratch *scratch = search->scratch;
    const struct bb_search_params *params = &search->params;
    bool closed = params->early_stop == BB_STOP_FULL, taken[BB_BEAMS_MAX] = {false};
    for (size_t i = 0; i < params->beams; i++)
        closed = closed && search->done[i].finished;
    closed = closed || !search->improvable;
    float divisor = (float)pow((double)search->length, (double)params->length_penalty);
    size_t old = 0;
    for (size_t place = 0; place < params->beams; place++) {
        size_t best = SIZE_MAX;
        float best_score = search->done[old].score;
        for (size_t i = 0; i < params->beams && !closed; i++) {
            const struct candidate *next = &scratch->candidates[i];
            float score = next->score / divisor;
            if (next->ends && !taken[i] && score > best_score) {
                best = i;
                best_score = score;
            }
        }
        struct bb_hypothesis *to = &scratch->best[place];
        if (best == SIZE_MAX) {
            copy_hypothesis(to, &search->done[old++]);
            continue;
        }
        const struct candidate *chosen = &scratch->candidates[best];
        taken[best] = true;
        extend(to, &search->running[chosen->beam], chosen->token, best_score);
        to->finished = true;
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
    search->ended = search->length >= search->params.max_length;
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
    /* None is finished where a reply was led to its very end. */
    bool running = search->params.beams == 1 || !search->done[0].finished;
    return running ? &search->running[i] : &search->done[i];
}
