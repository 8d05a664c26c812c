/*
 * doctor.c - looks for what `wyvern up` needs on this machine, and says the mend of what is wrong.
 *
 * One row per check.  "note" is worth knowing and harms nothing; "wrong" is what stops the service.
 */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/net.h"
#include "bus/broker.h"
#include "config/settings.h"
#include "config/wrap.h"
#include "probe/host.h"
#include "probe/nvml.h"
#include "verbs/apiclient.h"
#include "verbs/term.h"
#include "verbs/verbs.h"
#include "wire/json.h"

#define DISK_LEAST_BYTES   ((uint64_t)2 << 30)
#define MEMORY_LEAST_BYTES ((uint64_t)1 << 30)
#define FILES_LEAST        4096

enum finding_level { FINDING_OK, FINDING_NOTE, FINDING_WRONG };
static const char *const level_names[] = {"ok", "note", "wrong"};

struct finding {
    enum finding_level level;
    char text[1024];
    const char *mend; /* a literal; "" where the text says it or nothing is wrong */
};

static void PRINTF_LIKE(4, 5) found(struct finding *finding, enum finding_level level,
                                    const char *mend, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(finding->text, sizeof finding->text, format, args);
    va_end(args);
    finding->level = level;
    finding->mend = mend;
}

static void check_broker(const struct settings *settings, struct finding *finding)
{
    char path[PATH_MAX];
    (void)settings;
    if (broker_find(path) == ERR_OK)
        found(finding, FINDING_OK, "", "nats-server is %.900s", path);
    else
        found(finding, FINDING_WRONG, "", "%s", err_text());
}

static void check_model(const struct settings *settings, struct finding *finding)
{
    char path[PATH_MAX];
    struct stat info;
    if (model_find(path, settings->model, NULL) != ERR_OK)
        found(finding, FINDING_WRONG, "", "%s", err_text());
    else if (stat(path, &info) == 0)
        found(finding, FINDING_OK, "", "%.900s, %lld MiB", path, (long long)info.st_size >> 20);
    else
        found(finding, FINDING_OK, "", "%.900s", path);
}

static void check_port(const struct settings *settings, struct finding *finding)
{
    enum err err = net_port_probe(settings->host, settings->port, NULL);
    if (err == ERR_OK) {
        found(finding, FINDING_OK, "", "%s:%d is free", settings->host, settings->port);
        return;
    }
    char sentence[512], host[NET_HOST_MAX + 2], url[NET_HOST_MAX + 32];
    snprintf(sentence, sizeof sentence, "%s", err_text());
    net_url_host(host, settings->host);
    snprintf(url, sizeof url, "http://%s:%d", host, settings->port);
    struct settings there = *settings;
    there.url = url;
    json_t *status = NULL;
    if (err == ERR_UNAVAILABLE && api_get(&status, &there, "/wyvern/status") == ERR_OK)
        found(finding, FINDING_NOTE, "", "a service already runs at %s", url);
    else
        found(finding, FINDING_WRONG, "end what listens there, or choose another with --port", "%s",
              sentence);
    json_decref(status);
}

/* The state directory, or the nearest folder above it that is there: nothing is made. */
static void check_disk(const struct settings *settings, struct finding *finding)
{
    char name[PATH_MAX], folder[PATH_MAX + 2];
    uint64_t bytes = 0;
    if (state_dir_name(name, settings->state_dir) != ERR_OK) {
        found(finding, FINDING_WRONG, "", "%s", err_text());
        return;
    }
    snprintf(folder, sizeof folder, "%s%s", name[0] == '/' ? "" : "./", name);
    while (access(folder, F_OK) != 0 && strrchr(folder, '/') > folder)
        *strrchr(folder, '/') = '\0';
    if (access(folder, W_OK | X_OK) != 0) {
        found(finding, FINDING_WRONG, "choose another place with --state-dir",
              "%.800s can't be written: %s", folder, strerror(errno));
    } else if (host_disk_free(folder, &bytes) != ERR_OK) {
        found(finding, FINDING_WRONG, "", "%s", err_text());
    } else {
        bool enough = bytes >= DISK_LEAST_BYTES;
        found(finding, enough ? FINDING_OK : FINDING_WRONG,
              enough ? "" : "free some space, or choose another place with --state-dir",
              "%llu MiB are free for the queues at %.800s", (unsigned long long)bytes >> 20, name);
    }
}

static void check_memory(const struct settings *settings, struct finding *finding)
{
    uint64_t total = 0, available = 0;
    (void)settings;
    if (host_memory(&total, &available) != ERR_OK) {
        found(finding, FINDING_NOTE, "", "%s", err_text());
        return;
    }
    bool enough = available >= MEMORY_LEAST_BYTES;
    found(finding, enough ? FINDING_OK : FINDING_NOTE,
          enough ? "" : "use fewer --workers or a smaller --model",
          "%llu of %llu MiB memory are free; %u CPUs", (unsigned long long)available >> 20,
          (unsigned long long)total >> 20, host_cpus());
}

static void check_files(const struct settings *settings, struct finding *finding)
{
    struct rlimit files = {0};
    (void)settings;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) {
        found(finding, FINDING_NOTE, "", "can't read the limit on open files: %s", strerror(errno));
        return;
    }
    bool enough = files.rlim_max >= FILES_LEAST;
    found(finding, enough ? FINDING_OK : FINDING_NOTE,
          enough ? "" : "raise it (ulimit -Hn 20000, or LimitNOFILE=) to serve many at once",
          "a process may open %llu files", (unsigned long long)files.rlim_max);
}

/* In a child: what unshare() changes stays with it. */
static bool namespace_try(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS) == 0 ? 0 : 1);
    int status = 1;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool ip_is_there(void)
{
    static const char *const places[] = {"/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (access(places[i], X_OK) == 0)
            return true;
    }
    return false;
}

static void check_namespaces(const struct settings *settings, struct finding *finding)
{
    (void)settings;
    if (!namespace_try())
        found(
            finding, FINDING_NOTE, geteuid() == 0 ? "" : "run as root for namespaces",
            "network namespaces are not permitted: several nodes (--nodes) share this address, on "
            "ports of their own");
    else if (!ip_is_there())
        found(finding, FINDING_NOTE, "install iproute2",
              "there is no ip program: several nodes (--nodes) share this address, on ports of "
              "their own");
    else
        found(finding, FINDING_OK, "",
              "several nodes (--nodes) get network namespaces of their own");
}

static void check_gpus(const struct settings *settings, struct finding *finding)
{
    struct nvml *nvml = NULL;
    struct gpu_reading *readings = calloc(NVML_MAX_GPUS, sizeof *readings);
    unsigned count = 0;
    (void)settings;
    if (readings == NULL || nvml_open(&nvml, NULL) != ERR_OK)
        found(finding, FINDING_NOTE, "", "no NVIDIA GPU: %s; models run on the CPUs", err_text());
    else if (nvml_read(nvml, readings, &count) != ERR_OK)
        found(finding, FINDING_NOTE, "", "NVIDIA's library is here, and its driver is not: %s",
              err_text());
    else
        found(finding, FINDING_OK, "", "%u NVIDIA GPU%s%s%s", count, count == 1 ? "" : "s",
              count > 0 ? ", the first: " : "", count > 0 ? readings[0].name : "");
    nvml_close(nvml);
    free(readings);
}

static const struct {
    const char *name;
    void (*run)(const struct settings *settings, struct finding *finding);
} checks[] = {
    {"broker", check_broker},    {"model", check_model},   {"port", check_port},
    {"disk", check_disk},        {"memory", check_memory}, {"files", check_files},
    {"nodes", check_namespaces}, {"gpus", check_gpus},
};
#define CHECK_COUNT (sizeof checks / sizeof checks[0])

static void findings_print(const struct finding *findings)
{
    enum { COLUMN = 16 };
    struct term_style style = term_style_of(stdout);
    for (size_t i = 0; i < CHECK_COUNT; i++) {
        const struct finding *finding = &findings[i];
        const char *colour = finding->level == FINDING_WRONG  ? term_red(&style)
                             : finding->level == FINDING_NOTE ? term_dim(&style)
                                                              : "";
        printf("%s%-5s%s  %-9s", colour, level_names[finding->level],
               *colour != '\0' ? term_reset(&style) : "", checks[i].name);
        wrap_print(stdout, finding->text, COLUMN, COLUMN, style.width);
        if (*finding->mend != '\0') {
            printf("%*s", COLUMN, "");
            wrap_print(stdout, finding->mend, COLUMN, COLUMN, style.width);
        }
    }
}

static enum err findings_print_json(const struct finding *findings, bool ready)
{
    json_t *list = json_array();
    int failed = list == NULL;
    for (size_t i = 0; i < CHECK_COUNT && !failed; i++)
        failed =
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "check", checks[i].name,
                                                  "state", level_names[findings[i].level], "text",
                                                  findings[i].text, "mend", findings[i].mend));
    json_t *root = failed ? NULL : json_pack("{s:b, s:O}", "ready", ready, "checks", list);
    failed = root == NULL || json_dumpf(root, stdout, JSON_COMPACT) != 0;
    fputc('\n', stdout);
    json_decref(list);
    json_decref(root);
    return failed && !ferror(stdout) ? err_set(ERR_NOMEM, "out of memory") : ERR_OK;
}

int verb_doctor(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct finding findings[CHECK_COUNT] = {0};
    bool ready = true;
    for (size_t i = 0; i < CHECK_COUNT; i++) {
        checks[i].run(settings, &findings[i]);
        ready = ready && findings[i].level != FINDING_WRONG;
    }
    if (!settings->json)
        findings_print(findings);
    else if (findings_print_json(findings, ready) != ERR_OK)
        return term_fail(ERR_NOMEM);
    return ready ? EX_OK : EX_CONFIG;
}
