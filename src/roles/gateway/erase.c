/*
 * A record is put again without its text, expecting the record that was read.  When that is not
 * answered, the record is looked at again a moment later: the text may be gone or not.
 */
#include "roles/gateway/erase.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/replies.h"
#include "roles/gateway/gateway.h"

#define RETRY_MS     1000
#define ERASURES_MAX 65536

struct erasure {
    struct gateway *gateway;
    char owner[TAG_SIZE], id[ID_SIZE];
    int64_t retry_ns; /* 0: the broker is being asked */
    struct erasure *prev, *next;
};

static void erasure_free(struct erasure *erasure)
{
    struct gateway *gateway = erasure->gateway;
    if (erasure->prev != NULL)
        erasure->prev->next = erasure->next;
    else
        gateway->erasures = erasure->next;
    if (erasure->next != NULL)
        erasure->next->prev = erasure->prev;
    gateway->erasure_count--;
    free(erasure);
}

static void try_later(struct erasure *erasure)
{
    erasure->retry_ns = clock_mono_ns() + RETRY_MS * NS_PER_MS;
}

static void on_erased(void *arg, enum err err, uint64_t sequence)
{
    struct erasure *erasure = arg;
    (void)sequence;
    if (err == ERR_OK)
        erasure_free(erasure);
    else
        try_later(erasure); /* also when it changed under our hands: by whom shows then */
}

static void erasure_put(struct erasure *erasure, const struct reply *record, uint64_t sequence)
{
    erasure->retry_ns = 0;
    if (replies_erase_text(erasure->gateway->bus, record, sequence, on_erased, erasure) != ERR_OK)
        try_later(erasure);
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct erasure *erasure = arg;
    if (err == ERR_OK && record->text != NULL) {
        erasure_put(erasure, record, sequence);
    } else if (err == ERR_OK || err == ERR_NOT_FOUND) {
        erasure_free(erasure);
    } else if (err == ERR_INVALID || err == ERR_UNSUPPORTED) {
        log_warn("reply.text_kept prompt=%s why=\"%s\"", erasure->id, err_text());
        erasure_free(erasure);
    } else {
        try_later(erasure);
    }
}

void erase_text(struct gateway *gateway, const struct reply *record, uint64_t sequence)
{
    if (record->detached || record->text == NULL || sequence == 0)
        return;
    struct erasure *erasure =
        gateway->erasure_count < ERASURES_MAX ? calloc(1, sizeof *erasure) : NULL;
    if (erasure == NULL) {
        log_warn("reply.text_kept prompt=%s", record->id); /* until --keep has passed */
        return;
    }
    erasure->gateway = gateway;
    snprintf(erasure->owner, sizeof erasure->owner, "%s", record->gateway);
    snprintf(erasure->id, sizeof erasure->id, "%s", record->id);
    erasure->next = gateway->erasures;
    if (erasure->next != NULL)
        erasure->next->prev = erasure;
    gateway->erasures = erasure;
    gateway->erasure_count++;
    erasure_put(erasure, record, sequence);
}

void erase_tick(struct gateway *gateway)
{
    int64_t now_ns = clock_mono_ns();
    for (struct erasure *erasure = gateway->erasures; erasure != NULL; erasure = erasure->next) {
        if (erasure->retry_ns == 0 || now_ns < erasure->retry_ns || !bus_connected(gateway->bus))
            continue;
        if (replies_get(gateway->bus, erasure->owner, erasure->id, on_record, erasure) == ERR_OK)
            erasure->retry_ns = 0;
        else
            try_later(erasure);
    }
}

void erase_free(struct gateway *gateway)
{
    while (gateway->erasures != NULL)
        erasure_free(gateway->erasures);
}
