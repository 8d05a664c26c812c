#include "roles/gateway/visit.h"

#include <stdio.h>
#include <stdlib.h>

static void on_left(void *arg, bool complete)
{
    struct visit *visit = arg;
    (void)complete;
    visit->exchange = NULL;
    if (visit->kind->left != NULL)
        visit->kind->left(visit);
    visit_settle(visit);
}

void visit_init(struct visit *visit, const struct visit_kind *kind, struct gateway *gateway,
                struct http_exchange *exchange, const char *owner)
{
    *visit = (struct visit){.kind = kind, .gateway = gateway, .exchange = exchange};
    snprintf(visit->owner, sizeof visit->owner, "%s", owner != NULL ? owner : "");
    if (exchange != NULL)
        http_on_close(exchange, on_left, visit);
}

void *visit_new(size_t size, const struct visit_kind *kind, struct gateway *gateway,
                struct http_exchange *exchange, const struct key *caller)
{
    struct visit *visit = calloc(1, size);
    struct api_error error;
    if (visit == NULL) {
        api_error_set(&error, 503, "unavailable", NULL, "out of memory; try again");
        gateway_reply_error(exchange, &error, NULL, NULL);
        return NULL;
    }
    visit_init(visit, kind, gateway, exchange, caller->id);
    return visit;
}

void visit_waits(struct visit *visit)
{
    visit->pending++;
}

void visit_asked(struct visit *visit, enum err err)
{
    if (err == ERR_OK)
        visit_waits(visit);
    else
        visit_fail_as(visit, ERR_UNAVAILABLE);
}

void visit_back(struct visit *visit)
{
    visit->pending--;
}

void visit_settle(struct visit *visit)
{
    if (visit->exchange != NULL || visit->pending > 0)
        return;
    if (visit->kind->done != NULL)
        visit->kind->done(visit);
    free(visit);
}

void visit_give(struct visit *visit)
{
    visit->exchange = NULL;
}

void visit_refuse(struct visit *visit, const struct api_error *error)
{
    if (visit->exchange != NULL)
        gateway_reply_error(visit->exchange, error, visit->request_id, visit->trace);
}

void visit_fail(struct visit *visit, int status, const char *code, const char *param,
                const char *text)
{
    struct api_error error;
    api_error_set(&error, status, code, param, "%s", text);
    visit_refuse(visit, &error);
}

void visit_fail_as(struct visit *visit, enum err err)
{
    if (err == ERR_NOT_FOUND)
        visit_fail(visit, 404, "not_found", NULL, visit->kind->missing);
    else if (err == ERR_FULL)
        visit_fail(visit, 503, "storage_full", NULL,
                   "the broker's disk space is nearly used up; try again later");
    else
        visit_fail(visit, 503, "unavailable", NULL,
                   "the broker can't be asked; try again in a moment");
}

bool visit_is_clogged(struct visit *visit)
{
    if (!gateway_is_clogged(visit->gateway))
        return false;
    visit_fail(visit, 503, "busy", NULL, GATEWAY_CLOGGED);
    return true;
}

void visit_answer(struct visit *visit, enum err err, const struct buf *json)
{
    struct http_header headers[GATEWAY_REPLY_HEADERS];
    char parent[TRACE_PARENT_SIZE];
    if (err != ERR_OK) {
        visit_fail(visit, 500, "server_error", NULL, "the reply can't be written");
        return;
    }
    size_t count = gateway_reply_headers(headers, parent, visit->request_id, visit->trace);
    if (visit->exchange != NULL)
        http_reply(visit->exchange, 200, headers, count, "application/json", buf_text(json),
                   json->len);
}
