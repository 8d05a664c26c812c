/*
 * streams.h - the service's streams and consumers, made or brought up to date at its start.
 *
 * Blocking, for `up` alone (before its loop turns), with the credentials of the role "setup".
 */
#ifndef WYVERN_BUS_STREAMS_H
#define WYVERN_BUS_STREAMS_H

#include <stdint.h>

#include "base/err.h"
#include "config/settings.h"

struct stream_limits {
    unsigned max_queue;        /* prompts waiting + in flight */
    unsigned max_reply_s;      /* longest time a reply may take */
    unsigned keep_hours;       /* how long records stay */
    unsigned keep_files_hours; /* how long files and batches do */
    uint64_t store_bytes;      /* disk for all streams together */
};

/* setup->model names the model whose prompts are consumed.  ERR_UNAVAILABLE: the broker does not
 * answer; ERR_CONFIG: it refused a stream (err_text says which and why). */
MUST_USE enum err streams_setup(const struct join *setup, const struct stream_limits *limits);

/* Prompts waiting and in flight, and endings not yet recorded: 0 when the service is drained. */
MUST_USE enum err streams_queue_depth(const struct join *setup, uint64_t *messages);

#endif
