#include "roles/stale.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/replies.h"
#include "bus/tokens.h"

#define AT_ONCE   64   /* messages in one go: they may be large */
#define SETTLE_MS 3000 /* what is ending at the moment is purged by who records it */

struct stale {
    struct bus *bus;
    int64_t due_ns; /* 0: nothing is expected */
    bool looking;
    uint64_t next; /* where the list goes on; 0: this was its last part */
    struct owner {
        char gateway[TAG_SIZE], id[ID_SIZE];
    } found[AT_ONCE];
    size_t count, at;
    unsigned purged;
};

void stale_expect(struct stale *stale)
{
    if (stale != NULL)
        stale->due_ns = clock_mono_ns() + SETTLE_MS * NS_PER_MS;
}

static void look_ends(struct stale *stale, enum err err)
{
    if (stale->purged > 0)
        log_info("pieces.purged_again replies=%u", stale->purged);
    stale->looking = false;
    if (err != ERR_OK) {
        log_debug("pieces.unseen why=\"%s\"", err_text());
        stale_expect(stale);
    }
}

static enum err list_from(struct stale *stale, uint64_t from);
static enum err ask_record(struct stale *stale);

/* On to the next reply that has pieces. */
static void go_on(struct stale *stale, enum err err)
{
    if (err == ERR_OK && stale->at < stale->count)
        err = ask_record(stale);
    else if (err == ERR_OK && stale->next != 0)
        err = list_from(stale, stale->next);
    else {
        look_ends(stale, err);
        return;
    }
    if (err != ERR_OK)
        look_ends(stale, err);
}

static void on_purged(void *arg, enum err err, uint64_t sequence)
{
    struct stale *stale = arg;
    (void)sequence;
    stale->purged += err == ERR_OK;
    go_on(stale, err);
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct stale *stale = arg;
    const struct owner *owner = &stale->found[stale->at++];
    (void)sequence;
    if (record != NULL) {
        err = tokens_purge_pieces(stale->bus, owner->gateway, owner->id, on_purged, stale);
        if (err == ERR_OK)
            return;
    }
    /* Without a record it is still being said.  One that can't be read answers for nothing. */
    go_on(stale, err == ERR_NOT_FOUND || err == ERR_INVALID ? ERR_OK : err);
}

static enum err ask_record(struct stale *stale)
{
    const struct owner *owner = &stale->found[stale->at];
    return replies_get(stale->bus, owner->gateway, owner->id, on_record, stale);
}

static void on_listed(void *arg, enum err err, const char *gateway, const char *id, uint64_t next)
{
    struct stale *stale = arg;
    if (gateway == NULL) {
        stale->next = next;
        go_on(stale, err);
        return;
    }
    for (size_t i = 0; i < stale->count; i++) {
        if (strcmp(stale->found[i].id, id) == 0)
            return;
    }
    if (stale->count == AT_ONCE)
        return;
    memcpy(stale->found[stale->count].gateway, gateway, TAG_SIZE);
    memcpy(stale->found[stale->count].id, id, ID_SIZE);
    stale->count++;
}

static enum err list_from(struct stale *stale, uint64_t from)
{
    stale->count = stale->at = 0;
    stale->next = 0;
    return tokens_list_pieces(stale->bus, from, AT_ONCE, on_listed, stale);
}

void stale_tick(struct stale *stale)
{
    if (stale->due_ns == 0 || stale->looking || clock_mono_ns() < stale->due_ns ||
        !bus_connected(stale->bus))
        return;
    stale->due_ns = 0;
    stale->looking = true;
    stale->purged = 0;
    enum err err = list_from(stale, 0);
    if (err != ERR_OK)
        look_ends(stale, err);
}

enum err stale_new(struct stale **out, struct bus *bus)
{
    struct stale *stale = calloc(1, sizeof *stale);
    if (stale == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    stale->bus = bus;
    stale_expect(stale);
    *out = stale;
    return ERR_OK;
}

void stale_free(struct stale *stale)
{
    free(stale);
}
