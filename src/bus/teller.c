#include "bus/teller.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "wire/subject.h"

#define SOON_MS       50
#define GATEWAYS_MAX  64 /* remembered; an older one that comes by again is greeted again */
#define MESSAGE_BYTES 8192

struct teller {
    struct bus *bus;
    struct presence *presence;
    teller_refresh_fn *refresh;
    void *arg;
    struct loop_timer *each_second, *soon;
    bool coming; /* soon is running */
    struct bus_subscription *gateways;
    char known[GATEWAYS_MAX][sizeof((struct presence *)NULL)->boot];
    unsigned next_known;
};

void teller_tell_once(struct bus *bus, const struct presence *presence)
{
    struct buf text;
    char subject[SUBJECT_MAX];
    buf_init(&text, MESSAGE_BYTES);
    presence_subject(presence, subject, sizeof subject);
    if (presence_encode(presence, &text) != ERR_OK ||
        bus_publish(bus, subject, NULL, 0, text.data, text.len) != ERR_OK)
        log_debug("presence.unsent subject=%s why=\"%s\"", subject, err_text());
    buf_done(&text);
}

void teller_tell(struct teller *teller)
{
    if (teller->refresh != NULL)
        teller->refresh(teller->arg);
    teller_tell_once(teller->bus, teller->presence);
}

static void on_second(void *arg)
{
    teller_tell(arg);
}

static void on_soon(void *arg)
{
    struct teller *teller = arg;
    teller->coming = false;
    teller_tell(teller);
}

void teller_tell_soon(struct teller *teller)
{
    if (teller->coming)
        return;
    teller->coming = true;
    loop_timer_start(teller->soon, SOON_MS, 0);
}

/* A gateway that has just started knows nobody: it shall not have to wait a second for us. */
static void on_gateway(void *arg, const struct bus_message *message)
{
    struct teller *teller = arg;
    struct presence gateway;
    if (presence_decode(&gateway, message->data, message->len) != ERR_OK)
        return;
    for (unsigned i = 0; i < GATEWAYS_MAX; i++) {
        if (strcmp(teller->known[i], gateway.boot) == 0)
            return;
    }
    memcpy(teller->known[teller->next_known++ % GATEWAYS_MAX], gateway.boot, sizeof gateway.boot);
    teller_tell_soon(teller);
}

enum err teller_new(struct teller **out, struct bus *bus, struct loop *loop,
                    struct presence *presence, teller_refresh_fn *refresh, void *arg)
{
    struct teller *teller = calloc(1, sizeof *teller);
    if (teller == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    teller->bus = bus;
    teller->presence = presence;
    teller->refresh = refresh;
    teller->arg = arg;
    enum err err = loop_timer_new(&teller->each_second, loop, on_second, teller);
    if (err == ERR_OK)
        err = loop_timer_new(&teller->soon, loop, on_soon, teller);
    if (err == ERR_OK)
        err = bus_subscribe(&teller->gateways, bus, "state.gateway.>", on_gateway, teller);
    if (err != ERR_OK) {
        loop_timer_free(teller->each_second);
        loop_timer_free(teller->soon);
        free(teller);
        return err;
    }
    loop_timer_start(teller->each_second, 0, PRESENCE_INTERVAL_MS);
    *out = teller;
    return ERR_OK;
}

void teller_free(struct teller *teller)
{
    if (teller == NULL)
        return;
    teller->presence->leaving = true;
    teller_tell(teller);
    bus_unsubscribe(teller->gateways);
    loop_timer_free(teller->each_second);
    loop_timer_free(teller->soon);
    free(teller);
}
