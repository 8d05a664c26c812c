#include "verbs/loadview.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "config/wrap.h"
#include "wire/json.h"

#define DRAW_EACH_NS  (250 * NS_PER_MS)
#define PLAIN_EACH_NS (5 * NS_PER_S)

#define NARROW_FIGURES 22 /* columns: " 1234 done 123 running" */

enum err load_view_init(struct load_view *view, bool quiet)
{
    memset(view, 0, sizeof *view);
    view->quiet = quiet;
    view->live.style = term_style_of(stderr);
    view->workers = calloc(VIEW_WORKERS_MAX, sizeof *view->workers);
    return view->workers != NULL ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
}

void load_view_done(struct load_view *view)
{
    if (view == NULL)
        return;
    free(view->workers);
    view->workers = NULL;
    view->worker_count = 0;
}

/* NULL when there are too many to draw. */
static struct view_worker *worker_of(struct load_view *view, const char *node, const char *id)
{
    for (size_t i = 0; i < view->worker_count; i++) {
        struct view_worker *worker = &view->workers[i];
        if (strcmp(worker->id, id) == 0 && strcmp(worker->node, node) == 0)
            return worker;
    }
    if (view->worker_count == VIEW_WORKERS_MAX)
        return NULL;
    struct view_worker *worker = &view->workers[view->worker_count++];
    memset(worker, 0, sizeof *worker);
    snprintf(worker->id, sizeof worker->id, "%s", id);
    snprintf(worker->node, sizeof worker->node, "%s", node);
    return worker;
}

static void worker_take(struct load_view *view, const char *node, const json_t *each)
{
    char node_name[REPORT_NAME_MAX], id[REPORT_NAME_MAX];
    snprintf(node_name, sizeof node_name, "%s", node);
    json_text_copy(each, "id", id, sizeof id);
    struct view_worker *worker = worker_of(view, node_name, id);
    if (worker == NULL)
        return;
    worker->slots = (unsigned)json_uint(each, "slots", 0);
    worker->running = (unsigned)json_uint(each, "active", 0);
    worker->tokens = json_uint(each, "tokens", 0);
    if (!view->has_status || worker->tokens < worker->tokens_before) /* new, or it began anew */
        worker->tokens_before = view->has_status ? 0 : worker->tokens;
    worker->seen = true;
}

void load_view_status(struct load_view *view, const json_t *status)
{
    for (size_t i = 0; i < view->worker_count; i++)
        view->workers[i].seen = false;
    const json_t *nodes = json_object_get(status, "nodes");
    for (size_t n = 0; n < json_array_size(nodes); n++) {
        const json_t *node = json_array_get(nodes, n);
        const json_t *workers = json_object_get(node, "workers");
        for (size_t w = 0; w < json_array_size(workers); w++)
            worker_take(view, json_text(node, "name", "?"), json_array_get(workers, w));
    }
    for (size_t i = 0; i < view->worker_count; i++) {
        if (!view->workers[i].seen)
            view->workers[i].running = 0;
    }
    view->has_status = true;
}

void load_view_answer(struct load_view *view, const struct outcome *outcome)
{
    struct view_worker *worker = worker_of(view, outcome->node, outcome->worker);
    if (worker == NULL)
        return;
    worker->done++;
    worker->done_tokens += outcome->tokens;
}

unsigned load_view_slots(const struct load_view *view, const char *node, const char *id)
{
    for (size_t i = 0; i < view->worker_count; i++) {
        const struct view_worker *worker = &view->workers[i];
        if (strcmp(worker->id, id) == 0 && strcmp(worker->node, node) == 0)
            return worker->slots;
    }
    return 0;
}

static uint64_t worker_tokens(const struct view_worker *worker)
{
    uint64_t own = worker->tokens - worker->tokens_before;
    return own > worker->done_tokens ? own : worker->done_tokens;
}

static enum err head_write(const struct load_counts *counts, uint64_t tokens, struct buf *out)
{
    size_t waiting = counts->total - counts->answered - counts->failed;
    return buf_printf(out, "%zu of %zu answered, %zu to come, %zu failed; %llu tokens, %.0f s",
                      counts->answered, counts->total, waiting, counts->failed,
                      (unsigned long long)tokens, counts->seconds);
}

/* A line that is wrapped can't be drawn over: without room for a bar the line is cut before that.
 */
static enum err narrow_write(const struct load_view *view, const struct view_worker *worker,
                             int id_width, struct buf *out)
{
    int room = view->live.style.width - 1 - NARROW_FIGURES;
    char id[REPORT_LABEL_SIZE];
    report_label(id, worker->node, worker->id);
    id_width = id_width > room ? room : id_width;
    enum err err = id_width > 0 ? draw_text(out, id, id_width) : ERR_OK;
    if (err == ERR_OK)
        err = buf_printf(out, " %4zu done %3u running\n", worker->done, worker->running);
    return err;
}

static enum err worker_write(const struct load_view *view, const struct view_worker *worker,
                             double share, int id_width, struct buf *out)
{
    char id[REPORT_LABEL_SIZE];
    int columns = view->live.style.width - id_width - 42;
    if (columns < 4)
        return narrow_write(view, worker, id_width, out);
    report_label(id, worker->node, worker->id);
    enum err err = buf_append_text(out, "  ");
    if (err == ERR_OK)
        err = draw_text(out, id, id_width);
    if (err == ERR_OK)
        err = buf_append_text(out, " ");
    if (err == ERR_OK)
        err = draw_bar(out, &view->live.style, (double)worker->done, worker->running, share,
                       columns < 60 ? columns : 60);
    if (err == ERR_OK)
        err = buf_printf(out, " %4zu done %3u running %7llu tokens\n", worker->done,
                         worker->running, (unsigned long long)worker_tokens(worker));
    return err;
}

static void bars_draw(struct load_view *view, const struct load_counts *counts)
{
    uint64_t tokens = 0;
    bool ended = counts->answered + counts->failed >= counts->total;
    double share = view->worker_count > 0 ? (double)counts->total / (double)view->worker_count : 1;
    int id_width = 6;
    for (size_t i = 0; i < view->worker_count; i++) {
        struct view_worker *worker = &view->workers[i];
        if (ended)
            worker->running = 0; /* the last status is older than the last reply */
        tokens += worker_tokens(worker);
        if ((double)(worker->done + worker->running) > share)
            share = (double)(worker->done + worker->running);
        char label[REPORT_LABEL_SIZE];
        report_label(label, worker->node, worker->id);
        int len = (int)wrap_columns(label);
        id_width = len > id_width ? len : id_width;
    }
    if (id_width > 24)
        id_width = 24;
    struct buf head, frame;
    buf_init(&head, 4096);
    buf_init(&frame, (size_t)1 << 20);
    enum err err = head_write(counts, tokens > counts->tokens ? tokens : counts->tokens, &head);
    if (err == ERR_OK)
        err = draw_text(&frame, buf_text(&head), view->live.style.width - 1);
    if (err == ERR_OK)
        err = buf_append_text(&frame, "\n");
    for (size_t i = 0; i < view->worker_count && i < 32 && err == ERR_OK; i++)
        err = worker_write(view, &view->workers[i], share, id_width, &frame);
    if (err == ERR_OK)
        term_live_draw(&view->live, &frame);
    buf_done(&head);
    buf_done(&frame);
}

/* Where nothing can be drawn over: one line, the workers' answers behind it. */
static void line_draw(struct load_view *view, const struct load_counts *counts)
{
    struct buf line;
    buf_init(&line, 65536);
    enum err err = head_write(counts, counts->tokens, &line);
    for (size_t i = 0; i < view->worker_count && err == ERR_OK; i++) {
        char label[REPORT_LABEL_SIZE];
        report_label(label, view->workers[i].node, view->workers[i].id);
        err = buf_printf(&line, "%s %s %zu", i == 0 ? ";" : ",", label, view->workers[i].done);
    }
    if (err == ERR_OK)
        (void)(term_text(stderr, buf_text(&line), line.len) && fputc('\n', stderr));
    buf_done(&line);
}

void load_view_draw(struct load_view *view, const struct load_counts *counts, bool at_once)
{
    if (view->quiet)
        return;
    int64_t now = clock_mono_ns();
    int64_t each = view->live.style.redraw ? DRAW_EACH_NS : PLAIN_EACH_NS;
    if (!at_once && now - view->drawn_ns < each)
        return;
    view->drawn_ns = now;
    if (view->live.style.redraw)
        bars_draw(view, counts);
    else
        line_draw(view, counts);
}
