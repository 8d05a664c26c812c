#include "metrics/manual.h"

void metrics_manual_begin(FILE *out)
{
    fputs(
        "# Metrics\n\n"
        "Written by `wyvern help --metrics-markdown` from the metric rows; change them there.\n"
        "Units are base units (seconds, bytes, joules, ratios from 0 to 1), except in the\n"
        "original's seven, which keep its names, labels and units. A figure that is not known has\n"
        "no series: it is never a made-up 0. No label comes from what users write.\n",
        out);
}

static const char *type_name(enum metric_type type)
{
    switch (type) {
    case METRIC_COUNTER:
        return "counter";
    case METRIC_GAUGE:
        return "gauge";
    case METRIC_HISTOGRAM:
        break;
    }
    return "histogram";
}

/* Bars would end a cell. */
static void cell_print(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '|')
            fputc('\\', out);
        fputc(*text, out);
    }
}

static void row_print(const struct metric *row, FILE *out)
{
    fprintf(out, "| `%s` | %s | ", row->name, type_name(row->type));
    for (size_t i = 0; i < METRIC_MAX_LABELS && row->labels[i] != NULL; i++)
        fprintf(out, "%s`%s`", i > 0 ? ", " : "", row->labels[i]);
    fputs(" | ", out);
    cell_print(row->help, out);
    if (row->bucket_count > 0) {
        fputs(" (buckets", out);
        for (size_t i = 0; i < row->bucket_count; i++)
            fprintf(out, " %g%s", row->buckets[i], i + 1 < row->bucket_count ? "" : ")");
    }
    fputs(" |\n", out);
}

void metrics_manual_section(const char *title, const char *where, const struct metric *rows,
                            size_t count, FILE *out)
{
    fprintf(out, "\n## %s\n\n%s\n\n| metric | type | labels | |\n|---|---|---|---|\n", title,
            where);
    for (size_t i = 0; i < count; i++)
        row_print(&rows[i], out);
}
