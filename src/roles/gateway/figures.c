#include "roles/gateway/figures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "roles/roles.h"

static const double ttft_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                     1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double itl_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                    .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double e2e_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                    30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};

#define HISTOGRAM_MAX 32 /* buckets of the largest */
#define BOUNDS(array) .buckets = (array), .bucket_count = sizeof(array) / sizeof *(array)

enum row {
    ROW_BUILD,
    ROW_ACCEPTED,
    ROW_REFUSED,
    ROW_ENDED,
    ROW_READERS_LEFT,
    ROW_PROMPT_TOKENS,
    ROW_REPLY_TOKENS,
    ROW_TTFT,
    ROW_GAP,
    ROW_E2E,
    ROW_QUEUE_TIME,
    ROW_PREFILL_TIME,
    ROW_DECODE_TIME,
    ROW_REDELIVERIES,
    ROW_DEAD_LETTERS,
    ROW_OPEN,
    ROW_WAITING,
    ROW_IN_FLIGHT,
    ROW_QUEUE_LIMIT,
    ROW_WORKERS_READY,
    ROW_SLOTS,
    ROW_BROKER,
    ROW_STORAGE,
    ROW_HTTP_RESPONSES,
    ROW_HTTP_CONNECTIONS,
    ROW_COUNT
};

static const struct metric rows[ROW_COUNT] = {
    [ROW_BUILD] = {.name = "wyvern_build_info",
                   METRIC_GAUGE,
                   "Version of this process; always 1.",
                   .labels = {"version", "role"}},
    [ROW_ACCEPTED] = {.name = "wyvern_prompts_accepted_total",
                      METRIC_COUNTER,
                      "Prompts that the broker has on disk."},
    [ROW_REFUSED] = {.name = "wyvern_prompts_refused_total",
                     METRIC_COUNTER,
                     "Prompts not accepted, by reason.",
                     .labels = {"reason"}},
    [ROW_ENDED] = {.name = "wyvern_replies_total",
                   METRIC_COUNTER,
                   "Replies that ended, by how.",
                   .labels = {"model", "status", "finish_reason"}},
    [ROW_READERS_LEFT] = {.name = "wyvern_readers_left_total",
                          METRIC_COUNTER,
                          "Readers that went away before their reply was whole."},
    [ROW_PROMPT_TOKENS] = {.name = "wyvern_prompt_tokens_total",
                           METRIC_COUNTER,
                           "Tokens of prompts whose replies ended.",
                           .labels = {"model"}},
    [ROW_REPLY_TOKENS] = {.name = "wyvern_generation_tokens_total",
                          METRIC_COUNTER,
                          "Tokens of replies that ended.",
                          .labels = {"model"}},
    [ROW_TTFT] = {.name = "wyvern_time_to_first_token_seconds",
                  METRIC_HISTOGRAM,
                  "From the request's arrival to its first piece, streamed replies.",
                  .labels = {"model"},
                  BOUNDS(ttft_bounds)},
    [ROW_GAP] = {.name = "wyvern_inter_token_latency_seconds",
                 METRIC_HISTOGRAM,
                 "Between two pieces of a streamed reply as they are handed to its reader; a piece "
                 "is one token, or several that came at once.",
                 .labels = {"model"},
                 BOUNDS(itl_bounds)},
    [ROW_E2E] =
        {.name = "wyvern_e2e_request_latency_seconds",
         METRIC_HISTOGRAM,
         "From acceptance to the reply's end; finish_reason is stop or length, or how a reply "
         "ended that was not completed.",
         .labels = {"model", "finish_reason"},
         BOUNDS(e2e_bounds)},
    [ROW_QUEUE_TIME] = {.name = "wyvern_request_queue_time_seconds",
                        METRIC_HISTOGRAM,
                        "From acceptance to a worker's start.",
                        .labels = {"model"},
                        BOUNDS(e2e_bounds)},
    [ROW_PREFILL_TIME] =
        {.name = "wyvern_request_prefill_time_seconds",
         METRIC_HISTOGRAM,
         "From the first token of the prompt computed to the first of the reply, at "
         "the worker that completed it.",
         .labels = {"model"},
         BOUNDS(e2e_bounds)},
    [ROW_DECODE_TIME] = {.name = "wyvern_request_decode_time_seconds",
                         METRIC_HISTOGRAM,
                         "From the first token of the reply to its last, at the worker that "
                         "completed it.",
                         .labels = {"model"},
                         BOUNDS(e2e_bounds)},
    [ROW_REDELIVERIES] = {.name = "wyvern_redeliveries_total",
                          METRIC_COUNTER,
                          "Times that a further worker took a prompt over."},
    [ROW_DEAD_LETTERS] = {.name = "wyvern_dead_letters_total",
                          METRIC_COUNTER,
                          "Prompts put aside because workers died of them."},
    [ROW_OPEN] = {.name = "wyvern_replies_open",
                  METRIC_GAUGE,
                  "Requests being answered by this gateway."},
    [ROW_WAITING] = {.name = "wyvern_queue_waiting", METRIC_GAUGE, "Prompts waiting for a worker."},
    [ROW_IN_FLIGHT] = {.name = "wyvern_queue_in_flight",
                       METRIC_GAUGE,
                       "Prompts in workers' hands."},
    [ROW_QUEUE_LIMIT] = {.name = "wyvern_queue_limit",
                         METRIC_GAUGE,
                         "Bound on prompts waiting and in flight together."},
    [ROW_WORKERS_READY] = {.name = "wyvern_workers_ready",
                           METRIC_GAUGE,
                           "Inference workers that can take a prompt."},
    [ROW_SLOTS] = {.name = "wyvern_slots_ready", METRIC_GAUGE, "Slots of ready workers together."},
    [ROW_BROKER] = {.name = "wyvern_broker_reachable",
                    METRIC_GAUGE,
                    "1 while the broker is connected."},
    [ROW_STORAGE] = {.name = "wyvern_storage_used_ratio",
                     METRIC_GAUGE,
                     "Share of a stream's disk space in use; from 0.9 on no prompts are accepted "
                     "(OBJECTS: no files and batches).",
                     .labels = {"stream"}},
    [ROW_HTTP_RESPONSES] = {.name = "wyvern_http_responses_total",
                            METRIC_COUNTER,
                            "HTTP responses by class.",
                            .labels = {"class"}},
    [ROW_HTTP_CONNECTIONS] = {.name = "wyvern_http_connections",
                              METRIC_GAUGE,
                              "Open HTTP connections."},
};

const struct metric *role_gateway_metrics(size_t *count)
{
    *count = ROW_COUNT;
    return rows;
}

struct figures {
    struct metrics *metrics;
    const char *model;
};

/* A figure that can't be kept (out of memory) is missed, never wrong. */
#define KEEP(call)                                                                                 \
    do {                                                                                           \
        if ((call) != ERR_OK) {                                                                    \
        }                                                                                          \
    } while (0)

static const char *const finish_reasons[] = {"stop", "length"};

/* For the label: completed replies end in one of two ways, whatever the record says. */
static const char *finish_label(const struct reply *record)
{
    if (record->status != REPLY_COMPLETED)
        return reply_status_name(record->status);
    return finish_reasons[strcmp(record->finish_reason, "length") == 0];
}

/* Series that are there from the start: a rate needs the first increase too. */
static void begin_series(struct figures *figures)
{
    static const enum row histograms[] = {ROW_TTFT, ROW_GAP, ROW_QUEUE_TIME, ROW_PREFILL_TIME,
                                          ROW_DECODE_TIME};
    static const uint64_t none[HISTOGRAM_MAX + 1] = {0};
    struct metrics *m = figures->metrics;
    for (size_t i = 0; i < sizeof histograms / sizeof *histograms; i++)
        KEEP(metrics_set_histogram(m, histograms[i], &figures->model, none, 0));
    for (size_t i = 0; i < 2; i++) {
        const char *labels[] = {figures->model, finish_reasons[i]};
        const char *ended[] = {figures->model, "completed", finish_reasons[i]};
        KEEP(metrics_set_histogram(m, ROW_E2E, labels, none, 0));
        KEEP(metrics_add(m, ROW_ENDED, ended, 0));
    }
    const char *failed[] = {figures->model, "failed", ""};
    KEEP(metrics_add(m, ROW_ENDED, failed, 0));
    KEEP(metrics_add(m, ROW_PROMPT_TOKENS, &figures->model, 0));
    KEEP(metrics_add(m, ROW_REPLY_TOKENS, &figures->model, 0));
    KEEP(metrics_add(m, ROW_REDELIVERIES, NULL, 0));
    KEEP(metrics_add(m, ROW_DEAD_LETTERS, NULL, 0));
}

enum err figures_new(struct figures **out, const char *model)
{
    struct figures *figures = calloc(1, sizeof *figures);
    if (figures == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = metrics_new(&figures->metrics, rows, ROW_COUNT);
    if (err != ERR_OK) {
        free(figures);
        return err;
    }
    struct metrics *m = figures->metrics;
    figures->model = model;
    begin_series(figures);
    KEEP(metrics_set(m, ROW_BUILD, (const char *[]){WYVERN_VERSION, "gateway"}, 1));
    KEEP(metrics_add(m, ROW_ACCEPTED, NULL, 0));
    KEEP(metrics_add(m, ROW_READERS_LEFT, NULL, 0));
    static const char *const reasons[] = {"queue_full",     "unavailable",  "draining",
                                          "invalid",        "storage_full", "unauthorized",
                                          "foreign_origin", "busy"};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        KEEP(metrics_add(m, ROW_REFUSED, &reasons[i], 0));
    *out = figures;
    return ERR_OK;
}

void figures_free(struct figures *figures)
{
    if (figures == NULL)
        return;
    metrics_free(figures->metrics);
    free(figures);
}

void figures_accepted(struct figures *figures)
{
    KEEP(metrics_add(figures->metrics, ROW_ACCEPTED, NULL, 1));
}

void figures_refused(struct figures *figures, const char *why)
{
    KEEP(metrics_add(figures->metrics, ROW_REFUSED, &why, 1));
}

void figures_first_piece(struct figures *figures, double seconds)
{
    KEEP(metrics_observe(figures->metrics, ROW_TTFT, &figures->model, seconds));
}

void figures_next_piece(struct figures *figures, double seconds)
{
    KEEP(metrics_observe(figures->metrics, ROW_GAP, &figures->model, seconds));
}

void figures_given_again(struct figures *figures, unsigned again)
{
    KEEP(metrics_add(figures->metrics, ROW_REDELIVERIES, NULL, again));
}

void figures_reader_left(struct figures *figures)
{
    KEEP(metrics_add(figures->metrics, ROW_READERS_LEFT, NULL, 1));
}

void figures_ended(struct figures *figures, const struct reply *record)
{
    struct metrics *m = figures->metrics;
    const char *model = figures->model;
    bool completed = record->status == REPLY_COMPLETED;
    const char *reason = finish_label(record), *both[] = {model, reason};
    const char *ended[] = {model, reply_status_name(record->status), completed ? reason : ""};
    KEEP(metrics_add(m, ROW_ENDED, ended, 1));
    KEEP(metrics_add(m, ROW_PROMPT_TOKENS, &model, (double)record->prompt_tokens));
    KEEP(metrics_add(m, ROW_REPLY_TOKENS, &model, (double)record->reply_tokens));
    KEEP(metrics_add(m, ROW_DEAD_LETTERS, NULL, strcmp(record->error_code, "worker_died") == 0));
    if (completed && record->prompt_ms >= 0 && record->decode_ms >= 0) {
        KEEP(metrics_observe(m, ROW_PREFILL_TIME, &model, record->prompt_ms / MS_PER_S));
        KEEP(metrics_observe(m, ROW_DECODE_TIME, &model, record->decode_ms / MS_PER_S));
    }
    if (record->accepted_at <= 0)
        return;
    if (record->finished_at >= record->accepted_at)
        KEEP(metrics_observe(m, ROW_E2E, both, record->finished_at - record->accepted_at));
    if (record->started_at >= record->accepted_at)
        KEEP(metrics_observe(m, ROW_QUEUE_TIME, &model, record->started_at - record->accepted_at));
}

/* What we know from the broker alone: while it is away that is old, and not shown. */
static void write_heard(struct metrics *m, const struct figures_now *now)
{
    metrics_clear(m, ROW_WORKERS_READY);
    metrics_clear(m, ROW_SLOTS);
    metrics_clear(m, ROW_STORAGE);
    if (!now->broker_connected)
        return;
    KEEP(metrics_set(m, ROW_WORKERS_READY, NULL, now->ready_workers));
    KEEP(metrics_set(m, ROW_SLOTS, NULL, now->slots));
    for (unsigned i = 0; i < ROOM_STREAMS; i++) {
        const char *stream;
        double used = room_used(now->room, i, &stream);
        if (used >= 0)
            KEEP(metrics_set(m, ROW_STORAGE, &stream, used));
    }
}

enum err figures_write(struct figures *figures, const struct figures_now *now,
                       enum metrics_format format, struct buf *out)
{
    struct metrics *m = figures->metrics;
    metrics_clear(m, ROW_WAITING);
    metrics_clear(m, ROW_IN_FLIGHT);
    metrics_clear(m, ROW_QUEUE_LIMIT);
    if (now->depth_known) {
        KEEP(metrics_set(m, ROW_WAITING, NULL, (double)now->depth.waiting));
        KEEP(metrics_set(m, ROW_IN_FLIGHT, NULL, (double)now->depth.in_flight));
        KEEP(metrics_set(m, ROW_QUEUE_LIMIT, NULL, (double)now->depth.limit));
    }
    KEEP(metrics_set(m, ROW_OPEN, NULL, now->open_replies));
    KEEP(metrics_set(m, ROW_BROKER, NULL, now->broker_connected));
    KEEP(metrics_set(m, ROW_HTTP_CONNECTIONS, NULL, (double)now->http->connections_now));
    write_heard(m, now);
    for (int i = 1; i <= 5; i++) {
        char class[] = "0xx";
        class[0] = (char)('0' + i);
        const char *value = class;
        KEEP(metrics_set(m, ROW_HTTP_RESPONSES, &value, (double)now->http->responses_by_class[i]));
    }
    return metrics_write(m, format, out);
}
