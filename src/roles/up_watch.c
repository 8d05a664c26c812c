/*
 * up_watch.c - Prometheus and Grafana beside the service: found, started, waited for.
 *
 * They are programs of other people, installed or not; who asks for one that is not here is told
 * how to get it before anything starts.  They listen on loopback unless told otherwise, keep what
 * they write below the state directory, run as children like everything else, and see the service
 * before it is called ready; a start that takes them too long is said and not waited for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "http/client.h"
#include "roles/up.h"
#include "wire/json.h"

#define PATIENCE_MS 30000 /* a first start of Grafana makes its database */
#define CALL_MS     500
#define RETENTION   "15d"
#define SIZE_MOST   "1GB"

/* --- what must be there ---------------------------------------------------------------------- */

static bool program_try(char out[PATH_MAX], const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0 &&
           realpath(path, out) != NULL;
}

static bool program_on_path(char out[PATH_MAX], const char *name)
{
    char candidate[PATH_MAX];
    for (const char *path = getenv("PATH"); path != NULL && *path != '\0';) {
        size_t len = strcspn(path, ":");
        int n = snprintf(candidate, sizeof candidate, "%.*s/%s", (int)len, path, name);
        if (len > 0 && n > 0 && n < PATH_MAX && program_try(out, candidate))
            return true;
        path += len + (path[len] == ':');
    }
    return false;
}

/* The folder that our own program lies in. */
static enum err program_dir(char out[PATH_MAX])
{
    enum err err = program_path(out);
    char *slash = err == ERR_OK ? strrchr(out, '/') : NULL;
    if (slash)
        *slash = '\0';
    return err;
}

/* Named by --OPTION-program, on PATH, or in one folder more.  mend: how to get it. */
static enum err program_find(char out[PATH_MAX], const char *option, const char *named,
                             const char *name, const char *folder, const char *mend)
{
    char candidate[PATH_MAX + 64];
    if (named != NULL) {
        if (program_try(out, named))
            return ERR_OK;
        return err_set(ERR_NOT_FOUND, "--%s-program names %s, which is no program", option, named);
    }
    if (program_on_path(out, name))
        return ERR_OK;
    snprintf(candidate, sizeof candidate, "%s/%s", folder, name);
    if (program_try(out, candidate))
        return ERR_OK;
    return err_set(ERR_NOT_FOUND, "no %s was found: %s", name, mend);
}

/* Beside the build, or where an installation has it. */
static void deploy_find(struct up *up, const char *dir)
{
    static const char *const places[] = {"../deploy", "../share/wyvern/deploy"};
    char candidate[PATH_MAX + 64];
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(candidate, sizeof candidate, "%s/%s/prometheus/alerts.yml", dir, places[i]);
        if (access(candidate, R_OK) != 0)
            continue;
        snprintf(candidate, sizeof candidate, "%s/%s", dir, places[i]);
        if (realpath(candidate, up->deploy_dir) != NULL)
            return;
    }
    up->deploy_dir[0] = '\0';
}

static enum err port_check(const struct up *up, const char *option, int wanted, int *port)
{
    enum err err = net_port_probe(up->settings->watch_host, wanted, port);
    if (err != ERR_OK)
        return err_set(err, "%s; choose another port with --%s", err_text(), option);
    return ERR_OK;
}

enum err up_watch_check(struct up *up)
{
    const struct settings *s = up->settings;
    char dir[PATH_MAX], deps[PATH_MAX + 32];
    if (!s->prometheus && !s->grafana)
        return ERR_OK;
    enum err err = program_dir(dir);
    if (err != ERR_OK)
        return err;
    snprintf(deps, sizeof deps, "%s/../.deps/bin", dir);
    err = program_find(up->prometheus, "prometheus", s->prometheus_program, "prometheus", deps,
                       "run scripts/deps.sh prometheus, or install your system's package, or "
                       "leave --prometheus out");
    if (err == ERR_OK && s->grafana)
        err =
            program_find(up->grafana, "grafana", s->grafana_program, "grafana-server", "/usr/sbin",
                         "install Grafana (docs/OPERATIONS.md says how), name its program with "
                         "--grafana-program, or leave --grafana out");
    if (err == ERR_OK)
        err = port_check(up, "prometheus-port", s->prometheus_port, &up->prometheus_port);
    if (err == ERR_OK && s->grafana)
        err = port_check(up, "grafana-port", s->grafana_port, &up->grafana_port);
    if (err != ERR_OK)
        return err;
    deploy_find(up, dir);
    if (s->grafana && up->deploy_dir[0] == '\0')
        return err_set(ERR_NOT_FOUND, "the dashboards (deploy/grafana) are not beside %s", dir);
    if (up->deploy_dir[0] == '\0')
        up_say(up, "Prometheus starts without our rules and alerts: deploy/ is not beside %s", dir);
    return ERR_OK;
}

/* --- starting -------------------------------------------------------------------------------- */

static enum err dir_make(char out[PATH_MAX], const struct up *up, const char *name)
{
    if (snprintf(out, PATH_MAX - 64, "%s/%s", up->state_dir, name) >= PATH_MAX - 64)
        return err_set(ERR_LIMIT, "the state directory's path is too long");
    if (mkdir(out, 0700) != 0 && errno != EEXIST)
        return err_set(ERR_IO, "can't make the directory %s: %s", out, strerror(errno));
    return ERR_OK;
}

static enum err start_prometheus(struct up *up, const struct child_events *events)
{
    char dir[PATH_MAX], path[PATH_MAX + 32], listen[128], url_host[NET_HOST_MAX + 2];
    struct args args;
    const struct proc_spec place = {0};
    enum err err = dir_make(dir, up, "prometheus");
    if (err == ERR_OK)
        err = up_prometheus_conf(up, dir);
    if (err != ERR_OK)
        return err;
    snprintf(path, sizeof path, "--config.file=%s/prometheus.yml", dir);
    args_init(&args, up->prometheus, path);
    snprintf(path, sizeof path, "%s/data", dir);
    args_text(&args, "--storage.tsdb.path", path);
    args_text(&args, "--storage.tsdb.retention.time", RETENTION);
    args_text(&args, "--storage.tsdb.retention.size", SIZE_MOST);
    net_url_host(url_host, up->settings->watch_host);
    snprintf(listen, sizeof listen, "%s:%d", url_host, up->prometheus_port);
    args_text(&args, "--web.listen-address", listen);
    return up_child_add(up, &up->watchers, "prometheus", &args, &place, events);
}

/* Where Grafana keeps its own defaults and pages: as packaged, or beside bin/ of an archive. */
static void grafana_home(const struct up *up, char out[PATH_MAX])
{
    char beside[PATH_MAX + 16];
    snprintf(out, PATH_MAX, "%s", up->grafana);
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(out, '/');
        *(slash != NULL ? slash : out) = '\0';
    }
    snprintf(beside, sizeof beside, "%s/conf", out);
    if (access(beside, R_OK) != 0)
        snprintf(out, PATH_MAX, "/usr/share/grafana");
}

static enum err start_grafana(struct up *up, const struct child_events *events)
{
    char dir[PATH_MAX], path[PATH_MAX + 32], home[PATH_MAX];
    struct args args;
    const struct proc_spec place = {0};
    enum err err = dir_make(dir, up, "grafana");
    if (err == ERR_OK)
        err = up_grafana_conf(up, dir);
    if (err != ERR_OK)
        return err;
    snprintf(path, sizeof path, "--config=%s/grafana.ini", dir);
    args_init(&args, up->grafana, path);
    grafana_home(up, home);
    args_text(&args, "--homepath", home);
    return up_child_add(up, &up->watchers, "grafana", &args, &place, events);
}

enum err up_watch_start(struct up *up, const struct child_events *events)
{
    enum err err = ERR_OK;
    if (up->prometheus[0])
        err = start_prometheus(up, events);
    if (err == ERR_OK && up->grafana[0])
        err = start_grafana(up, events);
    return err;
}

/* --- do they see the service? ---------------------------------------------------------------- */

void up_watch_url(const struct up *up, int port, char out[128])
{
    const char *host = up->settings->watch_host;
    char in_url[NET_HOST_MAX + 2];
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
        host = "127.0.0.1";
    net_url_host(in_url, host);
    snprintf(out, 128, "http://%s:%d", in_url, port);
}

static bool ask(const struct up *up, int port, const char *path, struct http_result *result)
{
    char url[192];
    up_watch_url(up, port, url);
    strncat(url, path, sizeof url - strlen(url) - 1);
    const struct http_call call = {
        .method = "GET", .url = url, .connect_ms = CALL_MS, .total_ms = CALL_MS};
    return http_call_run(&call, result) == ERR_OK && result->status == 200;
}

static bool target_is_up(const json_t *targets, const char *label, const char *value)
{
    size_t i;
    json_t *target;
    json_array_foreach(targets, i, target)
    {
        const json_t *labels = json_object_get(target, "labels");
        if (strcmp(json_text(labels, label, ""), value) == 0)
            return strcmp(json_text(target, "health", ""), "up") == 0;
    }
    return false;
}

static bool targets_are_up(const struct up *up, const json_t *targets)
{
    char address[128], node[32];
    for (unsigned i = 0; i < up->nodes_group.count; i++) { /* by name: its port may be any */
        snprintf(node, sizeof node, "node%u", i + 1);
        if (!target_is_up(targets, "node", node))
            return false;
    }
    for (unsigned i = 0; i < up->gateways.count; i++) {
        up_gateway_target(up, i, address);
        if (!target_is_up(targets, "instance", address))
            return false;
    }
    return true;
}

static bool prometheus_sees(const struct up *up)
{
    struct http_result result;
    json_t *root = NULL;
    bool seen = false;
    http_result_init(&result);
    if (ask(up, up->prometheus_port, "/api/v1/targets?state=active", &result) &&
        json_parse(&root, result.body.data, result.body.len) == ERR_OK) {
        const json_t *data = json_object_get(root, "data");
        seen = targets_are_up(up, json_object_get(data, "activeTargets"));
    }
    json_decref(root);
    http_result_done(&result);
    return seen;
}

static bool grafana_answers(const struct up *up)
{
    struct http_result result;
    http_result_init(&result);
    bool answers = ask(up, up->grafana_port, "/api/health", &result);
    http_result_done(&result);
    return answers;
}

bool up_watch_ready(struct up *up)
{
    if (!up->prometheus[0])
        return true;
    bool sees = prometheus_sees(up);
    if (sees && (!up->grafana[0] || grafana_answers(up)))
        return true;
    if (up->watch_since_ns == 0)
        up->watch_since_ns = clock_mono_ns();
    if (clock_mono_ns() - up->watch_since_ns < PATIENCE_MS * NS_PER_MS)
        return false;
    up_say(up, "%s after %d s; its log: %s/logs/%s.log",
           sees ? "Grafana does not answer" : "Prometheus does not see every target",
           PATIENCE_MS / 1000, up->state_dir, sees ? "grafana" : "prometheus");
    return true;
}

void up_watch_say_where(const struct up *up)
{
    char url[128];
    if (up->prometheus[0]) {
        up_watch_url(up, up->prometheus_port, url);
        up_say(up, "watch    %s   (Prometheus)", url);
    }
    if (up->grafana[0]) {
        up_watch_url(up, up->grafana_port, url);
        up_say(up, "watch    %s   (Grafana)", url);
    }
}
