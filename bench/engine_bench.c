/*
 * engine_bench.c - tokens per second through engine_step(), to hold beside llama-batched-bench.
 *
 *   engine_bench MODEL PROMPT_TOKENS REPLY_TOKENS SLOTS…
 *
 * For each number of slots: so many different prompts of about PROMPT_TOKENS tokens at once, each
 * answered with exactly REPLY_TOKENS tokens.  One JSON object a line:
 *   tg_per_s    reply tokens per second while every slot decodes (what llama-batched-bench
 *               calls S_TG)
 *   all_per_s   prompt and reply tokens per second from the first start to the last end (S)
 *   outside_us  CPU time of the engine's own thread outside llama_decode, per reply token
 * Linked with --wrap=llama_decode, so that the time inside can be told from the time outside.
 */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/engine.h"

#define WORDS_MAX 65536

int32_t __real_llama_decode(struct llama_context *ctx, struct llama_batch batch);
int32_t __wrap_llama_decode(struct llama_context *ctx, struct llama_batch batch);

static double decode_cpu_s;

static double thread_cpu_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int32_t __wrap_llama_decode(struct llama_context *ctx, struct llama_batch batch)
{
    double start_s = thread_cpu_s();
    int32_t status = __real_llama_decode(ctx, batch);
    decode_cpu_s += thread_cpu_s() - start_s;
    return status;
}

struct tally {
    unsigned prompt_tokens, reply_tokens, cached_tokens;
    unsigned full_tokens; /* made while every slot decoded */
    double full_s, all_s, outside_us;
};

static void die(const char *what)
{
    fprintf(stderr, "engine_bench: %s: %s\n", what, err_text());
    exit(1);
}

/* Prompts that have no beginning in common. */
static void make_prompt(char *out, size_t cap, unsigned number, unsigned tokens)
{
    static const char *const words[] = {" apple", " river", " stone", " cloud", " table", " music",
                                        " green", " seven", " north", " paper", " light", " horse"};
    size_t len = (size_t)snprintf(out, cap, "%u", number * 37 + 11);
    for (unsigned i = 0; i + 9 < tokens && len + 8 < cap; i++)
        len +=
            (size_t)snprintf(out + len, cap - len, "%s", words[(i * 7 + number * 5 + i / 12) % 12]);
}

static void start_all(struct engine *engine, unsigned slots, unsigned prompt, unsigned reply,
                      char *text)
{
    for (unsigned i = 0; i < slots; i++) {
        make_prompt(text, WORDS_MAX, i, prompt);
        struct engine_message message = {"user", text};
        struct engine_request request = {.messages = &message,
                                         .message_count = 1,
                                         .params = engine_params_default(),
                                         .user = (void *)(uintptr_t)(i + 1)};
        request.params.min_tokens = request.params.max_tokens = (int)reply;
        request.params.seed = i;
        if (engine_start(engine, &request) != ERR_OK)
            die("start");
    }
}

static struct tally run(struct engine *engine, unsigned slots)
{
    struct tally tally = {0};
    struct engine_event events[ENGINE_MAX_SLOTS];
    decode_cpu_s = 0;
    double cpu_s = thread_cpu_s();
    int64_t start_ns = clock_mono_ns();
    while (engine_active(engine) > 0) {
        size_t count = 0;
        int64_t step_ns = clock_mono_ns();
        if (engine_step(engine, events, &count) != ERR_OK)
            die("step");
        size_t tokens = 0;
        for (size_t i = 0; i < count; i++) {
            tokens += events[i].token_count;
            if (!events[i].last)
                continue;
            if (events[i].error != ERR_OK) {
                fprintf(stderr, "engine_bench: %s\n", events[i].error_text);
                exit(1);
            }
            tally.prompt_tokens += events[i].prompt_tokens;
            tally.cached_tokens += events[i].cached_tokens;
            tally.reply_tokens += events[i].reply_tokens;
        }
        if (count == slots) {
            tally.full_tokens += (unsigned)tokens;
            tally.full_s += (double)(clock_mono_ns() - step_ns) / 1e9;
        }
    }
    tally.all_s = (double)(clock_mono_ns() - start_ns) / 1e9;
    double outside_s = thread_cpu_s() - cpu_s - decode_cpu_s;
    tally.outside_us = outside_s * 1e6 / (double)tally.reply_tokens;
    return tally;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fputs("usage: engine_bench MODEL PROMPT_TOKENS REPLY_TOKENS SLOTS...\n", stderr);
        return 64;
    }
    static char text[WORDS_MAX];
    unsigned prompt = (unsigned)strtoul(argv[2], NULL, 10);
    unsigned reply = (unsigned)strtoul(argv[3], NULL, 10);
    for (int i = 4; i < argc; i++) {
        unsigned slots = (unsigned)strtoul(argv[i], NULL, 10);
        const char *threads = getenv("THREADS");
        struct engine_config config = {.model = argv[1],
                                       .slots = slots,
                                       .context = prompt + reply + 64,
                                       .threads = threads != NULL ? (unsigned)atoi(threads) : 0};
        struct engine *engine;
        if (engine_open(&engine, &config) != ERR_OK)
            die("open");
        start_all(engine, slots, prompt, reply, text);
        struct tally tally = run(engine, slots);
        printf("{\"slots\":%u,\"prompt\":%u,\"reply\":%u,\"cached\":%u,\"tg_per_s\":%.1f,"
               "\"all_per_s\":%.1f,\"seconds\":%.2f,\"outside_us\":%.1f}\n",
               slots, tally.prompt_tokens / slots, tally.reply_tokens / slots, tally.cached_tokens,
               (double)tally.full_tokens / tally.full_s,
               (double)(tally.prompt_tokens + tally.reply_tokens) / tally.all_s, tally.all_s,
               tally.outside_us);
        fflush(stdout);
        engine_close(engine);
    }
    return 0;
}
