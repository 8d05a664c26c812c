/*
 * One prompt at its gateway: put on the queue, followed while it is made, delivered.
 *
 *   OFFERED   put on the queue, not acknowledged yet; put again when the answer got lost
 *   OPEN      accepted; pieces and at last the record are heard on live.>
 *   LEAVING   nobody reads any more: being cancelled
 *   GONE      delivered, refused or cancelled; freed once no callback is left
 *
 * What is heard live may have holes (republishing is not guaranteed, storing is).  A hole in the
 * numbers, a reconnect, or silence make the session read the stream and the record.  The record has
 * the last word: what it says beyond what was delivered is delivered, and a reply whose delivered
 * part differs from it ends in an error, never in a splice.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/replies.h"
#include "bus/tokens.h"
#include "http/sse.h"
#include "roles/gateway/deliver.h"
#include "roles/gateway/gateway.h"
#include "wire/subject.h"

#define OFFERS_MAX       5     /* times a prompt is put before the client hears 503 */
#define SILENCE_MS       1500  /* without a sign of a running reply: look */
#define SILENCE_QUEUE_MS 5000  /* the same while nobody has claimed it */
#define HEADERS_LATE_MS  10000 /* a stream without a first piece begins anyway after this */
#define COMMENT_MS       15000 /* a silent stream's sign of life */

enum session_state { SESSION_OFFERED, SESSION_OPEN, SESSION_LEAVING, SESSION_GONE };

struct session {
    struct gateway *gateway;
    struct delivery out;
    struct chat_request request; /* until it is accepted */
    char prompter[PROMPT_MAX_PROMPTER + 1];
    char traceparent[TRACE_PARENT_SIZE];
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
    int64_t piece_ns;  /* when the last piece was handed on */
    UT_hash_handle hh; /* by out.id */
};

static void session_cancel(struct session *session);
static void session_look(struct session *session);

static void session_try_free(struct session *session)
{
    if (session->state != SESSION_GONE || session->pending > 0 || session->out.exchange != NULL)
        return;
    HASH_DELETE(hh, session->gateway->sessions, session);
    chat_request_done(&session->request);
    free(session);
}

static void session_end(struct session *session)
{
    session->state = SESSION_GONE;
    session_try_free(session);
}

/* A bus operation's callback begins with this: false when the session only waits to be freed. */
static bool session_back(struct session *session)
{
    session->pending--;
    if (session->state != SESSION_GONE)
        return true;
    session_try_free(session);
    return false;
}

static void on_http_closed(void *arg, bool complete)
{
    struct session *session = arg;
    session->out.exchange = NULL;
    if (!complete && session->state != SESSION_GONE) {
        log_info("reader.left prompt=%s delivered=%zu trace_id=%s", session->out.id,
                 session->out.bytes, session->out.trace.id);
        figures_reader_left(session->gateway->figures);
    }
    if (session->state == SESSION_OPEN)
        session_cancel(session);
    else if (session->state == SESSION_OFFERED)
        session->state = SESSION_LEAVING; /* cancelled as soon as the offer's fate is known */
    else
        session_try_free(session);
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
    if (attempt > known)
        figures_given_again(session->gateway->figures, attempt - known);
    if (attempt > session->attempt)
        session->attempt = attempt;
}

static void deliver_pieces(struct session *session, const struct pieces *pieces, size_t skip)
{
    int64_t now_ns = clock_mono_ns();
    session->heard_ns = now_ns;
    if (!session->out.role_sent)
        figures_first_piece(session->gateway->figures,
                            (double)(now_ns - session->came_ns) / (double)NS_PER_S);
    else
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
        log_warn("reply.text_kept prompt=%s why=\"%s\"", session->out.id, err_text());
}

static void session_record(struct session *session, const struct reply *record, uint64_t sequence)
{
    struct gateway *gateway = session->gateway;
    struct api_error error;
    if (session->state == SESSION_OPEN && record->text != NULL) {
        heard_attempt(session, record->attempt);
        figures_ended(gateway->figures, record);
        if (record->status != REPLY_COMPLETED) {
            chat_error_of_reply(record, &error);
            delivery_fail(&session->out, &error);
        } else if (session->out.stream && !delivery_continues(&session->out, record)) {
            log_error("reply.diverged prompt=%s delivered=%zu trace_id=%s", session->out.id,
                      session->out.bytes, session->out.trace.id);
            api_error_set(&error, 500, "reply_diverged", NULL,
                          "the broker lost a part of this reply that you had been sent already");
            delivery_fail(&session->out, &error);
        } else {
            delivery_finish(&session->out, record);
        }
        log_info(
            "reply.delivered prompt=%s status=%s worker=%s responder=%s attempt=%u trace_id=%s",
            session->out.id, reply_status_name(record->status), record->worker, record->responder,
            record->attempt, session->out.trace.id);
    }
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
    struct api_error error;
    log_error("reply.spliced prompt=%s delivered=%zu trace_id=%s", session->out.id,
              session->out.bytes, session->out.trace.id);
    api_error_set(&error, 500, "reply_diverged", NULL,
                  "the broker lost a part of this reply that you had been sent already");
    delivery_fail(&session->out, &error);
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

/* Reads what the stream has of a streamed reply. */
static void session_fill(struct session *session)
{
    if (session->filling || !session->out.stream)
        return;
    if (tokens_read(session->gateway->bus, session->gateway->presence.boot, session->out.id,
                    on_stored, on_stored_end, session) != ERR_OK)
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
    if (!session->asking && replies_get(session->gateway->bus, session->gateway->presence.boot,
                                        session->out.id, on_record, session) == ERR_OK) {
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
    if (leaving)
        session_erase(session, &record, sequence); /* the cancellation goes its own way */
    else
        session_record(session, &record, sequence);
    reply_done(&record);
}

void session_live(struct gateway *gateway, const struct bus_message *message)
{
    struct subject_parts parts;
    struct session *session;
    enum subject_kind kind = subject_parse(&parts, message->subject);
    if (kind == SUBJECT_OTHER)
        return;
    HASH_FIND_STR(gateway->sessions, parts.id, session);
    if (session == NULL)
        return;
    session->heard_early = session->state == SESSION_OFFERED;
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
        if (session->out.stream)
            session_pieces(session, message);
        else
            session->heard_ns = clock_mono_ns();
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
        log_info("cancel.again prompt=%s why=\"%s\"", session->out.id, err_text()); /* next tick */
}

static void session_cancel(struct session *session)
{
    const struct cancel_spec spec = {
        .id = session->out.id,
        .gateway = session->gateway->presence.boot,
        .prompter = session->prompter,
        .model = session->gateway->join.model,
        .reason = "cancelled",
        .tombstone = true,
        .accepted_at = session->out.created,
        .trace_id = session->out.trace.id,
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

static void session_offer(struct session *session);

static void on_offered(void *arg, enum err err, uint64_t sequence)
{
    struct session *session = arg;
    (void)sequence;
    if (!session_back(session))
        return;
    if (err == ERR_EXISTS && session->offer_lost)
        err = ERR_OK; /* the earlier offer, whose answer got lost, had arrived */
    if (session->out.exchange == NULL) {
        if (err == ERR_FULL)
            session_end(session);
        else
            session_cancel(session);
    } else if (err == ERR_OK) {
        session->state = SESSION_OPEN;
        session->heard_ns = clock_mono_ns();
        chat_request_done(&session->request); /* the queue has it, and many may wait for long */
        session->request = (struct chat_request){0};
        figures_accepted(session->gateway->figures);
        log_info("prompt.accepted prompt=%s stream=%d trace_id=%s", session->out.id,
                 session->out.stream, session->out.trace.id);
        if (session->heard_early || session->offer_lost)
            session_look(session);
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
    if (prompts_put(session->gateway->bus, &session->request.prompt, on_offered, session) == ERR_OK)
        session->pending++;
    else
        session->offer_lost |= session->offers > 1;
}

void session_begin(struct gateway *gateway, struct http_exchange *exchange,
                   struct chat_request *request, const char *prompter, const struct trace *trace)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        struct api_error error;
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
        gateway_reply_error(exchange, &error, NULL, trace);
        chat_request_done(request);
        return;
    }
    session->gateway = gateway;
    session->request = *request;
    session->came_ns = session->heard_ns = clock_mono_ns();
    snprintf(session->prompter, sizeof session->prompter, "%s", prompter);
    delivery_init(&session->out, exchange);
    session->out.model = gateway->join.model;
    session->out.trace = *trace;
    session->out.stream = request->stream;
    session->out.include_usage = request->include_usage;
    struct prompt *prompt = &session->request.prompt;
    prompt->id = session->out.id;
    prompt->gateway = gateway->presence.boot;
    prompt->prompter = session->prompter;
    trace_write(session->traceparent, &session->out.trace);
    prompt->traceparent = session->traceparent;
    prompt->tracestate = session->out.trace.state;
    prompt->model = gateway->join.model;
    HASH_ADD_STR(gateway->sessions, out.id, session);
    http_on_close(exchange, on_http_closed, session);
    http_request_drop_body(exchange); /* many may wait for long */
    session_offer(session);
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
    if (session->out.exchange == NULL) {
        session_cancel(session); /* it may have arrived */
    } else if (session->offers < OFFERS_MAX) {
        session_offer(session);
    } else {
        struct api_error error;
        api_error_set(&error, 503, "unavailable", NULL,
                      "the prompt queue does not answer; try again in a moment");
        figures_refused(session->gateway->figures, "unavailable");
        delivery_fail(&session->out, &error);
        session_cancel(session); /* it may have arrived */
    }
}

static void tick_open(struct session *session, int64_t now_ns)
{
    bool claimed = session->reader.nonce[0] != '\0';
    if (silent_for(session->heard_ns, now_ns, claimed ? SILENCE_MS : SILENCE_QUEUE_MS))
        session_look(session);
    if (!session->out.stream || session->out.exchange == NULL)
        return;
    if (!session->out.begun && silent_for(session->came_ns, now_ns, HEADERS_LATE_MS))
        delivery_begin(&session->out);
    if (session->out.begun && silent_for(session->out.wrote_ns, now_ns, COMMENT_MS)) {
        session->out.wrote_ns = now_ns;
        sse_comment(session->out.exchange, "waiting");
    }
}

void sessions_tick(struct gateway *gateway)
{
    struct session *session, *next;
    int64_t now_ns = clock_mono_ns();
    HASH_ITER(hh, gateway->sessions, session, next)
    {
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
    struct session *session, *next;
    HASH_ITER(hh, gateway->sessions, session, next)
    {
        if (session->state == SESSION_OPEN)
            session_look(session);
    }
}

unsigned sessions_count(const struct gateway *gateway)
{
    return HASH_COUNT(gateway->sessions);
}

void sessions_free(struct gateway *gateway)
{
    struct session *session, *next;
    HASH_ITER(hh, gateway->sessions, session, next)
    {
        HASH_DELETE(hh, gateway->sessions, session);
        chat_request_done(&session->request);
        free(session);
    }
}
