/*
 * blenderbot_bench.c - one loaded engine that runs requests on command, so that it can take turns
 * with something else without being loaded anew.
 *
 *   blenderbot_bench MODEL SLOTS THREADS
 *
 * Says "{}" when it is loaded; then one JSON object a line in, one a line out:
 *   in   prompts  texts, started at once, at most SLOTS of them
 *        params   as `wyvern generate --params` takes them; absent: the checkpoint's defaults
 *        forced   for each prompt, ids that its reply is led along (absent: it is searched)
 *   out  seconds  from the first start to the last end
 *        tokens   of all replies, with the end token and without the start token
 *        ids      of each reply, with start and end token; prompt_tokens: of each prompt
 *        scores   of each reply as the engine gives them: of a forced one searched with two beams
 *                 and no rules, the sum of its tokens' log probabilities
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "config/settings.h"
#include "engine/engine.h"
#include "verbs/genparams.h"
#include "wire/json.h"

#define LINE_MAX_BYTES ((size_t)4 << 20)

struct job {
    struct engine_request request;
    struct engine_message message;
    int32_t *forced;
    json_t *ids; /* once it ended */
    double score;
    unsigned prompt_tokens;
};

static void die(const char *what)
{
    fprintf(stderr, "blenderbot_bench: %s: %s\n", what, err_text());
    exit(1);
}

static struct genparams read_params(struct settings *settings, const json_t *line)
{
    struct genparams params;
    json_t *given = json_object_get(line, "params");
    *settings = (struct settings){.min_tokens = -1,
                                  .max_tokens = -1,
                                  .top_k = -1,
                                  .seed = -1,
                                  .temperature = NAN,
                                  .top_p = NAN};
    settings->params = given != NULL ? json_dumps(given, JSON_COMPACT) : NULL;
    if (genparams_read(&params, settings) != ERR_OK)
        die("params");
    return params;
}

static void fill_job(struct job *job, const json_t *text, const json_t *forced)
{
    job->message = (struct engine_message){"user", json_string_value(text)};
    if (job->message.content == NULL) {
        err_set(ERR_INVALID, "a prompt is no text");
        die("line");
    }
    size_t count = json_array_size(forced);
    job->forced = calloc(count + 1, sizeof *job->forced);
    if (job->forced == NULL)
        abort();
    for (size_t i = 0; i < count; i++)
        job->forced[i] = (int32_t)json_integer_value(json_array_get(forced, i));
    job->request = (struct engine_request){.messages = &job->message,
                                           .message_count = 1,
                                           .resume_tokens = count > 0 ? job->forced : NULL,
                                           .resume_token_count = count,
                                           .user = job};
}

static void end_job(const struct engine_event *event)
{
    struct job *job = event->user;
    if (event->error != ERR_OK || event->sequence_count == 0) {
        fprintf(stderr, "blenderbot_bench: %s\n",
                event->error != ERR_OK ? event->error_text : "no blenderbot");
        exit(1);
    }
    const struct engine_sequence *best = &event->sequences[0];
    job->ids = json_array();
    for (size_t i = 0; i < best->count; i++)
        json_array_append_new(job->ids, json_integer(best->ids[i]));
    job->score = (double)best->score;
    job->prompt_tokens = event->prompt_tokens;
}

/* Seconds that all jobs took. */
static double run(struct engine *engine, struct job *jobs, size_t count)
{
    static struct engine_event events[ENGINE_MAX_SLOTS];
    int64_t start_ns = clock_mono_ns();
    for (size_t i = 0; i < count; i++) {
        if (engine_start(engine, &jobs[i].request) != ERR_OK)
            die("start");
    }
    while (engine_active(engine) > 0) {
        size_t made = 0;
        if (engine_step(engine, events, &made) != ERR_OK)
            die("step");
        for (size_t i = 0; i < made; i++) {
            if (events[i].last)
                end_job(&events[i]);
        }
    }
    return (double)(clock_mono_ns() - start_ns) / 1e9;
}

static void print_results(struct job *jobs, size_t count, double seconds)
{
    json_t *ids = json_array(), *scores = json_array(), *inputs = json_array();
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++) {
        tokens += json_array_size(jobs[i].ids) - 1;
        json_array_append_new(ids, jobs[i].ids);
        json_array_append_new(scores, json_real(jobs[i].score));
        json_array_append_new(inputs, json_integer(jobs[i].prompt_tokens));
    }
    json_t *root = json_pack("{s:f, s:i, s:o, s:o, s:o}", "seconds", seconds, "tokens", (int)tokens,
                             "prompt_tokens", inputs, "ids", ids, "scores", scores);
    json_dumpf(root, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(root);
}

static void serve_line(struct engine *engine, const char *text, size_t len)
{
    static struct job jobs[ENGINE_MAX_SLOTS];
    struct settings settings;
    json_t *line;
    if (json_parse(&line, text, len) != ERR_OK)
        die("line");
    const json_t *prompts = json_object_get(line, "prompts");
    const json_t *forced = json_object_get(line, "forced");
    size_t count = json_array_size(prompts);
    if (count < 1 || count > engine_info(engine)->slots) {
        err_set(ERR_INVALID, "%zu prompts", count);
        die("line");
    }
    struct genparams params = read_params(&settings, line);
    memset(jobs, 0, sizeof jobs);
    for (size_t i = 0; i < count; i++) {
        fill_job(&jobs[i], json_array_get(prompts, i), json_array_get(forced, i));
        jobs[i].request.params = params.params;
        if (jobs[i].request.resume_token_count > 0)
            jobs[i].request.params.max_tokens = (int)jobs[i].request.resume_token_count;
    }
    double seconds = run(engine, jobs, count);
    print_results(jobs, count, seconds);
    for (size_t i = 0; i < count; i++)
        free(jobs[i].forced);
    genparams_done(&params);
    free((char *)(uintptr_t)settings.params);
    json_decref(line);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: blenderbot_bench MODEL SLOTS THREADS\n", stderr);
        return 64;
    }
    struct engine_config config = {.model = argv[1],
                                   .slots = (unsigned)strtoul(argv[2], NULL, 10),
                                   .threads = (unsigned)strtoul(argv[3], NULL, 10)};
    struct engine *engine;
    engine_log_init();
    if (engine_open(&engine, &config) != ERR_OK)
        die("open");
    puts("{}");
    fflush(stdout);
    char *line = malloc(LINE_MAX_BYTES);
    while (line != NULL && fgets(line, (int)LINE_MAX_BYTES, stdin) != NULL)
        serve_line(engine, line, strlen(line));
    free(line);
    engine_close(engine);
    return 0;
}
