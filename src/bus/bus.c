/*
 * Threads: libnats has one reader thread and, by our choice of a global delivery pool of one, one
 * thread that runs every message callback.  Those callbacks do nothing but push to `inbound`, which
 * wakes the loop; everything else here runs on the loop's thread, so requests and subscriptions
 * need no lock.  What ties the two sides is a subscription's number: a message whose number is no
 * longer known was for a subscription that ended meanwhile, and is dropped.
 *
 * Requests share one wildcard subscription on the inbox; the number of the request is the last
 * token of its reply subject.
 */
#include "bus/bus.h"

#include <inttypes.h>
#include <nats/nats.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/queue.h"

#define INBOUND_MAX      65536
#define RECONNECT_WAIT   100 /* ms */
#define RECONNECT_JITTER 50
#define CONNECT_MS       2000
#define PING_MS          2000
#define SWEEP_MS         100
#define NO_RESPONDERS    503

struct bus_subscription {
    uint64_t number;
    struct bus *bus;
    natsSubscription *nats;
    bus_message_fn *fn;
    void *arg;
    UT_hash_handle hh;
};

/* An inbox for one pull at a time, kept for the next when it is over. */
struct channel {
    struct bus *bus;
    struct bus_subscription *subscription;
    unsigned index;
    uint64_t request; /* 0: free */
    struct channel *next;
};

struct request {
    uint64_t number;
    struct channel *channel; /* NULL: the shared inbox */
    bus_reply_fn *fn;
    void *arg;
    unsigned timeout_ms;
    int64_t deadline_ns;
    UT_hash_handle hh;
};

struct bus {
    natsConnection *nats;
    struct queue *inbound;
    struct loop_wake *wake;
    struct loop_timer *sweep;
    bool sweeping, connected, pulls_ended;
    char inbox[96];
    struct bus_subscription *subscriptions;
    struct bus_subscription *answers; /* the inbox wildcard */
    struct request *requests;
    struct channel *channels;
    uint64_t next_number;
    bus_state_fn *on_state;
    void *arg;
    atomic_uint_fast64_t dropped; /* messages that found the queue full */
    atomic_int hooks;             /* that libnats may still call with */
    atomic_bool closed;           /* libnats will say nothing more of the connection */
};

/* What a libnats thread hands to the loop. */
enum inbound_kind { INBOUND_MESSAGE, INBOUND_STATE, INBOUND_COMPLETE };

struct inbound {
    enum inbound_kind kind;
    natsMsg *message;
    uint64_t subscription;
    bool connected;
};

/* Lives as long as libnats may call with it: until the subscription is complete. */
struct hook {
    struct bus *bus;
    uint64_t subscription;
};

static enum err nats_failed(natsStatus status, const char *what)
{
    enum err code = ERR_UNAVAILABLE;
    if (status == NATS_CONNECTION_AUTH_FAILED || status == NATS_NOT_PERMITTED)
        code = ERR_DENIED;
    else if (status == NATS_NO_MEMORY)
        code = ERR_NOMEM;
    else if (status == NATS_MAX_PAYLOAD)
        code = ERR_LIMIT;
    return err_set(code, "%s: %s", what, natsStatus_GetText(status));
}

/* ---- libnats threads ---- */

static void hand_over(struct bus *bus, enum inbound_kind kind, natsMsg *message,
                      uint64_t subscription, bool connected)
{
    struct inbound *item = malloc(sizeof *item);
    if (item != NULL) {
        *item = (struct inbound){kind, message, subscription, connected};
        if (queue_push(bus->inbound, item) == ERR_OK)
            return;
    }
    /* A reader of pieces finds the gap and fills it from the stream; a request times out. */
    free(item);
    natsMsg_Destroy(message);
    atomic_fetch_add(&bus->dropped, 1);
}

static void on_nats_message(natsConnection *nats, natsSubscription *sub, natsMsg *message,
                            void *closure)
{
    (void)nats;
    (void)sub;
    struct hook *hook = closure;
    hand_over(hook->bus, INBOUND_MESSAGE, message, hook->subscription, false);
}

static void on_nats_complete(void *closure)
{
    struct hook *hook = closure;
    hand_over(hook->bus, INBOUND_COMPLETE, NULL, hook->subscription, false);
    atomic_fetch_sub(&hook->bus->hooks, 1);
    free(hook);
}

static void on_nats_closed(natsConnection *nats, void *closure)
{
    struct bus *bus = closure;
    (void)nats;
    atomic_store(&bus->closed, true);
}

static void on_nats_disconnected(natsConnection *nats, void *closure)
{
    (void)nats;
    hand_over(closure, INBOUND_STATE, NULL, 0, false);
}

static void on_nats_connected(natsConnection *nats, void *closure)
{
    (void)nats;
    hand_over(closure, INBOUND_STATE, NULL, 0, true);
}

static void on_nats_error(natsConnection *nats, natsSubscription *sub, natsStatus status,
                          void *closure)
{
    (void)sub;
    (void)closure;
    const char *text = NULL;
    natsConnection_GetLastError(nats, &text);
    log_warn("broker.error status=\"%s\" text=\"%s\"", natsStatus_GetText(status),
             text != NULL ? text : "");
}

/* ---- the loop's side ---- */

const char *bus_message_header(const struct bus_message *message, const char *name)
{
    const char *value = NULL;
    if (natsMsgHeader_Get(message->raw, name, &value) != NATS_OK)
        return NULL;
    return value;
}

static struct bus_message view(natsMsg *raw)
{
    const char *reply = natsMsg_GetReply(raw);
    struct bus_message message = {
        .subject = natsMsg_GetSubject(raw),
        .reply = reply != NULL ? reply : "",
        .data = natsMsg_GetData(raw),
        .len = (size_t)natsMsg_GetDataLength(raw),
        .raw = raw,
    };
    if (message.data == NULL)
        message.data = "";
    if (message.len == 0) {
        const char *status = bus_message_header(&message, "Status");
        if (status != NULL)
            message.status = atoi(status);
    }
    return message;
}

static void request_forget(struct bus *bus, struct request *request)
{
    HASH_DELETE(hh, bus->requests, request);
    if (request->channel != NULL)
        request->channel->request = 0;
    free(request);
}

/* Takes the request out before calling, so that fn may make and cancel requests freely. */
static void request_fail(struct bus *bus, struct request *request, enum err err)
{
    bus_reply_fn *fn = request->fn;
    void *arg = request->arg;
    request_forget(bus, request);
    fn(arg, err, NULL);
}

static void requests_fail_all(struct bus *bus, enum err err)
{
    /* Those made from inside the callbacks stay: only what is here now fails. */
    struct request *request, *next;
    uint64_t last = bus->next_number;
    bool again = true;
    while (again) {
        again = false;
        HASH_ITER(hh, bus->requests, request, next)
        {
            if (request->number > last)
                continue;
            request_fail(bus, request, err);
            again = true; /* the callback may have freed `next` */
            break;
        }
    }
}

static void on_sweep(void *arg)
{
    struct bus *bus = arg;
    int64_t now = clock_mono_ns();
    struct request *request, *next;
    bool again = true;
    while (again) {
        again = false;
        HASH_ITER(hh, bus->requests, request, next)
        {
            if (request->deadline_ns > now)
                continue;
            err_set(ERR_TIMEOUT, "the broker did not answer within %u ms", request->timeout_ms);
            request_fail(bus, request, ERR_TIMEOUT);
            again = true;
            break;
        }
    }
    if (bus->requests == NULL) {
        loop_timer_stop(bus->sweep);
        bus->sweeping = false;
    }
}

static void answer(struct bus *bus, uint64_t number, const struct bus_message *message)
{
    struct request *request;
    HASH_FIND(hh, bus->requests, &number, sizeof number, request);
    if (request == NULL)
        return;
    if (message->status == NO_RESPONDERS) {
        err_set(ERR_UNAVAILABLE, "nobody at the broker answers");
        request_fail(bus, request, ERR_UNAVAILABLE);
        return;
    }
    request->deadline_ns = clock_mono_ns() + (int64_t)request->timeout_ms * NS_PER_MS;
    bus_reply_fn *fn = request->fn;
    if (fn(request->arg, ERR_OK, message))
        return;
    HASH_FIND(hh, bus->requests, &number, sizeof number, request); /* fn may have cancelled it */
    if (request != NULL)
        request_forget(bus, request);
}

static uint64_t last_number(const char *subject)
{
    const char *dot = strrchr(subject, '.');
    return dot != NULL ? strtoull(dot + 1, NULL, 10) : 0;
}

static void on_answer(void *arg, const struct bus_message *message)
{
    answer(arg, last_number(message->subject), message);
}

static void on_pulled(void *arg, const struct bus_message *message)
{
    struct channel *channel = arg;
    /* The broker's own words come to the inbox and say which pull they mean; what was pulled bears
     * its own subject, and can only be for the pull under way here. */
    bool word = strncmp(message->subject, channel->bus->inbox, strlen(channel->bus->inbox)) == 0;
    if (channel->request != 0 && (!word || last_number(message->subject) == channel->request))
        answer(channel->bus, channel->request, message);
}

static void state_changed(struct bus *bus, bool connected)
{
    if (bus->connected == connected)
        return;
    bus->connected = connected;
    if (!connected) {
        err_set(ERR_UNAVAILABLE, "the connection to the broker is lost");
        requests_fail_all(bus, ERR_UNAVAILABLE);
    }
    if (bus->on_state != NULL)
        bus->on_state(bus->arg, connected);
}

/* A pull's inbox was drained: nothing can come to it any more. */
static void drained(struct bus *bus, uint64_t subscription)
{
    for (struct channel *channel = bus->channels; channel != NULL; channel = channel->next) {
        struct request *request;
        if (channel->request == 0 || channel->subscription->number != subscription)
            continue;
        HASH_FIND(hh, bus->requests, &channel->request, sizeof channel->request, request);
        err_set(ERR_CANCELLED, "the pull was taken back");
        if (request != NULL)
            request_fail(bus, request, ERR_CANCELLED);
        return;
    }
}

static void handle(struct bus *bus, const struct inbound *item)
{
    struct bus_subscription *sub;
    if (item->kind == INBOUND_STATE) {
        state_changed(bus, item->connected);
    } else if (item->kind == INBOUND_COMPLETE) {
        drained(bus, item->subscription);
    } else {
        HASH_FIND(hh, bus->subscriptions, &item->subscription, sizeof item->subscription, sub);
        if (sub != NULL) {
            struct bus_message message = view(item->message);
            sub->fn(sub->arg, &message);
        }
        natsMsg_Destroy(item->message);
    }
}

static void on_wake(void *arg)
{
    struct bus *bus = arg;
    struct inbound *item;
    /* Bounded, so that a flood can't starve timers and sockets; the rest comes next turn. */
    for (int i = 0; i < 1024; i++) {
        item = queue_pop(bus->inbound);
        if (item == NULL)
            return;
        handle(bus, item);
        free(item);
    }
    loop_wake_send(bus->wake);
}

static natsStatus set_options(natsOptions *opts, struct bus *bus, const struct bus_config *config)
{
    natsStatus s = natsOptions_SetURL(opts, config->join->url);
    if (s == NATS_OK && config->join->user != NULL)
        s = natsOptions_SetUserInfo(opts, config->join->user, config->join->password);
    if (s == NATS_OK)
        s = natsOptions_SetName(opts, config->client_name);
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(opts, CONNECT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetPingInterval(opts, PING_MS);
    if (s == NATS_OK)
        s = natsOptions_SetMaxReconnect(opts, -1);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectWait(opts, RECONNECT_WAIT);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectJitter(opts, RECONNECT_JITTER, RECONNECT_JITTER);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectBufSize(opts, 1); /* nothing is sent late by surprise */
    if (s == NATS_OK)
        s = natsOptions_SetSendAsap(opts, true);
    if (s == NATS_OK)
        s = natsOptions_UseGlobalMessageDelivery(opts, true);
    if (s == NATS_OK)
        s = natsOptions_SetErrorHandler(opts, on_nats_error, bus);
    if (s == NATS_OK)
        s = natsOptions_SetDisconnectedCB(opts, on_nats_disconnected, bus);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectedCB(opts, on_nats_connected, bus);
    if (s == NATS_OK)
        s = natsOptions_SetClosedCB(opts, on_nats_closed, bus);
    if (s == NATS_OK && config->wait)
        s = natsOptions_SetRetryOnFailedConnect(opts, true, on_nats_connected, bus);
    return s;
}

static enum err connect_to(struct bus *bus, const struct bus_config *config)
{
    natsOptions *opts = NULL;
    natsStatus s = nats_Open(-1);
    if (s == NATS_OK)
        s = nats_SetMessageDeliveryPoolSize(1);
    if (s == NATS_OK)
        s = natsOptions_Create(&opts);
    if (s == NATS_OK)
        s = set_options(opts, bus, config);
    if (s == NATS_OK)
        s = natsConnection_Connect(&bus->nats, opts);
    natsOptions_Destroy(opts);
    if (s == NATS_NOT_YET_CONNECTED && config->wait)
        return ERR_OK;
    if (s != NATS_OK) {
        nats_failed(s, config->join->url);
        return err_prefix(s == NATS_CONNECTION_AUTH_FAILED ? ERR_DENIED : ERR_UNAVAILABLE,
                          "can't reach the broker (is `wyvern up` running?)");
    }
    bus->connected = true;
    return ERR_OK;
}

enum err bus_open(struct bus **out, struct loop *loop, const struct bus_config *config)
{
    struct bus *bus = calloc(1, sizeof *bus);
    if (bus == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    char tag[TAG_SIZE];
    id_random(tag, TAG_LEN);
    snprintf(bus->inbox, sizeof bus->inbox, "_INBOX_%s.%s", config->role, tag);
    bus->on_state = config->on_state;
    bus->arg = config->arg;
    enum err err = loop_wake_new(&bus->wake, loop, on_wake, bus);
    if (err == ERR_OK)
        err = queue_new(&bus->inbound, INBOUND_MAX, loop_wake_send, bus->wake);
    if (err == ERR_OK)
        err = loop_timer_new(&bus->sweep, loop, on_sweep, bus);
    if (err == ERR_OK)
        err = connect_to(bus, config);
    if (err == ERR_OK) {
        char subject[128];
        bus_inbox(bus, "r.*", subject, sizeof subject);
        err = bus_subscribe(&bus->answers, bus, subject, on_answer, bus);
    }
    if (err != ERR_OK) {
        char why[512];
        snprintf(why, sizeof why, "%s", err_text());
        bus_close(bus);
        return err_set(err, "%s", why);
    }
    *out = bus;
    return ERR_OK;
}

/* Waits until no thread of libnats can call us any more: each subscription says when it is
 * complete, and the connection's closed callback is its last. */
static bool wait_quiet(struct bus *bus)
{
    const struct timespec pause = {.tv_nsec = NS_PER_MS};
    int64_t deadline = clock_mono_ns() + CONNECT_MS * NS_PER_MS;
    while (atomic_load(&bus->hooks) > 0 || !atomic_load(&bus->closed)) {
        if (clock_mono_ns() > deadline)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

void bus_close(struct bus *bus)
{
    if (bus == NULL)
        return;
    err_set(ERR_CANCELLED, "the connection to the broker was closed");
    requests_fail_all(bus, ERR_CANCELLED);
    struct bus_subscription *sub, *next;
    HASH_ITER(hh, bus->subscriptions, sub, next)
    {
        bus_unsubscribe(sub);
    }
    if (bus->nats != NULL) {
        natsConnection_Close(bus->nats);
        bool quiet = wait_quiet(bus);
        natsConnection_Destroy(bus->nats);
        if (!quiet) {
            log_error("broker.close_stuck");
            return; /* leaked on purpose: a thread may still use it */
        }
    }
    struct inbound *item;
    while (bus->inbound != NULL && (item = queue_pop(bus->inbound)) != NULL) {
        natsMsg_Destroy(item->message);
        free(item);
    }
    loop_timer_free(bus->sweep);
    while (bus->channels != NULL) {
        struct channel *channel = bus->channels;
        bus->channels = channel->next;
        free(channel); /* its subscription ended with the others */
    }
    queue_free(bus->inbound);
    loop_wake_free(bus->wake);
    free(bus);
}

bool bus_connected(const struct bus *bus)
{
    return bus->connected;
}

enum err bus_subscribe(struct bus_subscription **out, struct bus *bus, const char *subject,
                       bus_message_fn *fn, void *arg)
{
    struct bus_subscription *sub = calloc(1, sizeof *sub);
    struct hook *hook = calloc(1, sizeof *hook);
    if (sub == NULL || hook == NULL) {
        free(sub);
        free(hook);
        return err_set(ERR_NOMEM, "out of memory");
    }
    *sub =
        (struct bus_subscription){.number = ++bus->next_number, .bus = bus, .fn = fn, .arg = arg};
    *hook = (struct hook){bus, sub->number};
    HASH_ADD(hh, bus->subscriptions, number, sizeof sub->number, sub);
    natsStatus s = natsConnection_Subscribe(&sub->nats, bus->nats, subject, on_nats_message, hook);
    if (s != NATS_OK) {
        HASH_DELETE(hh, bus->subscriptions, sub);
        free(sub);
        free(hook);
        return nats_failed(s, subject);
    }
    atomic_fetch_add(&bus->hooks, 1);
    natsSubscription_SetOnCompleteCB(sub->nats, on_nats_complete, hook);
    natsSubscription_SetPendingLimits(sub->nats, INBOUND_MAX, -1);
    *out = sub;
    return ERR_OK;
}

void bus_unsubscribe(struct bus_subscription *sub)
{
    if (sub == NULL)
        return;
    HASH_DELETE(hh, sub->bus->subscriptions, sub);
    natsSubscription_Unsubscribe(sub->nats);
    natsSubscription_Destroy(sub->nats);
    free(sub);
}

static enum err publish(struct bus *bus, const char *subject, const char *reply,
                        const struct bus_header *headers, size_t header_count, const void *data,
                        size_t len)
{
    if (!bus->connected)
        return err_set(ERR_UNAVAILABLE, "the broker is away");
    natsStatus s;
    if (header_count == 0) {
        s = reply != NULL ? natsConnection_PublishRequest(bus->nats, subject, reply, data, (int)len)
                          : natsConnection_Publish(bus->nats, subject, data, (int)len);
        return s == NATS_OK ? ERR_OK : nats_failed(s, subject);
    }
    natsMsg *message = NULL;
    s = natsMsg_Create(&message, subject, reply, data, (int)len);
    for (size_t i = 0; s == NATS_OK && i < header_count; i++)
        s = natsMsgHeader_Set(message, headers[i].name, headers[i].value);
    if (s == NATS_OK)
        s = natsConnection_PublishMsg(bus->nats, message);
    natsMsg_Destroy(message);
    return s == NATS_OK ? ERR_OK : nats_failed(s, subject);
}

enum err bus_publish(struct bus *bus, const char *subject, const struct bus_header *headers,
                     size_t header_count, const void *data, size_t len)
{
    return publish(bus, subject, NULL, headers, header_count, data, len);
}

static enum err request_send(struct bus *bus, struct request *request, const char *subject,
                             const char *reply, const struct bus_header *headers,
                             size_t header_count, const void *data, size_t len)
{
    request->deadline_ns = clock_mono_ns() + (int64_t)request->timeout_ms * NS_PER_MS;
    HASH_ADD(hh, bus->requests, number, sizeof request->number, request);
    enum err err = publish(bus, subject, reply, headers, header_count, data, len);
    if (err != ERR_OK) {
        request_forget(bus, request);
        return err;
    }
    if (!bus->sweeping) {
        loop_timer_start(bus->sweep, SWEEP_MS, SWEEP_MS);
        bus->sweeping = true;
    }
    return ERR_OK;
}

enum err bus_request(struct bus *bus, const char *subject, const struct bus_header *headers,
                     size_t header_count, const void *data, size_t len, unsigned timeout_ms,
                     bus_reply_fn *fn, void *arg, uint64_t *id)
{
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *request = (struct request){
        .number = ++bus->next_number, .fn = fn, .arg = arg, .timeout_ms = timeout_ms};
    char reply[128];
    uint64_t number = request->number;
    snprintf(reply, sizeof reply, "%s.r.%" PRIu64, bus->inbox, number);
    enum err err = request_send(bus, request, subject, reply, headers, header_count, data, len);
    if (err == ERR_OK && id != NULL)
        *id = number;
    return err;
}

static enum err channel_take(struct channel **out, struct bus *bus)
{
    struct channel *channel = bus->channels;
    while (channel != NULL && channel->request != 0)
        channel = channel->next;
    if (channel == NULL) {
        channel = calloc(1, sizeof *channel);
        if (channel == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        channel->bus = bus;
        channel->index = bus->channels != NULL ? bus->channels->index + 1 : 0;
        char name[32], subject[128];
        snprintf(name, sizeof name, "p%u.*", channel->index);
        bus_inbox(bus, name, subject, sizeof subject);
        enum err err = bus_subscribe(&channel->subscription, bus, subject, on_pulled, channel);
        if (err != ERR_OK) {
            free(channel);
            return err;
        }
        channel->next = bus->channels;
        bus->channels = channel;
    }
    *out = channel;
    return ERR_OK;
}

enum err bus_pull(struct bus *bus, const char *subject, const void *data, size_t len,
                  unsigned timeout_ms, bus_reply_fn *fn, void *arg)
{
    struct channel *channel = NULL;
    if (bus->pulls_ended)
        return err_set(ERR_CANCELLED, "no more is pulled");
    if (!bus->connected)
        return err_set(ERR_UNAVAILABLE, "the broker is away");
    enum err err = channel_take(&channel, bus);
    if (err != ERR_OK)
        return err;
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *request = (struct request){.number = ++bus->next_number,
                                .channel = channel,
                                .fn = fn,
                                .arg = arg,
                                .timeout_ms = timeout_ms};
    channel->request = request->number;
    char reply[128];
    snprintf(reply, sizeof reply, "%s.p%u.%" PRIu64, bus->inbox, channel->index, request->number);
    return request_send(bus, request, subject, reply, NULL, 0, data, len);
}

void bus_pulls_end(struct bus *bus)
{
    bus->pulls_ended = true;
    for (struct channel *channel = bus->channels; channel != NULL; channel = channel->next) {
        /* Fails only without a connection, and then the pull has ended already. */
        if (channel->request != 0)
            natsSubscription_Drain(channel->subscription->nats);
    }
}

void bus_request_cancel(struct bus *bus, uint64_t id)
{
    struct request *request;
    HASH_FIND(hh, bus->requests, &id, sizeof id, request);
    if (request != NULL)
        request_forget(bus, request);
}

void bus_inbox(const struct bus *bus, const char *name, char *out, size_t cap)
{
    snprintf(out, cap, "%s.%s", bus->inbox, name);
}
