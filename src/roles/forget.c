#include "roles/forget.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/replies.h"
#include "wire/presence.h"

#define AT_ONCE       128                    /* records looked at in one go: they may be large */
#define GATEWAYS_MAX  4096                   /* known at a time */
#define FIRST_LOOK_MS (2 * PRESENCE_GONE_MS) /* by then every gateway that is there was heard */
#define LATE_MS       PRESENCE_GONE_MS /* a reply that its worker was about to end still comes */

struct gateway {
    char boot[TAG_SIZE];
    int64_t heard_ns;
    int64_t look_ns; /* silent: look at its records then; 0: it is there */
    UT_hash_handle hh;
};

struct forget {
    struct bus *bus;
    struct bus_subscription *gateways_heard;
    struct gateway *gateways;
    int64_t began_ns, ticked_ns;
    bool looked_back;  /* at what stood there before us */
    bool looking;      /* a list is under way */
    char of[TAG_SIZE]; /* whose records it is about; "": all */
    uint64_t from;
};

static struct gateway *find_or_add(struct forget *forget, const char *boot)
{
    struct gateway *gateway;
    HASH_FIND_STR(forget->gateways, boot, gateway);
    if (gateway != NULL || HASH_COUNT(forget->gateways) >= GATEWAYS_MAX)
        return gateway;
    gateway = calloc(1, sizeof *gateway);
    if (gateway == NULL)
        return NULL;
    snprintf(gateway->boot, sizeof gateway->boot, "%s", boot);
    gateway->heard_ns = clock_mono_ns();
    HASH_ADD_STR(forget->gateways, boot, gateway);
    return gateway;
}

static void on_presence(void *arg, const struct bus_message *message)
{
    struct forget *forget = arg;
    struct presence presence;
    if (presence_decode(&presence, message->data, message->len) != ERR_OK)
        return;
    struct gateway *gateway = find_or_add(forget, presence.boot);
    if (gateway == NULL)
        return;
    gateway->heard_ns = clock_mono_ns();
    gateway->look_ns = 0;
    if (presence.leaving)
        gateway->heard_ns -= PRESENCE_GONE_MS * NS_PER_MS;
}

void forget_heard_of(struct forget *forget, const char *boot)
{
    struct gateway *gateway = find_or_add(forget, boot);
    if (gateway != NULL && gateway->look_ns != 0)
        gateway->look_ns = clock_mono_ns() + LATE_MS * NS_PER_MS;
}

static bool is_here(const struct forget *forget, const char *boot)
{
    const struct gateway *gateway;
    HASH_FIND_STR(forget->gateways, boot, gateway);
    return gateway != NULL && gateway->look_ns == 0;
}

static void on_erased(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)sequence;
    if (err != ERR_OK && err != ERR_EXISTS)
        log_debug("reply.text_kept why=\"%s\"", err_text());
}

static void look_on(struct forget *forget);

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct forget *forget = arg;
    if (record != NULL) {
        if (record->detached || record->text == NULL || is_here(forget, record->gateway))
            return;
        if (replies_erase_text(forget->bus, record, sequence, on_erased, NULL) == ERR_OK)
            log_info("reply.forgotten prompt=%s", record->id);
        return;
    }
    forget->looking = false;
    forget->from = sequence;
    if (err != ERR_OK)
        forget->from = forget->from > 0 ? forget->from : 1; /* the next tick tries again */
    else if (forget->from > 0 && forget->of[0] != '\0')
        look_on(forget); /* of all there are, so many each second: they may be hundred thousands */
    else if (forget->from == 0 && forget->of[0] == '\0')
        forget->looked_back = true;
}

static void look_on(struct forget *forget)
{
    const char *of = forget->of[0] != '\0' ? forget->of : NULL;
    if (replies_list(forget->bus, of, forget->from, AT_ONCE, on_record, forget) == ERR_OK)
        forget->looking = true;
}

static void look_at(struct forget *forget, const char *boot)
{
    snprintf(forget->of, sizeof forget->of, "%s", boot);
    forget->from = 1;
    look_on(forget);
}

void forget_tick(struct forget *forget)
{
    int64_t now_ns = clock_mono_ns();
    struct gateway *gateway, *next;
    bool slept = now_ns - forget->ticked_ns > 3 * NS_PER_S;
    forget->ticked_ns = now_ns;
    if (!bus_connected(forget->bus))
        return;
    if (slept)
        forget_reconnected(forget); /* we could not have heard */
    HASH_ITER(hh, forget->gateways, gateway, next)
    {
        if (gateway->look_ns == 0 && now_ns - gateway->heard_ns > PRESENCE_GONE_MS * NS_PER_MS)
            gateway->look_ns = now_ns + LATE_MS * NS_PER_MS;
    }
    if (forget->looking)
        return;
    if (forget->from > 0) {
        look_on(forget); /* what an error interrupted */
        return;
    }
    if (!forget->looked_back) {
        if (now_ns - forget->began_ns > FIRST_LOOK_MS * NS_PER_MS)
            look_at(forget, "");
        return;
    }
    HASH_ITER(hh, forget->gateways, gateway, next)
    {
        if (gateway->look_ns == 0 || now_ns < gateway->look_ns)
            continue;
        HASH_DELETE(hh, forget->gateways, gateway);
        look_at(forget, gateway->boot);
        free(gateway);
        return;
    }
}

void forget_reconnected(struct forget *forget)
{
    struct gateway *gateway, *next;
    if (forget == NULL)
        return;
    HASH_ITER(hh, forget->gateways, gateway, next)
    {
        if (gateway->look_ns == 0)
            gateway->heard_ns = clock_mono_ns();
    }
}

enum err forget_new(struct forget **out, struct bus *bus)
{
    struct forget *forget = calloc(1, sizeof *forget);
    if (forget == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    forget->bus = bus;
    forget->began_ns = forget->ticked_ns = clock_mono_ns();
    enum err err =
        bus_subscribe(&forget->gateways_heard, bus, "state.gateway.>", on_presence, forget);
    if (err != ERR_OK) {
        free(forget);
        return err;
    }
    *out = forget;
    return ERR_OK;
}

void forget_free(struct forget *forget)
{
    struct gateway *gateway, *next;
    if (forget == NULL)
        return;
    HASH_ITER(hh, forget->gateways, gateway, next)
    {
        HASH_DELETE(hh, forget->gateways, gateway);
        free(gateway);
    }
    free(forget);
}
