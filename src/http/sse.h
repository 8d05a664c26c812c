/*
 * sse.h - server-sent events (WHATWG HTML, 9.2) over an exchange, and reading them.
 *
 * Writing: as server.h says of streams; http_stream_end ends the reply.  Reading: any thread, one
 * reader at a time.
 */
#ifndef WYVERN_HTTP_SSE_H
#define WYVERN_HTTP_SSE_H

#include "base/buf.h"
#include "http/server.h"

/* Begins a text/event-stream reply with no-cache headers, plus the caller's. */
void sse_begin(struct http_exchange *exchange, const struct http_header *headers,
               size_t header_count);
/* One `data: …` event; data is one line of text (JSON).  event may be NULL.  False: see
 * http_stream_write. */
bool sse_send(struct http_exchange *exchange, const char *event, const char *data, size_t len);
/* A comment line, to keep proxies and readers awake. */
bool sse_comment(struct http_exchange *exchange, const char *text);

/* Reader: feed bytes as they come; fn is called per event with its joined data. */
struct sse_reader {
    struct buf line;
    struct buf data;
    char event[64]; /* longer names are cut */
    bool after_cr;  /* a line feed that comes next belongs to the line's end before it */
    bool started;   /* past a byte order mark */
};
/* event: "message" when the event has no name.  data is NUL-terminated.  Returns false to stop. */
typedef bool sse_event_fn(void *arg, const char *event, const char *data, size_t len);
/* limit: most bytes of one line, and of one event's data. */
void sse_reader_init(struct sse_reader *reader, size_t limit);
void sse_reader_done(struct sse_reader *reader);
/* ERR_LIMIT: a line or event over the limit; ERR_CANCELLED: fn returned false. */
MUST_USE enum err sse_reader_feed(struct sse_reader *reader, const char *bytes, size_t len,
                                  sse_event_fn *fn, void *arg);

#endif
