/*
 * One reply at a gateway: its prompt put on the queue, or met there; followed while it is made,
 * delivered.
 *
 *   OFFERED   our prompt was put on the queue, not acknowledged yet; put again when the answer got
 *             lost
 *   SEARCHED  the prompt may have been put before, by another gateway: looked for
 *   OPEN      accepted; pieces and at last the record are heard on live.>
 *   LEAVING   nobody reads any more: being cancelled
 *   GONE      delivered, refused or cancelled; freed once no callback is left
 *
 * A reply that is detached goes on without its reader; the session of our own prompt then stays
 * without an outlet until the record is there, to count it.
 *
 * What is heard live may have holes (republishing is not guaranteed, storing is).  A hole in the
 * numbers, a reconnect, or silence make the session read the stream and the record.  The record has
 * the last word: what it says beyond what was delivered is delivered, and a reply whose delivered
 * part differs from it ends in an error, never in a splice.
 */
#include "roles/gateway/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/replies.h"
#include "bus/tokens.h"
#include "roles/gateway/find.h"
#include "roles/gateway/gateway.h"
#include "wire/subject.h"

#define OFFERS_MAX       5    /* times a prompt is put before the client hears 503 */
#define SILENCE_MS       1500 /* without a sign of a running reply: look */
#define SILENCE_QUEUE_MS 5000 /* the same while nobody has claimed it */

enum session_state {
    SESSION_OFFERED,
    SESSION_SEARCHED,
    SESSION_OPEN,
    SESSION_LEAVING,
    SESSION_GONE
};

struct session {
    struct gateway *gateway;
    struct delivery out;
    struct asked *asked; /* until it is accepted; NULL for who came back */
    struct prompt prompt;
    json_t *inputs; /* owned: of the prompt */
    char id[ID_SIZE], owner_gateway[TAG_SIZE];
    char prompter[PROMPT_MAX_PROMPTER + 1], owner[OWNER_LEN + 1];
    char trace_id[ID_SIZE];
    double created;
    bool detached;
    bool background; /* its reader hears only that it was accepted */
    bool again;      /* its prompt may be in the queue already, put by another */
    bool own;        /* its prompt was put by us: counted in our figures */
    enum session_state state;
    unsigned pending; /* bus operations that name this session */
    unsigned offers;
    bool offer_lost;  /* an offer may have arrived unheard */
    bool heard_early; /* a worker was faster than the broker's acknowledgement */
    bool filling;     /* a read of the stream is under way */
    bool asking;      /* a read of the record is under way */
    bool cancelling;
    struct piece_reader reader;
    struct {                  /* about the read of the stream that is under way */
        uint64_t sum;         /* over the stored text, as far as it was delivered already */
        char nonce[TAG_SIZE]; /* of the last piece it brought */
        bool claim_heard;     /* a claim was heard meanwhile, perhaps later than what it finds */
    } fill;
    unsigned attempt; /* of the worker that has it, as far as was heard */
    int64_t came_ns, heard_ns;
    int64_t piece_ns;                    /* when the last piece was handed on; 0: none was */
    struct bus_subscription *live[2];    /* of another gateway's reply */
    struct session *same;                /* the next one that follows this reply of ours */
    bool listed;                         /* reachable through sessions_by_id */
    UT_hash_handle hh;                   /* by id: the first of those */
    struct session *prev_all, *next_all; /* all sessions */
};

static void session_cancel(struct session *session);
static void session_look(struct session *session);
static void session_search(struct session *session);

/* ---- what was asked ---- */

struct asked *asked_new(struct api_request *request, const struct trace *trace, double created)
{
    struct asked *asked = calloc(1, sizeof *asked);
    if (asked == NULL) {
        api_request_done(request);
        return NULL;
    }
    asked->request = *request;
    asked->trace = *trace;
    trace_write(asked->traceparent, trace);
    asked->created = created;
    asked->refs = 1;
    return asked;
}

void asked_drop(struct asked *asked)
{
    if (asked == NULL || --asked->refs > 0)
        return;
    api_request_done(&asked->request);
    json_decref(asked->borrowed);
    free(asked);
}

/* ---- who listens ---- */

static void list_own(struct session *session)
{
    struct gateway *gateway = session->gateway;
    struct session *first;
    session->listed = true;
    HASH_FIND_STR(gateway->sessions_by_id, session->id, first);
    if (first != NULL) {
        session->same = first->same;
        first->same = session;
    } else {
        HASH_ADD_STR(gateway->sessions_by_id, id, session);
    }
}

static void unlist_own(struct session *session)
{
    struct gateway *gateway = session->gateway;
    struct session *first;
    if (!session->listed)
        return;
    session->listed = false;
    HASH_FIND_STR(gateway->sessions_by_id, session->id, first);
    if (first == session) {
        struct session *heir = session->same;
        HASH_DELETE(hh, gateway->sessions_by_id, session);
        if (heir != NULL)
            HASH_ADD_STR(gateway->sessions_by_id, id, heir);
        return;
    }
    while (first->same != session)
        first = first->same;
    first->same = session->same;
}

static void on_live(void *arg, const struct bus_message *message);

/* From now on what happens to the reply is heard. */
static enum err session_listen(struct session *session)
{
    struct gateway *gateway = session->gateway;
    char subject[SUBJECT_MAX];
    if (strcmp(session->owner_gateway, gateway->presence.boot) == 0) {
        list_own(session);
        return ERR_OK;
    }
    snprintf(subject, sizeof subject, "live.%s.%s", session->owner_gateway, session->id);
    enum err err = bus_subscribe(&session->live[0], gateway->bus, subject, on_live, session);
    if (err != ERR_OK)
        return err;
    snprintf(subject, sizeof subject, "live.%s.%s.*", session->owner_gateway, session->id);
    return bus_subscribe(&session->live[1], gateway->bus, subject, on_live, session);
}

static void session_deafen(struct session *session)
{
    unlist_own(session);
    for (int i = 0; i < 2; i++) {
        bus_unsubscribe(session->live[i]);
        session->live[i] = NULL;
    }
}

/* ---- life ---- */

static void session_release(struct session *session)
{
    struct gateway *gateway = session->gateway;
    session_deafen(session);
    if (session->prev_all != NULL)
        session->prev_all->next_all = session->next_all;
    else
        gateway->sessions = session->next_all;
    if (session->next_all != NULL)
        session->next_all->prev_all = session->prev_all;
    gateway->session_count--;
    outlet_leave(&session->out);
    asked_drop(session->asked);
    json_decref(session->inputs);
    json_decref(session->out.request);
    json_decref(session->out.echo);
    free(session);
}

static void session_end(struct session *session)
{
    session->state = SESSION_GONE;
    if (session->pending == 0)
        session_release(session);
}

/* A bus operation's callback begins with this: false when the session only waited to be freed. */
static bool session_back(struct session *session)
{
    session->pending--;
    if (session->state != SESSION_GONE)
        return true;
    if (session->pending == 0)
        session_release(session);
    return false;
}

static void on_closed(struct delivery *delivery, bool complete)
{
    struct session *session =
        (struct session *)(void *)((char *)delivery - offsetof(struct session, out));
    if (!complete && session->state != SESSION_GONE) {
        log_info("reader.left prompt=%s delivered=%zu trace_id=%s", session->id, session->out.bytes,
                 session->trace_id);
        figures_reader_left(session->gateway->figures);
    }
    outlet_leave(&session->out);
    if (session->state == SESSION_GONE || session->state == SESSION_LEAVING)
        return;
    if (session->detached) {
        if (!session->own && session->state == SESSION_OPEN)
            session_end(session);
    } else if (session->state == SESSION_OPEN) {
        session_cancel(session);
    } else {
        session->state = SESSION_LEAVING; /* cancelled as soon as the offer's fate is known */
    }
}

static void refuse(struct session *session, int status, const char *code, const char *why,
                   const char *text)
{
    struct api_error error;
    api_error_set(&error, status, code, NULL, "%s", text);
    figures_refused(session->gateway->figures, why);
    delivery_fail(&session->out, &error);
    session_end(session);
}

static void heard_attempt(struct session *session, unsigned attempt)
{
    unsigned known = session->attempt > 0 ? session->attempt : 1;
    if (attempt > known && session->own)
        figures_given_again(session->gateway->figures, attempt - known);
    if (attempt > session->attempt)
        session->attempt = attempt;
}

static void deliver_pieces(struct session *session, const struct pieces *pieces, size_t skip)
{
    int64_t now_ns = clock_mono_ns();
    session->heard_ns = now_ns;
    if (session->own && session->piece_ns == 0)
        figures_first_piece(session->gateway->figures,
                            (double)(now_ns - session->came_ns) / (double)NS_PER_S);
    else if (session->own)
        figures_next_piece(session->gateway->figures,
                           (double)(now_ns - session->piece_ns) / (double)NS_PER_S);
    session->piece_ns = now_ns;
    delivery_pieces(&session->out, pieces, skip);
}

/* ---- the record ---- */

static void on_erased(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)sequence;
    if (err != ERR_OK && err != ERR_EXISTS)
        log_warn("reply.text_kept why=\"%s\"", err_text()); /* until --keep has passed */
}

/* Nobody asked us to keep what was said. */
static void session_erase(const struct session *session, const struct reply *record,
                          uint64_t sequence)
{
    if (!record->detached && record->text != NULL && sequence != 0 &&
        replies_erase_text(session->gateway->bus, record, sequence, on_erased, NULL) != ERR_OK)
        log_warn("reply.text_kept prompt=%s why=\"%s\"", session->id, err_text());
}

static void fail_as_diverged(struct session *session, const char *what)
{
    struct api_error error;
    log_error("reply.%s prompt=%s delivered=%zu trace_id=%s", what, session->id, session->out.bytes,
              session->trace_id);
    api_error_set(&error, 500, "reply_diverged", NULL,
                  "the broker lost a part of this reply that you had been sent already");
    delivery_fail(&session->out, &error);
}

static void deliver_record(struct session *session, const struct reply *record)
{
    struct api_error error;
    heard_attempt(session, record->attempt);
    if (session->own)
        figures_ended(session->gateway->figures, record);
    if (record->text == NULL) { /* deleted, or erased by whoever read it first */
        api_error_set(&error, 404, "not_found", NULL, "this reply was deleted");
        delivery_fail(&session->out, &error);
    } else if (session->out.bytes > 0 && !delivery_continues(&session->out, record)) {
        fail_as_diverged(session, "diverged");
    } else {
        delivery_finish(&session->out, record);
    }
    log_info("reply.delivered prompt=%s status=%s worker=%s responder=%s attempt=%u trace_id=%s",
             session->id, reply_status_name(record->status), record->worker, record->responder,
             record->attempt, session->trace_id);
}

static void session_record(struct session *session, const struct reply *record, uint64_t sequence)
{
    bool open = session->state == SESSION_OPEN || session->state == SESSION_SEARCHED;
    /* Our own reply's record without its text is one that we have erased: it was delivered. */
    if (open && (record->text != NULL || record->deleted || !session->own))
        deliver_record(session, record);
    session_erase(session, record, sequence);
    session_end(session);
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct session *session = arg;
    session->asking = false;
    if (!session_back(session))
        return;
    if (err == ERR_OK && session->state == SESSION_OPEN)
        session_record(session, record, sequence);
}

/* ---- pieces ---- */

static void session_spliced(struct session *session)
{
    fail_as_diverged(session, "spliced");
    if (session->detached) {
        session_end(session);
        return;
    }
    session->state = SESSION_LEAVING;
    session_cancel(session);
}

static void on_stored(void *arg, const struct pieces *pieces)
{
    struct session *session = arg;
    size_t skip = 0; /* pieces that were delivered already */
    if (session->state != SESSION_OPEN || pieces->first > session->reader.next)
        return; /* the latter can't be: a read begins with the first */
    for (; skip < pieces->count && pieces->first + skip < session->reader.next; skip++)
        session->fill.sum =
            delivery_sum(session->fill.sum, pieces->items[skip].text, pieces->items[skip].text_len);
    if (pieces->first + skip == session->reader.next && session->fill.sum != session->out.sum) {
        session_spliced(session); /* the store went on from before what was delivered */
        return;
    }
    memcpy(session->fill.nonce, pieces->nonce, sizeof session->fill.nonce);
    if (skip == pieces->count)
        return;
    session->reader.next = pieces->first + pieces->count;
    deliver_pieces(session, pieces, skip);
    session->fill.sum = session->out.sum;
}

static void on_stored_end(void *arg, enum err err, const struct claim *latest, uint64_t sequence)
{
    struct session *session = arg;
    (void)sequence;
    session->filling = false;
    if (!session_back(session))
        return;
    if (err == ERR_OK && latest != NULL && !session->fill.claim_heard)
        piece_reader_claim(&session->reader, latest);
    if (strcmp(session->fill.nonce, session->reader.nonce) == 0)
        session->reader.fresh = false; /* pieces of its claim were read */
}

static bool is_streamed(const struct session *session)
{
    return session->out.outlet != NULL && outlet_is_streamed(session->out.outlet);
}

/* Reads what the stream has of a streamed reply. */
static void session_fill(struct session *session)
{
    if (session->filling || !is_streamed(session))
        return;
    if (tokens_read(session->gateway->bus, session->owner_gateway, session->id, on_stored,
                    on_stored_end, session) != ERR_OK)
        return; /* the next look tries again */
    session->filling = true;
    session->fill.sum = DELIVERY_SUM_BASIS;
    session->fill.nonce[0] = '\0';
    session->fill.claim_heard = false;
    session->pending++;
}

static void session_look(struct session *session)
{
    session->heard_ns = clock_mono_ns();
    session_fill(session);
    if (!session->asking && replies_get(session->gateway->bus, session->owner_gateway, session->id,
                                        on_record, session) == ERR_OK) {
        session->asking = true;
        session->pending++;
    }
}

static void session_pieces(struct session *session, const struct bus_message *message)
{
    struct pieces pieces = {0};
    size_t skip = 0;
    if (session->filling || pieces_decode(&pieces, message->data, message->len) != ERR_OK)
        return;
    switch (piece_reader_take(&session->reader, &pieces, &skip)) {
    case PIECE_TAKE:
        deliver_pieces(session, &pieces, skip);
        break;
    case PIECE_GAP:
        session_fill(session);
        break;
    case PIECE_SPLICE:
        session_spliced(session);
        break;
    case PIECE_IGNORE:
        break;
    }
    pieces_done(&pieces);
}

static void session_heard_record(struct session *session, const struct bus_message *message)
{
    struct reply record = {0};
    const char *text = bus_message_header(message, "Nats-Sequence");
    uint64_t sequence = text != NULL ? strtoull(text, NULL, 10) : 0;
    bool leaving = session->state == SESSION_LEAVING;
    if ((!leaving && session->state != SESSION_OPEN) ||
        reply_decode(&record, message->data, message->len) != ERR_OK)
        return;
    if (leaving) { /* the cancellation goes its own way */
        if (session->own && record.text != NULL)
            figures_ended(session->gateway->figures, &record);
        session_erase(session, &record, sequence);
    } else {
        session_record(session, &record, sequence);
    }
    reply_done(&record);
}

static void session_hear(struct session *session, enum subject_kind kind,
                         const struct bus_message *message)
{
    session->heard_early |= session->state == SESSION_OFFERED;
    if (kind == SUBJECT_REPLY) {
        session_heard_record(session, message);
    } else if (session->state != SESSION_OPEN) {
        return;
    } else if (kind == SUBJECT_CLAIM) {
        struct claim claim;
        if (claim_decode(&claim, message->data, message->len) != ERR_OK)
            return;
        session->heard_ns = clock_mono_ns();
        session->fill.claim_heard = true;
        if (claim.kind == CLAIM_HELD)
            heard_attempt(session, claim.attempt);
        piece_reader_claim(&session->reader, &claim);
    } else if (kind == SUBJECT_PIECES) {
        /* Streamed, only what can be delivered counts as heard: pieces of a claim that passed
         * unheard must not keep us from looking. */
        if (is_streamed(session))
            session_pieces(session, message);
        else
            session->heard_ns = clock_mono_ns();
    }
}

static void on_live(void *arg, const struct bus_message *message)
{
    struct subject_parts parts;
    session_hear(arg, subject_parse(&parts, message->subject), message);
}

void session_live(struct gateway *gateway, const struct bus_message *message)
{
    struct subject_parts parts;
    struct session *session, *next;
    enum subject_kind kind = subject_parse(&parts, message->subject);
    if (kind == SUBJECT_OTHER)
        return;
    HASH_FIND_STR(gateway->sessions_by_id, parts.id, session);
    for (; session != NULL; session = next) {
        next = session->same;
        session_hear(session, kind, message);
    }
}

/* ---- cancelling ---- */

static void on_cancelled(void *arg, enum err err, uint64_t sequence)
{
    struct session *session = arg;
    (void)sequence;
    session->cancelling = false;
    if (!session_back(session))
        return;
    if (err == ERR_OK)
        session_end(session);
    else
        log_info("cancel.again prompt=%s why=\"%s\"", session->id, err_text()); /* next tick */
}

static void session_cancel(struct session *session)
{
    const struct cancel_spec spec = {
        .id = session->id,
        .gateway = session->owner_gateway,
        .prompter = session->prompter,
        .model = session->gateway->join.model,
        .owner = session->owner,
        .request = session->asked != NULL ? session->asked->request.kept : NULL,
        .reason = "cancelled",
        .tombstone = true,
        .unclaimed = session->reader.nonce[0] == '\0',
        .detached = session->detached,
        .accepted_at = session->created,
        .trace_id = session->trace_id,
    };
    session->state = SESSION_LEAVING;
    if (session->cancelling)
        return;
    if (endings_cancel(session->gateway->endings, &spec, on_cancelled, session) != ERR_OK)
        return; /* the next tick tries again */
    session->cancelling = true;
    session->pending++;
}

/* ---- acceptance ---- */

static void session_opened(struct session *session)
{
    session->state = SESSION_OPEN;
    session->heard_ns = clock_mono_ns();
    asked_drop(session->asked); /* the queue has it, and many may wait for long */
    session->asked = NULL;
    session->prompt = (struct prompt){0};
    json_decref(session->inputs);
    session->inputs = NULL;
    if (session->out.outlet == NULL)
        return;
    if (session->background)
        outlet_accept(session->out.outlet, &session->out);
    else if (session->out.render.kind == API_RESPONSE)
        delivery_open(&session->out); /* its id is needed to come back */
}

static void session_accepted(struct session *session)
{
    bool look = session->heard_early || session->offer_lost;
    figures_accepted(session->gateway->figures);
    log_info("prompt.accepted prompt=%s stream=%d detached=%d trace_id=%s", session->id,
             is_streamed(session), session->detached, session->trace_id);
    session_opened(session);
    if (look)
        session_look(session);
}

static void on_offered(void *arg, enum err err, uint64_t sequence)
{
    struct session *session = arg;
    (void)sequence;
    if (!session_back(session))
        return;
    if (err == ERR_EXISTS && session->offer_lost && !session->again)
        err = ERR_OK; /* the earlier offer, whose answer got lost, had arrived */
    if (session->state == SESSION_LEAVING) {
        if (err == ERR_FULL)
            session_end(session);
        else
            session_cancel(session);
    } else if (err == ERR_OK) {
        session_accepted(session);
    } else if (err == ERR_EXISTS && session->again) {
        session_search(session);
    } else if (err == ERR_FULL) {
        refuse(session, 429, "queue_full", "queue_full",
               "too many prompts are waiting; try again in a moment");
    } else {
        session->offer_lost = true; /* sessions_tick offers it again */
    }
}

static void session_offer(struct session *session)
{
    session->offers++;
    if (prompts_put(session->gateway->bus, &session->prompt, on_offered, session) == ERR_OK)
        session->pending++;
    else
        session->offer_lost |= session->offers > 1;
}

/* ---- replies that may be there already ---- */

static void follow_prompt(struct session *session, const struct prompt *prompt)
{
    session_deafen(session);
    snprintf(session->owner_gateway, sizeof session->owner_gateway, "%s", prompt->gateway);
    session->own = false; /* who put it counts it */
    if (session_listen(session) != ERR_OK) {
        refuse(session, 503, "unavailable", "unavailable", "out of memory; try again");
        return;
    }
    session_opened(session);
    session_look(session);
}

static void on_searched(void *arg, enum err err, const struct found *found)
{
    struct session *session = arg;
    if (!session_back(session))
        return;
    if (session->state == SESSION_LEAVING) {
        session_end(session);
    } else if (err != ERR_OK) {
        refuse(session, 503, "unavailable", "unavailable",
               "the queue does not answer; try again in a moment");
    } else if (found->record != NULL) {
        session->own = false; /* who put it counted it */
        session_record(session, found->record, 0);
    } else if (found->prompt != NULL) {
        follow_prompt(session, found->prompt);
    } else {
        session->state = SESSION_OFFERED; /* it never came as far as the queue */
        session_offer(session);
    }
}

static void session_search(struct session *session)
{
    session->state = SESSION_SEARCHED;
    if (find_reply(session->gateway->bus, session->id, on_searched, session) != ERR_OK) {
        refuse(session, 503, "unavailable", "unavailable",
               "the queue does not answer; try again in a moment");
        return;
    }
    session->pending++;
}

/* ---- beginning ---- */

static struct session *session_new(struct gateway *gateway, const char *id)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return NULL;
    session->gateway = gateway;
    snprintf(session->id, sizeof session->id, "%s", id);
    session->came_ns = session->heard_ns = clock_mono_ns();
    session->next_all = gateway->sessions;
    if (session->next_all != NULL)
        session->next_all->prev_all = session;
    gateway->sessions = session;
    gateway->session_count++;
    session->out.closed = on_closed;
    return session;
}

static void describe_prompt(struct session *session, unsigned index, const json_t *text)
{
    struct asked *asked = session->asked;
    struct prompt *prompt = &session->prompt;
    *prompt = asked->request.prompt;
    prompt->id = session->id;
    prompt->gateway = session->owner_gateway;
    prompt->prompter = asked->prompter;
    prompt->owner = asked->owner;
    prompt->traceparent = asked->traceparent;
    prompt->tracestate = asked->trace.state;
    prompt->model = session->gateway->join.model;
    prompt->detached = asked->detached;
    prompt->lane = asked->lane;
    prompt->request = asked->detached ? asked->request.kept : NULL;
    if (prompt->params.seed >= 0) /* each of several texts its own draw */
        prompt->params.seed = (int64_t)(((uint64_t)prompt->params.seed + index) & INT64_MAX);
    if (text != NULL) {
        session->inputs = json_pack("[O]", text);
        prompt->inputs = session->inputs;
    }
}

static void describe_render(struct session *session, enum api_kind kind, const char *public_of,
                            unsigned index)
{
    struct render *render = &session->out.render;
    render->kind = kind;
    render_id(render->id, kind, public_of);
    render->model = session->gateway->join.model;
    render->created = session->created;
    render->index = index;
    render->request = session->out.request;
}

enum err session_begin(struct gateway *gateway, struct asked *asked, struct outlet *outlet,
                       unsigned index, const char *id, const json_t *text, bool again)
{
    const struct api_request *request = &asked->request;
    struct session *session = session_new(gateway, id);
    if (session == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    session->asked = asked;
    asked->refs++;
    snprintf(session->owner_gateway, sizeof session->owner_gateway, "%s", gateway->presence.boot);
    snprintf(session->prompter, sizeof session->prompter, "%s", asked->prompter);
    snprintf(session->owner, sizeof session->owner, "%s", asked->owner);
    memcpy(session->trace_id, asked->trace.id, sizeof session->trace_id);
    session->created = asked->created;
    session->detached = asked->detached;
    session->background = request->background && !request->stream && !outlet_is_followed(outlet);
    session->again = again || asked->shared;
    session->own = true;
    describe_prompt(session, index, text);
    session->out.request = json_incref(request->kept);
    describe_render(session, request->kind, outlet_request_id(outlet), index);
    session->out.render.n = request->n;
    session->out.render.n = request->n;
    session->out.render.logprobs = request->prompt.params.logprobs >= 0;
    if (request->echo && text != NULL) {
        session->out.echo = json_copy((json_t *)(uintptr_t)text);
        session->out.render.echo = json_string_value(session->out.echo);
    }
    outlet_join(outlet, &session->out, index);
    if (session_listen(session) != ERR_OK) {
        session_end(session);
        return err_set(ERR_NOMEM, "out of memory");
    }
    if (again)
        session_search(session);
    else
        session_offer(session);
    return ERR_OK;
}

enum err session_attach(struct gateway *gateway, const struct prompt *prompt, double created,
                        enum api_kind kind, struct outlet *outlet, unsigned index)
{
    struct session *session = session_new(gateway, prompt->id);
    if (session == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    snprintf(session->prompter, sizeof session->prompter, "%s", prompt->prompter);
    snprintf(session->owner, sizeof session->owner, "%s", prompt->owner);
    trace_id_of(session->trace_id, prompt->traceparent);
    session->created = created;
    session->detached = true; /* for us: it was on its way before */
    session->out.request = json_deep_copy(prompt->request);
    describe_render(session, kind, prompt->id, index);
    session->out.render.logprobs = prompt->params.logprobs >= 0;
    outlet_join(outlet, &session->out, index);
    follow_prompt(session, prompt);
    return ERR_OK;
}

/* ---- all of them ---- */

static bool silent_for(int64_t since_ns, int64_t now_ns, int64_t ms)
{
    return now_ns - since_ns > ms * NS_PER_MS;
}

static void tick_offered(struct session *session)
{
    if (session->pending > 0)
        return;
    if (session->offers < OFFERS_MAX) {
        session_offer(session);
    } else {
        struct api_error error;
        api_error_set(&error, 503, "unavailable", NULL,
                      "the prompt queue does not answer; try again in a moment");
        figures_refused(session->gateway->figures, "unavailable");
        if (session->out.outlet != NULL)
            delivery_fail(&session->out, &error);
        session_cancel(session); /* it may have arrived */
    }
}

static void tick_open(struct session *session, int64_t now_ns)
{
    bool claimed = session->reader.nonce[0] != '\0';
    if (silent_for(session->heard_ns, now_ns, claimed ? SILENCE_MS : SILENCE_QUEUE_MS))
        session_look(session);
    if (session->out.outlet != NULL)
        outlet_tick(session->out.outlet, now_ns, session->came_ns);
}

void sessions_tick(struct gateway *gateway)
{
    struct session *session, *next;
    int64_t now_ns = clock_mono_ns();
    for (session = gateway->sessions; session != NULL; session = next) {
        next = session->next_all;
        if (session->state == SESSION_OFFERED)
            tick_offered(session);
        else if (session->state == SESSION_LEAVING && !session->cancelling && session->pending == 0)
            session_cancel(session);
        else if (session->state == SESSION_OPEN && bus_connected(gateway->bus))
            tick_open(session, now_ns);
    }
}

void sessions_reconnected(struct gateway *gateway)
{
    for (struct session *session = gateway->sessions; session != NULL;
         session = session->next_all) {
        if (session->state == SESSION_OPEN)
            session_look(session);
    }
}

unsigned sessions_count(const struct gateway *gateway)
{
    return gateway->session_count;
}

bool sessions_may_leave(const struct gateway *gateway)
{
    for (const struct session *session = gateway->sessions; session != NULL;
         session = session->next_all) {
        if (!session->detached || session->state != SESSION_OPEN || session->out.outlet != NULL)
            return false;
    }
    return true;
}

void sessions_free(struct gateway *gateway)
{
    struct session *session, *next;
    for (session = gateway->sessions; session != NULL; session = next) {
        next = session->next_all;
        session_release(session);
    }
}
