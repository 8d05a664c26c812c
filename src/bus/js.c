#include "bus/js.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/json.h"
#include "wire/subject.h"

#define PART_BYTES (8 << 20) /* what one direct get of a list brings at most */

/* err_code values of JetStream's API errors. */
enum {
    JS_STREAM_STORE_FAILED = 10077, /* "maximum messages exceeded", "maximum bytes exceeded" */
    JS_INSUFFICIENT_RESOURCES = 10023,
    JS_STORAGE_RESOURCES_EXCEEDED = 10047,
    JS_WRONG_LAST_SEQUENCE = 10071,
    JS_WRONG_LAST_SEQUENCE_CONSTANT = 10164, /* the same, from a stream with replicas */
    JS_STREAM_NOT_FOUND = 10059,
    JS_CONSUMER_NOT_FOUND = 10014,
    JS_MESSAGE_NOT_FOUND = 10037,
};

static enum err code_of(int64_t js_code)
{
    switch (js_code) {
    case JS_WRONG_LAST_SEQUENCE:
    case JS_WRONG_LAST_SEQUENCE_CONSTANT:
        return ERR_EXISTS;
    case JS_STREAM_STORE_FAILED:
    case JS_INSUFFICIENT_RESOURCES:
    case JS_STORAGE_RESOURCES_EXCEEDED:
        return ERR_FULL;
    case JS_STREAM_NOT_FOUND:
    case JS_CONSUMER_NOT_FOUND:
    case JS_MESSAGE_NOT_FOUND:
        return ERR_NOT_FOUND;
    default:
        return ERR_UNAVAILABLE;
    }
}

enum err js_answer_read(const struct bus_message *message, json_t **out)
{
    json_t *answer;
    enum err err = json_parse(&answer, message->data, message->len);
    if (err != ERR_OK)
        return err_prefix(ERR_UNAVAILABLE, "the broker answered with something odd");
    const json_t *error = json_object_get(answer, "error");
    if (json_is_object(error)) {
        err = err_set(code_of(json_int(error, "err_code", 0)), "the broker refused: %s",
                      json_text(error, "description", "no reason given"));
        json_decref(answer);
        return err;
    }
    *out = answer;
    return ERR_OK;
}

/* The plain yes, as the broker writes it for every piece of every reply: {"stream":"…","seq":N} and
 * perhaps more behind.  Anything else is left to the JSON reader. */
static bool ack_scan(const char *data, uint64_t *sequence)
{
    static const char head[] = "{\"stream\":\"", middle[] = "\",\"seq\":";
    if (strncmp(data, head, sizeof head - 1) != 0)
        return false;
    const char *seq = strchr(data + sizeof head - 1, '"');
    if (seq == NULL || strncmp(seq, middle, sizeof middle - 1) != 0)
        return false;
    *sequence = strtoull(seq + sizeof middle - 1, NULL, 10);
    return *sequence > 0;
}

enum err js_ack_read(const struct bus_message *message, uint64_t *sequence)
{
    json_t *answer;
    if (ack_scan(message->data, sequence))
        return ERR_OK;
    enum err err = js_answer_read(message, &answer);
    if (err != ERR_OK)
        return err;
    int64_t seq = json_int(answer, "seq", 0);
    json_decref(answer);
    *sequence = seq > 0 ? (uint64_t)seq : 0;
    return ERR_OK;
}

struct operation {
    bus_done_fn *fn;
    void *arg;
};

static struct operation *operation_new(bus_done_fn *fn, void *arg)
{
    struct operation *operation = malloc(sizeof *operation);
    if (operation == NULL)
        err_set(ERR_NOMEM, "out of memory");
    else
        *operation = (struct operation){fn, arg};
    return operation;
}

static bool on_answer(void *arg, enum err err, const struct bus_message *message)
{
    struct operation operation = *(struct operation *)arg;
    free(arg);
    uint64_t sequence = 0;
    if (err == ERR_OK)
        err = js_ack_read(message, &sequence);
    operation.fn(operation.arg, err, sequence);
    return false;
}

enum err js_publish(struct bus *bus, const char *subject, const struct js_expect *expect,
                    const void *data, size_t len, bus_done_fn *fn, void *arg)
{
    return js_publish_for(bus, subject, expect, 0, data, len, fn, arg);
}

enum err js_publish_for(struct bus *bus, const char *subject, const struct js_expect *expect,
                        unsigned keep_s, const void *data, size_t len, bus_done_fn *fn, void *arg)
{
    struct bus_header headers[3];
    size_t count = 0;
    char sequence[24], seconds[16];
    if (expect != NULL && expect->set) {
        snprintf(sequence, sizeof sequence, "%" PRIu64, expect->sequence);
        headers[count++] = (struct bus_header){"Nats-Expected-Last-Subject-Sequence", sequence};
        if (expect->subject != NULL)
            headers[count++] =
                (struct bus_header){"Nats-Expected-Last-Subject-Sequence-Subject", expect->subject};
    }
    if (keep_s > 0) {
        snprintf(seconds, sizeof seconds, "%us", keep_s);
        headers[count++] = (struct bus_header){"Nats-TTL", seconds};
    }
    struct operation *operation = operation_new(fn, arg);
    if (operation == NULL)
        return ERR_NOMEM;
    enum err err = bus_request(bus, subject, headers, count, data, len, JS_TIMEOUT_MS, on_answer,
                               operation, NULL);
    if (err != ERR_OK)
        free(operation);
    return err;
}

enum err js_last(struct bus *bus, const char *stream, const char *subject, bus_reply_fn *fn,
                 void *arg)
{
    char api[64], ask[SUBJECT_MAX + 32];
    snprintf(api, sizeof api, "$JS.API.DIRECT.GET.%s", stream);
    int len = snprintf(ask, sizeof ask, "{\"last_by_subj\":\"%s\"}", subject);
    return bus_request(bus, api, NULL, 0, ask, (size_t)len, JS_TIMEOUT_MS, fn, arg, NULL);
}

uint64_t js_stored_sequence(const struct bus_message *message)
{
    const char *text = bus_message_header(message, "Nats-Sequence");
    return text != NULL ? strtoull(text, NULL, 10) : 0;
}

struct list {
    struct bus *bus;
    char api[64], subject[SUBJECT_MAX];
    js_list_fn *fn;
    void *arg;
    uint64_t next;            /* sequence to go on at */
    unsigned wanted, in_part; /* still; that this direct get brought */
};

static enum err list_part(struct list *list);

static void list_finish(struct list *list, enum err err, bool more)
{
    list->fn(list->arg, err, NULL, more ? list->next : 0);
    free(list);
}

/* A direct get is over: its last word says how many more match. */
static void list_part_end(struct list *list, const struct bus_message *word)
{
    const char *text = bus_message_header(word, "Nats-Num-Pending");
    bool more = text != NULL && strtoull(text, NULL, 10) > 0;
    enum err err = ERR_OK;
    if (more && list->wanted > 0) {
        /* It brought its PART_BYTES. */
        err = list->in_part > 0 ? list_part(list)
                                : err_set(ERR_UNAVAILABLE, "the broker ended a read early");
        if (err == ERR_OK)
            return;
    }
    list_finish(list, err, more);
}

static bool on_listed(void *arg, enum err err, const struct bus_message *message)
{
    struct list *list = arg;
    if (err == ERR_OK && message->status == 0) {
        list->next = js_stored_sequence(message) + 1;
        list->in_part++;
        list->wanted -= list->wanted > 0;
        list->fn(list->arg, ERR_OK, message, list->next);
        return true;
    }
    if (err == ERR_OK && message->status == 204) {
        list_part_end(list, message);
        return false;
    }
    if (err == ERR_OK && message->status != 404)
        err = err_set(ERR_UNAVAILABLE, "the broker ended a read with status %d", message->status);
    list_finish(list, err, false);
    return false;
}

static enum err list_part(struct list *list)
{
    char ask[SUBJECT_MAX + 128];
    list->in_part = 0;
    int len =
        snprintf(ask, sizeof ask,
                 "{\"batch\":%u,\"max_bytes\":%d,\"seq\":%" PRIu64 ",\"next_by_subj\":\"%s\"}",
                 list->wanted, PART_BYTES, list->next, list->subject);
    return bus_request(list->bus, list->api, NULL, 0, ask, (size_t)len, JS_TIMEOUT_MS, on_listed,
                       list, NULL);
}

enum err js_list(struct bus *bus, const char *stream, const char *subject, uint64_t from,
                 unsigned most, js_list_fn *fn, void *arg)
{
    struct list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    list->bus = bus;
    list->fn = fn;
    list->arg = arg;
    list->next = from > 0 ? from : 1;
    list->wanted = most < 1 ? 1 : most > JS_LIST_MOST ? JS_LIST_MOST : most;
    snprintf(list->api, sizeof list->api, "$JS.API.DIRECT.GET.%s", stream);
    snprintf(list->subject, sizeof list->subject, "%s", subject);
    enum err err = list_part(list);
    if (err != ERR_OK)
        free(list);
    return err;
}

enum err js_call(struct bus *bus, const char *subject, const char *json, bus_done_fn *fn, void *arg)
{
    struct operation *operation = operation_new(fn, arg);
    if (operation == NULL)
        return ERR_NOMEM;
    enum err err = bus_request(bus, subject, NULL, 0, json, strlen(json), JS_TIMEOUT_MS, on_answer,
                               operation, NULL);
    if (err != ERR_OK)
        free(operation);
    return err;
}
