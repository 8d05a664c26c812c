/*
 * runtime_log.c - libllama's messages.
 *
 * The runtime has no calls that tell the size of its buffers, why a model did not load, or how far
 * a conversion is, but it says so in its messages; while somebody collects, they are read for it.
 * A format that changes costs a fact, nothing else.
 */
#include "engine/runtime_log.h"

#include <llama.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct runtime_facts *collecting; /* under lock, as all below */
static engine_progress_fn *progress_fn;
static void *progress_arg;

/* "… KV buffer size =  12.00 MiB" → bytes; 0 when the text says nothing of the kind. */
static uint64_t read_size(const char *text, const char *what)
{
    const char *at = strstr(text, what);
    double mib;
    if (at == NULL || sscanf(at + strlen(what), " buffer size = %lf MiB", &mib) != 1 || mib < 0)
        return 0;
    return (uint64_t)(mib * 1024 * 1024);
}

/* "[  12/ 272] blk…" */
static void read_progress(const char *text)
{
    unsigned done, all;
    if (progress_fn != NULL && sscanf(text, "[ %u/ %u]", &done, &all) == 2 && all > 0 &&
        done <= all)
        progress_fn(progress_arg, (double)done / all);
}

static void copy_line(char *out, size_t cap, const char *text)
{
    /* "llama_model_load: error loading model: …": the function's name helps nobody. */
    size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz_0123456789");
    if (name > 0 && strncmp(text + name, ": ", 2) == 0 && memchr(text, '_', name) != NULL)
        text += name + 2;
    int len = (int)strcspn(text, "\n");
    snprintf(out, cap, "%.*s", len < 255 ? len : 255, text);
}

static void collect(enum ggml_log_level level, const char *text)
{
    collecting->kv_bytes += read_size(text, "KV");
    collecting->kv_bytes += read_size(text, "RS");
    collecting->compute_bytes += read_size(text, "compute");
    collecting->compute_bytes += read_size(text, "output");
    read_progress(text);
    /* The first error is the cause; those after it only say that something failed. */
    if (level == GGML_LOG_LEVEL_ERROR && collecting->complaint[0] == '\0')
        copy_line(collecting->complaint, sizeof collecting->complaint, text);
}

static void on_message(enum ggml_log_level level, const char *text, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    bool taken = collecting != NULL;
    if (taken)
        collect(level, text);
    pthread_mutex_unlock(&lock);
    char line[256];
    copy_line(line, sizeof line, text);
    if (line[0] == '\0')
        return;
    if (level == GGML_LOG_LEVEL_ERROR && !taken)
        log_error("runtime message=\"%s\"", line);
    else if (level == GGML_LOG_LEVEL_WARN && !taken)
        log_warn("runtime message=\"%s\"", line);
    else
        log_debug("runtime message=\"%s\"", line);
}

static void install(void)
{
    /* An abort must not start a debugger on us. */
    setenv("GGML_NO_BACKTRACE", "1", 1);
    llama_log_set(on_message, NULL);
}

void engine_log_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
}

void runtime_log_collect_progress(struct runtime_facts *facts, engine_progress_fn *progress,
                                  void *arg)
{
    engine_log_init();
    *facts = (struct runtime_facts){0};
    pthread_mutex_lock(&lock);
    collecting = facts;
    progress_fn = progress;
    progress_arg = arg;
    pthread_mutex_unlock(&lock);
}

void runtime_log_collect(struct runtime_facts *facts)
{
    runtime_log_collect_progress(facts, NULL, NULL);
}

void runtime_log_release(void)
{
    pthread_mutex_lock(&lock);
    collecting = NULL;
    progress_fn = NULL;
    pthread_mutex_unlock(&lock);
}
