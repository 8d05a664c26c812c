#include "http/sse.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "http/internal.h"

#define SSE_HEADERS_MAX 16

void sse_begin(struct http_exchange *exchange, const struct http_header *headers,
               size_t header_count)
{
    struct http_header all[SSE_HEADERS_MAX + 2] = {
        {"Cache-Control", "no-cache, no-transform"},
        {"X-Accel-Buffering", "no"}, /* nginx holds replies back otherwise */
    };
    assert(header_count <= SSE_HEADERS_MAX);
    for (size_t i = 0; i < header_count; i++) {
        all[2 + i] = headers[i];
    }
    http_stream_begin(exchange, 200, all, header_count + 2, "text/event-stream; charset=utf-8");
}

static struct part part_of(const char *text)
{
    return (struct part){text, strlen(text)};
}

bool sse_send(struct http_exchange *exchange, const char *event, const char *data, size_t len)
{
    assert(memchr(data, '\n', len) == NULL && memchr(data, '\r', len) == NULL);
    assert(event == NULL || strpbrk(event, "\r\n") == NULL);
    struct part parts[6];
    size_t count = 0;
    if (event != NULL) {
        parts[count++] = part_of("event: ");
        parts[count++] = part_of(event);
        parts[count++] = part_of("\n");
    }
    parts[count++] = part_of("data: ");
    parts[count++] = (struct part){data, len};
    parts[count++] = part_of("\n\n");
    return response_write_parts(exchange, parts, count);
}

bool sse_comment(struct http_exchange *exchange, const char *text)
{
    assert(strpbrk(text, "\r\n") == NULL);
    const struct part parts[] = {part_of(": "), part_of(text), part_of("\n\n")};
    return response_write_parts(exchange, parts, sizeof parts / sizeof *parts);
}

void sse_reader_init(struct sse_reader *reader, size_t limit)
{
    *reader = (struct sse_reader){0};
    buf_init(&reader->line, limit);
    buf_init(&reader->data, limit + 1); /* each line of data ends with a line feed here */
}

void sse_reader_done(struct sse_reader *reader)
{
    if (reader != NULL) {
        buf_done(&reader->line);
        buf_done(&reader->data);
    }
}

/* A blank line: the event is whole. */
static enum err dispatch(struct sse_reader *reader, sse_event_fn *fn, void *arg)
{
    bool goes_on = true;
    if (reader->data.len > 0) {
        reader->data.data[--reader->data.len] = '\0'; /* the last line's feed */
        const char *event = reader->event[0] != '\0' ? reader->event : "message";
        goes_on = fn(arg, event, reader->data.data, reader->data.len);
    }
    buf_clear(&reader->data);
    reader->event[0] = '\0';
    return goes_on ? ERR_OK : err_set(ERR_CANCELLED, "stopped by the reader of events");
}

static bool field_is(const char *line, size_t name_len, const char *name)
{
    return name_len == strlen(name) && memcmp(line, name, name_len) == 0;
}

static enum err take_line(struct sse_reader *reader, sse_event_fn *fn, void *arg)
{
    const char *line = buf_text(&reader->line);
    size_t len = reader->line.len;
    if (!reader->started) {
        reader->started = true;
        if (len >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
            line += 3;
            len -= 3;
        }
    }
    if (len == 0) {
        return dispatch(reader, fn, arg);
    }
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon != NULL ? (size_t)(colon - line) : len;
    const char *value = line + name_len + (colon != NULL ? 1 : 0);
    if (value < line + len && *value == ' ') {
        value++;
    }
    size_t value_len = (size_t)(line + len - value);
    if (field_is(line, name_len, "data")) {
        enum err err = buf_append(&reader->data, value, value_len);
        return err != ERR_OK ? err : buf_append(&reader->data, "\n", 1);
    }
    if (field_is(line, name_len, "event")) {
        size_t kept = value_len < sizeof reader->event ? value_len : sizeof reader->event - 1;
        memcpy(reader->event, value, kept);
        reader->event[kept] = '\0';
    }
    return ERR_OK; /* comments, id, retry and unknown fields say nothing to us */
}

static size_t until_line_end(const char *bytes, size_t len)
{
    size_t at = 0;
    while (at < len && bytes[at] != '\n' && bytes[at] != '\r') {
        at++;
    }
    return at;
}

enum err sse_reader_feed(struct sse_reader *reader, const char *bytes, size_t len, sse_event_fn *fn,
                         void *arg)
{
    size_t at = 0;
    while (at < len) {
        if (reader->after_cr && bytes[at] == '\n') {
            reader->after_cr = false;
            at++;
            continue;
        }
        reader->after_cr = false;
        size_t span = until_line_end(bytes + at, len - at);
        enum err err = buf_append(&reader->line, bytes + at, span);
        if (err != ERR_OK) {
            return err_prefix(err, "a line of the event stream: ");
        }
        at += span;
        if (at == len) {
            break;
        }
        reader->after_cr = bytes[at] == '\r';
        at++;
        err = take_line(reader, fn, arg);
        buf_clear(&reader->line);
        if (err != ERR_OK) {
            return err;
        }
    }
    return ERR_OK;
}
