#include "bus/tokens.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "wire/subject.h"

#define CLAIM_BYTES_MAX  4096
#define PIECES_BYTES_MAX ((size_t)1 << 20)
#define READ_BATCH       1000
#define PACED_BATCH      200 /* of a reader who may stop: what was asked for comes all the same */

static enum err put_claim(struct bus *bus, const char *gateway, const char *id,
                          const struct claim *claim, const struct js_expect *expect,
                          bus_done_fn *fn, void *arg)
{
    struct buf text;
    buf_init(&text, CLAIM_BYTES_MAX);
    enum err err = claim_encode(claim, &text);
    if (err == ERR_OK) {
        char subject[SUBJECT_MAX];
        subject_claim(subject, gateway, id);
        err = js_publish(bus, subject, expect, text.data, text.len, fn, arg);
    }
    buf_done(&text);
    return err;
}

enum err tokens_claim(struct bus *bus, const char *gateway, const char *id,
                      const struct claim *claim, uint64_t expected, bus_done_fn *fn, void *arg)
{
    const struct js_expect expect = {.set = true, .sequence = expected};
    return put_claim(bus, gateway, id, claim, &expect, fn, arg);
}

enum err tokens_tombstone(struct bus *bus, const char *gateway, const char *id, const char *reason,
                          const uint64_t *expect, bus_done_fn *fn, void *arg)
{
    struct claim claim = {.kind = CLAIM_TOMBSTONE, .started_at = clock_wall()};
    id_random(claim.nonce, TAG_LEN);
    snprintf(claim.reason, sizeof claim.reason, "%s", reason);
    const struct js_expect latest = {.set = expect != NULL,
                                     .sequence = expect != NULL ? *expect : 0};
    return put_claim(bus, gateway, id, &claim, &latest, fn, arg);
}

struct claim_query {
    tokens_claim_fn *fn;
    void *arg;
};

static bool on_last_claim(void *arg, enum err err, const struct bus_message *message)
{
    struct claim_query query = *(struct claim_query *)arg;
    free(arg);
    struct claim claim;
    uint64_t sequence = 0;
    if (err == ERR_OK && message->status == 404)
        err = err_set(ERR_NOT_FOUND, "no claim yet");
    if (err == ERR_OK)
        err = claim_decode(&claim, message->data, message->len);
    if (err == ERR_OK)
        sequence = js_stored_sequence(message);
    query.fn(query.arg, err, sequence, err == ERR_OK ? &claim : NULL);
    return false;
}

enum err tokens_last_claim(struct bus *bus, const char *gateway, const char *id,
                           tokens_claim_fn *fn, void *arg)
{
    struct claim_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct claim_query){fn, arg};
    char claim[SUBJECT_MAX];
    subject_claim(claim, gateway, id);
    enum err err = js_last(bus, "TOKENS", claim, on_last_claim, query);
    if (err != ERR_OK)
        free(query);
    return err;
}

enum err tokens_append(struct bus *bus, const char *gateway, const char *id, uint64_t fence,
                       const struct pieces *pieces, bus_done_fn *fn, void *arg)
{
    struct buf text;
    buf_init(&text, PIECES_BYTES_MAX);
    enum err err = pieces_encode(pieces, &text);
    if (err == ERR_OK) {
        char claim[SUBJECT_MAX], subject[SUBJECT_MAX];
        subject_claim(claim, gateway, id);
        subject_pieces(subject, gateway, id);
        const struct js_expect expect = {.set = true, .sequence = fence, .subject = claim};
        err = js_publish(bus, subject, &expect, text.data, text.len, fn, arg);
    }
    buf_done(&text);
    return err;
}

struct read_query {
    struct bus *bus;
    char subject[SUBJECT_MAX]; /* tok.<gw>.<id>.* */
    tokens_read_fn *fn;
    tokens_end_fn *end;
    void *arg;
    struct tokens_place *told, place;
    struct claim latest;
    bool claimed;
    uint64_t latest_sequence;
    unsigned batch, in_batch;
};

static enum err read_batch(struct read_query *query);

static void read_finish(struct read_query *query, enum err err)
{
    query->end(query->arg, err, query->claimed ? &query->latest : NULL, query->latest_sequence);
    free(query);
}

/* A tombstone says nothing of who worked on the reply: the claim before it does. */
static void bury(struct claim *tombstone, const struct claim *before)
{
    tombstone->attempt = before->attempt;
    tombstone->started_at = before->started_at;
    memcpy(tombstone->worker, before->worker, sizeof tombstone->worker);
    memcpy(tombstone->node, before->node, sizeof tombstone->node);
    memcpy(tombstone->device, before->device, sizeof tombstone->device);
}

static void read_claim(struct read_query *query, const struct bus_message *message,
                       uint64_t sequence)
{
    struct claim claim;
    if (claim_decode(&claim, message->data, message->len) != ERR_OK)
        return;
    if (claim.kind == CLAIM_TOMBSTONE)
        bury(&claim, &query->latest);
    query->latest = claim;
    query->claimed = true;
    query->latest_sequence = sequence;
    piece_reader_claim(&query->place.reader, &claim);
}

/* False: the reader wants no more. */
static bool read_pieces(struct read_query *query, const struct bus_message *message,
                        const char *stored)
{
    struct pieces pieces = {0};
    size_t skip;
    bool goes_on = true;
    if (pieces_decode(&pieces, message->data, message->len) != ERR_OK)
        return true;
    enum piece_verdict verdict = piece_reader_take(&query->place.reader, &pieces, &skip);
    if (verdict == PIECE_TAKE) {
        struct pieces fresh = pieces;
        fresh.first += skip;
        fresh.items += skip;
        fresh.count -= skip;
        goes_on = query->fn(query->arg, &fresh);
    } else if (verdict != PIECE_IGNORE) {
        log_warn("tokens.odd_piece subject=%s first=%" PRIu64 " next=%" PRIu64, stored,
                 pieces.first, query->place.reader.next);
    }
    pieces_done(&pieces);
    return goes_on;
}

static bool read_message(struct read_query *query, const struct bus_message *message)
{
    const char *stored = bus_message_header(message, "Nats-Subject");
    struct subject_parts parts;
    enum subject_kind kind = stored != NULL ? subject_parse(&parts, stored) : SUBJECT_OTHER;
    uint64_t sequence = js_stored_sequence(message);
    query->in_batch++;
    if (kind == SUBJECT_CLAIM)
        read_claim(query, message, sequence);
    else if (kind == SUBJECT_PIECES && !read_pieces(query, message, stored))
        return false;
    query->place.sequence = sequence;
    if (query->told != NULL)
        *query->told = query->place;
    return true;
}

static bool on_read(void *arg, enum err err, const struct bus_message *message)
{
    struct read_query *query = arg;
    if (err == ERR_OK && message->status == 0) {
        if (read_message(query, message))
            return true;
        read_finish(query, ERR_OK);
        return false;
    }
    /* 204 ends a batch; 404 says that nothing is stored (any more). */
    if (err == ERR_OK && message->status == 204 && query->in_batch >= query->batch) {
        err = read_batch(query);
        if (err == ERR_OK)
            return false;
    } else if (err == ERR_OK && message->status != 204 && message->status != 404) {
        err = err_set(ERR_UNAVAILABLE, "the broker ended a read with status %d", message->status);
    }
    read_finish(query, err);
    return false;
}

static enum err read_batch(struct read_query *query)
{
    char ask[SUBJECT_MAX + 96];
    query->in_batch = 0;
    int len =
        snprintf(ask, sizeof ask, "{\"batch\":%u,\"seq\":%" PRIu64 ",\"next_by_subj\":\"%s\"}",
                 query->batch, query->place.sequence + 1, query->subject);
    return bus_request(query->bus, "$JS.API.DIRECT.GET.TOKENS", NULL, 0, ask, (size_t)len,
                       JS_TIMEOUT_MS, on_read, query, NULL);
}

enum err tokens_read(struct bus *bus, const char *gateway, const char *id,
                     struct tokens_place *place, tokens_read_fn *fn, tokens_end_fn *end, void *arg)
{
    struct read_query *query = calloc(1, sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    query->bus = bus;
    query->told = place;
    query->batch = place != NULL ? PACED_BATCH : READ_BATCH;
    if (place != NULL)
        query->place = *place;
    query->fn = fn;
    query->end = end;
    query->arg = arg;
    snprintf(query->subject, sizeof query->subject, "tok.%s.%s.*", gateway, id);
    enum err err = read_batch(query);
    if (err != ERR_OK)
        free(query);
    return err;
}

struct list_query {
    tokens_list_fn *fn;
    void *arg;
};

static void on_listed(void *arg, enum err err, const struct bus_message *message, uint64_t next)
{
    struct list_query *query = arg;
    struct subject_parts parts;
    if (message == NULL) {
        struct list_query last = *query;
        free(query);
        last.fn(last.arg, err, NULL, NULL, next);
        return;
    }
    const char *stored = bus_message_header(message, "Nats-Subject");
    if (stored != NULL && subject_parse(&parts, stored) == SUBJECT_PIECES)
        query->fn(query->arg, ERR_OK, parts.gateway, parts.id, 0);
}

enum err tokens_list_pieces(struct bus *bus, uint64_t from, unsigned most, tokens_list_fn *fn,
                            void *arg)
{
    char subject[SUBJECT_MAX];
    struct list_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct list_query){fn, arg};
    subject_pieces(subject, "*", "*");
    enum err err = js_list(bus, "TOKENS", subject, from, most, on_listed, query);
    if (err != ERR_OK)
        free(query);
    return err;
}

enum err tokens_purge_pieces(struct bus *bus, const char *gateway, const char *id, bus_done_fn *fn,
                             void *arg)
{
    char subject[SUBJECT_MAX], ask[SUBJECT_MAX + 32];
    subject_pieces(subject, gateway, id);
    snprintf(ask, sizeof ask, "{\"filter\":\"%s\"}", subject);
    return js_call(bus, "$JS.API.STREAM.PURGE.TOKENS", ask, fn, arg);
}

void piece_reader_claim(struct piece_reader *reader, const struct claim *claim)
{
    if (strcmp(reader->nonce, claim->nonce) == 0)
        return; /* seen again: republished late, or read after it was heard */
    reader->resent = claim->previous[0] != '\0' && strcmp(reader->nonce, claim->previous) == 0;
    reader->fresh = true;
    memcpy(reader->nonce, claim->nonce, sizeof reader->nonce);
}

enum piece_verdict piece_reader_take(struct piece_reader *reader, const struct pieces *pieces,
                                     size_t *skip)
{
    if (reader->nonce[0] == '\0')
        return PIECE_GAP; /* its claim passed unheard */
    if (strcmp(reader->nonce, pieces->nonce) != 0)
        return PIECE_IGNORE;
    if (pieces->first > reader->next)
        return PIECE_GAP;
    if (pieces->first < reader->next) {
        if (reader->fresh && !reader->resent)
            return PIECE_SPLICE;
        reader->fresh = false;
        if (pieces->first + pieces->count <= reader->next)
            return PIECE_IGNORE;
    }
    reader->fresh = false;
    *skip = (size_t)(reader->next - pieces->first);
    reader->next = pieces->first + pieces->count;
    return PIECE_TAKE;
}
