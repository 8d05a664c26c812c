/*
 * Requests about batches, each a visit (visit.h).
 *
 *   POST    the input file's meta is read, the mark is put, then the state: the batch exists, and
 *           this gateway moves it
 *   GET     the state, or all states of the owner
 *   cancel  the state is put again as cancelling, if it is still the one that was read
 *
 * Orphans: each SCAN_MS the marks of batches that are not over are listed, and of those that nobody
 * here moves the states are read; one whose gateway is gone is claimed by putting our name there.
 */
#include "roles/gateway/batches.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/objects.h"
#include "roles/gateway/batch_run.h"
#include "roles/gateway/files.h"
#include "roles/gateway/idempotency.h"
#include "roles/gateway/visit.h"

#define SCAN_MS      2000
#define SETTLE_MS    (PRESENCE_GONE_MS + 1000) /* until everybody who is there was heard */
#define CLAIMS_MAX   16                        /* states read in one scan */
#define MARK_SPARE_S 86400                     /* a mark outlives its batch's window */
#define TRIES_MAX    5
#define LIST_PAGE    1000
#define LIST_MOST    100
#define LIST_USUAL   20
#define LIST_KNOWN   10000 /* batches of one owner that a list looks at */
#define STATE_BYTES  ((size_t)128 << 10)
#define LIST_BYTES   ((size_t)16 << 20)

struct batches {
    struct gateway *gateway;
    struct batch_runs runs;
    int64_t settled_ns, scanned_ns;
    bool scanning;
    unsigned claiming; /* states being read or put for claims */
    char found[CLAIMS_MAX][ID_SIZE];
    unsigned found_count;
    uint64_t from; /* where the next scan begins: a scan takes so many marks, and no more */
};

/* ---- orphans ---- */

struct claim {
    struct batches *batches;
    struct batch batch;
};

static void claim_free(struct claim *claim)
{
    claim->batches->claiming--;
    batch_done(&claim->batch);
    free(claim);
}

static void on_claimed(void *arg, enum err err, uint64_t sequence)
{
    struct claim *claim = arg;
    struct batch batch = claim->batch;
    struct batches *batches = claim->batches;
    claim->batch = (struct batch){.metadata = NULL};
    if (err != ERR_OK || batch_runs_have(&batches->runs, batch.id)) {
        batch_done(&batch); /* another was first; or the next scan comes */
    } else {
        log_info("batch.claimed id=%s", batch.id);
        if (batch_runs_begin(&batches->runs, &batch, sequence) != ERR_OK)
            log_error("batch.not_begun why=\"%s\"", err_text());
    }
    claim_free(claim);
}

static void on_orphan(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    struct claim *claim = arg;
    const struct gateway *gateway = claim->batches->gateway;
    struct batch *batch = &claim->batch;
    char object[BATCH_OBJECT_SIZE];
    struct buf text;
    (void)name;
    if (err == ERR_OK)
        err = batch_decode(batch, data, len);
    bool ours = err == ERR_OK && strcmp(batch->gateway, gateway->presence.boot) == 0;
    bool taken = err == ERR_OK && !ours && registry_gateway_here(gateway->registry, batch->gateway);
    if (err != ERR_OK || taken || batch_is_over(batch->status) || gateway->draining) {
        claim_free(claim);
        return;
    }
    memcpy(batch->gateway, gateway->presence.boot, sizeof batch->gateway);
    batch_object_name(object, batch->id);
    buf_init(&text, STATE_BYTES);
    err = batch_encode(batch, &text);
    if (err == ERR_OK)
        err =
            objects_put(gateway->bus, object, &sequence, 0, text.data, text.len, on_claimed, claim);
    buf_done(&text);
    if (err != ERR_OK)
        claim_free(claim);
}

static void look_at_orphan(struct batches *batches, const char *id)
{
    char name[BATCH_OBJECT_SIZE];
    struct claim *claim = calloc(1, sizeof *claim);
    if (claim == NULL)
        return;
    claim->batches = batches;
    batches->claiming++;
    batch_object_name(name, id);
    if (objects_get(batches->gateway->bus, name, on_orphan, claim) != ERR_OK)
        claim_free(claim);
}

static void on_mark(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                    size_t len)
{
    struct batches *batches = arg;
    (void)data;
    (void)len;
    if (name != NULL) {
        const char *id = strchr(name, '.');
        if (id != NULL && id_is_valid(id + 1, ID_LEN) && batches->found_count < CLAIMS_MAX &&
            !batch_runs_have(&batches->runs, id + 1)) {
            memcpy(batches->found[batches->found_count++], id + 1, ID_SIZE);
            if (batches->found_count == CLAIMS_MAX)
                batches->from = sequence + 1;
        }
        return;
    }
    if (err == ERR_OK && sequence > 0 && batches->found_count < CLAIMS_MAX &&
        objects_list(batches->gateway->bus, "batchrun.*", sequence, LIST_PAGE, on_mark, batches) ==
            ERR_OK)
        return;
    batches->scanning = false;
    for (unsigned i = 0; i < batches->found_count; i++)
        look_at_orphan(batches, batches->found[i]);
}

static void scan(struct batches *batches)
{
    const struct gateway *gateway = batches->gateway;
    int64_t now = clock_mono_ns();
    if (batches->scanning || batches->claiming > 0 || gateway->draining ||
        gateway->away_since_ns != 0 || batches->runs.count >= BATCH_RUNS_MAX ||
        now - batches->settled_ns < SETTLE_MS * NS_PER_MS ||
        now - batches->scanned_ns < SCAN_MS * NS_PER_MS)
        return;
    batches->scanned_ns = now;
    batches->found_count = 0;
    uint64_t from = batches->from;
    batches->from = 0; /* unless this one fills up, too */
    batches->scanning =
        objects_list(gateway->bus, "batchrun.*", from, LIST_PAGE, on_mark, batches) == ERR_OK;
}

enum err batches_new(struct batches **out, struct gateway *gateway)
{
    struct batches *batches = calloc(1, sizeof *batches);
    if (batches == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    batches->gateway = gateway;
    batches->runs.gateway = gateway;
    batches->settled_ns = clock_mono_ns();
    LIST_INIT(&batches->runs.list);
    *out = batches;
    return ERR_OK;
}

void batches_free(struct batches *batches)
{
    if (batches == NULL)
        return;
    batch_runs_free(&batches->runs);
    free(batches);
}

void batches_tick(struct batches *batches)
{
    batch_runs_tick(&batches->runs);
    scan(batches);
}

void batches_reconnected(struct batches *batches)
{
    batches->settled_ns = clock_mono_ns();
}

/* ---- a visit's life ---- */

struct batch_visit {
    struct visit base;
    char id[ID_SIZE];
    struct batch batch;
    bool cancels;
    unsigned tries;
    struct idempotency key; /* POST */
    /* list */
    struct list_query query;
    struct batch *batches;
    size_t count, cap;
};

static void on_done(struct visit *base)
{
    struct batch_visit *visit = (struct batch_visit *)base;
    for (size_t i = 0; i < visit->count; i++)
        batch_done(&visit->batches[i]);
    free(visit->batches);
    batch_done(&visit->batch);
}

static struct batch_visit *begin(struct gateway *gateway, struct http_exchange *exchange,
                                 const struct key *caller)
{
    static const struct visit_kind kind = {.missing = "there is no such batch", .done = on_done};
    return visit_new(sizeof(struct batch_visit), &kind, gateway, exchange, caller);
}

static void answer_batch(struct batch_visit *visit)
{
    struct buf json;
    buf_init(&json, STATE_BYTES);
    visit_answer(&visit->base, batch_write(&visit->batch, &json), &json);
    buf_done(&json);
}

static enum err put_state(struct batch_visit *visit, const uint64_t *expect, bus_done_fn *fn)
{
    char name[BATCH_OBJECT_SIZE];
    struct buf text;
    batch_object_name(name, visit->batch.id);
    buf_init(&text, STATE_BYTES);
    enum err err = batch_encode(&visit->batch, &text);
    if (err == ERR_OK)
        err =
            objects_put(visit->base.gateway->bus, name, expect, 0, text.data, text.len, fn, visit);
    buf_done(&text);
    return err;
}

/* ---- POST ---- */

static void read_state(struct batch_visit *visit);

static void on_created(void *arg, enum err err, uint64_t sequence)
{
    struct batch_visit *visit = arg;
    visit_back(&visit->base);
    if (err == ERR_EXISTS) {
        read_state(visit); /* the same Idempotency-Key, at the same time */
    } else if (err != ERR_OK) {
        visit_fail_as(&visit->base, err);
    } else {
        answer_batch(visit);
        struct batch batch = visit->batch;
        visit->batch = (struct batch){.metadata = NULL};
        if (batch_runs_begin(&visit->base.gateway->batches->runs, &batch, sequence) != ERR_OK)
            log_error("batch.not_begun why=\"%s\"", err_text()); /* the next scan finds it */
    }
    visit_settle(&visit->base);
}

static void on_marked(void *arg, enum err err, uint64_t sequence)
{
    struct batch_visit *visit = arg;
    const uint64_t none_yet = 0;
    (void)sequence;
    visit_back(&visit->base);
    if (err == ERR_OK)
        visit_asked(&visit->base, put_state(visit, &none_yet, on_created));
    else
        visit_fail_as(&visit->base, err);
    visit_settle(&visit->base);
}

static void on_input(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                     size_t len)
{
    struct batch_visit *visit = arg;
    const struct batch *batch = &visit->batch;
    struct file_meta meta;
    char mark[BATCH_OBJECT_SIZE];
    (void)name;
    (void)sequence;
    visit_back(&visit->base);
    if (err == ERR_OK)
        err = file_meta_decode(&meta, data, len);
    if (err == ERR_NOT_FOUND || (err == ERR_OK && strcmp(meta.owner, visit->base.owner) != 0)) {
        visit_fail(&visit->base, 400, "invalid_value", "input_file_id", "There is no such file.");
    } else if (err != ERR_OK) {
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    } else if (strcmp(meta.purpose, FILE_PURPOSE) != 0) {
        visit_fail(&visit->base, 400, "invalid_value", "input_file_id",
                   "The file was not sent for 'purpose': 'batch'.");
    } else {
        unsigned keep_s =
            (unsigned)(batch->expires_at - batch->at[BATCH_VALIDATING]) + MARK_SPARE_S;
        batch_mark_name(mark, batch->id);
        visit_asked(&visit->base, objects_put(visit->base.gateway->bus, mark, NULL, keep_s, "", 0,
                                              on_marked, visit));
    }
    visit_settle(&visit->base);
}

static enum err check_service(const struct gateway *gateway, struct api_error *error)
{
    if (gateway->draining)
        return api_error_set(error, 503, "draining", NULL, "the service is stopping");
    if (room_is_full(gateway->room))
        return api_error_set(error, 503, "storage_full", NULL,
                             "the broker's disk space is nearly used up; try again later");
    if (gateway->batches->runs.count >= BATCH_RUNS_MAX)
        return api_error_set(error, 429, "too_many_batches", NULL,
                             "%d batches are on their way here; try again when one is over",
                             BATCH_RUNS_MAX);
    return ERR_OK;
}

static void create(struct batch_visit *visit)
{
    struct batch *batch = &visit->batch;
    char name[FILE_OBJECT_SIZE];
    if (batch->prompter[0] == '\0')
        snprintf(batch->prompter, sizeof batch->prompter, "batch_%.*s", ID_LEN, batch->id);
    file_meta_name(name, batch->input);
    visit_asked(&visit->base, objects_get(visit->base.gateway->bus, name, on_input, visit));
}

/* The batch that the first with this key has made, or would have made. */
static void on_first(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                     size_t len)
{
    struct batch_visit *visit = arg;
    struct batch first = {.metadata = NULL};
    (void)name;
    (void)sequence;
    visit_back(&visit->base);
    if (err == ERR_NOT_FOUND) {
        create(visit);
    } else if (err != ERR_OK || batch_decode(&first, data, len) != ERR_OK) {
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    } else {
        batch_done(&visit->batch);
        visit->batch = first;
        answer_batch(visit);
    }
    visit_settle(&visit->base);
}

static void on_key(void *arg, enum err err, bool again)
{
    struct batch_visit *visit = arg;
    struct api_error error;
    char name[BATCH_OBJECT_SIZE];
    visit_back(&visit->base);
    if (err == ERR_EXISTS) {
        idempotency_error(&error);
        visit_fail(&visit->base, error.status, error.code, NULL, error.message);
    } else if (err != ERR_OK) {
        visit_fail_as(&visit->base, err == ERR_FULL ? ERR_FULL : ERR_UNAVAILABLE);
    } else if (again) {
        memcpy(visit->id, visit->key.id, ID_SIZE);
        memcpy(visit->batch.id, visit->key.id, ID_SIZE);
        batch_object_name(name, visit->id);
        visit_asked(&visit->base, objects_get(visit->base.gateway->bus, name, on_first, visit));
    } else {
        create(visit);
    }
    visit_settle(&visit->base);
}

void batches_post(struct gateway *gateway, struct http_exchange *exchange,
                  const struct http_request *request, const struct key *caller)
{
    struct api_error error;
    struct batch_visit *visit = begin(gateway, exchange, caller);
    if (visit == NULL)
        return;
    struct batch *batch = &visit->batch;
    enum err err = check_service(gateway, &error);
    if (err == ERR_OK)
        err = idempotency_read(&visit->key, request, visit->base.owner, &error);
    if (err == ERR_OK)
        err = batch_parse(batch, request->body, request->body_len, clock_wall(), &error);
    if (err == ERR_NOMEM)
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
    if (err != ERR_OK) {
        gateway_reply_error(exchange, &error, NULL, NULL);
        return;
    }
    id_random(batch->id, ID_LEN);
    id_random(batch->output, ID_LEN);
    id_random(batch->errors, ID_LEN);
    memcpy(batch->owner, visit->base.owner, sizeof batch->owner);
    memcpy(batch->gateway, gateway->presence.boot, sizeof batch->gateway);
    snprintf(batch->prompter, sizeof batch->prompter, "%s", caller->name);
    memcpy(visit->id, batch->id, ID_SIZE);
    if (visit->key.object[0] == '\0') {
        create(visit);
        return;
    }
    memcpy(visit->key.id, batch->id, ID_SIZE);
    visit->key.created = batch->at[BATCH_VALIDATING];
    visit_asked(&visit->base, idempotency_claim(&visit->key, gateway, on_key, visit));
}

/* ---- one batch ---- */

static void on_state(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                     size_t len);

static void read_state(struct batch_visit *visit)
{
    char name[BATCH_OBJECT_SIZE];
    batch_object_name(name, visit->id);
    visit_asked(&visit->base, objects_get(visit->base.gateway->bus, name, on_state, visit));
}

static void on_cancelling(void *arg, enum err err, uint64_t sequence)
{
    struct batch_visit *visit = arg;
    (void)sequence;
    visit_back(&visit->base);
    if (err == ERR_OK) {
        batch_runs_look(&visit->base.gateway->batches->runs, visit->id);
        answer_batch(visit);
    } else if (err == ERR_EXISTS && visit->tries++ < TRIES_MAX) {
        read_state(visit); /* it went on meanwhile */
    } else {
        visit_fail_as(&visit->base, err == ERR_FULL ? ERR_FULL : ERR_UNAVAILABLE);
    }
    visit_settle(&visit->base);
}

static void cancel(struct batch_visit *visit, uint64_t sequence)
{
    char text[96];
    enum batch_status status = visit->batch.status;
    if (status == BATCH_CANCELLING || status == BATCH_CANCELLED) {
        answer_batch(visit);
    } else if (!batch_move(&visit->batch, BATCH_CANCELLING, clock_wall())) {
        snprintf(text, sizeof text, "A batch that is %s can't be cancelled.",
                 batch_status_name(status));
        visit_fail(&visit->base, 409, "invalid_state", NULL, text);
    } else {
        visit_asked(&visit->base, put_state(visit, &sequence, on_cancelling));
    }
}

static void on_state(void *arg, enum err err, const char *name, uint64_t sequence, const char *data,
                     size_t len)
{
    struct batch_visit *visit = arg;
    (void)name;
    visit_back(&visit->base);
    batch_done(&visit->batch);
    if (err == ERR_OK)
        err = batch_decode(&visit->batch, data, len);
    if (err == ERR_OK && strcmp(visit->batch.owner, visit->base.owner) != 0)
        err = ERR_NOT_FOUND;
    if (err != ERR_OK)
        visit_fail_as(&visit->base, err);
    else if (visit->cancels)
        cancel(visit, sequence);
    else
        answer_batch(visit);
    visit_settle(&visit->base);
}

static void find(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller, bool cancels)
{
    char public_id[BATCH_PUBLIC_SIZE + 8];
    struct batch_visit *visit = begin(gateway, exchange, caller);
    if (visit == NULL)
        return;
    visit->cancels = cancels;
    if (gateway_path_id(request, "/v1/batches/", cancels ? "/cancel" : "", public_id,
                        sizeof public_id) &&
        batch_id_parse(visit->id, public_id))
        read_state(visit);
    else
        visit_fail_as(&visit->base, ERR_NOT_FOUND);
}

void batches_get(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller)
{
    find(gateway, exchange, request, caller, false);
}

void batches_cancel(struct gateway *gateway, struct http_exchange *exchange,
                    const struct http_request *request, const struct key *caller)
{
    find(gateway, exchange, request, caller, true);
}

/* ---- all batches ---- */

/* A state that was put again while the list was read comes twice: the later one counts. */
static void list_add(struct batch_visit *visit, const char *data, size_t len)
{
    struct batch batch;
    if (batch_decode(&batch, data, len) != ERR_OK)
        return;
    if (strcmp(batch.owner, visit->base.owner) != 0 || visit->count == LIST_KNOWN) {
        batch_done(&batch);
        return;
    }
    if (visit->count == visit->cap) {
        size_t cap = visit->cap == 0 ? 8 : 2 * visit->cap;
        struct batch *grown = realloc(visit->batches, cap * sizeof *grown);
        if (grown == NULL) {
            batch_done(&batch);
            return;
        }
        visit->batches = grown;
        visit->cap = cap;
    }
    visit->batches[visit->count++] = batch;
}

/* Oldest first; of one batch the states as they came. */
static int by_age(const void *a, const void *b)
{
    const struct batch *left = a, *right = b;
    double difference = left->at[BATCH_VALIDATING] - right->at[BATCH_VALIDATING];
    return difference < 0 ? -1 : difference > 0 ? 1 : strcmp(left->id, right->id);
}

static void list_sort(struct batch_visit *visit)
{
    size_t kept = 0;
    if (visit->count > 0)
        qsort(visit->batches, visit->count, sizeof *visit->batches, by_age);
    for (size_t i = 0; i < visit->count; i++) {
        if (kept > 0 && strcmp(visit->batches[kept - 1].id, visit->batches[i].id) == 0)
            batch_done(&visit->batches[--kept]);
        visit->batches[kept++] = visit->batches[i];
    }
    visit->count = kept;
}

static void list_answer(struct batch_visit *visit)
{
    const struct batch *shown[LIST_MOST];
    struct buf json;
    size_t first = 0;
    ptrdiff_t after = -1;
    bool more = false;
    char id[ID_SIZE];
    list_sort(visit);
    bool placed = batch_id_parse(id, visit->query.after);
    for (size_t i = 0; placed && i < visit->count; i++) {
        if (strcmp(visit->batches[i].id, id) == 0)
            after = (ptrdiff_t)i;
    }
    size_t count = list_query_cut(&visit->query, visit->count, after, &first, &more);
    for (size_t i = 0; i < count; i++)
        shown[i] = &visit->batches[first - i];
    buf_init(&json, LIST_BYTES);
    visit_answer(&visit->base, batch_list_write(shown, count, more, &json), &json);
    buf_done(&json);
}

static void on_listed(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    struct batch_visit *visit = arg;
    if (name != NULL) {
        list_add(visit, data, len);
        return;
    }
    if (err == ERR_OK && sequence > 0 && visit->base.exchange != NULL) {
        err = objects_list(visit->base.gateway->bus, "batch.*", sequence, LIST_PAGE, on_listed,
                           visit);
        if (err == ERR_OK)
            return;
    }
    visit_back(&visit->base);
    if (err != ERR_OK)
        visit_fail_as(&visit->base, ERR_UNAVAILABLE);
    else if (visit->base.exchange != NULL)
        list_answer(visit);
    visit_settle(&visit->base);
}

void batches_list(struct gateway *gateway, struct http_exchange *exchange,
                  const struct http_request *request, const struct key *caller)
{
    char limit[24], after[128];
    struct api_error error;
    struct batch_visit *visit = begin(gateway, exchange, caller);
    if (visit == NULL)
        return;
    bool limited = gateway_query(request, "limit", limit, sizeof limit);
    bool placed = gateway_query(request, "after", after, sizeof after);
    if (list_query_read(&visit->query, limited ? limit : NULL, placed ? after : NULL, NULL,
                        LIST_MOST, LIST_USUAL, &error) != ERR_OK) {
        gateway_reply_error(exchange, &error, NULL, NULL);
        return;
    }
    visit_asked(&visit->base,
                objects_list(gateway->bus, "batch.*", 0, LIST_PAGE, on_listed, visit));
}
