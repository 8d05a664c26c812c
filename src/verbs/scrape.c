#include "verbs/scrape.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "wire/utf8.h"

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == ':';
}

static const char *blanks_skip(const char *at)
{
    while (*at == ' ' || *at == '\t')
        at++;
    return at;
}

/* Behind the name; NULL: none, or it does not fit. */
static const char *name_read(const char *at, char out[SCRAPE_NAME_MAX])
{
    size_t len = 0;
    while (is_name_char(at[len]))
        len++;
    if (len == 0 || len >= SCRAPE_NAME_MAX)
        return NULL;
    memcpy(out, at, len);
    out[len] = '\0';
    return at + len;
}

/* at: behind the opening quote.  Behind the closing one; NULL: broken, or it does not fit. */
static const char *value_read(const char *at, char out[SCRAPE_VALUE_MAX])
{
    size_t len = 0;
    for (; *at != '"'; at++) {
        char c = *at;
        if (c == '\0' || c == '\n')
            return NULL;
        if (c == '\\') {
            c = *++at;
            if (c != '\\' && c != '"' && c != 'n')
                return NULL;
            c = c == 'n' ? '\n' : c;
        }
        if (len + 1 == SCRAPE_VALUE_MAX)
            return NULL;
        out[len++] = c;
    }
    out[len] = '\0';
    return utf8_is_valid(out, len) ? at + 1 : NULL;
}

/* at: behind the brace.  Behind the closing one; NULL: broken. */
static const char *labels_read(const char *at, struct scrape_sample *sample)
{
    for (at = blanks_skip(at); *at != '}'; at = blanks_skip(at)) {
        if (sample->label_count == SCRAPE_LABELS_MAX)
            return NULL;
        struct scrape_label *label = &sample->labels[sample->label_count++];
        at = name_read(at, label->name);
        if (at == NULL)
            return NULL;
        at = blanks_skip(at);
        if (*at != '=')
            return NULL;
        at = blanks_skip(at + 1);
        if (*at != '"')
            return NULL;
        at = value_read(at + 1, label->value);
        if (at == NULL)
            return NULL;
        at = blanks_skip(at);
        if (*at == ',')
            at++;
        else if (*at != '}')
            return NULL;
    }
    return at + 1;
}

static bool line_read(const char *at, struct scrape_sample *sample)
{
    sample->label_count = 0;
    at = name_read(at, sample->name);
    if (at == NULL)
        return false;
    at = blanks_skip(at);
    if (*at == '{') {
        at = labels_read(at + 1, sample);
        if (at == NULL)
            return false;
        at = blanks_skip(at);
    }
    char *end = NULL;
    if (*at == '\n' || *at == '\r' || *at == '\0') /* strtod would look on the next line */
        return false;
    sample->value = strtod(at, &end);
    return end != at && (*end == '\0' || *end == ' ' || *end == '\n' || *end == '\r');
}

void scrape_read(const char *text, size_t len, scrape_fn *fn, void *arg)
{
    struct scrape_sample sample;
    const char *end = text + len;
    for (const char *at = text; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (*at != '#' && line_read(at, &sample))
            fn(arg, &sample);
        if (newline == NULL)
            break;
        at = newline + 1;
    }
}

const char *scrape_label(const struct scrape_sample *sample, const char *name)
{
    for (size_t i = 0; i < sample->label_count; i++) {
        if (strcmp(sample->labels[i].name, name) == 0)
            return sample->labels[i].value;
    }
    return "";
}
