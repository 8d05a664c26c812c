#include "bus/objects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/subject.h"

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

static void on_listed(void *arg, enum err err, const struct bus_message *message, uint64_t next)
{
    struct get_query *query = arg;
    if (message == NULL) {
        struct get_query last = *query;
        free(query);
        last.fn(last.arg, err, NULL, next, NULL, 0);
        return;
    }
    const char *name = stored_name(message);
    if (name != NULL)
        query->fn(query->arg, ERR_OK, name, js_stored_sequence(message), message->data,
                  message->len);
}

enum err objects_list(struct bus *bus, const char *name, uint64_t from, unsigned most,
                      object_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    enum err err = subject_of(subject, name, true);
    if (err != ERR_OK)
        return err;
    struct get_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct get_query){fn, arg};
    err = js_list(bus, "OBJECTS", subject, from, most, on_listed, query);
    if (err != ERR_OK)
        free(query);
    return err;
}

static enum err purge(struct bus *bus, const char *name, unsigned keep, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX], ask[SUBJECT_MAX + 48];
    enum err err = subject_of(subject, name, true);
    if (err != ERR_OK)
        return err;
    snprintf(ask, sizeof ask, "{\"filter\":\"%s\",\"keep\":%u}", subject, keep);
    return js_call(bus, "$JS.API.STREAM.PURGE.OBJECTS", ask, fn, arg);
}

enum err objects_purge(struct bus *bus, const char *name, bus_done_fn *fn, void *arg)
{
    return purge(bus, name, 0, fn, arg);
}

enum err objects_purge_but_last(struct bus *bus, const char *name, bus_done_fn *fn, void *arg)
{
    return purge(bus, name, 1, fn, arg);
}
