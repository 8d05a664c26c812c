/*
 * Everything here runs on the loop's thread: link.c reads and writes the socket there.  What has
 * come in waits at each subscription and is fetched after each read; the order between different
 * subscriptions is not kept, that within one is.
 *
 * Requests share one wildcard subscription on the inbox; the number of the request is the last
 * token of its reply subject.
 */
#include "bus/bus.h"

#include <inttypes.h>
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/link.h"

#define INBOUND_MAX     65536
#define SWEEP_MS        100
#define NO_RESPONDERS   503
#define DRAIN_MS        5
#define SPENT_MAX       256
#define SPENT_BYTES_MAX ((size_t)256 << 10)

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
    struct link *link;
    struct loop_timer *sweep, *drain;
    bool sweeping, connected, pulls_ended;
    char inbox[96];
    struct bus_subscription *subscriptions;
    struct bus_subscription *answers; /* the inbox wildcard */
    struct request *requests;
    struct channel *channels;
    uint64_t next_number;
    bus_state_fn *on_state;
    void *arg;
    /* natsMsg_Destroy() wakes a collector thread of libnats, which costs more than the message:
     * spent ones go there by the hundred. */
    natsMsg *spent[SPENT_MAX];
    unsigned spent_count;
    size_t spent_bytes;
};

static void spent_destroy(struct bus *bus)
{
    for (unsigned i = 0; i < bus->spent_count; i++)
        natsMsg_Destroy(bus->spent[i]);
    bus->spent_count = 0;
    bus->spent_bytes = 0;
}

static void spend(struct bus *bus, natsMsg *message)
{
    if (message == NULL)
        return;
    bus->spent[bus->spent_count++] = message;
    bus->spent_bytes += (size_t)natsMsg_GetDataLength(message);
    if (bus->spent_count == SPENT_MAX || bus->spent_bytes > SPENT_BYTES_MAX)
        spent_destroy(bus);
}

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

/* A pull whose inbox was drained: nothing can come to it any more. */
static bool end_drained(struct bus *bus)
{
    for (struct channel *channel = bus->channels; channel != NULL; channel = channel->next) {
        struct request *request;
        if (channel->request == 0 || natsSubscription_DrainCompletionStatus(
                                         channel->subscription->nats) == NATS_ILLEGAL_STATE)
            continue;
        HASH_FIND(hh, bus->requests, &channel->request, sizeof channel->request, request);
        if (request == NULL)
            continue;
        err_set(ERR_CANCELLED, "the pull was taken back");
        request_fail(bus, request, ERR_CANCELLED);
        return true;
    }
    return false;
}

/* Takes what has come for one subscription. */
static void take_messages(struct bus *bus, uint64_t number)
{
    struct bus_subscription *sub;
    natsMsg *raw;
    for (;;) {
        /* Looked up each time: a callback may end it. */
        HASH_FIND(hh, bus->subscriptions, &number, sizeof number, sub);
        if (sub == NULL)
            return;
        /* Asked first: a NextMsg that finds nothing costs an error's making. */
        uint64_t waiting = 0;
        if (natsSubscription_QueuedMsgs(sub->nats, &waiting) != NATS_OK || waiting == 0 ||
            natsSubscription_NextMsg(&raw, sub->nats, 0) != NATS_OK)
            return;
        struct bus_message message = view(raw);
        sub->fn(sub->arg, &message);
        spend(bus, raw);
    }
}

static void on_readable(void *arg)
{
    struct bus *bus = arg;
    struct bus_subscription *sub, *next;
    bool again = true;
    link_hold(bus->link); /* the answers to all of it leave together */
    while (again) {
        again = false;
        HASH_ITER(hh, bus->subscriptions, sub, next)
        {
            uint64_t after = next != NULL ? next->number : 0;
            take_messages(bus, sub->number);
            if (after == 0)
                break;
            HASH_FIND(hh, bus->subscriptions, &after, sizeof after, sub);
            if (sub == NULL) {
                again = true; /* the next one ended in a callback: from the start */
                break;
            }
        }
    }
    link_release(bus->link);
}

static void on_drain(void *arg)
{
    struct bus *bus = arg;
    on_readable(bus);
    while (end_drained(bus)) {
    }
}

static void on_link_state(void *arg, bool connected)
{
    state_changed(arg, connected);
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
    const struct link_callbacks callbacks = {on_readable, on_link_state, bus};
    enum err err = loop_timer_new(&bus->sweep, loop, on_sweep, bus);
    if (err == ERR_OK)
        err = loop_timer_new(&bus->drain, loop, on_drain, bus);
    if (err == ERR_OK)
        err = link_open(&bus->link, &bus->connected, loop, config, &callbacks);
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

void bus_close(struct bus *bus)
{
    if (bus == NULL)
        return;
    bus->connected = false; /* nothing new from inside the callbacks */
    err_set(ERR_CANCELLED, "the connection to the broker was closed");
    requests_fail_all(bus, ERR_CANCELLED);
    struct bus_subscription *sub, *next;
    HASH_ITER(hh, bus->subscriptions, sub, next)
    {
        bus_unsubscribe(sub);
    }
    if (bus->link != NULL)
        link_flush(bus->link); /* what was said last */
    link_close(bus->link);
    spent_destroy(bus);
    loop_timer_free(bus->sweep);
    loop_timer_free(bus->drain);
    while (bus->channels != NULL) {
        struct channel *channel = bus->channels;
        bus->channels = channel->next;
        free(channel); /* its subscription ended with the others */
    }
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
    if (sub == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *sub =
        (struct bus_subscription){.number = ++bus->next_number, .bus = bus, .fn = fn, .arg = arg};
    natsStatus s = natsConnection_SubscribeSync(&sub->nats, link_nats(bus->link), subject);
    if (s == NATS_OK)
        s = natsSubscription_SetPendingLimits(sub->nats, INBOUND_MAX, -1);
    if (s != NATS_OK) {
        natsSubscription_Destroy(sub->nats);
        free(sub);
        return link_failed(s, subject);
    }
    HASH_ADD(hh, bus->subscriptions, number, sizeof sub->number, sub);
    link_flush(bus->link);
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
    link_flush(sub->bus->link);
    free(sub);
}

void bus_hold(struct bus *bus)
{
    link_hold(bus->link);
}

void bus_release(struct bus *bus)
{
    link_release(bus->link);
}

static enum err publish(struct bus *bus, const char *subject, const char *reply,
                        const struct bus_header *headers, size_t header_count, const void *data,
                        size_t len)
{
    natsConnection *nats = link_nats(bus->link);
    natsStatus s;
    if (!bus->connected)
        return err_set(ERR_UNAVAILABLE, "the broker is away");
    if (header_count == 0) {
        s = reply != NULL ? natsConnection_PublishRequest(nats, subject, reply, data, (int)len)
                          : natsConnection_Publish(nats, subject, data, (int)len);
    } else {
        natsMsg *message = NULL;
        s = natsMsg_Create(&message, subject, reply, data, (int)len);
        for (size_t i = 0; s == NATS_OK && i < header_count; i++)
            s = natsMsgHeader_Set(message, headers[i].name, headers[i].value);
        if (s == NATS_OK)
            s = natsConnection_PublishMsg(nats, message);
        spend(bus, message);
    }
    if (s != NATS_OK)
        return link_failed(s, subject);
    link_flush(bus->link);
    return ERR_OK;
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
    link_flush(bus->link);
    loop_timer_start(bus->drain, DRAIN_MS, DRAIN_MS);
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
