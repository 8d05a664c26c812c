/*
 * poller.h - reads something again and again in a thread of its own.
 *
 * A driver, or a disk far away, may hang for minutes: what hangs here hangs alone.  The owner asks
 * at any time for what was read last; it never waits.
 */
#ifndef WYVERN_PROBE_POLLER_H
#define WYVERN_PROBE_POLLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct poller;

enum poll_answer {
    POLL_NOTHING, /* there is nothing here to read, which is normal; or nothing was read yet */
    POLL_WELL,
    POLL_FAILED, /* or the reading hangs; what is in out then, the reader says */
};

/* Reads into out, which keeps what was put there last time.  On failure the sentence is err_text().
 */
typedef enum poll_answer poll_fn(void *state, void *out);

struct poller_config {
    poll_fn *read;
    void (*done)(void *state); /* frees the state, in the thread, when it ends; or NULL */
    void *state;
    size_t size; /* of out, which starts as zeros */
    unsigned period_ms;
    unsigned hang_ms; /* a reading that takes longer counts as failed */
};

struct poller_news {
    enum poll_answer answer;
    bool hangs;
    double duration_s; /* of the last reading, or of the one that hangs */
    uint64_t readings; /* finished ones */
    char why[160];     /* POLL_FAILED, POLL_NOTHING: the sentence */
};

/* Takes the state, also on failure. */
MUST_USE enum err poller_new(struct poller **out, const struct poller_config *config);
/* Copies out as the last finished reading left it. */
void poller_latest(struct poller *poller, void *out, struct poller_news *news);
/* Ends the thread.  One that hangs is left alone after a moment; it frees
 * what it holds should it ever go on. */
void poller_free(struct poller *poller);

#endif
