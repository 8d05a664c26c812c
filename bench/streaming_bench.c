/*
 * streaming_bench.c - how early the words of a reply are out when several beams are searched.
 *
 *   streaming_bench MODEL.gguf MIN_TOKENS BEAMS… < prompts, one a line
 *
 * Counts decoder steps, which take equally long, so that the figures hold for a model of any size:
 * for each number of beams a row with the median over the prompts of the share of the text that is
 * out by half of the steps, the step of the first piece and the longest silence as shares of all
 * steps, and the numbers of pieces and steps.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define PROMPTS_MAX 1024
#define STEPS_MAX   4096
#define LINE_LENGTH 4096

struct course { /* of one reply */
    double by_half, first, silence, pieces, steps;
};

static void die(const char *what)
{
    fprintf(stderr, "streaming_bench: %s: %s\n", what, err_text());
    exit(1);
}

static struct course follow(struct engine *engine, const char *prompt, int beams, int min_tokens)
{
    struct engine_search search = engine_search_default();
    struct engine_request request = {.raw_prompt = prompt, .params = engine_params_default()};
    static size_t out[STEPS_MAX]; /* bytes that came with each step */
    struct course course = {0};
    size_t steps = 0, all = 0, by_half = 0, last = 0, silence = 0;
    search.num_beams = beams;
    request.params.search = &search;
    request.params.min_tokens = min_tokens;
    request.params.max_tokens = min_tokens >= 0 ? STEPS_MAX : -1;
    if (engine_start(engine, &request) != ERR_OK)
        die(prompt);
    memset(out, 0, sizeof out);
    while (engine_active(engine) > 0 && steps < STEPS_MAX) {
        struct engine_event event = {0};
        size_t count = 0;
        if (engine_step(engine, &event, &count) != ERR_OK)
            die("step");
        out[steps++] = count > 0 ? event.text_len : 0;
    }
    for (size_t i = 0; i < steps; i++) {
        all += out[i];
        if (i < steps / 2)
            by_half += out[i];
        if (out[i] == 0)
            continue;
        silence = i + 1 - last > silence ? i + 1 - last : silence;
        last = i + 1;
        course.pieces++;
        course.first = course.first > 0 ? course.first : (double)(i + 1) / (double)steps;
    }
    course.by_half = all > 0 ? (double)by_half / (double)all : 0;
    course.silence = (double)silence / (double)steps;
    course.steps = (double)steps;
    return course;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of a member, given by its place. */
static double median(const struct course *courses, size_t count, size_t offset)
{
    static double values[PROMPTS_MAX];
    for (size_t i = 0; i < count; i++)
        memcpy(&values[i], (const char *)&courses[i] + offset, sizeof values[i]);
    qsort(values, count, sizeof *values, compare);
    return values[count / 2];
}

int main(int argc, char **argv)
{
    static char prompts[PROMPTS_MAX][LINE_LENGTH];
    static struct course courses[PROMPTS_MAX];
    struct engine *engine;
    size_t count = 0;
    if (argc < 4) {
        fputs("streaming_bench MODEL.gguf MIN_TOKENS BEAMS… < prompts\n", stderr);
        return 64;
    }
    const struct engine_config config = {.model = argv[1], .device = "cpu:0", .slots = 1};
    engine_log_init();
    if (engine_open(&engine, &config) != ERR_OK)
        die(argv[1]);
    while (count < PROMPTS_MAX && fgets(prompts[count], LINE_LENGTH, stdin) != NULL) {
        prompts[count][strcspn(prompts[count], "\n")] = '\0';
        count += prompts[count][0] != '\0';
    }
    puts("| beams | out by half | first piece | longest silence | pieces | steps |");
    puts("|---|---|---|---|---|---|");
    for (int arg = 3; arg < argc && count > 0; arg++) {
        for (size_t i = 0; i < count; i++)
            courses[i] = follow(engine, prompts[i], atoi(argv[arg]), atoi(argv[2]));
        printf("| %s | %.0f%% | %.0f%% | %.0f%% | %.0f | %.0f |\n", argv[arg],
               median(courses, count, offsetof(struct course, by_half)) * 100,
               median(courses, count, offsetof(struct course, first)) * 100,
               median(courses, count, offsetof(struct course, silence)) * 100,
               median(courses, count, offsetof(struct course, pieces)),
               median(courses, count, offsetof(struct course, steps)));
    }
    engine_close(engine);
    return 0;
}
