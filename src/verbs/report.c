#include "verbs/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/wrap.h"
#include "verbs/fields.h"
#include "wire/json.h"

/* ---- figures ---- */

static int span_order(const void *a, const void *b)
{
    double x = ((const struct span *)a)->start, y = ((const struct span *)b)->start;
    return (x > y) - (x < y);
}

double spans_union(struct span *spans, size_t count)
{
    if (count == 0)
        return 0;
    qsort(spans, count, sizeof *spans, span_order);
    double total = 0, start = spans[0].start, end = spans[0].end;
    for (size_t i = 1; i < count; i++) {
        if (spans[i].start > end) {
            total += end - start;
            start = spans[i].start;
            end = spans[i].end;
        } else if (spans[i].end > end) {
            end = spans[i].end;
        }
    }
    return total + (end - start);
}

double spans_sum(const struct span *spans, size_t count)
{
    double total = 0;
    for (size_t i = 0; i < count; i++)
        total += spans[i].end - spans[i].start;
    return total;
}

void spans_density(const struct span *spans, size_t count, double end, double *cells,
                   size_t cell_count)
{
    memset(cells, 0, cell_count * sizeof *cells);
    if (!(end > 0))
        return;
    double width = end / (double)cell_count;
    for (size_t i = 0; i < count; i++) {
        for (size_t c = 0; c < cell_count; c++) {
            double from = fmax(spans[i].start, width * (double)c);
            double to = fmin(spans[i].end, width * (double)(c + 1));
            if (to > from)
                cells[c] += (to - from) / width;
        }
    }
}

static int value_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double values_percentile(double *values, size_t count, double p)
{
    if (count == 0)
        return 0;
    qsort(values, count, sizeof *values, value_order);
    double rank = ceil(p * (double)count);
    size_t at = rank < 1 ? 0 : (size_t)rank - 1;
    return values[at < count ? at : count - 1];
}

static struct quantiles quantiles_of(double *values, size_t count)
{
    struct quantiles found = {
        .p50 = values_percentile(values, count, 0.5) * 1000,
        .p99 = values_percentile(values, count, 0.99) * 1000,
        .max = values_percentile(values, count, 1) * 1000,
    };
    return found;
}

/* ---- from outcomes ---- */

static struct report_worker *worker_of(struct report *report, const struct outcome *outcome)
{
    for (size_t i = 0; i < report->worker_count; i++) {
        struct report_worker *worker = &report->workers[i];
        if (strcmp(worker->id, outcome->worker) == 0 && strcmp(worker->node, outcome->node) == 0)
            return worker;
    }
    struct report_worker *worker = &report->workers[report->worker_count++];
    memcpy(worker->id, outcome->worker, sizeof worker->id);
    memcpy(worker->node, outcome->node, sizeof worker->node);
    memcpy(worker->device, outcome->device, sizeof worker->device);
    return worker;
}

static int worker_order(const void *a, const void *b)
{
    const struct report_worker *x = a, *y = b;
    int by_node = strcmp(x->node, y->node);
    return by_node != 0 ? by_node : strcmp(x->id, y->id);
}

static int id_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Replies that more than one prompt was given, or that were meant for another one. */
static enum err duplicates_count(const struct outcome *outcomes, size_t count, size_t *out)
{
    const char **ids = calloc(count + 1, sizeof *ids);
    if (ids == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    size_t id_count = 0, found = 0;
    for (size_t i = 0; i < count; i++) {
        if (!outcomes[i].answered)
            continue;
        found += outcomes[i].wrong;
        ids[id_count++] = outcomes[i].response_id;
    }
    qsort(ids, id_count, sizeof *ids, id_order);
    for (size_t i = 1; i < id_count; i++)
        found += strcmp(ids[i - 1], ids[i]) == 0;
    free(ids);
    *out = found;
    return ERR_OK;
}

static enum err workers_fill(struct report *report, const struct outcome *outcomes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (outcomes[i].answered)
            worker_of(report, &outcomes[i])->prompts++;
    }
    for (size_t w = 0; w < report->worker_count; w++) {
        struct report_worker *worker = &report->workers[w];
        worker->spans = calloc(worker->prompts, sizeof *worker->spans);
        if (worker->spans == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        worker->prompts = 0; /* counted again below */
    }
    for (size_t i = 0; i < count; i++) {
        if (!outcomes[i].answered)
            continue;
        struct report_worker *worker = worker_of(report, &outcomes[i]);
        worker->tokens += outcomes[i].tokens;
        worker->spans[worker->prompts++] = outcomes[i].span;
    }
    qsort(report->workers, report->worker_count, sizeof *report->workers, worker_order);
    for (size_t w = 0; w < report->worker_count; w++) {
        struct report_worker *worker = &report->workers[w];
        worker->busy_s = spans_union(worker->spans, worker->prompts);
        worker->slot_s = spans_sum(worker->spans, worker->prompts);
        worker->first_start = worker->spans[0].start; /* sorted by spans_union */
        worker->last_end = worker->spans[0].end;
        for (size_t i = 1; i < worker->prompts; i++)
            worker->last_end = fmax(worker->last_end, worker->spans[i].end);
    }
    return ERR_OK;
}

enum err report_new(struct report **out, const struct outcome *outcomes, size_t count,
                    double seconds)
{
    enum err err = ERR_OK;
    struct report *report = calloc(1, sizeof *report);
    double *values = calloc(count + 1, sizeof *values);
    if (report != NULL)
        report->workers = calloc(count + 1, sizeof *report->workers);
    if (report == NULL || report->workers == NULL || values == NULL) {
        err = err_set(ERR_NOMEM, "out of memory");
        goto out;
    }
    report->sent = count;
    report->seconds = seconds;
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        if (!outcomes[i].answered) {
            report->failed++;
            continue;
        }
        report->answered++;
        report->tokens += outcomes[i].tokens;
        values[taken++] = outcomes[i].latency_s;
    }
    report->latency = quantiles_of(values, taken);
    taken = 0;
    for (size_t i = 0; i < count; i++) {
        if (outcomes[i].answered && outcomes[i].ttft_s >= 0)
            values[taken++] = outcomes[i].ttft_s;
    }
    report->ttft = quantiles_of(values, taken);
    err = duplicates_count(outcomes, count, &report->duplicates);
    if (err == ERR_OK)
        err = workers_fill(report, outcomes, count);
out:
    free(values);
    if (err == ERR_OK)
        *out = report;
    else
        report_free(report);
    return err;
}

void report_free(struct report *report)
{
    if (report == NULL)
        return;
    for (size_t i = 0; report->workers != NULL && i < report->worker_count; i++)
        free(report->workers[i].spans);
    free(report->workers);
    free(report);
}

double report_end(const struct report *report)
{
    double end = 0;
    for (size_t i = 0; i < report->worker_count; i++)
        end = fmax(end, report->workers[i].last_end);
    return end;
}

double report_utilization(const struct report *report, const struct report_worker *worker)
{
    double end = report_end(report);
    return worker->slots > 0 && end > 0 ? worker->slot_s / (worker->slots * end) : NAN;
}

/* ---- for programs ---- */

static json_t *quantiles_json(const struct quantiles *of)
{
    return json_pack("{s:f, s:f, s:f}", "p50", of->p50, "p99", of->p99, "max", of->max);
}

static json_t *share_json(double share)
{
    return isnan(share) ? json_null() : json_real(share);
}

enum err report_json(const struct report *report, struct buf *out)
{
    json_t *workers = json_array();
    int failed = workers == NULL;
    double end = report_end(report);
    for (size_t i = 0; i < report->worker_count && !failed; i++) {
        const struct report_worker *worker = &report->workers[i];
        failed = json_array_append_new(
            workers,
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:o, s:o, s:o}", "id",
                      worker->id, "node", worker->node, "device", worker->device, "prompts",
                      (json_int_t)worker->prompts, "tokens", (json_int_t)worker->tokens,
                      "busy_seconds", worker->busy_s, "slot_seconds", worker->slot_s, "first_start",
                      worker->first_start, "last_end", worker->last_end, "slots",
                      worker->slots > 0 ? json_integer(worker->slots) : json_null(),
                      "utilization_ratio", share_json(report_utilization(report, worker)),
                      "gpu_utilization_ratio",
                      share_json(worker->gpu != NULL ? track_mean(worker->gpu, end) : NAN)));
    }
    double rate = report->seconds > 0 ? (double)report->tokens / report->seconds : 0;
    json_t *root =
        failed ? NULL
               : json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:O}", "sent",
                           (json_int_t)report->sent, "answered", (json_int_t)report->answered,
                           "failed", (json_int_t)report->failed, "duplicates",
                           (json_int_t)report->duplicates, "seconds", report->seconds,
                           "tokens_per_second", rate, "ttft_ms", quantiles_json(&report->ttft),
                           "latency_ms", quantiles_json(&report->latency), "workers", workers);
    enum err err = root == NULL ? err_set(ERR_NOMEM, "out of memory") : json_write(root, out);
    json_decref(workers);
    json_decref(root);
    return err;
}

/* ---- for people ---- */

void report_label(char out[REPORT_LABEL_SIZE], const char *node, const char *id)
{
    bool named = *node == '\0' || strstr(id, node) != NULL;
    snprintf(out, REPORT_LABEL_SIZE, "%s%s%s", named ? "" : node, named ? "" : "/", id);
}

#define WIDE         80
#define WIDE_FIGURES 59 /* the figures' columns */

static enum err table_draw(const struct report *report, const struct term_style *style,
                           int id_width, int device_width, struct buf *out)
{
    enum err err = buf_printf(out, "%s%-*s  %-*s %8s %8s %9s %9s %8s %8s%s\n", term_bold(style),
                              id_width, "worker", device_width, "device", "prompts", "tokens",
                              "busy s", "slot s", "first s", "last s", term_reset(style));
    for (size_t i = 0; i < report->worker_count && err == ERR_OK; i++) {
        const struct report_worker *worker = &report->workers[i];
        char id[REPORT_LABEL_SIZE];
        report_label(id, worker->node, worker->id);
        err = draw_text(out, id, id_width);
        if (err == ERR_OK)
            err = buf_append_text(out, "  ");
        if (err == ERR_OK)
            err = draw_text(out, worker->device, device_width);
        if (err == ERR_OK)
            err = buf_printf(out, " %8zu %8llu %9.2f %9.2f %8.2f %8.2f\n", worker->prompts,
                             (unsigned long long)worker->tokens, worker->busy_s, worker->slot_s,
                             worker->first_start, worker->last_end);
    }
    return err;
}

/* On a narrow terminal: who did how much. */
#define NARROW_FIGURES 26 /* the figures' columns */

static enum err narrow_table_draw(const struct report *report, const struct term_style *style,
                                  int id_width, struct buf *out)
{
    enum err err = buf_printf(out, "%s%-*s %7s %8s %8s%s\n", term_bold(style), id_width, "worker",
                              "prompts", "tokens", "busy s", term_reset(style));
    for (size_t i = 0; i < report->worker_count && err == ERR_OK; i++) {
        const struct report_worker *worker = &report->workers[i];
        char id[REPORT_LABEL_SIZE];
        report_label(id, worker->node, worker->id);
        err = draw_text(out, id, id_width);
        if (err == ERR_OK)
            err = buf_printf(out, " %7zu %8llu %8.1f\n", worker->prompts,
                             (unsigned long long)worker->tokens, worker->busy_s);
    }
    return err;
}

/* "busy time within 4.1% of the mean". */
static double deviation(const struct report *report, double (*figure)(const struct report_worker *))
{
    double sum = 0, worst = 0;
    for (size_t i = 0; i < report->worker_count; i++)
        sum += figure(&report->workers[i]);
    double mean = sum / (double)report->worker_count;
    for (size_t i = 0; i < report->worker_count && mean > 0; i++)
        worst = fmax(worst, fabs(figure(&report->workers[i]) / mean - 1));
    return worst * 100;
}

static double figure_busy(const struct report_worker *worker)
{
    return worker->busy_s;
}

static double figure_tokens(const struct report_worker *worker)
{
    return (double)worker->tokens;
}

static double figure_slots(const struct report_worker *worker)
{
    return worker->slot_s;
}

/* Lines that are broken at spaces where the terminal ends; `column`: where the first begins. */
static enum err sentences_draw(const struct term_style *style, const char *text, int column,
                               int indent, struct buf *out)
{
    char *lines = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&lines, &len);
    if (stream == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    wrap_print(stream, text, column, indent, style->width);
    enum err err =
        fclose(stream) == 0 ? buf_append(out, lines, len) : err_set(ERR_NOMEM, "out of memory");
    free(lines);
    return err;
}

static enum err spread_draw(const struct report *report, const struct term_style *style,
                            struct buf *out)
{
    double start_low = INFINITY, start_high = 0, end_low = INFINITY, end_high = 0;
    for (size_t i = 0; i < report->worker_count; i++) {
        const struct report_worker *worker = &report->workers[i];
        start_low = fmin(start_low, worker->first_start);
        start_high = fmax(start_high, worker->first_start);
        end_low = fmin(end_low, worker->last_end);
        end_high = fmax(end_high, worker->last_end);
    }
    char text[256];
    snprintf(text, sizeof text,
             "Spread: busy time within %.1f%% of the mean, tokens %.1f%%, slot-seconds %.1f%%;\n"
             "first starts %.2f s apart, last ends %.2f s apart",
             deviation(report, figure_busy), deviation(report, figure_tokens),
             deviation(report, figure_slots), start_high - start_low, end_high - end_low);
    return sentences_draw(style, text, 0, 8, out);
}

/* One line over time: a label, a level a column, and its mean in percent. */
static enum err levels_line(const struct term_style *style, const char *label, int id_width,
                            const double *cells, int columns, double mean, struct buf *out)
{
    char percent[FIGURE_SIZE] = "";
    enum err err = draw_text(out, label, id_width);
    if (!isnan(mean))
        figure_percent(percent, style, mean);
    if (err == ERR_OK)
        err = buf_append_text(out, style->utf8 ? " │" : " |");
    if (err == ERR_OK)
        err = draw_levels(out, style, cells, (size_t)columns);
    if (err == ERR_OK)
        err = buf_printf(out, "%s%5s\n", style->utf8 ? "│" : "|", percent);
    return err;
}

static enum err worker_timeline(const struct report *report, const struct report_worker *worker,
                                const struct term_style *style, int id_width, int columns,
                                struct buf *out)
{
    double cells[WRAP_WIDTH_MOST], end = report_end(report), full = worker->slots;
    char label[REPORT_LABEL_SIZE];
    spans_density(worker->spans, worker->prompts, end, cells, (size_t)columns);
    for (int c = 0; worker->slots == 0 && c < columns; c++)
        full = fmax(full, cells[c]);
    for (int c = 0; c < columns && full > 0; c++)
        cells[c] /= full;
    report_label(label, worker->node, worker->id);
    enum err err = levels_line(style, label, id_width, cells, columns,
                               report_utilization(report, worker), out);
    if (err != ERR_OK || worker->gpu == NULL)
        return err;
    track_cells(worker->gpu, end, cells, (size_t)columns);
    return levels_line(style, "  its GPU", id_width, cells, columns, track_mean(worker->gpu, end),
                       out);
}

/* The original's Figure 3: how busy each worker was over time. */
static enum err timeline_draw(const struct report *report, const struct term_style *style,
                              int id_width, struct buf *out)
{
    int columns = style->width - id_width - 3 - 5;
    unsigned least = report->workers[0].slots, most = least;
    if (columns < 10)
        columns = 10;
    for (size_t i = 1; i < report->worker_count; i++) {
        least = report->workers[i].slots < least ? report->workers[i].slots : least;
        most = report->workers[i].slots > most ? report->workers[i].slots : most;
    }
    char height[32] = "all of a worker's slots";
    if (least == 0)
        snprintf(height, sizeof height, "the most at once");
    else if (least == most)
        snprintf(height, sizeof height, "all %u slots", most);
    char title[64];
    snprintf(title, sizeof title, " (full height: %s)", height);
    enum err err =
        buf_printf(out, "\n%sUtilisation over time%s", term_bold(style), term_reset(style));
    if (err == ERR_OK)
        err = sentences_draw(style, title, 21, 0, out);
    for (size_t i = 0; i < report->worker_count && err == ERR_OK; i++)
        err = worker_timeline(report, &report->workers[i], style, id_width, columns, out);
    char last[32];
    snprintf(last, sizeof last, "%.1f s", report_end(report));
    if (err == ERR_OK)
        err = buf_printf(out, "%*s  0%*s\n", id_width, "", columns - 1, last);
    return err;
}

static enum err totals_draw(const struct report *report, const struct term_style *style,
                            struct buf *out)
{
    double rate = report->seconds > 0 ? (double)report->tokens / report->seconds : 0;
    const char *alarm = report->failed + report->duplicates > 0 ? term_red(style) : "";
    char text[256];
    snprintf(text, sizeof text, "%zu prompts sent, %zu answered, %zu failed, %zu duplicates",
             report->sent, report->answered, report->failed, report->duplicates);
    enum err err = buf_append_text(out, alarm);
    if (err == ERR_OK)
        err = sentences_draw(style, text, 0, 0, out);
    if (err == ERR_OK && *alarm != '\0')
        err = buf_append_text(out, term_reset(style));
    if (err != ERR_OK || report->answered == 0)
        return err;
    snprintf(text, sizeof text,
             "%.1f s, %llu tokens, %.0f tokens/s; first token after %.0f ms (p50), %.0f ms (p99);\n"
             "whole reply after %.0f ms (p50), %.0f ms (p99)",
             report->seconds, (unsigned long long)report->tokens, rate, report->ttft.p50,
             report->ttft.p99, report->latency.p50, report->latency.p99);
    return sentences_draw(style, text, 0, 0, out);
}

enum err report_draw(const struct report *report, const struct term_style *style, struct buf *out)
{
    enum err err = totals_draw(report, style, out);
    if (report->worker_count == 0 || err != ERR_OK)
        return err;
    int id_width = 6, device_width = 6;
    for (size_t i = 0; i < report->worker_count; i++) {
        const struct report_worker *worker = &report->workers[i];
        char label[REPORT_LABEL_SIZE];
        report_label(label, worker->node, worker->id);
        int id = (int)wrap_columns(label);
        int device = (int)wrap_columns(worker->device);
        id_width = id > id_width ? id : id_width;
        device_width = device > device_width ? device : device_width;
    }
    bool narrow = style->width < WIDE;
    int room = style->width - (narrow ? NARROW_FIGURES : WIDE_FIGURES + 6);
    if (id_width > room)
        id_width = room;
    if (id_width < 6)
        id_width = 6;
    if (device_width > style->width - WIDE_FIGURES - id_width)
        device_width = style->width - WIDE_FIGURES - id_width;
    if (device_width < 6)
        device_width = 6;
    err = buf_append_text(out, "\n");
    if (err == ERR_OK)
        err = narrow ? narrow_table_draw(report, style, id_width, out)
                     : table_draw(report, style, id_width, device_width, out);
    if (err == ERR_OK)
        err = spread_draw(report, style, out);
    if (err == ERR_OK)
        err = timeline_draw(report, style, id_width, out);
    return err;
}
