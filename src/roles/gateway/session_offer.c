/*
 * How a session begins: its prompt is offered to the queue until that answers, or, where it may
 * have been put before, is looked for and followed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "roles/gateway/find.h"
#include "roles/gateway/session_own.h"

static void session_search(struct session *session);

/* ---- what was asked ---- */

struct asked *asked_new(struct api_request *request, const struct trace *trace, double created)
{
    struct asked *asked = calloc(1, sizeof *asked);
    if (asked == NULL) {
        api_request_done(request);
        return NULL;
    }
    asked->request = *request;
    asked->trace = *trace;
    trace_write(asked->traceparent, trace);
    asked->created = created;
    asked->refs = 1;
    return asked;
}

void asked_drop(struct asked *asked)
{
    if (asked == NULL || --asked->refs > 0)
        return;
    api_request_done(&asked->request);
    json_decref(asked->borrowed);
    free(asked);
}

/* ---- acceptance ---- */

static void session_opened(struct session *session)
{
    session->state = SESSION_OPEN;
    session->heard_ns = clock_mono_ns();
    asked_drop(session->asked); /* the queue has it, and many may wait for long */
    session->asked = NULL;
    session->prompt = (struct prompt){0};
    json_decref(session->inputs);
    session->inputs = NULL;
    if (session->out.outlet == NULL)
        return;
    if (session->background)
        outlet_accept(session->out.outlet, &session->out);
    else if (session->out.render.kind == API_RESPONSE)
        delivery_open(&session->out); /* its id is needed to come back */
}

static void session_accepted(struct session *session)
{
    bool look = session->heard_early || session->offer_lost;
    figures_accepted(session->gateway->figures);
    log_info("prompt.accepted prompt=%s stream=%d detached=%d trace_id=%s", session->id,
             session_is_streamed(session), session->detached, session->trace_id);
    session_opened(session);
    if (look)
        session_look(session);
}

static void on_offered(void *arg, enum err err, uint64_t sequence)
{
    struct session *session = arg;
    (void)sequence;
    if (!session_back(session))
        return;
    if (err == ERR_EXISTS && session->offer_lost && !session->again)
        err = ERR_OK; /* the earlier offer, whose answer got lost, had arrived */
    if (session->state == SESSION_LEAVING) {
        if (err == ERR_FULL && !session->offer_lost)
            session_end(session);
        else
            session_cancel(session);
    } else if (err == ERR_OK) {
        session_accepted(session);
    } else if (err == ERR_EXISTS && session->again) {
        session_search(session);
    } else if (err == ERR_FULL) {
        session_refuse(session, 429, "queue_full", "queue_full",
                       "too many prompts are waiting; try again in a moment");
    } else {
        session->offer_lost = true; /* sessions_tick offers it again */
    }
}

void session_offer(struct session *session)
{
    session->offers++;
    if (prompts_put(session->gateway->bus, &session->prompt, on_offered, session) == ERR_OK)
        session->pending++;
    else
        session->offer_lost |= session->offers > 1;
}

/* ---- replies that may be there already ---- */

static void follow_prompt(struct session *session, const struct prompt *prompt)
{
    session_deafen(session);
    snprintf(session->owner_gateway, sizeof session->owner_gateway, "%s", prompt->gateway);
    session->own = false; /* who put it counts it */
    if (session_listen(session) != ERR_OK) {
        session_refuse(session, 503, "unavailable", "unavailable", "out of memory; try again");
        return;
    }
    session_opened(session);
    session_look(session);
}

static void on_searched(void *arg, enum err err, const struct found *found)
{
    struct session *session = arg;
    if (!session_back(session))
        return;
    if (session->state == SESSION_LEAVING) {
        session_end(session);
    } else if (err != ERR_OK) {
        session_refuse(session, 503, "unavailable", "unavailable",
                       "the queue does not answer; try again in a moment");
    } else if (found->record != NULL && !outlet_is_followed(session->out.outlet) &&
               gateway_is_clogged(session->gateway)) {
        session_refuse(session, 503, "busy", "busy", GATEWAY_CLOGGED);
    } else if (found->record != NULL) {
        session->own = false; /* who put it counted it */
        session_record(session, found->record, 0);
    } else if (found->prompt != NULL) {
        follow_prompt(session, found->prompt);
    } else {
        session->state = SESSION_OFFERED; /* it never came as far as the queue */
        session_offer(session);
    }
}

static void session_search(struct session *session)
{
    session->state = SESSION_SEARCHED;
    if (find_reply(session->gateway->bus, session->id, on_searched, session) != ERR_OK) {
        session_refuse(session, 503, "unavailable", "unavailable",
                       "the queue does not answer; try again in a moment");
        return;
    }
    session->pending++;
}

/* ---- beginning ---- */

static struct session *session_new(struct gateway *gateway, const char *id)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return NULL;
    session->gateway = gateway;
    snprintf(session->id, sizeof session->id, "%s", id);
    session->came_ns = session->heard_ns = clock_mono_ns();
    session->next_all = gateway->sessions;
    if (session->next_all != NULL)
        session->next_all->prev_all = session;
    gateway->sessions = session;
    gateway->session_count++;
    session->out.closed = session_on_closed;
    session->out.drained = session_on_drained;
    return session;
}

static void describe_prompt(struct session *session, unsigned index, const json_t *text)
{
    struct asked *asked = session->asked;
    struct prompt *prompt = &session->prompt;
    *prompt = asked->request.prompt;
    prompt->id = session->id;
    prompt->gateway = session->owner_gateway;
    prompt->prompter = asked->prompter;
    prompt->owner = asked->owner;
    prompt->traceparent = asked->traceparent;
    prompt->tracestate = asked->trace.state;
    prompt->model = session->gateway->join.model;
    prompt->detached = asked->detached;
    prompt->lane = asked->lane;
    prompt->request = asked->detached ? asked->request.kept : NULL;
    if (prompt->params.seed >= 0) /* each of several texts its own draw */
        prompt->params.seed = (int64_t)(((uint64_t)prompt->params.seed + index) & INT64_MAX);
    if (text != NULL) {
        session->inputs = json_pack("[O]", text);
        prompt->inputs = session->inputs;
    }
}

static void describe_render(struct session *session, enum api_kind kind, const char *public_of,
                            unsigned index)
{
    struct render *render = &session->out.render;
    render->kind = kind;
    render_id(render->id, kind, public_of);
    render->model = session->gateway->join.model;
    render->created = session->created;
    render->index = index;
    render->request = session->out.request;
}

enum err session_begin(struct gateway *gateway, struct asked *asked, struct outlet *outlet,
                       unsigned index, const char *id, const json_t *text, bool again)
{
    const struct api_request *request = &asked->request;
    struct session *session = session_new(gateway, id);
    if (session == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    session->asked = asked;
    asked->refs++;
    snprintf(session->owner_gateway, sizeof session->owner_gateway, "%s", gateway->presence.boot);
    snprintf(session->prompter, sizeof session->prompter, "%s", asked->prompter);
    snprintf(session->owner, sizeof session->owner, "%s", asked->owner);
    memcpy(session->trace_id, asked->trace.id, sizeof session->trace_id);
    session->created = asked->created;
    session->detached = asked->detached;
    session->background = request->background && !request->stream && !outlet_is_followed(outlet);
    session->again = again || asked->shared;
    session->own = true;
    describe_prompt(session, index, text);
    session->out.request = json_incref(request->kept);
    describe_render(session, request->kind, outlet_request_id(outlet), index);
    session->out.render.n = request->n;
    session->out.render.logprobs = request->prompt.params.logprobs >= 0;
    if (request->echo && text != NULL) {
        session->out.echo = json_copy((json_t *)(uintptr_t)text);
        session->out.render.echo = json_string_value(session->out.echo);
    }
    outlet_join(outlet, &session->out, index);
    if (session_listen(session) != ERR_OK) {
        session_end(session);
        return err_set(ERR_NOMEM, "out of memory");
    }
    if (again)
        session_search(session);
    else
        session_offer(session);
    return ERR_OK;
}

enum err session_attach(struct gateway *gateway, const struct prompt *prompt, double created,
                        enum api_kind kind, struct outlet *outlet, unsigned index)
{
    struct session *session = session_new(gateway, prompt->id);
    if (session == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    snprintf(session->prompter, sizeof session->prompter, "%s", prompt->prompter);
    snprintf(session->owner, sizeof session->owner, "%s", prompt->owner);
    trace_id_of(session->trace_id, prompt->traceparent);
    session->created = created;
    session->detached = true; /* for us: it was on its way before */
    session->out.request = json_deep_copy(prompt->request);
    describe_render(session, kind, prompt->id, index);
    session->out.render.logprobs = prompt->params.logprobs >= 0;
    outlet_join(outlet, &session->out, index);
    follow_prompt(session, prompt);
    return ERR_OK;
}
