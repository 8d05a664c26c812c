/*
 * batch.c - the lines of a file, each answered once: however often it is stopped or killed, and
 * however often the service is.  One thread; http_set runs what is open.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "verbs/apiclient.h"
#include "verbs/batchjob.h"
#include "verbs/batchout.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define PARALLEL_DEFAULT 4 /* where the service does not tell its slots */
#define PARALLEL_MOST    256
#define AHEAD            8 /* --ordered: so many times the open ones may wait for the first */
#define POLL_MS          100
#define DRAW_NS          (500 * NS_PER_MS)
#define AWAY_S           600 /* nobody answers for so long: leave */
#define ANSWER_MAX       ((size_t)256 << 20)

TAILQ_HEAD(batch_jobs, batch_job);

struct batch {
    const struct settings *settings;
    struct batch_in in;
    struct batch_out out;
    struct batch_jobs jobs; /* in the lines' order */
    size_t job_count, open, parallel, job_most;
    struct http_set *set;
    struct api_key key;
    json_t *defaults;
    bool input_ended, stopped;
    enum err err; /* what ends the whole, with error */
    char error[512];
    uint64_t total; /* lines; 0: not known */
    uint64_t skipped, answered, failed, tokens, retries;
    int64_t begin_ns, heard_ns, drawn_ns;
    bool away_told;
    struct term_live live;
    bool shows;
};

static volatile sig_atomic_t stop_asked;

static void on_stop(int signum)
{
    (void)signum;
    stop_asked += stop_asked < 2;
}

static void give_up(struct batch *batch, enum err err)
{
    if (batch->err != ERR_OK)
        return;
    batch->err = err;
    snprintf(batch->error, sizeof batch->error, "%s", err_text());
}

/* ---- what a person sees ---- */

static void say(struct batch *batch, const char *format, ...) PRINTF_LIKE(2, 3);
static void say(struct batch *batch, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    term_live_clear(&batch->live);
    term_say("wyvern: ", text, 0);
}

static void time_write(char *out, size_t cap, double seconds)
{
    if (seconds < 90)
        snprintf(out, cap, "%.*f s", seconds < 9.95, seconds);
    else if (seconds < 5400)
        snprintf(out, cap, "%.0f min", seconds / 60);
    else
        snprintf(out, cap, "%.1f h", seconds / 3600);
}

static void progress_draw(struct batch *batch, bool at_once)
{
    int64_t now = clock_mono_ns();
    if (!batch->shows || (!at_once && now - batch->drawn_ns < DRAW_NS))
        return;
    batch->drawn_ns = now;
    double seconds = (double)(now - batch->begin_ns) / 1e9;
    uint64_t here = batch->answered + batch->failed;
    double rate = seconds > 0 ? (double)here / seconds : 0;
    char left[32] = "", of[32] = "", wide[200];
    if (batch->total > 0)
        snprintf(of, sizeof of, " of %" PRIu64, batch->total);
    if (batch->total > here + batch->skipped && here > 0) {
        char text[24];
        time_write(text, sizeof text, (double)(batch->total - here - batch->skipped) / rate);
        snprintf(left, sizeof left, "  %s left", text);
    }
    snprintf(wide, sizeof wide,
             "%" PRIu64 "%s done  %zu running  %" PRIu64 " failed  %.1f/s  %.0f tokens/s%s",
             here + batch->skipped, of, batch->open, batch->failed, rate,
             seconds > 0 ? (double)batch->tokens / seconds : 0, left);
    if ((int)strlen(wide) >= batch->live.style.width)
        snprintf(wide, sizeof wide, "%" PRIu64 "%s  %.1f/s%s", here + batch->skipped, of, rate,
                 left);
    struct buf frame;
    buf_init(&frame, sizeof wide + 2);
    if ((int)strlen(wide) < batch->live.style.width && buf_printf(&frame, "%s\n", wide) == ERR_OK)
        term_live_draw(&batch->live, &frame);
    buf_done(&frame);
}

/* ---- jobs ---- */

static void job_free(struct batch *batch, struct batch_job *job)
{
    TAILQ_REMOVE(&batch->jobs, job, link);
    batch->job_count--;
    batch_request_done(&job->request);
    buf_done(&job->answer);
    free(job);
}

static void job_write(struct batch *batch, struct batch_job *job)
{
    char *safe = isatty(batch->out.fd) ? term_safe(job->answer.data) : NULL;
    const char *line = safe != NULL ? safe : job->answer.data;
    enum err err = batch_out_write(&batch->out, line, strlen(line));
    free(safe);
    if (err != ERR_OK) {
        give_up(batch, err);
        return;
    }
    if (job->failed)
        batch->failed++;
    else
        batch->answered++;
    batch->tokens += job->tokens;
    job_free(batch, job);
}

/* Writes what may be written now. */
static void answers_write(struct batch *batch)
{
    struct batch_job *next = NULL;
    for (struct batch_job *job = TAILQ_FIRST(&batch->jobs); job != NULL; job = next) {
        next = TAILQ_NEXT(job, link);
        if (batch->err != ERR_OK)
            return;
        if (job->state == BATCH_ANSWERED)
            job_write(batch, job);
        else if (batch->settings->ordered)
            return;
    }
}

static void job_refused(struct batch *batch, struct batch_job *job)
{
    enum err err = batch_job_refuse(job);
    if (err == ERR_INVALID)
        say(batch, "line %" PRIu64 ": %s", job->number, err_text());
    else
        give_up(batch, err);
}

static void job_ended(void *arg, enum err err, struct http_result *result)
{
    struct batch_job *job = arg;
    struct batch *batch = job->batch;
    batch->open--;
    if (result->status > 0) {
        batch->heard_ns = clock_mono_ns();
        batch->away_told = false;
    } else if (!batch->away_told && !stop_asked) {
        batch->away_told = true;
        say(batch, "the service is away, looking for it again (%s)", err_text());
    }
    switch (batch_job_ended(job, err, result)) {
    case BATCH_TAKE:
        if (job->failed)
            say(batch, "line %" PRIu64 ": %s", job->number, job->fault);
        break;
    case BATCH_RETRY:
        batch->retries++;
        break;
    case BATCH_STOP:
        job->state = BATCH_TO_SEND;
        give_up(batch, job->ended);
    }
}

static enum err job_send(struct batch *batch, struct batch_job *job)
{
    char key[160];
    struct buf url;
    buf_init(&url, 8192);
    enum err err = batch_job_key(job, batch->out.salt, key, sizeof key);
    if (err == ERR_OK)
        err = api_url(&url, batch->settings, job->request.path);
    const char *const headers[] = {key, NULL};
    struct http_call call = {.method = "POST",
                             .url = buf_text(&url),
                             .body = buf_text(&job->request.body),
                             .bearer = api_key_bearer(&batch->key),
                             .headers = headers};
    if (err == ERR_OK)
        err = http_set_add(batch->set, &call, job_ended, job);
    buf_done(&url);
    if (err != ERR_OK)
        return err;
    job->state = BATCH_OPEN;
    batch->open++;
    return ERR_OK;
}

/* A line that is not answered yet becomes a job. */
static enum err line_take(struct batch *batch)
{
    const struct buf *line = &batch->in.line;
    uint64_t check = batch_check(line->data, line->len);
    bool has = false;
    enum err err = batch_out_has(&batch->out, batch->in.number, check, &has);
    if (err != ERR_OK)
        return err;
    if (has) {
        batch->skipped++;
        return ERR_OK;
    }
    struct batch_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    job->batch = batch;
    job->number = batch->in.number;
    job->check = check;
    buf_init(&job->answer, ANSWER_MAX);
    TAILQ_INSERT_TAIL(&batch->jobs, job, link);
    batch->job_count++;
    if (batch->in.too_long)
        err = err_set(ERR_LIMIT, "it is longer than %zu MiB", BATCH_LINE_MAX >> 20);
    else
        err = batch_request_read(&job->request, line->data, line->len, batch->defaults,
                                 batch->settings);
    if (err == ERR_NOMEM)
        return err;
    if (err != ERR_OK)
        job_refused(batch, job);
    return ERR_OK;
}

/* ---- the whole ---- */

/* New lines, as far as there is room for them. */
static enum err lines_take(struct batch *batch)
{
    while (!batch->input_ended && batch->job_count < batch->job_most && batch->err == ERR_OK) {
        enum batch_line what = BATCH_LINES_END;
        int wait_ms = batch->job_count == 0 ? POLL_MS : 0;
        enum err err = batch_in_next(&batch->in, wait_ms, &what);
        if (err == ERR_OK && what == BATCH_LINE)
            err = line_take(batch);
        if (err != ERR_OK)
            return err;
        batch->input_ended = what == BATCH_LINES_END;
        if (what != BATCH_LINE)
            break;
        if (!batch->settings->ordered)
            answers_write(batch); /* broken lines */
        progress_draw(batch, false);
        if (stop_asked)
            break;
    }
    return ERR_OK;
}

static enum err jobs_send(struct batch *batch)
{
    int64_t now = clock_mono_ns();
    enum err err = ERR_OK;
    struct batch_job *job = NULL;
    TAILQ_FOREACH(job, &batch->jobs, link)
    {
        if (err != ERR_OK || batch->open >= batch->parallel)
            break;
        if (job->state == BATCH_TO_SEND && job->due_ns <= now && !(stop_asked && job->tries == 0))
            err = job_send(batch, job);
    }
    return err;
}

static void away_check(struct batch *batch)
{
    double away = (double)(clock_mono_ns() - batch->heard_ns) / 1e9;
    if (batch->away_told && away > AWAY_S)
        give_up(batch, err_set(ERR_UNAVAILABLE,
                               "the service has been away for %.0f min; start it, then run the "
                               "same command again: it goes on where it stopped",
                               away / 60));
}

/* Asked to stop: what is open is waited for, unless nobody is there or we are asked again. */
static bool is_over(const struct batch *batch)
{
    if (batch->err != ERR_OK || stop_asked > 1)
        return true;
    if (stop_asked)
        return batch->open == 0;
    return batch->input_ended && batch->job_count == 0;
}

static void batch_run(struct batch *batch)
{
    batch->begin_ns = batch->heard_ns = clock_mono_ns();
    while (!is_over(batch)) {
        if (stop_asked && !batch->stopped) {
            batch->stopped = true;
            say(batch, "stopping; waiting for %zu running (Ctrl-C again leaves at once)",
                batch->open);
        }
        enum err err = stop_asked ? ERR_OK : lines_take(batch);
        if (err == ERR_OK)
            err = stop_asked ? ERR_OK : jobs_send(batch);
        if (err != ERR_OK)
            give_up(batch, err);
        if (batch->open > 0) {
            (void)http_set_poll(batch->set, POLL_MS);
        } else if (batch->job_count > 0 && batch->err == ERR_OK && !stop_asked) {
            const struct timespec pause = {.tv_nsec = POLL_MS * NS_PER_MS / 4};
            nanosleep(&pause, NULL); /* all wait to be sent again */
        }
        answers_write(batch);
        away_check(batch);
        progress_draw(batch, false);
    }
    term_live_clear(&batch->live);
}

/* As many as there are slots. */
static size_t slots_of(const json_t *status)
{
    json_int_t slots = 0;
    const json_t *nodes = json_object_get(status, "nodes");
    for (size_t i = 0; i < json_array_size(nodes); i++) {
        const json_t *workers = json_object_get(json_array_get(nodes, i), "workers");
        for (size_t j = 0; j < json_array_size(workers); j++) {
            json_int_t more = json_int(json_array_get(workers, j), "slots", 0);
            slots += more > 0 && more < PARALLEL_MOST ? more : 0;
        }
    }
    if (slots <= 0)
        return PARALLEL_DEFAULT;
    return slots < PARALLEL_MOST ? (size_t)slots : PARALLEL_MOST;
}

static enum err parallel_find(struct batch *batch)
{
    json_t *status = NULL;
    enum err err = api_get(&status, batch->settings, "/wyvern/status"); /* says who is not there */
    int given = batch->settings->parallel;
    batch->parallel = given > 0       ? (size_t)given
                      : err == ERR_OK ? slots_of(status)
                                      : PARALLEL_DEFAULT;
    json_decref(status);
    return err == ERR_NOT_FOUND ? ERR_OK : err; /* another service than ours */
}

static enum err same_file_refuse(const struct batch *batch)
{
    struct stat in, out;
    if (fstat(batch->in.fd, &in) == 0 && fstat(batch->out.fd, &out) == 0 && S_ISREG(out.st_mode) &&
        in.st_dev == out.st_dev && in.st_ino == out.st_ino)
        return err_set(ERR_USAGE, "the batch and its answers are the same file");
    return ERR_OK;
}

static enum err batch_prepare(struct batch *batch, const char *path)
{
    const struct settings *settings = batch->settings;
    if (settings->json && settings->output == NULL)
        return err_set(ERR_USAGE, "--json prints a summary on standard output: name a file for the "
                                  "answers with -o");
    enum err err = api_key_read(&batch->key, settings);
    if (err == ERR_OK)
        err = api_params(&batch->defaults, settings);
    if (err == ERR_OK)
        err = batch_in_open(&batch->in, path);
    if (err == ERR_OK)
        err = parallel_find(batch);
    if (err == ERR_OK)
        err = batch_out_open(&batch->out, settings->output);
    if (err == ERR_OK)
        err = same_file_refuse(batch);
    if (err == ERR_OK)
        err = http_set_new(&batch->set);
    batch->job_most = settings->ordered ? batch->parallel * AHEAD : batch->parallel;
    batch->total = err == ERR_OK ? batch_in_count(&batch->in) : 0;
    batch->live.style = term_style_of(stderr);
    batch->shows = batch->live.style.redraw && !settings->quiet;
    return err;
}

static void batch_done(struct batch *batch)
{
    http_set_free(batch->set);
    while (!TAILQ_EMPTY(&batch->jobs))
        job_free(batch, TAILQ_FIRST(&batch->jobs));
    batch_in_done(&batch->in);
    json_decref(batch->defaults);
}

/* ---- how it ended ---- */

static void summary_json(const struct batch *batch, double seconds)
{
    struct buf text;
    struct json_out out;
    buf_init(&text, 4096);
    json_out_begin(&out, &text);
    json_out_object(&out, NULL);
    json_out_uint(&out, "answered", batch->answered);
    json_out_uint(&out, "failed", batch->failed);
    json_out_uint(&out, "answered_before", batch->skipped);
    json_out_uint(&out, "failed_before", batch->out.failed);
    json_out_uint(&out, "retries", batch->retries);
    json_out_uint(&out, "completion_tokens", batch->tokens);
    json_out_number(&out, "seconds", round(seconds * 1000) / 1000);
    json_out_uint(&out, "parallel", batch->parallel);
    json_out_flag(&out, "complete", batch->input_ended && TAILQ_EMPTY(&batch->jobs));
    json_out_object_end(&out);
    if (json_out_end(&out) == ERR_OK)
        printf("%s\n", buf_text(&text));
    buf_done(&text);
}

static void summary_print(struct batch *batch)
{
    double seconds = (double)(clock_mono_ns() - batch->begin_ns) / 1e9;
    if (batch->settings->json)
        summary_json(batch, seconds);
    if (batch->settings->quiet || batch->settings->json)
        return;
    char took[32], before[64] = "";
    time_write(took, sizeof took, seconds);
    if (batch->skipped > 0)
        snprintf(before, sizeof before, ", %" PRIu64 " %s before", batch->skipped,
                 batch->skipped == 1 ? "was" : "were");
    say(batch, "%" PRIu64 " line%s answered, %" PRIu64 " failed%s; %s, %.1f/s, %.0f tokens/s",
        batch->answered, batch->answered == 1 ? "" : "s", batch->failed, before, took,
        seconds > 0 ? (double)(batch->answered + batch->failed) / seconds : 0,
        seconds > 0 ? (double)batch->tokens / seconds : 0);
}

static int batch_status(struct batch *batch)
{
    const char *again = batch->out.plain ? "run the same command again to go on where it stopped"
                                         : "with -o FILE it could go on where it stopped";
    if (batch->err != ERR_OK)
        return batch->out.reader_left ? EX_OK : term_fail(err_set(batch->err, "%s", batch->error));
    if (stop_asked)
        return term_fail(err_set(ERR_CANCELLED, "stopped; %s", again));
    uint64_t failed = batch->failed + batch->out.failed;
    if (failed > 0)
        return term_fail(err_set(ERR_INVALID,
                                 "%" PRIu64 " lines failed; their answers say why (\"error\").  "
                                 "Taken out of the output, they are asked again by the next run",
                                 failed));
    return EX_OK;
}

int verb_batch(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    struct batch batch = {.settings = settings, .in = {.fd = -1}, .out = {.fd = -1}};
    TAILQ_INIT(&batch.jobs);
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    enum err err = batch_prepare(&batch, argv[0]);
    if (err == ERR_OK) {
        batch_run(&batch);
        summary_print(&batch);
    }
    int status = err == ERR_OK ? batch_status(&batch) : term_fail(err);
    batch_done(&batch);
    if (batch.out.fd >= 0 && batch_out_close(&batch.out) != ERR_OK && status == EX_OK)
        status = term_fail(ERR_IO);
    return status;
}
