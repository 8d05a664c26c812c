#include "bus/replies.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "wire/subject.h"

static enum err put_reply(struct bus *bus, const char *subject, const struct reply *reply,
                          const struct js_expect *expect, bus_done_fn *fn, void *arg)
{
    struct buf text;
    buf_init(&text, REPLY_BYTES_MAX);
    enum err err = reply_encode(reply, &text);
    if (err == ERR_OK)
        err = js_publish(bus, subject, expect, text.data, text.len, fn, arg);
    buf_done(&text);
    return err;
}

enum err responses_put(struct bus *bus, const struct reply *ending, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    subject_response(subject, ending->id);
    return put_reply(bus, subject, ending, NULL, fn, arg);
}

struct fetch {
    responses_fetched_fn *fn;
    responses_end_fn *end;
    void *arg;
    struct bus *bus;
    unsigned missing;
};

static bool on_fetched(void *arg, enum err err, const struct bus_message *message)
{
    struct fetch *fetch = arg;
    if (err == ERR_OK && message->status == 0) {
        struct reply ending = {0};
        fetch->missing--;
        if (reply_decode(&ending, message->data, message->len) == ERR_OK) {
            fetch->fn(fetch->arg, message->reply, &ending);
        } else {
            /* Kept, it would come back for ever. */
            log_error("responses.unreadable subject=%s why=\"%s\"", message->subject, err_text());
            responses_ack(fetch->bus, message->reply);
        }
        reply_done(&ending);
        if (fetch->missing > 0)
            return true;
    } else if (err == ERR_OK && message->status == 409) {
        err = err_set(ERR_UNAVAILABLE, "the broker ended a fetch");
    }
    if (err == ERR_TIMEOUT)
        err = ERR_OK;
    fetch->end(fetch->arg, err);
    free(fetch);
    return false;
}

enum err responses_fetch(struct bus *bus, unsigned count, responses_fetched_fn *fn,
                         responses_end_fn *end, void *arg)
{
    struct fetch *fetch = malloc(sizeof *fetch);
    if (fetch == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *fetch = (struct fetch){fn, end, arg, bus, count};
    char ask[96];
    int len = snprintf(ask, sizeof ask, "{\"batch\":%u,\"expires\":%" PRId64 "}", count,
                       (int64_t)RESPONSES_FETCH_MS * NS_PER_MS);
    enum err err = bus_pull(bus, "$JS.API.CONSUMER.MSG.NEXT.RESPONSES.respond", ask, (size_t)len,
                            RESPONSES_FETCH_MS + 1000, on_fetched, fetch);
    if (err != ERR_OK)
        free(fetch);
    return err;
}

void responses_ack(struct bus *bus, const char *ack)
{
    /* An acknowledgement that gets lost brings the ending again: the record then exists. */
    if (bus_publish(bus, ack, NULL, 0, "+ACK", 4) != ERR_OK)
        log_debug("responses.unacknowledged why=\"%s\"", err_text());
}

enum err replies_create(struct bus *bus, const struct reply *record, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    subject_reply(subject, record->gateway, record->id);
    const struct js_expect none_yet = {.set = true};
    return put_reply(bus, subject, record, &none_yet, fn, arg);
}

struct get_query {
    replies_get_fn *fn;
    void *arg;
};

static bool on_record(void *arg, enum err err, const struct bus_message *message)
{
    struct get_query query = *(struct get_query *)arg;
    free(arg);
    struct reply record = {0};
    uint64_t sequence = 0;
    if (err == ERR_OK && message->status == 404)
        err = err_set(ERR_NOT_FOUND, "no record yet");
    if (err == ERR_OK) {
        sequence = js_stored_sequence(message);
        err = reply_decode(&record, message->data, message->len);
    }
    query.fn(query.arg, err, sequence, err == ERR_OK ? &record : NULL);
    reply_done(&record);
    return false;
}

/* `record` may hold a wildcard for the gateway. */
static enum err get_last(struct bus *bus, const char *record, replies_get_fn *fn, void *arg)
{
    struct get_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct get_query){fn, arg};
    enum err err = js_last(bus, "REPLIES", record, on_record, query);
    if (err != ERR_OK)
        free(query);
    return err;
}

enum err replies_get(struct bus *bus, const char *gateway, const char *id, replies_get_fn *fn,
                     void *arg)
{
    char record[SUBJECT_MAX];
    subject_reply(record, gateway, id);
    return get_last(bus, record, fn, arg);
}

enum err replies_find(struct bus *bus, const char *id, replies_get_fn *fn, void *arg)
{
    char record[SUBJECT_MAX];
    if (!id_is_valid(id, ID_LEN))
        return err_set(ERR_INVALID, "\"%.48s\" is no prompt's id", id);
    subject_reply(record, "*", id);
    return get_last(bus, record, fn, arg);
}

static enum err put_bare(struct bus *bus, const struct reply *bare, uint64_t sequence,
                         bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    subject_reply(subject, bare->gateway, bare->id);
    const struct js_expect expect = {.set = true, .sequence = sequence};
    return put_reply(bus, subject, bare, &expect, fn, arg);
}

enum err replies_delete(struct bus *bus, const struct reply *record, uint64_t sequence,
                        bus_done_fn *fn, void *arg)
{
    struct reply bare = *record;
    bare.text = NULL; /* and with it goes all else that was said (wire/reply.c) */
    bare.deleted = true;
    return put_bare(bus, &bare, sequence, fn, arg);
}

enum err replies_erase_text(struct bus *bus, const struct reply *record, uint64_t sequence,
                            bus_done_fn *fn, void *arg)
{
    struct reply bare = *record;
    bare.text = NULL;
    return put_bare(bus, &bare, sequence, fn, arg);
}

struct list_query {
    replies_list_fn *fn;
    void *arg;
};

static void on_listed(void *arg, enum err err, const struct bus_message *message, uint64_t next)
{
    struct list_query *query = arg;
    struct reply record = {0};
    if (message == NULL) {
        struct list_query last = *query;
        free(query);
        last.fn(last.arg, err, next, NULL);
        return;
    }
    if (reply_decode(&record, message->data, message->len) == ERR_OK)
        query->fn(query->arg, ERR_OK, js_stored_sequence(message), &record);
    reply_done(&record);
}

enum err replies_list(struct bus *bus, const char *gateway, uint64_t from, unsigned most,
                      replies_list_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    struct list_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct list_query){fn, arg};
    subject_reply(subject, gateway != NULL ? gateway : "*", "*");
    enum err err = js_list(bus, "REPLIES", subject, from, most, on_listed, query);
    if (err != ERR_OK)
        free(query);
    return err;
}
