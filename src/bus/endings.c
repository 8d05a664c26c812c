#include "bus/endings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/prompts.h"
#include "bus/replies.h"
#include "bus/tokens.h"
#include "wire/subject.h"
#include "wire/trace.h"

#define REPEAT_MS    500  /* how often unanswered endings are looked at */
#define PATIENCE_MS  2000 /* an ending unanswered for this long is put again */
#define ANSWER_BYTES "+"

struct waiter {
    bus_done_fn *fn;
    void *arg;
    struct waiter *next;
};

struct ending {
    char id[ID_SIZE];
    struct buf text; /* encoded */
    int64_t put_at_ns;
    struct waiter *waiters;
    UT_hash_handle hh;
};

struct endings {
    struct bus *bus;
    struct loop_timer *timer;
    struct bus_subscription *answers;
    struct ending *all;
    struct cancel *cancels;
};

static void ending_free(struct ending *ending)
{
    while (ending->waiters != NULL) {
        struct waiter *waiter = ending->waiters;
        ending->waiters = waiter->next;
        free(waiter);
    }
    buf_done(&ending->text);
    free(ending);
}

static void ending_put_again(struct endings *endings, struct ending *ending)
{
    char subject[SUBJECT_MAX];
    subject_response(subject, ending->id);
    ending->put_at_ns = clock_mono_ns();
    /* The broker's own acknowledgement says nothing that the response worker's answer does not say
     * better, so none is asked for. */
    if (bus_publish(endings->bus, subject, NULL, 0, ending->text.data, ending->text.len) != ERR_OK)
        log_debug("ending.unsent prompt=%s why=\"%s\"", ending->id, err_text());
}

static void on_answered(void *arg, const struct bus_message *message)
{
    struct endings *endings = arg;
    const char *dot = strrchr(message->subject, '.');
    struct ending *ending = NULL;
    if (dot != NULL)
        HASH_FIND_STR(endings->all, dot + 1, ending);
    if (ending == NULL)
        return;
    HASH_DELETE(hh, endings->all, ending);
    struct waiter *waiter = ending->waiters;
    ending->waiters = NULL;
    ending_free(ending);
    while (waiter != NULL) {
        struct waiter *next = waiter->next;
        waiter->fn(waiter->arg, ERR_OK, 0);
        free(waiter);
        waiter = next;
    }
}

static void on_timer(void *arg)
{
    struct endings *endings = arg;
    int64_t overdue = clock_mono_ns() - PATIENCE_MS * NS_PER_MS;
    struct ending *ending, *next;
    HASH_ITER(hh, endings->all, ending, next)
    {
        if (ending->put_at_ns < overdue)
            ending_put_again(endings, ending);
    }
}

enum err endings_new(struct endings **out, struct bus *bus, struct loop *loop)
{
    struct endings *endings = calloc(1, sizeof *endings);
    if (endings == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    endings->bus = bus;
    char subject[128];
    bus_inbox(bus, "done.*", subject, sizeof subject);
    enum err err = bus_subscribe(&endings->answers, bus, subject, on_answered, endings);
    if (err == ERR_OK)
        err = loop_timer_new(&endings->timer, loop, on_timer, endings);
    if (err != ERR_OK) {
        endings_free(endings);
        return err;
    }
    loop_timer_start(endings->timer, REPEAT_MS, REPEAT_MS);
    *out = endings;
    return ERR_OK;
}

size_t endings_count(const struct endings *endings)
{
    return HASH_COUNT(endings->all);
}

enum err endings_put(struct endings *endings, const struct reply *reply, bus_done_fn *fn, void *arg)
{
    struct ending *ending;
    struct waiter *waiter = malloc(sizeof *waiter);
    if (waiter == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *waiter = (struct waiter){.fn = fn, .arg = arg};
    HASH_FIND_STR(endings->all, reply->id, ending);
    if (ending != NULL) { /* one is on its way already: one record decides, for all of them */
        waiter->next = ending->waiters;
        ending->waiters = waiter;
        return ERR_OK;
    }
    ending = calloc(1, sizeof *ending);
    if (ending == NULL) {
        free(waiter);
        return err_set(ERR_NOMEM, "out of memory");
    }
    snprintf(ending->id, sizeof ending->id, "%s", reply->id);
    ending->waiters = waiter;
    buf_init(&ending->text, REPLY_BYTES_MAX);
    char name[ID_SIZE + 8], answer_to[160];
    snprintf(name, sizeof name, "done.%s", ending->id);
    bus_inbox(endings->bus, name, answer_to, sizeof answer_to);
    struct reply whole = *reply;
    whole.answer_to = answer_to;
    enum err err = reply_encode(&whole, &ending->text);
    if (err != ERR_OK) {
        ending_free(ending);
        return err;
    }
    HASH_ADD_STR(endings->all, id, ending);
    ending_put_again(endings, ending);
    return ERR_OK;
}

void endings_answer(struct bus *bus, const char *answer_to)
{
    /* Only inboxes: an ending's text must not make us publish just anywhere. */
    if (strncmp(answer_to, "_INBOX_", 7) != 0)
        return;
    if (bus_publish(bus, answer_to, NULL, 0, ANSWER_BYTES, strlen(ANSWER_BYTES)) != ERR_OK)
        log_debug("ending.unanswered why=\"%s\"", err_text());
}

/* ---- cancelling ---- */

struct cancel {
    struct endings *endings;
    char id[ID_SIZE], gateway[TAG_SIZE], reason[16];
    char prompter[PROMPT_MAX_PROMPTER + 1], model[MODEL_NAME_MAX + 1];
    char trace_id[ID_SIZE], owner[OWNER_LEN + 1];
    json_t *request, *messages; /* references of ours; NULL: none */
    bool keep_in_queue, detached;
    bool fenced;
    bool first;     /* the tombstone expects no claim before it: then there are no pieces, either */
    bool text_full; /* no more of it fits */
    double accepted_at;
    struct buf text; /* what had been made of the reply */
    uint64_t pieces, tokens;
    json_t *cuts;     /* bytes of each piece, of a detached reply; else NULL */
    json_t *logprobs; /* NULL: none were made */
    bus_done_fn *fn;
    void *arg;
    struct cancel *prev, *next; /* all that are under way; fn NULL once orphaned */
};

static void cancel_release(struct cancel *cancel)
{
    buf_done(&cancel->text);
    json_decref(cancel->request);
    json_decref(cancel->messages);
    json_decref(cancel->cuts);
    json_decref(cancel->logprobs);
    free(cancel);
}

static void cancel_finish(struct cancel *cancel, enum err err)
{
    if (cancel->endings != NULL) {
        if (cancel->prev != NULL)
            cancel->prev->next = cancel->next;
        else
            cancel->endings->cancels = cancel->next;
        if (cancel->next != NULL)
            cancel->next->prev = cancel->prev;
        if (cancel->fn != NULL)
            cancel->fn(cancel->arg, err, 0);
    }
    cancel_release(cancel);
}

static void on_removed(void *arg, enum err err, uint64_t sequence)
{
    (void)sequence;
    cancel_finish(arg, err);
}

static void on_recorded(void *arg, enum err err, uint64_t sequence)
{
    struct cancel *cancel = arg;
    (void)sequence;
    if (err == ERR_OK && !cancel->keep_in_queue)
        err = prompts_remove(cancel->endings->bus, cancel->id, on_removed, cancel);
    if (err != ERR_OK || cancel->keep_in_queue)
        cancel_finish(cancel, err);
}

/* What a piece adds to the record besides its text. */
static void keep_marks(struct cancel *cancel, const struct piece *piece)
{
    enum err err = ERR_OK;
    if (cancel->cuts != NULL &&
        json_array_append_new(cancel->cuts, json_integer((json_int_t)piece->text_len)) != 0) {
        json_decref(cancel->cuts); /* none rather than wrong ones */
        cancel->cuts = NULL;
        err = err_set(ERR_NOMEM, "out of memory");
    }
    if (piece->logprobs != NULL)
        err = reply_logprobs_add(&cancel->logprobs, piece->logprobs, piece->logprobs_len);
    if (err != ERR_OK)
        log_warn("cancel.marks_lost prompt=%s why=\"%s\"", cancel->id, err_text());
}

static bool on_piece(void *arg, const struct pieces *pieces)
{
    struct cancel *cancel = arg;
    for (size_t i = 0; i < pieces->count; i++) {
        const struct piece *piece = &pieces->items[i];
        cancel->tokens += piece->token_count;
        if (cancel->text_full)
            continue;
        if (buf_append(&cancel->text, piece->text, piece->text_len) == ERR_OK) {
            cancel->pieces++;
            keep_marks(cancel, piece);
        } else {
            log_warn("cancel.text_cut prompt=%s", cancel->id);
            cancel->text_full = true;
        }
    }
    return true;
}

/* Puts the ending; whole: with all that was said, which may be more than fits. */
static enum err put_cancelled(struct cancel *cancel, const struct claim *latest, bool whole)
{
    bool expired = strcmp(cancel->reason, "expired") == 0;
    /* Its owner would have dropped the text, but is gone itself. */
    whole = whole && (cancel->detached || strcmp(cancel->reason, "owner_gone") != 0);
    const struct reply ending = {
        .id = cancel->id,
        .gateway = cancel->gateway,
        .prompter = cancel->prompter,
        .model = cancel->model,
        .status = expired ? REPLY_EXPIRED : REPLY_CANCELLED,
        .finish_reason = "",
        .text = whole ? buf_text(&cancel->text) : "",
        .pieces = whole ? cancel->pieces : 0,
        .error_code = cancel->reason,
        .error_text =
            expired ? "the prompt waited too long for a free worker" : "the reply was cancelled",
        .reply_tokens = cancel->tokens,
        .worker = latest->worker,
        .node = latest->node,
        .device = latest->device,
        .attempt = latest->attempt,
        .started_at = latest->started_at,
        .accepted_at = cancel->accepted_at,
        .finished_at = clock_wall(),
        .detached = cancel->detached,
        .trace_id = cancel->trace_id,
        .owner = cancel->owner,
        .request = cancel->request,
        .messages = whole ? cancel->messages : NULL,
        .cuts = whole ? cancel->cuts : NULL,
        .logprobs = whole ? cancel->logprobs : NULL,
    };
    return endings_put(cancel->endings, &ending, on_recorded, cancel);
}

static void on_read(void *arg, enum err err, const struct claim *latest, uint64_t sequence)
{
    struct cancel *cancel = arg;
    static const struct claim none;
    if (latest == NULL)
        latest = &none;
    (void)sequence;
    if (cancel->endings == NULL)
        err = ERR_CANCELLED;
    if (err == ERR_OK)
        err = put_cancelled(cancel, latest, true);
    if (err == ERR_LIMIT) {
        log_warn("cancel.text_dropped prompt=%s why=\"%s\"", cancel->id, err_text());
        err = put_cancelled(cancel, latest, false);
    }
    if (err != ERR_OK)
        cancel_finish(cancel, err);
}

static void on_tombstone(void *arg, enum err err, uint64_t sequence)
{
    struct cancel *cancel = arg;
    (void)sequence;
    if (cancel->endings == NULL)
        err = ERR_CANCELLED;
    if (err == ERR_OK && cancel->first) {
        on_read(cancel, ERR_OK, NULL, 0);
        return;
    }
    if (err == ERR_EXISTS && cancel->first && !cancel->fenced) {
        cancel->first = false; /* somebody has claimed after all */
        err = tokens_tombstone(cancel->endings->bus, cancel->gateway, cancel->id, cancel->reason,
                               NULL, on_tombstone, cancel);
        if (err == ERR_OK)
            return;
    }
    if (err == ERR_OK)
        err = tokens_read(cancel->endings->bus, cancel->gateway, cancel->id, NULL, on_piece,
                          on_read, cancel);
    if (err != ERR_OK)
        cancel_finish(cancel, err);
}

struct cancel_spec cancel_spec_of(const struct prompt *prompt, const char *reason,
                                  double accepted_at, char trace_id[ID_SIZE])
{
    trace_id_of(trace_id, prompt->traceparent);
    return (struct cancel_spec){
        .id = prompt->id,
        .gateway = prompt->gateway,
        .prompter = prompt->prompter,
        .model = prompt->model,
        .owner = prompt->owner,
        .request = prompt->request,
        .messages = json_object_get(prompt->root, "messages"),
        .reason = reason,
        .tombstone = true,
        .detached = prompt->detached,
        .accepted_at = accepted_at,
        .trace_id = trace_id,
    };
}

enum err endings_cancel(struct endings *endings, const struct cancel_spec *spec, bus_done_fn *fn,
                        void *arg)
{
    struct cancel *cancel = calloc(1, sizeof *cancel);
    if (cancel == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    cancel->endings = endings;
    snprintf(cancel->id, sizeof cancel->id, "%s", spec->id);
    snprintf(cancel->gateway, sizeof cancel->gateway, "%s", spec->gateway);
    snprintf(cancel->reason, sizeof cancel->reason, "%s", spec->reason);
    snprintf(cancel->prompter, sizeof cancel->prompter, "%s", spec->prompter);
    snprintf(cancel->model, sizeof cancel->model, "%s", spec->model);
    snprintf(cancel->trace_id, sizeof cancel->trace_id, "%s",
             spec->trace_id != NULL ? spec->trace_id : "");
    snprintf(cancel->owner, sizeof cancel->owner, "%s", spec->owner != NULL ? spec->owner : "");
    cancel->keep_in_queue = spec->keep_in_queue;
    cancel->detached = spec->detached;
    if (spec->detached) { /* its record answers for it */
        cancel->request = json_incref((json_t *)(uintptr_t)spec->request);
        cancel->messages = json_incref((json_t *)(uintptr_t)spec->messages);
        cancel->cuts = json_array();
    }
    cancel->accepted_at = spec->accepted_at;
    cancel->fn = fn;
    cancel->arg = arg;
    buf_init(&cancel->text, REPLY_BYTES_MAX / 2);
    enum err err;
    const uint64_t fence = spec->fenced ? spec->fence : 0;
    cancel->fenced = spec->fenced;
    cancel->first = spec->tombstone && fence == 0 && (spec->fenced || spec->unclaimed);
    if (spec->tombstone)
        err = tokens_tombstone(endings->bus, cancel->gateway, cancel->id, cancel->reason,
                               spec->fenced || cancel->first ? &fence : NULL, on_tombstone, cancel);
    else
        err =
            tokens_read(endings->bus, cancel->gateway, cancel->id, NULL, on_piece, on_read, cancel);
    if (err != ERR_OK) {
        cancel_release(cancel);
        return err;
    }
    cancel->next = endings->cancels;
    if (cancel->next != NULL)
        cancel->next->prev = cancel;
    endings->cancels = cancel;
    return ERR_OK;
}

void endings_free(struct endings *endings)
{
    if (endings == NULL)
        return;
    /* Cancels under way hold requests of the bus; those end with the bus and free them. */
    for (struct cancel *cancel = endings->cancels; cancel != NULL; cancel = cancel->next)
        cancel->endings = NULL;
    struct ending *ending, *next;
    HASH_ITER(hh, endings->all, ending, next)
    {
        HASH_DELETE(hh, endings->all, ending);
        ending_free(ending);
    }
    bus_unsubscribe(endings->answers);
    loop_timer_free(endings->timer);
    free(endings);
}
