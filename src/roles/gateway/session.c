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
 * What a reader has no room for is not taken (delivery_pieces), and read from the stream when it
 * has, from where the last read stood.
 *
 * What is heard live may have holes (republishing is not guaranteed, storing is).  A hole in the
 * numbers, a reconnect, or silence make the session read the stream and the record.  The record has
 * the last word: what it says beyond what was delivered is delivered.  A reply whose delivered part
 * differs from it, or from what a successor stores in place of what a broker's crash lost, ends in
 * an error, never in a splice.
 */
#include "roles/gateway/session_own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/replies.h"
#include "roles/gateway/erase.h"
#include "wire/subject.h"

#define OFFERS_MAX       5    /* times a prompt is put before the client hears 503 */
#define SILENCE_MS       1500 /* without a sign of a running reply: look */
#define SILENCE_QUEUE_MS 5000 /* the same while nobody has claimed it */

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

enum err session_listen(struct session *session)
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

void session_deafen(struct session *session)
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

void session_end(struct session *session)
{
    session->state = SESSION_GONE;
    if (session->pending == 0)
        session_release(session);
}

bool session_back(struct session *session)
{
    session->pending--;
    if (session->state != SESSION_GONE)
        return true;
    if (session->pending == 0)
        session_release(session);
    return false;
}

static struct session *session_of(struct delivery *delivery)
{
    return (struct session *)(void *)((char *)delivery - offsetof(struct session, out));
}

void session_on_closed(struct delivery *delivery, bool complete)
{
    struct session *session = session_of(delivery);
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

void session_refuse(struct session *session, int status, const char *code, const char *why,
                    const char *text)
{
    struct api_error error;
    api_error_set(&error, status, code, NULL, "%s", text);
    figures_refused(session->gateway->figures, why);
    delivery_fail(&session->out, &error);
    if (session->offer_lost && !session->again)
        session_cancel(session); /* it may have arrived */
    else
        session_end(session); /* its id is asked for again: if it arrived, it goes on */
}

static void heard_attempt(struct session *session, unsigned attempt)
{
    unsigned known = session->attempt > 0 ? session->attempt : 1;
    if (attempt > known && session->own)
        figures_given_again(session->gateway->figures, attempt - known);
    if (attempt > session->attempt)
        session->attempt = attempt;
}

/* Hands on what there is room for; false: that is not all of them. */
static bool deliver_pieces(struct session *session, const struct pieces *pieces, size_t skip)
{
    int64_t now_ns = clock_mono_ns();
    session->heard_ns = now_ns;
    size_t taken = delivery_pieces(&session->out, pieces, skip);
    session->reader.next = pieces->first + skip + taken;
    if (session->own && session->piece_ns == 0 && taken > 0)
        figures_first_piece(session->gateway->figures,
                            (double)(now_ns - session->came_ns) / (double)NS_PER_S);
    else if (session->own && !session->slow && taken > 0)
        figures_next_piece(session->gateway->figures,
                           (double)(now_ns - session->piece_ns) / (double)NS_PER_S);
    if (taken > 0)
        session->piece_ns = now_ns;
    session->slow |= session->out.waits;
    return !session->out.waits;
}

/* ---- the record ---- */

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
    if (record->text == NULL) { /* deleted; or forgotten by others, while we were cut off */
        if (record->deleted)
            api_error_set(&error, 404, "not_found", NULL, "this reply was deleted");
        else
            api_error_set(&error, 503, "unavailable", NULL,
                          "the gateway was cut off from the queue, and the reply is gone");
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

void session_record(struct session *session, const struct reply *record, uint64_t sequence)
{
    bool open = session->state == SESSION_OPEN || session->state == SESSION_SEARCHED;
    if (open)
        deliver_record(session, record);
    erase_text(session->gateway, record, sequence);
    session_end(session);
}

/* Nobody waits for it any more. */
static void record_unread(struct session *session, const struct reply *record, uint64_t sequence)
{
    session->told = true;
    if (session->own && record->text != NULL)
        figures_ended(session->gateway->figures, record);
    erase_text(session->gateway, record, sequence);
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

static bool on_stored(void *arg, const struct pieces *pieces)
{
    struct session *session = arg;
    size_t skip = 0; /* pieces that were delivered already */
    uint64_t sum = session->fill.sum;
    if (session->state != SESSION_OPEN || pieces->first > session->reader.next)
        return false; /* the latter can't be: a read begins with the first, or where it stood */
    for (; skip < pieces->count && pieces->first + skip < session->reader.next; skip++)
        session->fill.sum =
            delivery_sum(session->fill.sum, pieces->items[skip].text, pieces->items[skip].text_len);
    if (pieces->first + skip == session->reader.next && session->fill.sum != session->out.sum) {
        session_spliced(session); /* the store went on from before what was delivered */
        return false;
    }
    if (pieces->first + skip == session->reader.next)
        session->unproven = false;
    memcpy(session->fill.nonce, pieces->nonce, sizeof session->fill.nonce);
    if (skip == pieces->count)
        return true;
    bool whole = deliver_pieces(session, pieces, skip);
    session->fill.sum = whole ? session->out.sum : sum; /* of a part, the next read has all again */
    return whole;
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
    if (err == ERR_OK && !session->out.waits)
        session->slow = false;
}

bool session_is_streamed(const struct session *session)
{
    return session->out.outlet != NULL && outlet_is_streamed(session->out.outlet);
}

/* Reads what the stream has of a streamed reply, for which its reader has room. */
static void session_fill(struct session *session)
{
    if (session->filling || session->out.waits || !session_is_streamed(session))
        return;
    if (session->fill.anew || session->unproven) {
        session->fill.place = (struct tokens_place){0};
        session->fill.anew = false;
    }
    if (session->fill.place.sequence == 0)
        session->fill.sum = DELIVERY_SUM_BASIS;
    if (tokens_read(session->gateway->bus, session->owner_gateway, session->id,
                    &session->fill.place, on_stored, on_stored_end, session) != ERR_OK)
        return; /* the next look tries again */
    session->filling = true;
    session->fill.nonce[0] = '\0';
    session->fill.claim_heard = false;
    session->pending++;
}

void session_on_drained(struct delivery *delivery)
{
    struct session *session = session_of(delivery);
    if (session->state == SESSION_OPEN)
        session_fill(session);
}

void session_look(struct session *session)
{
    session->heard_ns = clock_mono_ns();
    session->fill.anew = true;
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
    if (session->unproven)
        session_fill(session); /* until what is stored has come as far as what was delivered */
    if (session->filling || session->unproven || session->out.waits ||
        pieces_decode(&pieces, message->data, message->len) != ERR_OK)
        return;
    switch (piece_reader_take(&session->reader, &pieces, &skip)) {
    case PIECE_TAKE:
        (void)deliver_pieces(session, &pieces, skip);
        break;
    case PIECE_GAP:
        session_fill(session);
        break;
    case PIECE_SPLICE:
        session->unproven = true;
        session_fill(session);
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
    if (leaving)
        record_unread(session, &record, sequence); /* the cancellation goes its own way */
    else
        session_record(session, &record, sequence);
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
        session->fill.claim_heard = session->fill.anew = true;
        if (claim.kind == CLAIM_HELD)
            heard_attempt(session, claim.attempt);
        piece_reader_claim(&session->reader, &claim);
    } else if (kind == SUBJECT_PIECES) {
        /* Streamed, only what can be delivered counts as heard: pieces of a claim that passed
         * unheard must not keep us from looking. */
        if (session_is_streamed(session))
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

static void on_record_left(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct session *session = arg;
    session->cancelling = false;
    if (!session_back(session))
        return;
    if (err == ERR_OK && !session->told)
        record_unread(session, record, sequence);
    if (err == ERR_OK || err == ERR_NOT_FOUND)
        session_end(session);
}

/* The record stands.  It may have been made before we came to cancel, and passed unheard: then what
 * it says is still to be taken away. */
static void on_cancelled(void *arg, enum err err, uint64_t sequence)
{
    struct session *session = arg;
    (void)sequence;
    session->cancelling = false;
    if (!session_back(session))
        return;
    if (err != ERR_OK) {
        log_info("cancel.again prompt=%s why=\"%s\"", session->id, err_text()); /* next tick */
    } else if (session->told || session->detached) {
        session_end(session);
    } else if (replies_get(session->gateway->bus, session->owner_gateway, session->id,
                           on_record_left, session) == ERR_OK) {
        session->cancelling = true;
        session->pending++;
    }
}

void session_cancel(struct session *session)
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
    if (session->cancelling || session->gateway->endings == NULL) /* NULL: at our own end */
        return;
    if (endings_cancel(session->gateway->endings, &spec, on_cancelled, session) != ERR_OK)
        return; /* the next tick tries again */
    session->cancelling = true;
    session->pending++;
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
    if (session->offers < OFFERS_MAX)
        session_offer(session);
    else
        session_refuse(session, 503, "unavailable", "unavailable",
                       "the prompt queue does not answer; try again in a moment");
}

static void tick_open(struct session *session, int64_t now_ns)
{
    bool claimed = session->reader.nonce[0] != '\0';
    if (bus_connected(session->gateway->bus) &&
        silent_for(session->heard_ns, now_ns, claimed ? SILENCE_MS : SILENCE_QUEUE_MS))
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
        else if (session->state == SESSION_OPEN)
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
        session->live[0] = session->live[1] = NULL; /* they ended with the bus */
        if (session->out.outlet != NULL)
            outlet_forget(session->out.outlet);
        session_release(session);
    }
}
