/*
 * load.c - many prompts at once, and how the workers shared them: the original's influx of 15
 * prompts × 7.  One thread; http_set runs all streams, and the view's status calls beside them.
 */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "api/params.h"
#include "base/clock.h"
#include "verbs/apiclient.h"
#include "verbs/loadgpu.h"
#include "verbs/loadview.h"
#include "verbs/prompts.h"
#include "verbs/report.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"
#include "wire/prompt.h"

#define JOBS_MAX       1000000
#define TRIES_MAX      10000
#define MIN_TOKENS     100 /* the original's */
#define MAX_TOKENS     300
#define CONNECT_MS     30000 /* all at once: some wait for others */
#define STATUS_EACH_NS (250 * NS_PER_MS)
#define STATUS_MS      5000
#define POLL_MS        50
#define RETRY_LEAST_S  0.2
#define RETRY_MOST_S   60.0
#define FILES_SPARE    64 /* descriptors kept for everything but streams */

enum job_state { JOB_TO_SEND, JOB_OPEN, JOB_ANSWERED, JOB_FAILED };

struct load;

struct job {
    struct load *load;
    const char *prompt;
    char user[PROMPT_MAX_USER + 1];
    enum job_state state;
    unsigned tries;
    int64_t first_ns, due_ns; /* first try; next try */
    struct api_reply reply;   /* while open */
};

struct load {
    struct settings settings;
    struct prompts prompts;
    struct job *jobs;
    struct outcome *outcomes; /* of the job with the same index */
    size_t count, open_max;
    struct load_counts counts;
    struct http_set *set;
    struct load_view view;
    struct load_gpus *gpus;
    struct buf url, status_url, body;
    struct api_key key;
    int64_t begin_ns, end_ns;
    double begin_wall;
    bool status_open, status_gone;
    int64_t status_ns;
    enum err first_err; /* of the first prompt that failed, with its sentence */
    char first_error[512];
};

static volatile sig_atomic_t stop_asked;

static void on_stop(int signum)
{
    (void)signum;
    stop_asked = 1;
}

/* ---- one prompt ---- */

/* "user", or "key/user" where keys are asked for. */
static bool is_prompter(const char *prompter, const char *user)
{
    size_t len = strlen(prompter), user_len = strlen(user);
    return len >= user_len && strcmp(prompter + len - user_len, user) == 0 &&
           (len == user_len || prompter[len - user_len - 1] == '/');
}

static void outcome_fill(struct outcome *outcome, const struct job *job)
{
    const struct api_reply *reply = &job->reply;
    double begin = job->load->begin_wall;
    int64_t now = clock_mono_ns();
    const char *prompter = api_reply_field(reply, "prompter");
    outcome->answered = true;
    outcome->wrong = reply->mixed || (reply->wyvern != NULL && !is_prompter(prompter, job->user));
    memcpy(outcome->response_id, reply->response_id, sizeof outcome->response_id);
    json_text_copy(reply->wyvern, "inference_worker", outcome->worker, sizeof outcome->worker);
    json_text_copy(reply->wyvern, "node", outcome->node, sizeof outcome->node);
    json_text_copy(reply->wyvern, "device", outcome->device, sizeof outcome->device);
    outcome->tokens = api_reply_tokens(reply);
    outcome->latency_s = (double)(now - job->first_ns) / 1e9;
    outcome->ttft_s = reply->first_ns > 0 ? (double)(reply->first_ns - job->first_ns) / 1e9 : -1;
    outcome->span.start = json_number(reply->wyvern, "started_at", begin) - begin;
    outcome->span.end = json_number(reply->wyvern, "finished_at", begin) - begin;
    if (outcome->span.end < outcome->span.start)
        outcome->span.end = outcome->span.start;
}

static bool is_refusal(const struct http_result *result)
{
    return result->status == 429 || result->status == 503;
}

static void job_ended(void *arg, enum err err, struct http_result *result)
{
    struct job *job = arg;
    struct load *load = job->load;
    struct outcome *outcome = &load->outcomes[job - load->jobs];
    load->counts.open--;
    err = api_reply_end(&job->reply, err, result);
    if (err == ERR_OK) {
        job->state = JOB_ANSWERED;
        outcome_fill(outcome, job);
        load->counts.answered++;
        load->counts.tokens += outcome->tokens;
        load_view_answer(&load->view, outcome);
    } else if (is_refusal(result) && job->tries < TRIES_MAX) {
        double wait = result->retry_after_s > 0 ? result->retry_after_s : 1;
        wait = fmin(fmax(wait, RETRY_LEAST_S), RETRY_MOST_S);
        job->state = JOB_TO_SEND;
        job->due_ns = clock_mono_ns() + (int64_t)(wait * 1e9);
        load->counts.retrying++;
    } else {
        if (load->counts.failed == 0) {
            load->first_err = err;
            snprintf(load->first_error, sizeof load->first_error, "%s", err_text());
        }
        job->state = JOB_FAILED;
        load->counts.failed++;
    }
    load->end_ns = clock_mono_ns();
    api_reply_done(&job->reply);
}

static enum err job_send(struct job *job)
{
    struct load *load = job->load;
    struct api_message message = {.role = "user", .content = job->prompt};
    enum err err = api_request_write(&load->body, &load->settings, job->user, &message, 1);
    if (err != ERR_OK)
        return err;
    api_reply_init(&job->reply, NULL, NULL);
    struct http_call call = {.method = "POST",
                             .url = buf_text(&load->url),
                             .body = buf_text(&load->body),
                             .bearer = api_key_bearer(&load->key),
                             .connect_ms = CONNECT_MS,
                             .on_data = api_reply_feed,
                             .arg = &job->reply};
    err = http_set_add(load->set, &call, job_ended, job);
    if (err != ERR_OK) {
        api_reply_done(&job->reply);
        return err;
    }
    if (job->tries++ == 0)
        job->first_ns = clock_mono_ns();
    else
        load->counts.retrying--;
    job->state = JOB_OPEN;
    load->counts.open++;
    return ERR_OK;
}

/* ---- the status beside them ---- */

static void status_ended(void *arg, enum err err, struct http_result *result)
{
    struct load *load = arg;
    load->status_open = false;
    load->status_gone = result->status == 404; /* another service than ours */
    json_t *root = NULL;
    if (err == ERR_OK && result->status == 200 &&
        json_parse(&root, buf_text(&result->body), result->body.len) == ERR_OK)
        load_view_status(&load->view, root);
    json_decref(root);
}

static void status_ask(struct load *load)
{
    int64_t now = clock_mono_ns();
    if (load->view.quiet || load->status_open || load->status_gone ||
        now - load->status_ns < STATUS_EACH_NS)
        return;
    struct http_call call = {.method = "GET",
                             .url = buf_text(&load->status_url),
                             .bearer = api_key_bearer(&load->key),
                             .total_ms = STATUS_MS};
    load->status_ns = now;
    load->status_open = http_set_add(load->set, &call, status_ended, load) == ERR_OK;
}

/* ---- all of them ---- */

static size_t load_ended(const struct load *load)
{
    return load->counts.answered + load->counts.failed;
}

/* *next: where to go on; the jobs before it were sent once. */
static enum err jobs_send(struct load *load, size_t *next)
{
    int64_t now = clock_mono_ns();
    enum err err = ERR_OK;
    for (size_t i = 0; load->counts.retrying > 0 && i < *next && err == ERR_OK; i++) {
        struct job *job = &load->jobs[i];
        if (job->state == JOB_TO_SEND && job->due_ns <= now && load->counts.open < load->open_max)
            err = job_send(job);
    }
    while (err == ERR_OK && *next < load->count && load->counts.open < load->open_max)
        err = job_send(&load->jobs[(*next)++]);
    return err;
}

static enum err load_run(struct load *load)
{
    size_t next = 0;
    load->begin_ns = load->end_ns = clock_mono_ns();
    load->begin_wall = clock_wall();
    while (load_ended(load) < load->count && !stop_asked) {
        enum err err = jobs_send(load, &next);
        if (err != ERR_OK)
            return err;
        status_ask(load);
        load_gpus_run(load->gpus, load->begin_ns);
        if (http_set_poll(load->set, POLL_MS) == 0 && load_ended(load) < load->count) {
            const struct timespec pause = {.tv_nsec = POLL_MS * NS_PER_MS / 5};
            nanosleep(&pause, NULL); /* all wait to be sent again */
        }
        load->counts.seconds = (double)(clock_mono_ns() - load->begin_ns) / 1e9;
        load_view_draw(&load->view, &load->counts, false);
    }
    load_view_draw(&load->view, &load->counts, true);
    if (load->view.live.lines > 0)
        fputc('\n', stderr);
    for (size_t i = 0; i < load->count; i++) {
        if (load->jobs[i].state == JOB_OPEN)
            load->counts.failed++;
    }
    return ERR_OK;
}

/* Does --params say how long replies are? */
static enum err params_bound(const char *text, bool *bound)
{
    struct prompt_params params;
    json_t *root = NULL;
    if (text == NULL)
        return ERR_OK;
    enum err err = params_parse(&params, &root, text, PARAMS_REQUEST);
    if (err != ERR_OK)
        return err;
    *bound =
        params.min_tokens >= 0 || params.max_tokens >= 0 ||
        (params.search.given && (params.search.min_length >= 0 || params.search.max_length >= 0));
    json_decref(root);
    return ERR_OK;
}

/* The original's bounds where none were given, in an order that makes sense. */
static void tokens_default(struct settings *settings)
{
    if (settings->min_tokens < 0 && settings->max_tokens < 0) {
        settings->min_tokens = MIN_TOKENS;
        settings->max_tokens = MAX_TOKENS;
    } else if (settings->min_tokens < 0) {
        settings->min_tokens =
            settings->max_tokens < MIN_TOKENS ? settings->max_tokens : MIN_TOKENS;
    } else if (settings->max_tokens < 0) {
        settings->max_tokens =
            settings->min_tokens > MAX_TOKENS ? settings->min_tokens : MAX_TOKENS;
    }
}

/* As many streams as there may be descriptors. */
static size_t streams_max(int concurrency)
{
    struct rlimit files;
    size_t most = 256;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
        if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > 2 * FILES_SPARE)
            most = files.rlim_cur > JOBS_MAX ? JOBS_MAX : files.rlim_cur - FILES_SPARE;
    }
    return concurrency > 0 && (size_t)concurrency < most ? (size_t)concurrency : most;
}

static enum err jobs_make(struct load *load)
{
    size_t repeat = (size_t)load->settings.repeat;
    if (repeat > JOBS_MAX / load->prompts.count)
        return err_set(ERR_LIMIT, "%zu prompts × %zu are more than %d; lower --repeat",
                       load->prompts.count, repeat, JOBS_MAX);
    load->count = load->prompts.count * repeat;
    load->jobs = calloc(load->count, sizeof *load->jobs);
    load->outcomes = calloc(load->count, sizeof *load->outcomes);
    if (load->jobs == NULL || load->outcomes == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < load->count; i++) {
        struct job *job = &load->jobs[i];
        job->load = load;
        job->prompt = load->prompts.items[i % load->prompts.count];
        /* Everyone has a name of their own, so that a reply that goes astray shows. */
        if (load->settings.user != NULL)
            snprintf(job->user, sizeof job->user, "%s", load->settings.user);
        else
            snprintf(job->user, sizeof job->user, "prompter-%zu", i + 1);
    }
    load->counts.total = load->count;
    return ERR_OK;
}

static enum err load_prepare(struct load *load, const struct settings *settings)
{
    bool bound = false;
    load->settings = *settings;
    load->open_max = streams_max(settings->concurrency);
    buf_init(&load->url, 4096);
    buf_init(&load->status_url, 4096);
    buf_init(&load->body, HTTP_CLIENT_BODY_MAX);
    if (settings->user != NULL && strlen(settings->user) > PROMPT_MAX_USER)
        return err_set(ERR_USAGE, "--user is longer than %d bytes", PROMPT_MAX_USER);
    enum err err = params_bound(settings->params, &bound);
    if (err == ERR_OK)
        err = api_key_read(&load->key, settings);
    if (!bound)
        tokens_default(&load->settings);
    if (err == ERR_OK)
        err = load_view_init(&load->view, settings->quiet);
    if (err == ERR_OK)
        err = prompts_read(&load->prompts, settings->prompts);
    if (err == ERR_OK)
        err = jobs_make(load);
    if (err == ERR_OK)
        err = api_url(&load->url, settings, "/v1/chat/completions");
    if (err == ERR_OK)
        err = api_url(&load->status_url, settings, "/wyvern/status");
    if (err == ERR_OK)
        err = http_set_new(&load->set);
    if (err != ERR_OK)
        return err;
    /* Says at once when nobody is there, and what the workers had done before. */
    json_t *status = NULL;
    err = api_get(&status, settings, "/wyvern/status");
    if (err == ERR_OK)
        load_view_status(&load->view, status);
    load->status_gone = err == ERR_NOT_FOUND;
    if (err == ERR_OK)
        err = load_gpus_new(&load->gpus, settings, status);
    json_decref(status);
    return err == ERR_NOT_FOUND ? ERR_OK : err;
}

static void load_done(struct load *load)
{
    http_set_free(load->set);
    for (size_t i = 0; load->jobs != NULL && i < load->count; i++) {
        if (load->jobs[i].state == JOB_OPEN)
            api_reply_done(&load->jobs[i].reply);
    }
    free(load->jobs);
    free(load->outcomes);
    prompts_done(&load->prompts);
    load_view_done(&load->view);
    load_gpus_free(load->gpus);
    buf_done(&load->url);
    buf_done(&load->status_url);
    buf_done(&load->body);
}

static enum err report_print(const struct load *load, size_t *duplicates)
{
    struct report *report = NULL;
    struct buf out;
    buf_init(&out, (size_t)64 << 20);
    double seconds = (double)(load->end_ns - load->begin_ns) / 1e9;
    enum err err = report_new(&report, load->outcomes, load->count, seconds);
    if (err != ERR_OK)
        goto out;
    *duplicates = report->duplicates;
    for (size_t i = 0; i < report->worker_count; i++) {
        struct report_worker *worker = &report->workers[i];
        worker->slots = load_view_slots(&load->view, worker->node, worker->id);
    }
    load_gpus_attach(load->gpus, report);
    struct term_style style = term_style_of(stdout);
    if (load->settings.json)
        err = report_json(report, &out);
    else
        err = report_draw(report, &style, &out);
    if (err == ERR_OK) {
        if (load->settings.json)
            (void)(term_text(stdout, out.data, out.len) && fputc('\n', stdout));
        else
            fputs(buf_text(&out), stdout); /* drawn: with escapes of ours */
    }
out:
    buf_done(&out);
    report_free(report);
    return err;
}

/* What it came to, in a sentence where something went wrong. */
static int load_status(const struct load *load, size_t duplicates)
{
    if (stop_asked)
        return term_fail(err_set(ERR_CANCELLED, "stopped; %zu of %zu prompts were answered",
                                 load->counts.answered, load->count));
    if (load->counts.failed > 0)
        return term_fail(err_set(load->first_err, "%zu of %zu prompts failed, the first with: %s",
                                 load->counts.failed, load->count, load->first_error));
    if (duplicates > 0)
        return term_fail(err_set(ERR_INTERNAL,
                                 "%zu replies went to more than one prompt or to the "
                                 "wrong one",
                                 duplicates));
    return EX_OK;
}

int verb_load(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct load load = {0};
    size_t duplicates = 0;
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    enum err err = load_prepare(&load, settings);
    if (err == ERR_OK)
        err = load_run(&load);
    if (err == ERR_OK)
        err = report_print(&load, &duplicates);
    int status = err == ERR_OK ? load_status(&load, duplicates) : term_fail(err);
    load_done(&load);
    return status;
}
