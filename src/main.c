/*
 * main.c - finds the verb, nothing else.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "config/options.h"
#include "metrics/manual.h"
#include "roles/roles.h"
#include "verbs/term.h"
#include "verbs/verbs.h"

#define ANY (-1)

static const struct verb verbs[] = {
    {"up", "", "Run the whole service on this machine until Ctrl-C", 0, 0, role_up},
    {"ask", "[PROMPT]…", "Ask one question: the arguments, with standard input behind or at a -", 0,
     ANY, verb_ask},
    {"chat", "", "Talk in the terminal", 0, 0, verb_chat},
    {"load", "", "Ask many questions at once and report how the workers shared them", 0, 0,
     verb_load},
    {"batch", "IN.jsonl", "Answer the lines of a file, many at once; goes on where it was stopped",
     1, 1, verb_batch},
    {"top", "", "Watch nodes, GPUs, workers, queue, tokens/s and latency live", 0, 0, verb_top},
    {"status", "", "Show nodes, workers and the queue", 0, 0, verb_status},
    {"doctor", "", "Look for what is missing or wrong on this machine, and say the mend", 0, 0,
     verb_doctor},
    {"key", "add NAME | list | revoke NAME", "Make, list and take back the API keys of a service",
     1, 2, verb_key},
    {"generate", "PROMPT", "Run one prompt straight through the engine, without a service", 1, 1,
     verb_generate},
    {"convert", "IN OUT.gguf",
     "Write a checkpoint (a folder) or a GGUF as a GGUF of some weight type", 2, 2, verb_convert},
    {"node", "", "Lend this machine's workers to a service that runs elsewhere (--join FILE)", 0, 0,
     role_node},
    {"gateway", "", "One role: the HTTP API", 0, 0, role_gateway},
    {"infer", "", "One role: an inference worker", 0, 0, role_infer},
    {"respond", "", "One role: a response worker", 0, 0, role_respond},
    {"telemetry", "", "One role: a node's metrics", 0, 0, role_telemetry},
};
#define VERB_COUNT (sizeof verbs / sizeof verbs[0])

static const struct verb *verb_find(const char *name)
{
    for (size_t i = 0; i < VERB_COUNT; i++) {
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    }
    return NULL;
}

static int verb_unknown(const char *name)
{
    const char *names[VERB_COUNT];
    for (size_t i = 0; i < VERB_COUNT; i++)
        names[i] = verbs[i].name;
    const char *near = options_nearest(name, names, VERB_COUNT);
    if (near != NULL)
        fprintf(stderr, "wyvern: there is no verb '%.60s'; did you mean '%s'?\n", name, near);
    else
        fprintf(stderr, "wyvern: there is no verb '%.60s'; see wyvern --help\n", name);
    return EX_USAGE;
}

/* docs/METRICS.md */
static int metrics_print(void)
{
    size_t count = 0;
    const struct metric *rows = role_telemetry_metrics(&count);
    metrics_manual_begin(stdout);
    metrics_manual_section("Each node", "The telemetry worker's `/metrics`, port 8000.", rows,
                           count, stdout);
    rows = role_gateway_metrics(&count);
    metrics_manual_section("Gateway", "The gateway's `/metrics`, port 8080.", rows, count, stdout);
    return EX_OK;
}

static int man_print(const char *name)
{
    if (name == NULL) {
        options_man_overview(verbs, VERB_COUNT, stdout);
        return EX_OK;
    }
    const struct verb *verb = verb_find(name);
    if (verb == NULL)
        return verb_unknown(name);
    options_man(verb, stdout);
    return EX_OK;
}

static int completion_print(const char *shell)
{
    if (shell != NULL && strcmp(shell, "bash") == 0) {
        options_bash(verbs, VERB_COUNT, stdout);
        return EX_OK;
    }
    if (shell != NULL && strcmp(shell, "zsh") == 0) {
        options_zsh(verbs, VERB_COUNT, stdout);
        return EX_OK;
    }
    fputs("wyvern: help --completion is for bash or zsh\n", stderr);
    return EX_USAGE;
}

/* Behind "help": what documents are made of. */
static int document_print(const char *name, const char *rest)
{
    if (strcmp(name, "--markdown") == 0) {
        options_manual(verbs, VERB_COUNT, stdout);
        return EX_OK;
    }
    if (strcmp(name, "--metrics-markdown") == 0)
        return metrics_print();
    if (strcmp(name, "--man") == 0)
        return man_print(rest);
    if (strcmp(name, "--completion") == 0)
        return completion_print(rest);
    fprintf(stderr,
            "wyvern: help takes --man [VERB], --completion bash|zsh, --markdown and "
            "--metrics-markdown, not %.60s\n",
            name);
    return EX_USAGE;
}

static int help_run(int argc, char **argv)
{
    if (argc == 0) {
        options_overview(verbs, VERB_COUNT, stdout);
        return EX_OK;
    }
    if (argv[0][0] == '-')
        return document_print(argv[0], argv[1]);
    const struct verb *verb = verb_find(argv[0]);
    if (verb == NULL)
        return verb_unknown(argv[0]);
    options_help(verb, stdout);
    return EX_OK;
}

static int verb_run(const struct verb *verb, int argc, char **argv)
{
    struct settings settings;
    bool help = false;
    enum err err = options_parse(verb, &argc, argv, &settings, &help);
    if (err != ERR_OK)
        return term_fail(err);
    log_init(verb->name, settings.log_level);
    int status = EX_OK;
    if (help)
        options_help(verb, stdout);
    else
        status = verb->run(&settings, argc, argv);
    options_done(&settings);
    return status;
}

int main(int argc, char **argv)
{
    /* A peer or a pipe that closes shows as an error of the write, in every role and verb. */
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        options_overview(verbs, VERB_COUNT, stderr);
        return EX_USAGE;
    }
    int status;
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        status = help_run(argc - 2, argv + 2);
    } else if (strcmp(name, "--version") == 0) {
        puts("wyvern " WYVERN_VERSION);
        status = EX_OK;
    } else {
        const struct verb *verb = verb_find(name);
        status = verb != NULL ? verb_run(verb, argc - 2, argv + 2) : verb_unknown(name);
    }
    return term_finish(status);
}
