/*
 * From a request to its prompts on the queue.
 *
 * Most requests go at once.  Two kinds wait for the broker first: one with previous_response_id,
 * for that one's record, and one with an Idempotency-Key, until it is known whether the key was
 * used before.  The key's object names the prompt's id, and an id is put on the queue once: whoever
 * comes with the same key follows that prompt, puts it again if it never arrived, or gets its
 * record.
 */
#include "roles/gateway/accept.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/params.h"
#include "base/clock.h"
#include "base/log.h"
#include "bus/objects.h"
#include "config/digest.h"
#include "roles/gateway/find.h"
#include "roles/gateway/idempotency.h"
#include "roles/gateway/session.h"
#include "roles/gateway/visit.h"
#include "wire/json.h"

struct acceptance {    /* while the broker is asked, or while it is made */
    struct visit base; /* without an exchange: its reader left, or it is a follower's */
    struct asked *asked;
    outlet_done_fn *done; /* a follower's */
    void *done_arg;
    char id[ID_SIZE]; /* of the (first) prompt */
    struct idempotency key;
    bool again; /* the id may be known already */
};

static void on_done(struct visit *base)
{
    asked_drop(((struct acceptance *)base)->asked);
}

/* Ends it with an error. */
static void refuse(struct acceptance *acceptance, const struct api_error *error, const char *why)
{
    figures_refused(acceptance->base.gateway->figures, why);
    if (acceptance->done != NULL)
        acceptance->done(acceptance->done_arg, NULL, error);
    visit_refuse(&acceptance->base, error);
}

static void refuse_now(struct acceptance *acceptance)
{
    struct api_error error;
    api_error_set(&error, 503, "unavailable", NULL,
                  "the prompt queue can't be reached; try again in a moment");
    refuse(acceptance, &error, "unavailable");
}

/* ---- onto the queue ---- */

/* The ids of further texts follow from that of the first, so that they too are put once. */
static enum err id_of_text(char id[ID_SIZE], const char *first, unsigned index)
{
    char digest[DIGEST_SIZE];
    const struct digest_part parts[] = {{first, ID_LEN}, {&index, sizeof index}};
    if (index == 0) {
        memcpy(id, first, ID_SIZE);
        return ERR_OK;
    }
    enum err err = digest_parts(digest, parts, 2);
    if (err == ERR_OK)
        snprintf(id, ID_SIZE, "%.*s", ID_LEN, digest);
    return err;
}

static void begin(struct acceptance *acceptance)
{
    struct asked *asked = acceptance->asked;
    struct api_request *request = &asked->request;
    size_t texts = json_array_size(request->texts);
    unsigned count = (unsigned)(texts > 0 ? texts : 1) * request->n;
    const struct outlet_spec spec = {
        .exchange = acceptance->base.exchange,
        .count = count,
        .stream = request->stream,
        .include_usage = request->include_usage,
        .after = -1,
        .trace = &asked->trace,
        .request_id = acceptance->id,
        .request = request,
        .kept_total = &acceptance->base.gateway->held_bytes,
    };
    struct outlet *outlet = NULL;
    if (acceptance->base.exchange == NULL && acceptance->done == NULL)
        return; /* its reader left, and never heard of it */
    enum err err = outlet_new(&outlet, &spec);
    if (err != ERR_OK) {
        refuse_now(acceptance);
        return;
    }
    if (acceptance->done != NULL)
        outlet_follow(outlet, acceptance->done, acceptance->done_arg);
    if (acceptance->base.exchange != NULL)
        http_request_drop_body(acceptance->base.exchange); /* many may wait for long */
    visit_give(&acceptance->base);
    outlet_hold(outlet);
    for (unsigned i = 0; err == ERR_OK && i < count; i++) {
        char id[ID_SIZE];
        const json_t *text = texts > 0 ? json_array_get(request->texts, i / request->n) : NULL;
        err = id_of_text(id, acceptance->id, i);
        if (err == ERR_OK)
            err = session_begin(acceptance->base.gateway, asked, outlet, i, id, text,
                                acceptance->again);
    }
    if (err != ERR_OK)
        outlet_fail(outlet, 503, "unavailable", "out of memory; try again");
    outlet_release(outlet);
}

/* ---- Idempotency-Key ---- */

static void on_claimed(void *arg, enum err err, bool again)
{
    struct acceptance *acceptance = arg;
    struct api_error error;
    visit_back(&acceptance->base);
    if (err == ERR_OK) {
        if (again) {
            memcpy(acceptance->id, acceptance->key.id, ID_SIZE);
            acceptance->asked->created = acceptance->key.created;
            acceptance->again = true;
        }
        begin(acceptance);
    } else if (err == ERR_EXISTS) {
        idempotency_error(&error);
        refuse(acceptance, &error, "invalid");
    } else if (err == ERR_FULL) {
        api_error_set(&error, 503, "storage_full", NULL,
                      "the broker's disk space is nearly used up; try again later");
        refuse(acceptance, &error, "storage_full");
    } else {
        refuse_now(acceptance);
    }
    visit_settle(&acceptance->base);
}

static void claim_key(struct acceptance *acceptance)
{
    memcpy(acceptance->key.id, acceptance->id, ID_SIZE);
    acceptance->key.created = acceptance->asked->created;
    if (idempotency_claim(&acceptance->key, acceptance->base.gateway, on_claimed, acceptance) ==
        ERR_OK)
        visit_waits(&acceptance->base);
    else
        refuse_now(acceptance);
}

/* ---- previous_response_id ---- */

static void go_on(struct acceptance *acceptance)
{
    if (acceptance->key.object[0] != '\0')
        claim_key(acceptance);
    else
        begin(acceptance);
}

static void on_previous(void *arg, enum err err, const struct found *found)
{
    struct acceptance *acceptance = arg;
    struct asked *asked = acceptance->asked;
    struct api_error error;
    const struct reply *record = err == ERR_OK ? found->record : NULL;
    const struct prompt *prompt = err == ERR_OK ? found->prompt : NULL;
    const char *owner = record != NULL ? record->owner : prompt != NULL ? prompt->owner : NULL;
    visit_back(&acceptance->base);
    if (err != ERR_OK)
        err = ERR_UNAVAILABLE;
    else if (owner == NULL || strcmp(owner, asked->owner) != 0 ||
             (record != NULL &&
              (record->deleted || record->text == NULL || record->request == NULL)))
        err = api_error_set(&error, 400, "previous_response_not_found", "previous_response_id",
                            "Previous response with id 'resp_%s' not found.",
                            asked->request.previous);
    else if (record == NULL)
        err = api_error_set(&error, 400, "invalid_value", "previous_response_id",
                            "The previous response 'resp_%s' is still in progress.",
                            asked->request.previous);
    else
        err = response_follow(&asked->request, record, &error);
    if (err == ERR_NOMEM || err == ERR_UNAVAILABLE)
        refuse_now(acceptance);
    else if (err != ERR_OK)
        refuse(acceptance, &error, "invalid");
    else {
        asked->borrowed = json_incref(record->root); /* its texts are in the prompt now */
        go_on(acceptance);
    }
    visit_settle(&acceptance->base);
}

static void find_previous(struct acceptance *acceptance)
{
    if (find_reply(acceptance->base.gateway->bus, acceptance->asked->request.previous, on_previous,
                   acceptance) == ERR_OK)
        visit_waits(&acceptance->base);
    else
        refuse_now(acceptance);
}

/* ---- checks, and what the service sets ---- */

static bool is_served(const struct gateway *gateway, const char *model)
{
    return strcmp(model, "default") == 0 || strcmp(model, gateway->join.model) == 0;
}

/* What is wrong with the service or the model's name: NULL, or a figure's label. */
static const char *check(struct gateway *gateway, const struct api_request *request,
                         struct api_error *error)
{
    if (!is_served(gateway, request->prompt.model)) {
        api_error_set(error, 404, "model_not_found", "model",
                      "the model \"%s\" is not served here; GET /v1/models lists what is",
                      request->prompt.model);
        return "invalid";
    }
    if (gateway->draining) {
        api_error_set(error, 503, "draining", NULL, "the service is stopping");
        return "draining";
    }
    if (!bus_connected(gateway->bus)) {
        api_error_set(error, 503, "unavailable", NULL,
                      "the prompt queue can't be reached; try again in a moment");
        return "unavailable";
    }
    if (room_is_full(gateway->room)) {
        api_error_set(error, 503, "storage_full", NULL,
                      "the broker's disk space is nearly used up; try again later");
        return "storage_full";
    }
    return NULL;
}

/* Several texts of one prompt: a model that searches gives the best of its search, in one reply;
 * any other draws each for itself. */
static enum err spread_texts(const struct gateway *gateway, struct api_request *request,
                             struct api_error *error)
{
    struct prompt_params *params = &request->prompt.params;
    bool searches = strcmp(registry_arch(gateway->registry), "blenderbot") == 0;
    if (searches && request->n > 1) {
        if (request->stream)
            return api_error_set(error, 400, "unsupported_value", "n",
                                 "'n' above 1 does not go with 'stream': true for this model.");
        if (!params->search.given)
            params->search = prompt_search_default();
        if (params->search.num_return_sequences < 1)
            params->search.num_return_sequences = (int)request->n;
        request->n = 1;
    }
    params_merge(params, &gateway->defaults);
    if (request->stream && params->search.num_return_sequences > 1)
        params->search.num_return_sequences = 1; /* the defaults'; a stream is one */
    return ERR_OK;
}

static void name_prompter(struct asked *asked, const struct gateway *gateway,
                          const struct key *caller, uint64_t connection)
{
    const char *user = asked->request.prompt.prompter;
    snprintf(asked->owner, sizeof asked->owner, "%s", caller->id);
    if (caller->name[0] != '\0')
        snprintf(asked->prompter, sizeof asked->prompter, "%s%s%s", caller->name,
                 user[0] != '\0' ? "/" : "", user);
    else if (user[0] != '\0')
        snprintf(asked->prompter, sizeof asked->prompter, "%s", user);
    else
        snprintf(asked->prompter, sizeof asked->prompter, "anonymous-%.8s-%llu",
                 gateway->presence.boot, (unsigned long long)connection);
}

/* Takes the request; NULL: no memory.  exchange: NULL for a follower. */
static struct acceptance *acceptance_new(struct gateway *gateway, struct http_exchange *exchange,
                                         struct api_request *request, const struct trace *trace,
                                         double now)
{
    static const struct visit_kind kind = {.done = on_done};
    struct acceptance *acceptance = calloc(1, sizeof *acceptance);
    struct asked *asked = asked_new(request, trace, now);
    if (acceptance == NULL || asked == NULL) {
        free(acceptance);
        asked_drop(asked);
        return NULL;
    }
    visit_init(&acceptance->base, &kind, gateway, exchange, NULL);
    acceptance->base.request_id = acceptance->id;
    acceptance->base.trace = &asked->trace;
    acceptance->asked = asked;
    id_random(acceptance->id, ID_LEN);
    asked->detached = asked->request.store || asked->request.background;
    return acceptance;
}

void accept_post(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller, api_parse_fn *parse)
{
    struct api_request parsed;
    struct api_error error;
    struct trace trace;
    const char *why = NULL;
    double now = clock_wall();
    gateway_trace(&trace, request);
    enum err err = parse(&parsed, request->body, request->body_len, now, &error);
    if (err == ERR_OK) {
        why = check(gateway, &parsed, &error);
        if (why == NULL)
            err = spread_texts(gateway, &parsed, &error);
        if (why != NULL || err != ERR_OK)
            api_request_done(&parsed);
    } else if (err == ERR_NOMEM) {
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
        why = "unavailable";
    }
    if (why != NULL || err != ERR_OK) {
        figures_refused(gateway->figures, why != NULL ? why : "invalid");
        gateway_reply_error(exchange, &error, NULL, &trace);
        return;
    }
    struct acceptance *acceptance = acceptance_new(gateway, exchange, &parsed, &trace, now);
    if (acceptance == NULL) {
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
        gateway_reply_error(exchange, &error, NULL, &trace);
        return;
    }
    name_prompter(acceptance->asked, gateway, caller, request->connection);
    err = idempotency_read(&acceptance->key, request, acceptance->asked->owner, &error);
    if (err == ERR_OK && acceptance->key.object[0] != '\0') {
        acceptance->asked->detached = true; /* so that it is there for who asks again */
        acceptance->asked->shared = true;
    }
    if (err != ERR_OK)
        visit_refuse(&acceptance->base, &error);
    else if (acceptance->asked->request.previous != NULL)
        find_previous(acceptance);
    else
        go_on(acceptance);
    visit_settle(&acceptance->base);
}

void accept_follow(struct gateway *gateway, struct api_request *request,
                   const struct follow_spec *spec, outlet_done_fn *done, void *arg)
{
    struct api_error error;
    struct trace trace;
    trace_begin(&trace, NULL);
    const char *why = check(gateway, request, &error);
    if (why == NULL && spread_texts(gateway, request, &error) != ERR_OK)
        why = "invalid";
    if (why == NULL && (request->n > 1 || json_array_size(request->texts) > 1)) {
        api_error_set(&error, 400, "unsupported_value", "n", "one text of one prompt is made here");
        why = "invalid";
    }
    if (why != NULL) {
        api_request_done(request);
        done(arg, NULL, &error);
        return;
    }
    struct acceptance *acceptance = acceptance_new(gateway, NULL, request, &trace, clock_wall());
    if (acceptance == NULL) {
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
        done(arg, NULL, &error);
        return;
    }
    struct asked *asked = acceptance->asked;
    asked->detached = true;
    asked->lane = spec->lane;
    asked->request.stream = asked->request.background = false;
    snprintf(asked->owner, sizeof asked->owner, "%s", spec->owner);
    snprintf(asked->prompter, sizeof asked->prompter, "%s", spec->prompter);
    snprintf(acceptance->id, sizeof acceptance->id, "%s", spec->id);
    acceptance->again = true;
    acceptance->done = done;
    acceptance->done_arg = arg;
    if (asked->request.previous != NULL)
        find_previous(acceptance);
    else
        go_on(acceptance);
    visit_settle(&acceptance->base);
}
