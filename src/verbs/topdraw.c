/*
 * topdraw.c - a head (queue, tokens, latency), and below it a list of nodes with their GPUs and
 * workers, of which a screen shows as much as fits.
 */
#include "verbs/topdraw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/wrap.h"
#include "verbs/fields.h"
#include "verbs/report.h"

#define HEAD_MAX     ((size_t)64 << 10)
#define LIST_MAX     ((size_t)8 << 20)
#define ID_LEAST     8
#define ID_MOST      24
#define BUSY_S       60 /* "busy" is the mean over so long */
#define HOT_C        80
#define HOTTER_C     90
#define NAME_COLS    10
#define LATENCY_COLS 39 /* two fit into 80 */

struct draw {
    const struct top *top;
    const struct term_style *style;
    double now;
    bool fresh;
    bool all_time; /* latencies since the gateways began */
    struct buf *out;
};

/* A text is of one moment: it has none. */
static void trail_add(const struct draw *draw, struct fields *line, int rank,
                      const struct top_trail *trail, double whole)
{
    if (!draw->all_time)
        fields_trail(line, rank, trail, whole)->colour = term_cyan(draw->style);
}

/* ---- the head ---- */

static enum err title_draw(const struct draw *draw, const char *clock)
{
    const struct top *top = draw->top;
    struct fields line;
    fields_init(&line, draw->style);
    fields_text(&line, 10, 0, "wyvern top")->colour = term_bold(draw->style);
    struct field *state = fields_text(&line, 9, 0, "%s",
                                      !draw->fresh      ? "no answer"
                                      : !top->connected ? "no broker"
                                                        : "up");
    state->colour = draw->fresh && top->connected ? term_green(draw->style) : term_red(draw->style);
    if (clock != NULL)
        fields_text(&line, 8, 1, "%s", clock);
    fields_text(&line, (int)wrap_columns(top->url), 2, "%s", top->url);
    if (top->model[0] != '\0')
        fields_text(&line, (int)wrap_columns(top->model), 3, "%s", top->model);
    return fields_draw(&line, 0, draw->out);
}

/* "3 nodes": as one field that is as wide as it is. */
static struct field *plain_add(struct fields *line, int rank, const char *text)
{
    return fields_text(line, (int)wrap_columns(text), rank, "%s", text);
}

static void plural_add(struct fields *line, int rank, size_t count, const char *what)
{
    char text[64];
    snprintf(text, sizeof text, "%zu %s%s", count, what, count == 1 ? "" : "s");
    plain_add(line, rank, text);
}

static enum err counts_draw(const struct draw *draw, const struct top_sums *sums)
{
    const struct top *top = draw->top;
    char text[96], active[FIGURE_SIZE], slots[FIGURE_SIZE];
    struct fields line;
    fields_init(&line, draw->style);
    plural_add(&line, 1, top->node_count + top->missed_nodes, "node");
    plural_add(&line, 1, sums->workers + top->missed_workers, "worker");
    figure_count(active, draw->style, draw->fresh ? (double)sums->ready : NAN);
    snprintf(text, sizeof text, "%s ready", active);
    struct field *ready = plain_add(&line, 1, text);
    ready->colour = sums->ready < sums->workers ? term_yellow(draw->style) : "";
    if (sums->gpus > 0)
        plural_add(&line, 3, sums->gpus, "GPU");
    figure_count(active, draw->style, draw->fresh ? sums->active : NAN);
    figure_count(slots, draw->style, sums->slots);
    snprintf(text, sizeof text, "%s of %s slots busy", active, slots);
    plain_add(&line, 2, text);
    plural_add(&line, 4, top->gateway_count, "gateway");
    plural_add(&line, 4, top->responders, "response worker");
    return fields_draw(&line, 0, draw->out);
}

static enum err queue_draw(const struct draw *draw)
{
    const struct top *top = draw->top;
    char waiting[FIGURE_SIZE], flight[FIGURE_SIZE], limit[FIGURE_SIZE];
    struct fields line;
    fields_init(&line, draw->style);
    figure_count(waiting, draw->style, draw->fresh ? top->waiting : NAN);
    figure_count(flight, draw->style, draw->fresh ? top->in_flight : NAN);
    figure_count(limit, draw->style, top->limit);
    fields_text(&line, NAME_COLS, 0, "queue")->colour = term_bold(draw->style);
    struct field *field = fields_text(&line, 13, 0, "%5s waiting", waiting);
    double full = (top->waiting + top->in_flight) / top->limit;
    field->colour = full >= 0.9   ? term_red(draw->style)
                    : full >= 0.5 ? term_yellow(draw->style)
                                  : "";
    char text[96];
    snprintf(text, sizeof text, "%s in flight", flight);
    fields_text(&line, 14, 1, "%s", text);
    snprintf(text, sizeof text, "of %s", limit);
    fields_text(&line, 8, 3, "%s", text);
    trail_add(draw, &line, 2, &top->waiting_trail, 0);
    return fields_draw(&line, 0, draw->out);
}

static enum err tokens_draw(const struct draw *draw, const struct top_sums *sums)
{
    char rate[FIGURE_SIZE], replies[FIGURE_SIZE], busy[FIGURE_SIZE];
    struct fields line;
    fields_init(&line, draw->style);
    figure_number(rate, draw->style, sums->tokens_per_s);
    figure_number(replies, draw->style, sums->replies_per_s);
    figure_percent(busy, draw->style, draw->fresh ? top_trail_get(&draw->top->busy, 0) : NAN);
    fields_text(&line, NAME_COLS, 0, "tokens/s")->colour = term_bold(draw->style);
    fields_text(&line, 13, 0, "%5s", rate);
    fields_text(&line, 14, 1, "%s replies/s", replies);
    fields_text(&line, 8, 3, "%s", "");
    trail_add(draw, &line, 2, &draw->top->token_trail, 0);
    enum err err = fields_draw(&line, 0, draw->out);
    if (err != ERR_OK)
        return err;
    fields_init(&line, draw->style);
    fields_text(&line, NAME_COLS, 0, "slots busy")->colour = term_bold(draw->style);
    fields_text(&line, 13, 0, "%5s", busy);
    fields_text(&line, 14, 1, "%s", "");
    fields_text(&line, 8, 3, "%s", "");
    trail_add(draw, &line, 2, &draw->top->busy, 1);
    return fields_draw(&line, 0, draw->out);
}

static void latency_add(const struct draw *draw, struct fields *line, const char *title,
                        enum top_latency which, int rank)
{
    struct top_buckets buckets;
    char half[FIGURE_SIZE], most[FIGURE_SIZE];
    top_latency_of(draw->top, which, draw->all_time, &buckets);
    figure_seconds(half, draw->style, top_buckets_quantile(&buckets, 0.5));
    figure_seconds(most, draw->style, top_buckets_quantile(&buckets, 0.99));
    fields_text(line, LATENCY_COLS, rank, "%-14s p50 %s%*s p99 %s", title, half,
                7 - (int)wrap_columns(half), "", most);
}

static enum err latency_draw(const struct draw *draw)
{
    static const struct {
        const char *title;
        enum top_latency which;
    } rows[] = {{"first token", TOP_TTFT},
                {"whole reply", TOP_E2E},
                {"between tokens", TOP_ITL},
                {"in the queue", TOP_QUEUE_TIME}};
    size_t each = draw->style->width >= 2 * LATENCY_COLS + 2 ? 2 : 1;
    size_t shown = each == 2 ? 4 : 2; /* a narrow screen is a small one */
    enum err err = ERR_OK;
    for (size_t i = 0; i < shown && err == ERR_OK; i += each) {
        struct fields line;
        fields_init(&line, draw->style);
        for (size_t k = i; k < i + each; k++)
            latency_add(draw, &line, rows[k].title, rows[k].which, k == i ? 0 : 1);
        if (i == 0 && each == 2)
            fields_text(&line, 24, 2, "%s",
                        draw->all_time ? "since the gateway began" : "of the last 60 s");
        err = fields_draw(&line, 0, draw->out);
    }
    return err;
}

/* What is wrong, where something is. */
static enum err trouble_draw(const struct draw *draw)
{
    const struct top *top = draw->top;
    char text[640] = "";
    if (top->why[0] != '\0' && !isnan(top->status_s))
        snprintf(text, sizeof text, "No answer for %.0f s: %s", draw->now - top->status_s,
                 top->why);
    else if (top->why[0] != '\0')
        snprintf(text, sizeof text, "%s", top->why);
    else if (isnan(top->status_s))
        snprintf(text, sizeof text, "Asking …");
    else if (!top->connected)
        snprintf(text, sizeof text, "The gateway can't reach its broker.");
    else if (top->missed_nodes + top->missed_workers > 0)
        snprintf(text, sizeof text, "%zu nodes and %zu workers are too many to show.",
                 top->missed_nodes, top->missed_workers);
    if (*text == '\0')
        return ERR_OK;
    enum err err = buf_append_text(draw->out, term_red(draw->style));
    if (err == ERR_OK)
        err = draw_text(draw->out, text, draw->style->width);
    if (err == ERR_OK)
        err = buf_append_text(draw->out, term_reset(draw->style));
    return err == ERR_OK ? buf_append_text(draw->out, "\n") : err;
}

static enum err head_draw(const struct draw *draw, const char *clock)
{
    struct top_sums sums;
    top_sum(draw->top, &sums);
    if (!draw->fresh)
        sums.active = sums.tokens_per_s = sums.replies_per_s = NAN;
    enum err err = title_draw(draw, clock);
    if (err == ERR_OK)
        err = trouble_draw(draw);
    if (err == ERR_OK)
        err = counts_draw(draw, &sums);
    if (err == ERR_OK)
        err = queue_draw(draw);
    if (err == ERR_OK)
        err = tokens_draw(draw, &sums);
    return err == ERR_OK ? latency_draw(draw) : err;
}

/* ---- the list ---- */

static int id_columns(const struct top *top)
{
    int most = ID_LEAST;
    for (size_t n = 0; n < top->node_count; n++) {
        for (size_t i = 0; i < top->nodes[n]->worker_count; i++) {
            int columns = (int)wrap_columns(top->nodes[n]->workers[i].id);
            most = columns > most ? columns : most;
        }
    }
    return most > ID_MOST ? ID_MOST : most;
}

/* Worker and heading have the same fields. */
static enum err heading_draw(const struct draw *draw, int id_width)
{
    const char *dim = term_dim(draw->style);
    struct fields line;
    fields_init(&line, draw->style);
    fields_text(&line, id_width, 0, "worker");
    fields_text(&line, 8, 2, "state");
    fields_text(&line, 10, 5, "%s", "");
    fields_text(&line, 5, 1, "slots")->right = true;
    fields_text(&line, 4, 4, "busy")->right = true;
    fields_text(&line, 7, 1, "tok/s")->right = true;
    fields_text(&line, 7, 6, "done")->right = true;
    fields_text(&line, 6, 7, "failed")->right = true;
    fields_text(&line, 7, 8, "waiting")->right = true;
    fields_text(&line, 5, 9, "cache")->right = true;
    fields_text(&line, 6, 10, "reused")->right = true;
    fields_text(&line, 8, 11, "restarts")->right = true;
    fields_text(&line, 12, 12, "device");
    fields_text(&line, 20, 13, "model");
    trail_add(draw, &line, 3, NULL, 1);
    if (!draw->all_time)
        snprintf(line.items[line.count - 1].text, FIELD_TEXT_SIZE, "history");
    for (size_t i = 0; i < line.count; i++)
        line.items[i].colour = dim;
    return fields_draw(&line, 2, draw->out);
}

static const char *state_colour(const struct term_style *style, const char *state)
{
    if (strcmp(state, "ready") == 0)
        return term_green(style);
    return strcmp(state, "loading") == 0 || strcmp(state, "draining") == 0 ? term_yellow(style)
                                                                           : term_red(style);
}

static void count_add(const struct draw *draw, struct fields *line, int columns, int rank,
                      double value)
{
    char text[FIGURE_SIZE];
    figure_count(text, draw->style, value);
    fields_text(line, columns, rank, "%s", text)->right = true;
}

static void percent_add(const struct draw *draw, struct fields *line, int columns, int rank,
                        double value)
{
    char text[FIGURE_SIZE];
    figure_percent(text, draw->style, value);
    fields_text(line, columns, rank, "%s", text)->right = true;
}

static enum err worker_draw(const struct draw *draw, const struct top_worker *worker, int id_width)
{
    const struct term_style *style = draw->style;
    double active = draw->fresh ? worker->active : NAN;
    char number[FIGURE_SIZE], slots[FIGURE_SIZE];
    struct fields line;
    fields_init(&line, style);
    fields_text(&line, id_width, 0, "%s", worker->id);
    fields_text(&line, 8, 2, "%s", draw->fresh ? worker->state : "?")->colour =
        draw->fresh ? state_colour(style, worker->state) : "";
    fields_bar(&line, 10, 5, active / worker->slots)->colour = term_green(style);
    figure_count(number, style, active);
    figure_count(slots, style, worker->slots);
    fields_text(&line, 5, 1, "%s/%s", number, slots)->right = true;
    percent_add(draw, &line, 4, 4, top_trail_mean(&worker->busy, BUSY_S));
    figure_number(number, style, draw->fresh ? top_rate_now(&worker->token_rate) : NAN);
    fields_text(&line, 7, 1, "%s", number)->right = true;
    count_add(draw, &line, 7, 6, worker->prompts);
    count_add(draw, &line, 6, 7, worker->failed);
    if (worker->failed > 0)
        line.items[line.count - 1].colour = term_red(style);
    count_add(draw, &line, 7, 8, worker->waiting);
    percent_add(draw, &line, 5, 9, worker->kv_usage);
    percent_add(draw, &line, 6, 10, top_worker_hits(worker));
    count_add(draw, &line, 8, 11, worker->restarts);
    fields_text(&line, 12, 12, "%s", worker->device);
    fields_text(&line, 20, 13, "%s", worker->model);
    trail_add(draw, &line, 3, &worker->busy, 1);
    return fields_draw(&line, 2, draw->out);
}

static enum err gpu_draw(const struct draw *draw, const struct top_gpu *gpu, int id_width)
{
    const struct term_style *style = draw->style;
    char text[FIGURE_SIZE], size[FIGURE_SIZE];
    bool lost = gpu->up <= 0; /* false for NAN */
    struct fields line;
    fields_init(&line, style);
    fields_text(&line, id_width, 0, "gpu %s", gpu->index);
    fields_text(&line, 8, 2, "%s",
                lost          ? "lost"
                : gpu->up > 0 ? "up"
                              : "?")
        ->colour = lost          ? term_red(style)
                   : gpu->up > 0 ? term_green(style)
                                 : "";
    fields_bar(&line, 10, 5, gpu->utilization)->colour = term_green(style);
    figure_percent(text, style, gpu->utilization);
    fields_text(&line, 5, 1, "%s", text)->right = true;
    percent_add(draw, &line, 4, 4, top_trail_mean(&gpu->busy, BUSY_S));
    figure_bytes(text, style, gpu->memory_used);
    figure_bytes(size, style, gpu->memory_size);
    struct field *memory = fields_text(&line, 20, 1, "%s / %s", text, size);
    memory->right = true;
    memory->colour = gpu->memory_used > 0.95 * gpu->memory_size ? term_yellow(style) : "";
    figure_count(text, style, gpu->temperature);
    fields_text(&line, 6, 7, "%s %s", text, style->utf8 ? "°C" : "C")->colour =
        gpu->temperature >= HOTTER_C ? term_red(style)
        : gpu->temperature >= HOT_C  ? term_yellow(style)
                                     : "";
    figure_count(text, style, gpu->power);
    fields_text(&line, 6, 8, "%s W", text)->right = true;
    fields_text(&line, 26, 9, "%s", gpu->name[0] != '\0' ? gpu->name : gpu->uuid);
    trail_add(draw, &line, 3, &gpu->busy, 1);
    return fields_draw(&line, 2, draw->out);
}

static enum err node_draw(const struct draw *draw, const struct top_node *node, int id_width)
{
    const struct term_style *style = draw->style;
    char text[FIGURE_SIZE], size[FIGURE_SIZE];
    struct fields line;
    fields_init(&line, style);
    fields_text(&line, id_width + 2, 0, "%s", node->name)->colour = term_bold(style);
    if (node->metrics_why[0] != '\0' && !(draw->now - node->metrics_s < TOP_STALE_S))
        fields_text(&line, 18, 1, "metrics: no answer")->colour = term_red(style);
    figure_number(text, style, node->load1);
    fields_text(&line, 10, 1, "load %s", text);
    figure_percent(text, style, top_node_cpu(node));
    fields_text(&line, 8, 2, "cpu %s", text);
    figure_bytes(text, style, node->memory_size - node->memory_available);
    figure_bytes(size, style, node->memory_size);
    fields_text(&line, 24, 4, "mem %s / %s", text, size);
    figure_bytes(text, style, top_rate_now(&node->receive_rate));
    figure_bytes(size, style, top_rate_now(&node->send_rate));
    fields_text(&line, 36, 5, "net %s/s in, %s/s out", text, size);
    fields_text(&line, (int)wrap_columns(node->address), 6, "%s", node->address);
    enum err err = fields_draw(&line, 0, draw->out);
    for (size_t i = 0; i < node->gpu_count && err == ERR_OK; i++)
        err = gpu_draw(draw, &node->gpus[i], id_width);
    for (size_t i = 0; i < node->worker_count && err == ERR_OK; i++)
        err = worker_draw(draw, &node->workers[i], id_width);
    return err;
}

static enum err list_draw(const struct draw *draw)
{
    int id_width = id_columns(draw->top);
    enum err err = ERR_OK;
    for (size_t i = 0; i < draw->top->node_count && err == ERR_OK; i++)
        err = node_draw(draw, draw->top->nodes[i], id_width);
    return err;
}

/* ---- the screen ---- */

static size_t lines_count(const struct buf *text)
{
    size_t lines = 0;
    for (size_t i = 0; i < text->len; i++)
        lines += text->data[i] == '\n';
    return lines;
}

/* Lines first … first + count - 1 of text. */
static enum err lines_copy(const struct buf *text, size_t first, size_t count, struct buf *out)
{
    size_t line = 0, start = 0, end = text->len;
    for (size_t i = 0; i < text->len; i++) {
        if (text->data[i] != '\n')
            continue;
        line++;
        if (line == first)
            start = i + 1;
        if (line == first + count) {
            end = i + 1;
            break;
        }
    }
    return end > start && count > 0 ? buf_append(out, text->data + start, end - start) : ERR_OK;
}

static enum err foot_draw(const struct draw *draw, const struct top_screen *screen, size_t total)
{
    struct fields line;
    fields_init(&line, draw->style);
    plain_add(&line, 1, "q leaves");
    if (total > screen->page) {
        char text[96];
        snprintf(text, sizeof text, "lines %zu to %zu of %zu", screen->scroll + 1,
                 screen->scroll + screen->page, total);
        plain_add(&line, 0, text);
        plain_add(&line, 2, draw->style->utf8 ? "↑ ↓ PgUp PgDn Home End" : "arrows PgUp PgDn");
    }
    for (size_t i = 0; i < line.count; i++)
        line.items[i].colour = term_dim(draw->style);
    return fields_draw(&line, 0, draw->out);
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

enum err top_draw_screen(const struct top *top, struct top_screen *screen, double now,
                         const char *clock, struct buf *out)
{
    struct buf head, list, foot;
    struct draw draw = {.top = top, .style = &screen->style, .now = now, .out = &head};
    size_t height = screen->height > 1 ? (size_t)screen->height : 1;
    draw.fresh = top_is_fresh(top, now);
    buf_init(&head, HEAD_MAX);
    buf_init(&list, LIST_MAX);
    buf_init(&foot, HEAD_MAX);
    enum err err = head_draw(&draw, clock);
    if (err == ERR_OK)
        err = heading_draw(&draw, id_columns(top));
    draw.out = &list;
    if (err == ERR_OK)
        err = list_draw(&draw);
    if (err != ERR_OK)
        goto out;
    size_t total = lines_count(&list), above = lines_count(&head);
    /* Of a very small screen the list gets a third at least. */
    if (above + 1 + height / 3 > height)
        above = height > 1 + height / 3 ? height - 1 - height / 3 : 0;
    screen->page = height > above + 1 ? height - above - 1 : 0;
    screen->page = min_size(screen->page, total);
    screen->scroll = min_size(screen->scroll, total - screen->page);
    draw.out = &foot;
    err = foot_draw(&draw, screen, total);
    if (err == ERR_OK)
        err = lines_copy(&head, 0, above, out);
    if (err == ERR_OK)
        err = lines_copy(&list, screen->scroll, screen->page, out);
    if (err == ERR_OK)
        err = buf_append(out, buf_text(&foot), foot.len);
out:
    buf_done(&head);
    buf_done(&list);
    buf_done(&foot);
    return err;
}

enum err top_draw_text(const struct top *top, const struct term_style *style, double now,
                       struct buf *out)
{
    struct draw draw = {.top = top,
                        .style = style,
                        .now = now,
                        .fresh = top_is_fresh(top, now),
                        .all_time = true,
                        .out = out};
    enum err err = head_draw(&draw, NULL);
    if (err == ERR_OK)
        err = heading_draw(&draw, id_columns(top));
    return err == ERR_OK ? list_draw(&draw) : err;
}
