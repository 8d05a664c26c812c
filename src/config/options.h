/*
 * options.h - one table declares every option of every verb; parsing, help and manual come from it.
 *
 * Precedence: flag > environment (WYVERN_NAME) > file (--config, INI) > default.  Values land in
 * struct settings by offset.  Texts point into argv, the environment or memory that options_done()
 * frees.  Call from one thread.
 *
 * The file: `name = value` lines, named like the options without "--".  Before any section they
 * count for every verb that takes them; in a section [verb] for that verb alone, and win there.
 */
#ifndef WYVERN_CONFIG_OPTIONS_H
#define WYVERN_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/log.h"

struct settings {
    /* every verb */
    const char *state_dir; /* NULL: $XDG_STATE_HOME/wyvern or ~/.local/state/wyvern */
    enum log_level log_level;
    bool json;
    bool quiet;
    /* what people and clients talk to */
    const char *url;  /* http://127.0.0.1:8080 */
    const char *host; /* gateway's listening address */
    int port;
    const char *keys;     /* file of hashed API keys; NULL: everything is open */
    const char *cors;     /* origins that browsers may let read replies; NULL: none */
    const char *key_file; /* holds the key that verbs ask with */
    /* shape of the service */
    int nodes, workers, slots, gateways, responders;
    const char *model;         /* NULL: the default model, where it is found */
    const char *chat_template; /* NULL: the model's own */
    const char *device;
    int context;          /* positions a slot; 0: the model's own */
    int threads;          /* 0: by CPUs */
    const char *listen;   /* up: address at which other nodes reach the broker */
    const char *node_net; /* auto | namespaces | ports */
    int metrics_port;
    const char *metrics_host;
    /* up: what watches the service */
    bool prometheus, grafana;
    int prometheus_port, grafana_port;
    const char *prometheus_program, *grafana_program; /* NULL: looked for */
    const char *watch_host;
    int scrape_interval_s;
    int max_queue;
    int max_wait_s, max_reply_s, keep_hours, keep_files_hours, drain_timeout_s;
    /* roles */
    const char *join;    /* file with the broker's address, credentials and the model's name */
    const char *name;    /* this role's id */
    const char *node;    /* name of the node it belongs to */
    const char *address; /* node: address others see it at */
    int expect_workers;  /* gateway: /ready waits for so many */
    const char *broker_pid_file;
    const char *job_mapping;    /* telemetry: folder of files that name the jobs on each GPU */
    const char *procfs, *sysfs; /* telemetry: /proc and /sys */
    int body_limit_kib, file_limit_mib, max_connections;
    /* asking */
    int min_tokens, max_tokens; /* -1: not given */
    double temperature, top_p;  /* NAN: not given */
    int top_k;                  /* -1: not given */
    int64_t seed;               /* -1: not given */
    const char *asked_model;    /* no option: chat's /model; NULL: the service's default */
    const char *params;         /* JSON */
    const char *truncate;       /* none | left; NULL: not given */
    const char *system;
    const char *user;
    bool details; /* ask: show ids and workers, the original's Figure 1 */
    int repeat;
    const char *prompts; /* load: file, one prompt a line */
    int concurrency;     /* load: most at once; 0: all */
    const char *output;  /* batch: file of answers; NULL: standard output */
    int parallel;        /* batch: most at once; 0: as many as there are slots */
    bool ordered;        /* batch: answers in the lines' order */
    bool once;           /* top: no screen */
    /* generate, convert */
    bool trace;
    const char *type;
    const char *config;        /* the file that --config named; NULL: none */
    struct option_text *texts; /* private: texts that came from that file */
};

/* What a verb is: its name, line of help, positional arguments ("IN OUT"), and its function. */
struct verb {
    const char *name;
    const char *arguments; /* "", "PROMPT…", "IN.gguf OUT.gguf" */
    const char *summary;
    int min_args, max_args;                                             /* max -1: any number */
    int (*run)(const struct settings *settings, int argc, char **argv); /* exit status */
};

/* Parses argv (after the verb's name).  ERR_USAGE with the mend, ERR_CONFIG for the file.  *help is
 * set when --help is there; nothing else is checked then.  Positional arguments stay, in order, in
 * argv[0 … *argc - 1].  On failure settings is not touched. */
MUST_USE enum err options_parse(const struct verb *verb, int *argc, char **argv,
                                struct settings *settings, bool *help);
/* Frees texts that came from a file; safe on zeroed settings. */
void options_done(struct settings *settings);

/* The name among `names` that is likely meant by `text`; NULL when none is near. */
const char *options_nearest(const char *text, const char *const *names, size_t count);

/* help.c: one verb, with all its options. */
void options_help(const struct verb *verb, FILE *out);
/* The program: all verbs in a line each. */
void options_overview(const struct verb *verbs, size_t count, FILE *out);
/* manpage.c: wyvern-VERB.1 and wyvern.1. */
void options_man(const struct verb *verb, FILE *out);
void options_man_overview(const struct verb *verbs, size_t count, FILE *out);
/* completion.c */
void options_bash(const struct verb *verbs, size_t count, FILE *out);
void options_zsh(const struct verb *verbs, size_t count, FILE *out);
/* All verbs' options as Markdown, for docs/CLI.md. */
void options_manual(const struct verb *verbs, size_t count, FILE *out);

#endif
