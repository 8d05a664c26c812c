#include "wire/trace.h"

#include <stdio.h>
#include <string.h>

#define MEMBERS_MAX 32
#define KEY_MAX     256
#define VALUE_MAX   256
#define BLANKS      " \t"

static bool is_hex(const char *text, size_t digits)
{
    for (size_t i = 0; i < digits; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
            return false;
    return true;
}

static bool is_zero(const char *text, size_t digits)
{
    return strspn(text, "0") >= digits;
}

static unsigned hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* version "-" trace id "-" parent id "-" flags; each of fixed length. */
#define ID_AT    3
#define SPAN_AT  (ID_AT + ID_LEN + 1)
#define FLAGS_AT (SPAN_AT + TAG_LEN + 1)
#define WHOLE    (FLAGS_AT + 2)

bool trace_parse(struct trace *out, const char *traceparent)
{
    size_t len = strlen(traceparent);
    bool first = strncmp(traceparent, "00", 2) == 0;
    if (len < WHOLE || (first && len > WHOLE) || (len > WHOLE && traceparent[WHOLE] != '-'))
        return false;
    if (!is_hex(traceparent, 2) || strncmp(traceparent, "ff", 2) == 0)
        return false;
    if (traceparent[ID_AT - 1] != '-' || traceparent[SPAN_AT - 1] != '-' ||
        traceparent[FLAGS_AT - 1] != '-')
        return false;
    const char *id = traceparent + ID_AT, *span = traceparent + SPAN_AT;
    if (!is_hex(id, ID_LEN) || is_zero(id, ID_LEN) || !is_hex(span, TAG_LEN) ||
        is_zero(span, TAG_LEN) || !is_hex(traceparent + FLAGS_AT, 2))
        return false;
    *out = (struct trace){.sampled = hex_digit(traceparent[FLAGS_AT + 1]) & 1};
    memcpy(out->id, id, ID_LEN);
    memcpy(out->span, span, TAG_LEN);
    return true;
}

void trace_begin(struct trace *out, const char *traceparent)
{
    if (traceparent == NULL || !trace_parse(out, traceparent)) {
        *out = (struct trace){.sampled = false};
        do
            id_random(out->id, ID_LEN);
        while (is_zero(out->id, ID_LEN));
    }
    do
        id_random(out->span, TAG_LEN);
    while (is_zero(out->span, TAG_LEN));
}

/* key "=" value, len bytes of it. */
static bool is_member(const char *text, size_t len)
{
    static const char key_bytes[] = "abcdefghijklmnopqrstuvwxyz0123456789_-*/@";
    size_t key = strspn(text, key_bytes), value = len - key - 1;
    if (key == 0 || key >= len || key > KEY_MAX || text[key] != '=' || value == 0 ||
        value > VALUE_MAX || strchr("_-*/@", text[0]) != NULL)
        return false;
    for (size_t i = key + 1; i < len; i++)
        if (text[i] < 0x20 || text[i] > 0x7e || text[i] == '=')
            return false;
    return true;
}

static bool is_state(const char *text)
{
    unsigned members = 0;
    for (;;) {
        text += strspn(text, BLANKS);
        size_t span = strcspn(text, ","), len = span;
        while (len > 0 && strchr(BLANKS, text[len - 1]) != NULL)
            len--;
        if (len > 0 && (!is_member(text, len) || ++members > MEMBERS_MAX))
            return false; /* an empty one is allowed */
        if (text[span] == '\0')
            return true;
        text += span + 1;
    }
}

bool trace_add_state(struct trace *trace, const char *tracestate)
{
    char whole[sizeof trace->state];
    const char *separator = trace->state[0] != '\0' && tracestate[0] != '\0' ? "," : "";
    int len = snprintf(whole, sizeof whole, "%s%s%s", trace->state, separator, tracestate);
    bool fine = len >= 0 && (size_t)len < sizeof whole && is_state(whole);
    memcpy(trace->state, fine ? whole : "", fine ? (size_t)len + 1 : 1);
    return fine;
}

void trace_write(char out[TRACE_PARENT_SIZE], const struct trace *trace)
{
    snprintf(out, TRACE_PARENT_SIZE, "00-%.32s-%.16s-0%d", trace->id, trace->span, trace->sampled);
}

void trace_id_of(char out[ID_SIZE], const char *traceparent)
{
    struct trace trace = {.id = ""};
    if (traceparent != NULL)
        (void)trace_parse(&trace, traceparent);
    memcpy(out, trace.id, ID_SIZE);
}
