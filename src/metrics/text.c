/*
 * text.c - Prometheus text 0.0.4 (prometheus.io, Exposition formats) and OpenMetrics 1.0.
 */
#include "metrics/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/series.h"

const char *metrics_content_type(enum metrics_format format)
{
    return format == METRICS_OPENMETRICS_100
               ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8";
}

#define NUMBER_MAX 40

static void format_number(char out[NUMBER_MAX], double value)
{
    if (isnan(value)) {
        snprintf(out, NUMBER_MAX, "NaN");
    } else if (isinf(value)) {
        snprintf(out, NUMBER_MAX, value > 0 ? "+Inf" : "-Inf");
    } else if (trunc(value) == value && fabs(value) < 0x1p53) { // NOLINT: exactly whole
        snprintf(out, NUMBER_MAX, "%.0f", value);
    } else {
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(out, NUMBER_MAX, "%.*g", digits, value);
            if (strtod(out, NULL) == value) // NOLINT: the shortest that reads back the same
                break;
        }
    }
}

/* A bound as OpenMetrics wants it, so that it is the same series for everybody: the shortest
 * digits, an exponent below 1e-4 and from 1e6 on, and at least one decimal without ("1.0"). */
static void format_bound(char out[NUMBER_MAX], double bound)
{
    double size = fabs(bound);
    bool exponent = size > 0 && (size < 1e-4 || size >= 1e6);

    for (int digits = exponent ? 1 : 6; digits <= 17; digits++) {
        if (exponent)
            snprintf(out, NUMBER_MAX, "%.*e", digits - 1, bound);
        else
            snprintf(out, NUMBER_MAX, "%.*g", digits, bound);
        if (strtod(out, NULL) == bound) // NOLINT: the shortest that reads back the same
            break;
    }
    if (!exponent && strchr(out, '.') == NULL)
        strcat(out, ".0"); // NOLINT: six digits and a sign leave room
}

/* The first failure is kept; the rest is then skipped. */
struct writer {
    struct buf *buf;
    enum err err;
    enum metrics_format format;
};

static void put(struct writer *writer, const char *text)
{
    if (writer->err == ERR_OK)
        writer->err = buf_append_text(writer->buf, text);
}

static void put_escaped(struct writer *writer, const char *text, bool quotes)
{
    for (; writer->err == ERR_OK && *text != '\0'; text++) {
        size_t plain = strcspn(text, quotes ? "\\\n\"" : "\\\n");
        writer->err = buf_append(writer->buf, text, plain);
        text += plain;
        if (*text == '\0')
            break;
        put(writer, *text == '\n' ? "\\n" : *text == '"' ? "\\\"" : "\\\\");
    }
}

/* {label="value",…} and the bound of a bucket, when there is one. */
static void put_labels(struct writer *writer, const struct family *family,
                       const struct series *series, const char *bound)
{
    const char *value = series->key;
    const char *before = "{";

    for (size_t i = 0; i < family->label_count; i++) {
        put(writer, before);
        put(writer, family->row->labels[i]);
        put(writer, "=\"");
        put_escaped(writer, value, true);
        put(writer, "\"");
        before = ",";
        value += strlen(value) + 1;
    }
    if (bound != NULL) {
        put(writer, before);
        put(writer, "le=\"");
        put(writer, bound);
        put(writer, "\"");
        before = ",";
    }
    if (*before == ',')
        put(writer, "}");
}

static void put_sample(struct writer *writer, const struct family *family,
                       const struct series *series, const char *suffix, const char *bound,
                       const char *number)
{
    put(writer, family->row->name);
    put(writer, suffix);
    put_labels(writer, family, series, bound);
    put(writer, " ");
    put(writer, number);
    put(writer, "\n");
}

static void put_histogram(struct writer *writer, const struct family *family,
                          const struct series *series)
{
    char bound[NUMBER_MAX] = "+Inf", number[NUMBER_MAX];
    uint64_t total = 0;

    for (size_t i = 0; i <= family->row->bucket_count; i++) {
        total += series->counts[i];
        if (i < family->row->bucket_count)
            format_bound(bound, family->row->buckets[i]);
        else
            snprintf(bound, sizeof bound, "+Inf");
        snprintf(number, sizeof number, "%" PRIu64, total);
        put_sample(writer, family, series, "_bucket", bound, number);
    }
    put_sample(writer, family, series, "_count", NULL, number);
    format_number(number, series->value);
    put_sample(writer, family, series, "_sum", NULL, number);
}

static const char *type_name(enum metric_type type)
{
    switch (type) {
    case METRIC_COUNTER:
        return "counter";
    case METRIC_GAUGE:
        return "gauge";
    default:
        return "histogram";
    }
}

/* "# HELP name " or "# TYPE name "; OpenMetrics names a counter's family without _total. */
static void put_head(struct writer *writer, const char *what, const struct metric *row)
{
    size_t len = strlen(row->name);

    if (writer->format == METRICS_OPENMETRICS_100 && row->type == METRIC_COUNTER)
        len -= strlen("_total");
    put(writer, what);
    if (writer->err == ERR_OK)
        writer->err = buf_append(writer->buf, row->name, len);
    put(writer, " ");
}

static void put_family(struct writer *writer, const struct family *family)
{
    put_head(writer, "# HELP ", family->row);
    /* OpenMetrics escapes quotes in help as well */
    put_escaped(writer, family->row->help, writer->format == METRICS_OPENMETRICS_100);
    put(writer, "\n");
    put_head(writer, "# TYPE ", family->row);
    put(writer, type_name(family->row->type));
    put(writer, "\n");
    for (size_t i = 0; i < family->count; i++) {
        const struct series *series = family->series[i];
        if (family->row->type == METRIC_HISTOGRAM) {
            put_histogram(writer, family, series);
        } else {
            char number[NUMBER_MAX];
            format_number(number, series->value);
            put_sample(writer, family, series, "", NULL, number);
        }
    }
}

enum err metrics_write(const struct metrics *metrics, enum metrics_format format, struct buf *out)
{
    struct writer writer = {.buf = out, .err = ERR_OK, .format = format};
    size_t start = out->len;

    for (size_t i = 0; i < metrics->count; i++)
        put_family(&writer, &metrics->families[i]);
    if (format == METRICS_OPENMETRICS_100)
        put(&writer, "# EOF\n");
    if (writer.err != ERR_OK && out->data != NULL) {
        out->len = start;
        out->data[start] = '\0';
    }
    return writer.err;
}
