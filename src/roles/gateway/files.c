/*
 * Requests about files, each a visit (visit.h).
 *
 *   POST     the form's file goes out chunk by chunk, two at a time, straight from the request's
 *            body; then its meta; a reader that leaves before that takes what was put with it
 *   GET      the meta, or all metas of the owner
 *   content  the meta, then chunk after chunk, each when the one before has left for the reader
 *   DELETE   the meta is written over with nothing, which stays for as long as files are kept, so
 * that no chunk that a killed broker brings back is found; then the rest is purged
 *
 * What is another's does not exist: 404.
 */
#include "roles/gateway/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/objects.h"
#include "http/multipart.h"
#include "roles/gateway/visit.h"

#define PUTS_AT_ONCE 2
#define LIST_PAGE    1000
#define LIST_BYTES   ((size_t)16 << 20)
#define FORM_BYTES   ((size_t)64 << 10) /* of a form beside its file */
#define META_BYTES   ((size_t)4 << 10)

enum visit_verb { VISIT_UPLOAD, VISIT_GET, VISIT_CONTENT, VISIT_DELETE, VISIT_LIST };

struct file_visit {
    struct visit base;
    enum visit_verb verb;
    struct file_meta meta;
    /* upload */
    const char *data;  /* in the request's body: good while the exchange is open */
    unsigned put;      /* chunks that were handed to the broker */
    bool kept, failed; /* its meta is stored; it will not be */
    /* content */
    unsigned read; /* chunks that were asked for */
    size_t held;   /* its part of gateway->held_bytes */
    /* list */
    struct list_query query;
    char purpose[FILE_PURPOSE_SIZE];
    struct file_meta *metas; /* oldest first */
    size_t meta_count, meta_cap;
};

void file_chunk_name(char out[FILE_OBJECT_SIZE], const char *id, unsigned chunk)
{
    snprintf(out, FILE_OBJECT_SIZE, "file.%.*s.%u", ID_LEN, id, chunk);
}

void file_meta_name(char out[FILE_OBJECT_SIZE], const char *id)
{
    snprintf(out, FILE_OBJECT_SIZE, "file.%.*s.meta", ID_LEN, id);
}

int files_admit(void *arg, const struct http_request *head, size_t *body_bytes, const char **why)
{
    const struct gateway *gateway = arg;
    struct api_error error;
    if (strcmp(head->method, "POST") != 0 || strcmp(head->path, "/v1/files") != 0)
        return 0;
    if (keys_check(gateway->keys, head, &error) == NULL) {
        *why = error.status == 401 ? "a file is taken from who has an API key that is known here"
                                   : "API keys can't be checked at present";
        return error.status;
    }
    *body_bytes = ((size_t)gateway->settings->file_limit_mib << 20) + FORM_BYTES;
    return 0;
}

/* ---- a visit's life ---- */

static void on_done(struct visit *base)
{
    struct file_visit *visit = (struct file_visit *)base;
    base->gateway->held_bytes -= visit->held;
    free(visit->metas);
}

static void on_purged(void *arg, enum err err, uint64_t sequence)
{
    struct file_visit *visit = arg;
    (void)sequence;
    if (err != ERR_OK)
        log_warn("file.remains id=%s why=\"%s\"", visit->meta.id, err_text());
    visit_back(&visit->base);
    visit_settle(&visit->base);
}

/* Takes back what was put of a file that will not be whole.  What can't be ages out. */
static void take_back(struct file_visit *visit)
{
    char name[FILE_OBJECT_SIZE];
    snprintf(name, sizeof name, "file.%s.>", visit->meta.id);
    visit->failed = true;
    if (visit->put == 0)
        return;
    if (objects_purge(visit->base.gateway->bus, name, on_purged, visit) == ERR_OK)
        visit_waits(&visit->base);
}

static void on_left(struct visit *base)
{
    struct file_visit *visit = (struct file_visit *)base;
    visit->data = NULL;
    if (visit->verb == VISIT_UPLOAD && !visit->kept && !visit->failed && base->pending == 0)
        take_back(visit); /* else who hears of the last put does */
}

static struct file_visit *begin(struct gateway *gateway, struct http_exchange *exchange,
                                const struct key *caller, enum visit_verb verb)
{
    static const struct visit_kind kind = {"there is no such file", on_left, on_done};
    struct file_visit *visit = visit_new(sizeof *visit, &kind, gateway, exchange, caller);
    if (visit != NULL)
        visit->verb = verb;
    return visit;
}

static void answer_meta(struct file_visit *visit)
{
    struct buf json;
    buf_init(&json, META_BYTES);
    visit_answer(&visit->base, file_write(&visit->meta, &json), &json);
    buf_done(&json);
}

/* ---- POST ---- */

static void upload_go_on(struct file_visit *visit);

static void on_meta_put(void *arg, enum err err, uint64_t sequence)
{
    struct file_visit *visit = arg;
    (void)sequence;
    visit_back(&visit->base);
    visit->kept = err == ERR_OK;
    if (visit->kept) {
        answer_meta(visit);
    } else {
        visit_fail_as(&visit->base, err);
        take_back(visit);
    }
    visit_settle(&visit->base);
}

static void on_chunk_put(void *arg, enum err err, uint64_t sequence)
{
    struct file_visit *visit = arg;
    (void)sequence;
    visit_back(&visit->base);
    if (err != ERR_OK && !visit->failed) {
        visit_fail_as(&visit->base, err);
        visit->failed = true;
    }
    if (!visit->failed && visit->base.exchange != NULL)
        upload_go_on(visit);
    else if (visit->base.pending == 0)
        take_back(visit);
    visit_settle(&visit->base);
}

static enum err put_chunk(struct file_visit *visit)
{
    const uint64_t none_yet = 0;
    char name[FILE_OBJECT_SIZE];
    size_t at = (size_t)visit->put * OBJECT_BYTES_MAX;
    size_t left = (size_t)visit->meta.bytes - at;
    file_chunk_name(name, visit->meta.id, visit->put);
    enum err err =
        objects_put(visit->base.gateway->bus, name, &none_yet, 0, visit->data + at,
                    left < OBJECT_BYTES_MAX ? left : OBJECT_BYTES_MAX, on_chunk_put, visit);
    if (err == ERR_OK) {
        visit_waits(&visit->base);
        visit->put++;
    }
    return err;
}

static enum err put_meta(struct file_visit *visit)
{
    char name[FILE_OBJECT_SIZE];
    struct buf text;
    file_meta_name(name, visit->meta.id);
    buf_init(&text, META_BYTES);
    enum err err = file_meta_encode(&visit->meta, &text);
    if (err == ERR_OK)
        err = objects_put(visit->base.gateway->bus, name, NULL, 0, text.data, text.len, on_meta_put,
                          visit);
    if (err == ERR_OK)
        visit_waits(&visit->base);
    buf_done(&text);
    return err;
}

/* More chunks, or the meta when all are stored. */
static void upload_go_on(struct file_visit *visit)
{
    enum err err = ERR_OK;
    while (err == ERR_OK && visit->put < visit->meta.chunks && visit->base.pending < PUTS_AT_ONCE)
        err = put_chunk(visit);
    if (err == ERR_OK && visit->put == visit->meta.chunks && visit->base.pending == 0)
        err = put_meta(visit);
    if (err == ERR_OK)
        return;
    visit_fail_as(&visit->base, err);
    visit->failed = true;
    if (visit->base.pending == 0)
        take_back(visit);
}

static enum err read_form(struct file_visit *visit, const struct http_request *request,
                          struct api_error *error)
{
    struct multipart form;
    unsigned purposes = 0, files = 0;
    enum err err = multipart_parse(&form, http_request_header(request, "content-type"),
                                   request->body, request->body_len);
    if (err == ERR_UNSUPPORTED)
        return api_error_set(error, 415, "unsupported_media_type", NULL, "%s", err_text());
    if (err != ERR_OK)
        return api_error_set(error, 400, "invalid_form", NULL, "The form can't be read: %s.",
                             err_text());
    const struct multipart_part *purpose = multipart_find(&form, "purpose", &purposes);
    const struct multipart_part *file = multipart_find(&form, "file", &files);
    if (files != 1 || purposes > 1)
        return api_error_set(error, 400, "missing_required_parameter",
                             files != 1 ? "file" : "purpose",
                             "The form must hold one 'file' and one 'purpose'.");
    err = file_form_check(&visit->meta, purpose != NULL ? purpose->data : NULL,
                          purpose != NULL ? purpose->len : 0, file->filename, error);
    if (err != ERR_OK)
        return err;
    size_t most = (size_t)visit->base.gateway->settings->file_limit_mib << 20;
    if (file->len > most || file->len == 0)
        return api_error_set(error, file->len > most ? 413 : 400, "invalid_value", "file",
                             "A file holds 1 to %zu bytes here.", most);
    visit->data = file->data;
    visit->meta.bytes = file->len;
    visit->meta.chunks = (unsigned)((file->len + OBJECT_BYTES_MAX - 1) / OBJECT_BYTES_MAX);
    return ERR_OK;
}

void files_post(struct gateway *gateway, struct http_exchange *exchange,
                const struct http_request *request, const struct key *caller)
{
    struct api_error error;
    struct file_visit *visit = begin(gateway, exchange, caller, VISIT_UPLOAD);
    if (visit == NULL)
        return;
    enum err err = read_form(visit, request, &error);
    if (err == ERR_OK && room_is_full(gateway->room))
        err = api_error_set(&error, 503, "storage_full", NULL,
                            "the broker's disk space is nearly used up; try again later");
    if (err == ERR_OK && gateway->draining)
        err = api_error_set(&error, 503, "draining", NULL, "the service is stopping");
    if (err != ERR_OK) {
        visit->failed = true;
        gateway_reply_error(exchange, &error, NULL, NULL);
        return;
    }
    id_random(visit->meta.id, ID_LEN);
    snprintf(visit->meta.owner, sizeof visit->meta.owner, "%s", visit->base.owner);
    visit->meta.created = clock_wall();
    upload_go_on(visit);
}

/* ---- content ---- */

static void ask_chunk(void *arg);

static void on_chunk(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                     size_t len)
{
    struct file_visit *visit = arg;
    (void)name;
    (void)sequence;
    visit_back(&visit->base);
    if (visit->base.exchange != NULL && err != ERR_OK) {
        log_warn("file.broken_off id=%s chunk=%u why=\"%s\"", visit->meta.id, visit->read - 1,
                 err_text());
        http_stream_abort(visit->base.exchange);
    } else if (visit->base.exchange != NULL && http_stream_write(visit->base.exchange, data, len)) {
        if (visit->read == visit->meta.chunks)
            http_stream_end(visit->base.exchange);
        else
            http_on_drained(visit->base.exchange, ask_chunk, visit);
    }
    visit_settle(&visit->base);
}

static void ask_chunk(void *arg)
{
    struct file_visit *visit = arg;
    char name[FILE_OBJECT_SIZE];
    file_chunk_name(name, visit->meta.id, visit->read);
    if (objects_get(visit->base.gateway->bus, name, on_chunk, visit) != ERR_OK) {
        http_stream_abort(visit->base.exchange);
        return;
    }
    visit->read++;
    visit_waits(&visit->base);
}

static void begin_content(struct file_visit *visit)
{
    static const struct http_header headers[] = {{"X-Content-Type-Options", "nosniff"}};
    if (visit_is_clogged(&visit->base))
        return;
    visit->held = OBJECT_BYTES_MAX; /* a chunk is read once the one before was taken */
    visit->base.gateway->held_bytes += visit->held;
    http_stream_begin(visit->base.exchange, 200, headers, 1, "application/octet-stream");
    if (visit->meta.chunks == 0)
        http_stream_end(visit->base.exchange);
    else
        ask_chunk(visit);
}

/* ---- one file ---- */

static void on_deleted(void *arg, enum err err, uint64_t sequence)
{
    struct file_visit *visit = arg;
    struct buf json;
    (void)sequence;
    visit_back(&visit->base);
    buf_init(&json, META_BYTES);
    if (err != ERR_OK)
        visit_fail_as(&visit->base, err);
    else
        visit_answer(&visit->base, file_deleted_write(visit->meta.id, &json), &json);
    buf_done(&json);
    visit_settle(&visit->base);
}

static void on_marked(void *arg, enum err err, uint64_t sequence)
{
    struct file_visit *visit = arg;
    char name[FILE_OBJECT_SIZE];
    (void)sequence;
    visit_back(&visit->base);
    struct bus *bus = visit->base.gateway->bus;
    snprintf(name, sizeof name, "file.%s.>", visit->meta.id);
    if (err == ERR_OK)
        visit_asked(&visit->base, objects_purge_but_last(bus, name, on_deleted, visit));
    else if (err == ERR_FULL) /* no room even for that: room is made */
        visit_asked(&visit->base, objects_purge(bus, name, on_deleted, visit));
    else
        visit_fail_as(&visit->base, err);
    visit_settle(&visit->base);
}

static void begin_delete(struct file_visit *visit)
{
    char name[FILE_OBJECT_SIZE];
    file_meta_name(name, visit->meta.id);
    visit_asked(&visit->base,
                objects_put(visit->base.gateway->bus, name, NULL, 0, "", 0, on_marked, visit));
}

static void on_meta(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                    size_t len)
{
    struct file_visit *visit = arg;
    (void)name;
    (void)sequence;
    visit_back(&visit->base);
    if (err == ERR_OK)
        err = file_meta_decode(&visit->meta, data, len);
    if (err == ERR_OK && strcmp(visit->meta.owner, visit->base.owner) != 0)
        err = ERR_NOT_FOUND;
    if (err != ERR_OK)
        visit_fail_as(&visit->base, err);
    else if (visit->base.exchange == NULL)
        ; /* nobody waits: nothing is deleted, either */
    else if (visit->verb == VISIT_GET)
        answer_meta(visit);
    else if (visit->verb == VISIT_CONTENT)
        begin_content(visit);
    else
        begin_delete(visit);
    visit_settle(&visit->base);
}

static void find(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller, enum visit_verb verb)
{
    char public_id[FILE_PUBLIC_SIZE + 8], id[ID_SIZE], name[FILE_OBJECT_SIZE];
    struct file_visit *visit = begin(gateway, exchange, caller, verb);
    if (visit == NULL)
        return;
    const char *suffix = verb == VISIT_CONTENT ? "/content" : "";
    if (!gateway_path_id(request, "/v1/files/", suffix, public_id, sizeof public_id) ||
        !file_id_parse(id, public_id)) {
        visit_fail_as(&visit->base, ERR_NOT_FOUND);
        return;
    }
    file_meta_name(name, id);
    visit_asked(&visit->base, objects_get(gateway->bus, name, on_meta, visit));
}

void files_get(struct gateway *gateway, struct http_exchange *exchange,
               const struct http_request *request, const struct key *caller)
{
    find(gateway, exchange, request, caller, VISIT_GET);
}

void files_content(struct gateway *gateway, struct http_exchange *exchange,
                   const struct http_request *request, const struct key *caller)
{
    find(gateway, exchange, request, caller, VISIT_CONTENT);
}

void files_delete(struct gateway *gateway, struct http_exchange *exchange,
                  const struct http_request *request, const struct key *caller)
{
    find(gateway, exchange, request, caller, VISIT_DELETE);
}

/* ---- all files ---- */

static void list_add(struct file_visit *visit, const char *data, size_t len)
{
    struct file_meta meta;
    if (file_meta_decode(&meta, data, len) != ERR_OK ||
        strcmp(meta.owner, visit->base.owner) != 0 ||
        (visit->purpose[0] != '\0' && strcmp(meta.purpose, visit->purpose) != 0) ||
        visit->meta_count == FILES_LIST_MOST)
        return;
    if (visit->meta_count == visit->meta_cap) {
        size_t cap = visit->meta_cap == 0 ? 16 : 2 * visit->meta_cap;
        struct file_meta *grown = realloc(visit->metas, cap * sizeof *grown);
        if (grown == NULL)
            return;
        visit->metas = grown;
        visit->meta_cap = cap;
    }
    visit->metas[visit->meta_count++] = meta;
}

static void list_answer(struct file_visit *visit)
{
    struct buf json;
    size_t first = 0;
    ptrdiff_t after = -1;
    char public_id[FILE_PUBLIC_SIZE];
    bool more = false;
    for (size_t i = 0; i < visit->meta_count && visit->query.after[0] != '\0'; i++) {
        file_public_id(public_id, visit->metas[i].id);
        if (strcmp(public_id, visit->query.after) == 0)
            after = (ptrdiff_t)i;
    }
    size_t count = list_query_cut(&visit->query, visit->meta_count, after, &first, &more);
    if (!visit->query.ascending && count > 0) { /* turned around, in place */
        struct file_meta *from = &visit->metas[first + 1 - count];
        for (size_t i = 0; i < count / 2; i++) {
            struct file_meta swap = from[i];
            from[i] = from[count - 1 - i];
            from[count - 1 - i] = swap;
        }
        first = first + 1 - count;
    }
    buf_init(&json, LIST_BYTES);
    /* Without files there is no memory of them to point into. */
    const struct file_meta *shown = count > 0 ? visit->metas + first : NULL;
    visit_answer(&visit->base, file_list_write(shown, count, more, &json), &json);
    buf_done(&json);
}

static void on_listed(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    struct file_visit *visit = arg;
    if (name != NULL) {
        list_add(visit, data, len);
        return;
    }
    bool goes_on = err == ERR_OK && sequence > 0 && visit->base.exchange != NULL;
    if (goes_on)
        err = objects_list(visit->base.gateway->bus, "file.*.meta", sequence, LIST_PAGE, on_listed,
                           visit);
    if (goes_on && err == ERR_OK)
        return;
    visit_back(&visit->base);
    if (err != ERR_OK)
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    else if (visit->base.exchange != NULL)
        list_answer(visit);
    visit_settle(&visit->base);
}

void files_list(struct gateway *gateway, struct http_exchange *exchange,
                const struct http_request *request, const struct key *caller)
{
    char limit[24], after[128], order[16];
    struct api_error error;
    struct file_visit *visit = begin(gateway, exchange, caller, VISIT_LIST);
    if (visit == NULL)
        return;
    if (!gateway_query(request, "purpose", visit->purpose, sizeof visit->purpose))
        visit->purpose[0] = '\0';
    bool limited = gateway_query(request, "limit", limit, sizeof limit);
    bool placed = gateway_query(request, "after", after, sizeof after);
    bool ordered = gateway_query(request, "order", order, sizeof order);
    if (list_query_read(&visit->query, limited ? limit : NULL, placed ? after : NULL,
                        ordered ? order : NULL, FILES_LIST_MOST, FILES_LIST_MOST,
                        &error) != ERR_OK) {
        gateway_reply_error(exchange, &error, NULL, NULL);
        return;
    }
    visit_asked(&visit->base,
                objects_list(gateway->bus, "file.*.meta", 0, LIST_PAGE, on_listed, visit));
}
