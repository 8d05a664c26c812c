/*
 * up_watch_conf.c - what Prometheus and Grafana read at their start, written anew each time.
 *
 * Nodes come twice: ours by address, so that one that is down is seen as down, and those of the
 * gateways' /sd, so that nodes which join later are scraped as well.  Both give the same labels,
 * and Prometheus makes one target of two that are the same.  Gateways are ours alone.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/id.h"
#include "base/outfile.h"
#include "probe/host.h"
#include "roles/up.h"

#define CONF_MAX (256 << 10)

/* Appends what fits; the first failure is kept in *err. */
#define ADD(...)                                                                                   \
    do {                                                                                           \
        if (err == ERR_OK)                                                                         \
            err = buf_printf(out, __VA_ARGS__);                                                    \
    } while (0)

static enum err file_write(const char *path, const struct buf *text)
{
    struct outfile file;
    enum err err = outfile_open(&file, path);
    if (err != ERR_OK)
        return err;
    ssize_t written = fchmod(file.fd, 0600) == 0 ? write(file.fd, text->data, text->len) : -1;
    if (written != (ssize_t)text->len) {
        err = err_set(ERR_IO, "can't write %s: %s", path,
                      written < 0 ? strerror(errno) : "the disk is full");
        outfile_discard(&file);
        return err;
    }
    return outfile_publish(&file);
}

bool up_node_target(const struct up *up, unsigned i, char out[128])
{
    char host[NET_HOST_MAX], in_url[NET_HOST_MAX + 2];
    int port;
    up_net_metrics(up, i, host, &port);
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
        host_name(host, sizeof host); /* as the gateway calls it */
    net_url_host(in_url, host);
    snprintf(out, 128, "%s:%d", in_url, port);
    return port > 0;
}

void up_gateway_target(const struct up *up, unsigned i, char out[128])
{
    static const char scheme[] = "http://";
    char url[128];
    up_gateway_url(up, i, url);
    snprintf(out, 128, "%s", url + sizeof scheme - 1);
}

/* A text in single quotes, as YAML has them. */
static enum err add_quoted(struct buf *out, const char *before, const char *text)
{
    enum err err = buf_printf(out, "%s'", before);
    for (; *text != '\0' && err == ERR_OK; text++)
        err = buf_append(out, *text == '\'' ? "''" : text, *text == '\'' ? 2 : 1);
    ADD("'\n");
    return err;
}

static enum err add_rules(struct buf *out, const struct up *up)
{
    static const char *const files[] = {"rules.yml", "alerts.yml"};
    char path[PATH_MAX + 32];
    enum err err = ERR_OK;
    if (up->deploy_dir[0] == '\0')
        return ERR_OK;
    ADD("rule_files:\n");
    for (size_t i = 0; i < sizeof files / sizeof files[0] && err == ERR_OK; i++) {
        snprintf(path, sizeof path, "%s/prometheus/%s", up->deploy_dir, files[i]);
        err = add_quoted(out, "  - ", path);
    }
    return err;
}

/* The gateways' lists hold gateways as well.  The role's name then goes: it would stand in the way
 * of the label that some metrics have. */
static enum err add_discovery(struct buf *out, const struct up *up)
{
    char url[128];
    enum err err = ERR_OK;
    ADD("    http_sd_configs:\n");
    for (unsigned i = 0; i < (unsigned)up->settings->gateways; i++) {
        up_gateway_url(up, i, url);
        ADD("      - url: '%s/sd'\n        refresh_interval: 5s\n", url);
    }
    ADD("    relabel_configs:\n"
        "      - source_labels: [role]\n        regex: telemetry\n        action: keep\n"
        "      - regex: role\n        action: labeldrop\n");
    return err;
}

static enum err prometheus_text(struct buf *out, const struct up *up)
{
    char address[128];
    enum err err = ERR_OK;
    ADD("# Written by wyvern up at each start.\n"
        "global:\n  scrape_interval: %ds\n  scrape_timeout: %ds\n  evaluation_interval: %ds\n",
        up->settings->scrape_interval_s,
        up->settings->scrape_interval_s < 10 ? up->settings->scrape_interval_s : 10,
        up->settings->scrape_interval_s);
    if (err == ERR_OK)
        err = add_rules(out, up);
    ADD("scrape_configs:\n  - job_name: wyvern-nodes\n    static_configs:\n");
    for (unsigned i = 0; i < up->nodes; i++)
        if (up_node_target(up, i, address))
            ADD("      - targets: ['%s']\n        labels: {node: node%u, role: telemetry}\n",
                address, i + 1);
    if (err == ERR_OK)
        err = add_discovery(out, up);
    ADD("  - job_name: wyvern-gateway\n    static_configs:\n");
    for (unsigned i = 0; i < (unsigned)up->settings->gateways; i++) {
        up_gateway_target(up, i, address);
        ADD("      - targets: ['%s']\n", address);
    }
    return err;
}

static enum err text_write(const struct up *up, const char *dir, const char *name,
                           enum err (*make)(struct buf *out, const struct up *up))
{
    char path[PATH_MAX + 64];
    struct buf text;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    buf_init(&text, CONF_MAX);
    enum err err = make(&text, up);
    if (err == ERR_OK)
        err = file_write(path, &text);
    buf_done(&text);
    return err;
}

enum err up_prometheus_conf(const struct up *up, const char *dir)
{
    return text_write(up, dir, "prometheus.yml", prometheus_text);
}

/* --- Grafana --------------------------------------------------------------------------------- */

/* Anybody who reaches the port may look, nobody may change anything: the administrator's password
 * is random at each start and kept nowhere but in this file. */
static enum err grafana_text(struct buf *out, const struct up *up)
{
    char password[ID_SIZE];
    const char *dir = up->state_dir;
    enum err err = ERR_OK;
    id_random(password, ID_LEN);
    ADD("; Written by wyvern up at each start.\n"
        "[server]\nhttp_addr = %s\nhttp_port = %d\n"
        "[paths]\ndata = %s/grafana/data\nlogs = %s/grafana/logs\nplugins = %s/grafana/plugins\n"
        "provisioning = %s/grafana/provisioning\n",
        up->settings->watch_host, up->grafana_port, dir, dir, dir, dir);
    ADD("[security]\nadmin_password = %s\ndisable_gravatar = true\n"
        "[users]\nallow_sign_up = false\n"
        "[auth.anonymous]\nenabled = true\norg_role = Viewer\n"
        "[analytics]\nreporting_enabled = false\ncheck_for_updates = false\n"
        "check_for_plugin_updates = false\n"
        "[dashboards]\ndefault_home_dashboard_path = %s/grafana/dashboards/load-balance.json\n",
        password, up->deploy_dir);
    return err;
}

/* As deploy/grafana/provisioning/datasources/wyvern.yml, with our port and interval. */
static enum err datasource_text(struct buf *out, const struct up *up)
{
    char url[128];
    enum err err = ERR_OK;
    up_watch_url(up, up->prometheus_port, url);
    ADD("apiVersion: 1\ndatasources:\n  - name: wyvern\n    uid: wyvern-prometheus\n"
        "    type: prometheus\n    access: proxy\n    url: '%s'\n    isDefault: true\n"
        "    jsonData:\n      timeInterval: %ds\n      httpMethod: POST\n",
        url, up->settings->scrape_interval_s);
    return err;
}

static enum err provider_text(struct buf *out, const struct up *up)
{
    char path[PATH_MAX + 32];
    enum err err = ERR_OK;
    ADD("apiVersion: 1\nproviders:\n  - name: wyvern\n    folder: wyvern\n    type: file\n"
        "    options:\n");
    snprintf(path, sizeof path, "%s/grafana/dashboards", up->deploy_dir);
    if (err == ERR_OK)
        err = add_quoted(out, "      path: ", path);
    return err;
}

enum err up_grafana_conf(const struct up *up, const char *dir)
{
    static const char *const folders[] = {"provisioning", "provisioning/datasources",
                                          "provisioning/dashboards"};
    char path[PATH_MAX + 64];
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, folders[i]);
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return err_set(ERR_IO, "can't make the directory %s: %s", path, strerror(errno));
    }
    enum err err = text_write(up, dir, "grafana.ini", grafana_text);
    if (err == ERR_OK)
        err = text_write(up, dir, "provisioning/datasources/wyvern.yml", datasource_text);
    if (err == ERR_OK)
        err = text_write(up, dir, "provisioning/dashboards/wyvern.yml", provider_text);
    return err;
}
