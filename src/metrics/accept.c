/*
 * accept.c - which format and coding a scraper wants: Accept and Accept-Encoding with quality
 * values (RFC 9110, 12.5.1 and 12.5.3).
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "metrics/gzip.h"
#include "metrics/text.h"

/* A stretch of the header, without the blanks around it. */
struct span {
    const char *at;
    size_t len;
};

static struct span trimmed(const char *at, size_t len)
{
    while (len > 0 && (*at == ' ' || *at == '\t')) {
        at++;
        len--;
    }
    while (len > 0 && (at[len - 1] == ' ' || at[len - 1] == '\t'))
        len--;
    return (struct span){at, len};
}

static bool span_is(struct span span, const char *text)
{
    return span.len == strlen(text) && strncasecmp(span.at, text, span.len) == 0;
}

/* Takes the text up to `stop` (not inside quotes) off rest; false when rest is used up. */
static bool next_part(const char **rest, char stop, struct span *part)
{
    const char *start = *rest, *at = start;
    bool quoted = false;

    if (start == NULL)
        return false;
    for (; *at != '\0' && (quoted || *at != stop); at++) {
        if (quoted && *at == '\\' && at[1] != '\0')
            at++;
        else if (*at == '"')
            quoted = !quoted;
    }
    *part = trimmed(start, (size_t)(at - start));
    *rest = *at == '\0' ? NULL : at + 1;
    return true;
}

/* 0 … 1; what is no quality value counts as 0, so that it never wins. */
static double parse_quality(struct span value)
{
    char text[8], *end;
    double quality;

    if (value.len == 0 || value.len > 5 || !isdigit((unsigned char)*value.at))
        return 0;
    memcpy(text, value.at, value.len);
    text[value.len] = '\0';
    if (strspn(text, "0123456789.") != value.len)
        return 0;
    quality = strtod(text, &end);
    return *end == '\0' && quality <= 1 ? quality : 0;
}

/* What the header says of one media type: the most specific range that fits it counts. */
struct wish {
    int specific; /* 0: nothing fits, 1: anything, 2: its main type, 3: named */
    double quality;
};

static void consider(struct wish *wish, int specific, double quality)
{
    if (specific > wish->specific || (specific == wish->specific && quality > wish->quality))
        *wish = (struct wish){specific, quality};
}

static void consider_range(struct wish *openmetrics, struct wish *text, const char *range)
{
    struct span type = {"", 0}, part, version = {"", 0};
    double quality = 1;

    next_part(&range, ';', &type);
    while (next_part(&range, ';', &part)) {
        const char *equals = memchr(part.at, '=', part.len);
        if (equals == NULL)
            continue;
        struct span name = trimmed(part.at, (size_t)(equals - part.at));
        struct span value = trimmed(equals + 1, part.len - (size_t)(equals + 1 - part.at));
        if (value.len >= 2 && value.at[0] == '"')
            value = (struct span){value.at + 1, value.len - 2};
        if (span_is(name, "q"))
            quality = parse_quality(value);
        else if (span_is(name, "version"))
            version = value;
    }
    if (span_is(type, "application/openmetrics-text")) {
        if (version.len == 0 || span_is(version, "1.0.0"))
            consider(openmetrics, 3, quality);
    } else if (span_is(type, "text/plain")) {
        if (version.len == 0 || span_is(version, "0.0.4"))
            consider(text, 3, quality);
    } else if (span_is(type, "application/*")) {
        consider(openmetrics, 2, quality);
    } else if (span_is(type, "text/*")) {
        consider(text, 2, quality);
    } else if (span_is(type, "*/*")) {
        consider(openmetrics, 1, quality);
        consider(text, 1, quality);
    }
}

enum metrics_format metrics_format_negotiate(const char *accept)
{
    struct wish openmetrics = {0, 0}, text = {0, 0};
    struct span part;
    char range[256];

    while (next_part(&accept, ',', &part)) {
        if (part.len == 0 || part.len >= sizeof range)
            continue;
        memcpy(range, part.at, part.len);
        range[part.len] = '\0';
        consider_range(&openmetrics, &text, range);
    }
    /* when both are equally welcome, OpenMetrics is for those who name it */
    if (openmetrics.quality > text.quality ||
        (openmetrics.specific == 3 && openmetrics.quality > 0 &&
         openmetrics.quality >= text.quality))
        return METRICS_OPENMETRICS_100;
    return METRICS_TEXT_004;
}

bool metrics_gzip_welcome(const char *accept_encoding)
{
    struct wish gzip = {0, 0};
    struct span coding, part;
    char range[128];

    while (next_part(&accept_encoding, ',', &coding)) {
        const char *rest = range;
        double quality = 1;
        if (coding.len == 0 || coding.len >= sizeof range)
            continue;
        memcpy(range, coding.at, coding.len);
        range[coding.len] = '\0';
        next_part(&rest, ';', &coding);
        while (next_part(&rest, ';', &part))
            if (part.len > 2 && strncasecmp(part.at, "q=", 2) == 0)
                quality = parse_quality((struct span){part.at + 2, part.len - 2});
        if (span_is(coding, "gzip") || span_is(coding, "x-gzip"))
            consider(&gzip, 3, quality);
        else if (span_is(coding, "*"))
            consider(&gzip, 1, quality);
    }
    return gzip.quality > 0;
}
