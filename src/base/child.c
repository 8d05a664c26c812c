/*
 * child.c - see child.h.
 */
#include "base/child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"

#define READY_AFTER_MS  1000  /* without a report pipe */
#define STEADY_AFTER_MS 10000 /* lived so long: its next death starts the back-off anew */
#define REASON_MAX      512
#define LOG_KEEP_BYTES  (16 << 20) /* a longer log is moved aside when the child is started */

struct child {
    struct loop *loop;
    struct child_events events;
    struct proc *proc;        /* NULL: not running */
    struct loop_timer *timer; /* restart while it is down, readiness while it is up */
    char *name;
    char **argv, **env;
    char *log_path, *netns_path, *hostname;
    bool report;
    int death_signal;
    bool started, stopping, given_up;
    bool ready;        /* the present run */
    bool was_ready;    /* any run */
    unsigned restarts; /* since it was last steady */
    unsigned start_deaths;
    int64_t started_ns;
    int last_status;
    char fatal[REASON_MAX]; /* sentence of the present run */
    char reason[REASON_MAX];
};

static void start_again(struct child *child);

static char **texts_copy(const char *const *texts)
{
    size_t count = 0;
    while (texts && texts[count])
        count++;
    char **copy = calloc(count + 1, sizeof *copy);
    for (size_t i = 0; copy && i < count; i++) {
        copy[i] = strdup(texts[i]);
        if (!copy[i]) {
            while (i > 0)
                free(copy[--i]);
            free(copy);
            return NULL;
        }
    }
    return copy;
}

static void texts_free(char **texts)
{
    for (char **t = texts; t && *t; t++)
        free(*t);
    free(texts);
}

/* strdup that takes NULL; *failed is set when memory ran out. */
static char *text_copy(const char *text, bool *failed)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        *failed = true;
    return copy;
}

static void mark_ready(struct child *child)
{
    if (child->ready)
        return;
    child->ready = child->was_ready = true;
    child->start_deaths = 0;
    if (child->events.on_ready)
        child->events.on_ready(child->events.arg, child);
}

static void line_came(void *arg, const char *line)
{
    static const char fatal[] = "fatal ";
    struct child *child = arg;
    if (strcmp(line, "ready") == 0)
        mark_ready(child);
    else if (strncmp(line, fatal, sizeof fatal - 1) == 0)
        snprintf(child->fatal, sizeof child->fatal, "%s", line + sizeof fatal - 1);
    else if (child->events.on_line)
        child->events.on_line(child->events.arg, child, line);
}

static void finish(struct child *child)
{
    loop_timer_stop(child->timer);
    child->started = false;
    if (child->events.on_end)
        child->events.on_end(child->events.arg, child);
}

static void give_up(struct child *child)
{
    child->given_up = true;
    if (child->fatal[0])
        snprintf(child->reason, sizeof child->reason, "%s", child->fatal);
    else
        snprintf(child->reason, sizeof child->reason, "%s ended %d times while starting (%s)%s%s",
                 child->name, CHILD_START_TRIES, proc_status_text(child->last_status),
                 child->log_path ? "; its log: " : "", child->log_path ? child->log_path : "");
    log_error("child.given_up name=%s reason=\"%s\"", child->name, child->reason);
    finish(child);
}

static void restart_later(struct child *child)
{
    unsigned delay_ms = proc_backoff_ms(child->restarts++);
    log_warn("child.died name=%s status=\"%s\" restart_ms=%u%s%s%s", child->name,
             proc_status_text(child->last_status), delay_ms, child->fatal[0] ? " reason=\"" : "",
             child->fatal, child->fatal[0] ? "\"" : "");
    loop_timer_start(child->timer, delay_ms, 0);
}

static void ended(void *arg, int status)
{
    struct child *child = arg;
    proc_free(child->proc);
    child->proc = NULL;
    child->last_status = status;
    loop_timer_stop(child->timer);
    child->ready = false;
    if (clock_mono_ns() - child->started_ns >= STEADY_AFTER_MS * NS_PER_MS)
        child->restarts = 0;
    if (child->events.on_exit)
        child->events.on_exit(child->events.arg, child, status);
    if (child->stopping)
        finish(child);
    else if (!child->was_ready && ++child->start_deaths >= CHILD_START_TRIES)
        give_up(child);
    else
        restart_later(child);
}

static void log_rotate(const char *path)
{
    char aside[4096];
    struct stat info;
    if (!path || stat(path, &info) != 0 || info.st_size < LOG_KEEP_BYTES)
        return;
    int len = snprintf(aside, sizeof aside, "%s.1", path);
    if (len > 0 && (size_t)len < sizeof aside)
        (void)rename(path, aside); /* on failure the log just goes on growing */
}

static enum err spawn(struct child *child)
{
    struct proc_spec spec = {.argv = (const char *const *)child->argv,
                             .env = (const char *const *)child->env,
                             .log_path = child->log_path,
                             .netns_path = child->netns_path,
                             .hostname = child->hostname,
                             .report = child->report,
                             .death_signal = child->death_signal};
    child->fatal[0] = '\0';
    log_rotate(child->log_path);
    enum err err = proc_spawn(&child->proc, child->loop, &spec, line_came, ended, child);
    if (err != ERR_OK)
        return err;
    child->started_ns = clock_mono_ns();
    if (!child->report)
        loop_timer_start(child->timer, READY_AFTER_MS, 0);
    return ERR_OK;
}

static void timer_fired(void *arg)
{
    struct child *child = arg;
    if (child->proc)
        mark_ready(child);
    else if (!child->stopping)
        start_again(child);
}

static void start_again(struct child *child)
{
    if (spawn(child) == ERR_OK)
        return;
    snprintf(child->fatal, sizeof child->fatal, "%s", err_text());
    child->last_status = EX_OSERR << 8;
    if (!child->was_ready && ++child->start_deaths >= CHILD_START_TRIES)
        give_up(child);
    else
        restart_later(child);
}

enum err child_new(struct child **out, struct loop *loop, const char *name,
                   const struct proc_spec *spec, const struct child_events *events)
{
    bool failed = false;
    enum err err = ERR_OK;
    struct child *child = calloc(1, sizeof *child);
    if (!child)
        return err_set(ERR_NOMEM, "out of memory");
    child->loop = loop;
    child->events = *events;
    child->report = spec->report;
    child->death_signal = spec->death_signal;
    child->name = text_copy(name, &failed);
    child->log_path = text_copy(spec->log_path, &failed);
    child->netns_path = text_copy(spec->netns_path, &failed);
    child->hostname = text_copy(spec->hostname, &failed);
    child->argv = texts_copy(spec->argv);
    child->env = texts_copy(spec->env);
    if (failed || !child->argv || !child->env)
        err = err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK)
        err = loop_timer_new(&child->timer, loop, timer_fired, child);
    if (err != ERR_OK) {
        child_free(child);
        return err;
    }
    *out = child;
    return ERR_OK;
}

void child_free(struct child *child)
{
    if (!child)
        return;
    proc_free(child->proc);
    loop_timer_free(child->timer);
    texts_free(child->argv);
    texts_free(child->env);
    free(child->name);
    free(child->log_path);
    free(child->netns_path);
    free(child->hostname);
    free(child);
}

enum err child_start(struct child *child)
{
    enum err err = spawn(child);
    if (err == ERR_OK)
        child->started = true;
    return err;
}

void child_stop(struct child *child, int signum)
{
    if (!child)
        return;
    child->stopping = true;
    if (child->proc) {
        proc_signal(child->proc, signum);
        return;
    }
    loop_timer_stop(child->timer);
    child->started = false; /* between two runs: nothing to wait for */
}

const char *child_name(const struct child *child)
{
    return child->name;
}

pid_t child_pid(const struct child *child)
{
    return child->proc ? proc_pid(child->proc) : 0;
}

bool child_ready(const struct child *child)
{
    return child->ready;
}

bool child_ended(const struct child *child)
{
    return !child->started;
}

bool child_given_up(const struct child *child)
{
    return child->given_up;
}

const char *child_reason(const struct child *child)
{
    return child->reason;
}

const char *child_fatal(const struct child *child)
{
    return child->fatal;
}

int child_exit_status(const struct child *child)
{
    return WIFEXITED(child->last_status) ? WEXITSTATUS(child->last_status) : EX_SOFTWARE;
}
