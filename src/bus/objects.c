#include "bus/objects.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/subject.h"

#define LIST_MOST  1000
#define PART_BYTES (8 << 20) /* what one direct get brings at most */

static const char prefix[] = "obj.";

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '=';
}

/* The subject of a name: tokens of ordinary bytes, or where `wild` a "*", or a ">" as the last. */
static enum err subject_of(char out[SUBJECT_MAX], const char *name, bool wild)
{
    size_t len = strlen(name);
    const char *at = name;
    bool good = len > 0 && len <= OBJECT_NAME_MAX;
    while (good) {
        size_t size = strcspn(at, ".");
        bool star = wild && size == 1 && (*at == '*' || (*at == '>' && at[1] == '\0'));
        good = size > 0;
        for (size_t i = 0; i < size && !star; i++)
            good = good && is_name_byte(at[i]);
        at += size;
        if (*at == '\0')
            break;
        at++;
    }
    if (!good)
        return err_set(ERR_INVALID, "\"%.64s\" is no object's name", name);
    snprintf(out, SUBJECT_MAX, "%s%s", prefix, name);
    return ERR_OK;
}

enum err objects_put(struct bus *bus, const char *name, const uint64_t *expect, unsigned keep_s,
                     const void *data, size_t len, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    if (len > OBJECT_BYTES_MAX)
        return err_set(ERR_LIMIT, "an object of %zu bytes; at most %zu fit", len, OBJECT_BYTES_MAX);
    enum err err = subject_of(subject, name, false);
    if (err != ERR_OK)
        return err;
    const struct js_expect latest = {.set = expect != NULL,
                                     .sequence = expect != NULL ? *expect : 0};
    return js_publish_for(bus, subject, &latest, keep_s, data, len, fn, arg);
}

enum err objects_put_under(struct bus *bus, const char *name, const char *under, uint64_t sequence,
                           const void *data, size_t len, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX], fence[SUBJECT_MAX];
    if (len > OBJECT_BYTES_MAX)
        return err_set(ERR_LIMIT, "an object of %zu bytes; at most %zu fit", len, OBJECT_BYTES_MAX);
    enum err err = subject_of(subject, name, false);
    if (err == ERR_OK)
        err = subject_of(fence, under, false);
    if (err != ERR_OK)
        return err;
    const struct js_expect held = {.set = true, .sequence = sequence, .subject = fence};
    return js_publish_for(bus, subject, &held, 0, data, len, fn, arg);
}

struct get_query {
    object_fn *fn;
    void *arg;
};

/* The name of what a direct get brought; NULL: it is none of ours. */
static const char *stored_name(const struct bus_message *message)
{
    const char *subject = bus_message_header(message, "Nats-Subject");
    size_t len = sizeof prefix - 1;
    return subject != NULL && strncmp(subject, prefix, len) == 0 ? subject + len : NULL;
}

static bool on_object(void *arg, enum err err, const struct bus_message *message)
{
    struct get_query query = *(struct get_query *)arg;
    free(arg);
    const char *name = NULL;
    if (err == ERR_OK && message->status == 404)
        err = err_set(ERR_NOT_FOUND, "no such object");
    else if (err == ERR_OK && (name = stored_name(message)) == NULL)
        err = err_set(ERR_UNAVAILABLE, "the broker answered with something odd");
    if (err == ERR_OK)
        query.fn(query.arg, ERR_OK, name, js_stored_sequence(message), message->data, message->len);
    else
        query.fn(query.arg, err, NULL, 0, NULL, 0);
    return false;
}

enum err objects_get(struct bus *bus, const char *name, object_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    enum err err = subject_of(subject, name, true);
    if (err != ERR_OK)
        return err;
    struct get_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct get_query){fn, arg};
    err = js_last(bus, "OBJECTS", subject, on_object, query);
    if (err != ERR_OK)
        free(query);
    return err;
}

struct list_query {
    struct bus *bus;
    char subject[SUBJECT_MAX];
    object_fn *fn;
    void *arg;
    uint64_t next;            /* sequence to go on at */
    unsigned wanted, in_part; /* still; that this direct get brought */
};

static enum err list_part(struct list_query *query);

static void list_finish(struct list_query *query, enum err err, bool more)
{
    query->fn(query->arg, err, NULL, more ? query->next : 0, NULL, 0);
    free(query);
}

/* A direct get is over: its last word says how many more match. */
static void list_part_end(struct list_query *query, const struct bus_message *word)
{
    const char *text = bus_message_header(word, "Nats-Num-Pending");
    bool more = text != NULL && strtoull(text, NULL, 10) > 0;
    enum err err = ERR_OK;
    if (more && query->wanted > 0) {
        /* It brought its PART_BYTES. */
        err = query->in_part > 0 ? list_part(query)
                                 : err_set(ERR_UNAVAILABLE, "the broker ended a read early");
        if (err == ERR_OK)
            return;
    }
    list_finish(query, err, more);
}

static bool on_listed(void *arg, enum err err, const struct bus_message *message)
{
    struct list_query *query = arg;
    if (err == ERR_OK && message->status == 0) {
        const char *name = stored_name(message);
        uint64_t sequence = js_stored_sequence(message);
        query->next = sequence + 1;
        query->in_part++;
        query->wanted -= query->wanted > 0;
        if (name != NULL)
            query->fn(query->arg, ERR_OK, name, sequence, message->data, message->len);
        return true;
    }
    if (err == ERR_OK && message->status == 204) {
        list_part_end(query, message);
        return false;
    }
    if (err == ERR_OK && message->status != 404)
        err = err_set(ERR_UNAVAILABLE, "the broker ended a read with status %d", message->status);
    list_finish(query, err, false);
    return false;
}

static enum err list_part(struct list_query *query)
{
    char ask[SUBJECT_MAX + 128];
    query->in_part = 0;
    int len =
        snprintf(ask, sizeof ask,
                 "{\"batch\":%u,\"max_bytes\":%d,\"seq\":%" PRIu64 ",\"next_by_subj\":\"%s\"}",
                 query->wanted, PART_BYTES, query->next, query->subject);
    return bus_request(query->bus, "$JS.API.DIRECT.GET.OBJECTS", NULL, 0, ask, (size_t)len,
                       JS_TIMEOUT_MS, on_listed, query, NULL);
}

enum err objects_list(struct bus *bus, const char *name, uint64_t from, unsigned most,
                      object_fn *fn, void *arg)
{
    struct list_query *query = calloc(1, sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    query->bus = bus;
    query->fn = fn;
    query->arg = arg;
    query->next = from > 0 ? from : 1;
    query->wanted = most < 1 ? 1 : most > LIST_MOST ? LIST_MOST : most;
    enum err err = subject_of(query->subject, name, true);
    if (err == ERR_OK)
        err = list_part(query);
    if (err != ERR_OK)
        free(query);
    return err;
}

enum err objects_purge(struct bus *bus, const char *name, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX], ask[SUBJECT_MAX + 32];
    enum err err = subject_of(subject, name, true);
    if (err != ERR_OK)
        return err;
    snprintf(ask, sizeof ask, "{\"filter\":\"%s\"}", subject);
    return js_call(bus, "$JS.API.STREAM.PURGE.OBJECTS", ask, fn, arg);
}
