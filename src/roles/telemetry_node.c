/*
 * telemetry_node.c - CPUs, memory, load, network and disk of this node as metrics.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/node.h"
#include "roles/telemetry.h"

#define AT(row) [(row)-GPU_ROWS_END]

const struct metric telemetry_node_rows[NODE_ROWS_END - GPU_ROWS_END] = {
    AT(SYSTEM_LOAD_AVERAGE) = {.name = "system_load_average",
                               .type = METRIC_GAUGE,
                               .help = "System load average over 1 minute"},
    AT(NODE_CPU_SECONDS) = {.name = "wyvern_node_cpu_seconds_total",
                            .type = METRIC_COUNTER,
                            .help = "Time that the node's CPUs spent, by what they did",
                            .labels = {"mode"}},
    AT(NODE_CPUS) = {.name = "wyvern_node_cpus",
                     .type = METRIC_GAUGE,
                     .help = "CPUs of the node that are switched on"},
    AT(NODE_MEMORY_SIZE) = {.name = "wyvern_node_memory_size_bytes",
                            .type = METRIC_GAUGE,
                            .help = "Memory of the node"},
    AT(NODE_MEMORY_AVAILABLE) = {.name = "wyvern_node_memory_available_bytes",
                                 .type = METRIC_GAUGE,
                                 .help = "Memory that programs could still have"},
    AT(NODE_LOAD1) = {.name = "wyvern_node_load1",
                      .type = METRIC_GAUGE,
                      .help = "Load average over 1 minute"},
    AT(NODE_LOAD5) = {.name = "wyvern_node_load5",
                      .type = METRIC_GAUGE,
                      .help = "Load average over 5 minutes"},
    AT(NODE_LOAD15) = {.name = "wyvern_node_load15",
                       .type = METRIC_GAUGE,
                       .help = "Load average over 15 minutes"},
    AT(NODE_NETWORK_RECEIVED) = {.name = "wyvern_node_network_receive_bytes_total",
                                 .type = METRIC_COUNTER,
                                 .help = "Bytes that a network device has received",
                                 .labels = {"device"}},
    AT(NODE_NETWORK_SENT) = {.name = "wyvern_node_network_transmit_bytes_total",
                             .type = METRIC_COUNTER,
                             .help = "Bytes that a network device has sent",
                             .labels = {"device"}},
    AT(NODE_DISK_FREE) = {.name = "wyvern_node_disk_free_bytes",
                          .type = METRIC_GAUGE,
                          .help = "Space that is left on the disk of the state directory",
                          .labels = {"path"}},
    AT(NODE_DISK_SIZE) = {.name = "wyvern_node_disk_size_bytes",
                          .type = METRIC_GAUGE,
                          .help = "Size of the disk of the state directory",
                          .labels = {"path"}},
};

/* ---- reading, in the collectors' threads ---- */

static enum poll_answer read_host(void *state, void *out)
{
    return node_read(state, out) == ERR_OK ? POLL_WELL : POLL_FAILED;
}

static enum poll_answer read_network(void *state, void *out)
{
    return network_read(state, out) == ERR_OK ? POLL_WELL : POLL_FAILED;
}

static enum poll_answer read_disk(void *state, void *out)
{
    return disk_read(state, out) == ERR_OK ? POLL_WELL : POLL_FAILED;
}

/* The state directory, or where the join file lies. */
static char *name_disk(const struct settings *settings)
{
    char path[PATH_MAX];
    char *slash;

    snprintf(path, sizeof path, "%s",
             settings->state_dir != NULL ? settings->state_dir : settings->join);
    if (settings->state_dir == NULL) {
        slash = strrchr(path, '/');
        if (slash == NULL)
            snprintf(path, sizeof path, ".");
        else
            slash[slash == path] = '\0';
    }
    return strdup(path);
}

enum err collect_node(struct telemetry *telemetry)
{
    void *proc = (void *)telemetry->settings->procfs;
    char *disk = name_disk(telemetry->settings);
    enum err err;

    if (disk == NULL)
        return err_set(ERR_NOMEM, "no memory for the disk's name");
    err = telemetry_collect(
        telemetry, COLLECT_DISK, "disk",
        &(struct poller_config){
            .read = read_disk, .done = free, .state = disk, .size = sizeof(struct disk_reading)});
    if (err == ERR_OK)
        err = telemetry_collect(telemetry, COLLECT_HOST, "host",
                                &(struct poller_config){.read = read_host,
                                                        .state = proc,
                                                        .size = sizeof(struct node_reading)});
    if (err == ERR_OK)
        err = telemetry_collect(telemetry, COLLECT_NETWORK, "network",
                                &(struct poller_config){.read = read_network,
                                                        .state = proc,
                                                        .size = sizeof(struct network_reading)});
    return err;
}

/* ---- showing ---- */

/* A reading that failed in part is shown in part; one that hangs is old, and not shown. */
static void show_host(struct telemetry *telemetry, const struct collector *collector)
{
    const struct node_reading *node = collector->latest;

    if (collector->news.readings == 0 || collector->news.hangs)
        return;
    telemetry_set(telemetry, SYSTEM_LOAD_AVERAGE, NULL, node->load[0]);
    telemetry_set(telemetry, NODE_LOAD1, NULL, node->load[0]);
    telemetry_set(telemetry, NODE_LOAD5, NULL, node->load[1]);
    telemetry_set(telemetry, NODE_LOAD15, NULL, node->load[2]);
    telemetry_set(telemetry, NODE_CPUS, NULL, node->cpus);
    telemetry_set(telemetry, NODE_MEMORY_SIZE, NULL, node->memory_size_bytes);
    telemetry_set(telemetry, NODE_MEMORY_AVAILABLE, NULL, node->memory_available_bytes);
    for (size_t i = 0; i < NODE_CPU_MODES; i++)
        telemetry_set(telemetry, NODE_CPU_SECONDS, &node_cpu_modes[i], node->cpu_seconds[i]);
}

static void show_network(struct telemetry *telemetry, const struct collector *collector)
{
    const struct network_reading *network = collector->latest;

    for (unsigned i = 0; collector->news.answer == POLL_WELL && i < network->count; i++) {
        const struct network_device *device = &network->devices[i];
        const char *const label[] = {device->name};
        telemetry_set(telemetry, NODE_NETWORK_RECEIVED, label, device->received_bytes);
        telemetry_set(telemetry, NODE_NETWORK_SENT, label, device->sent_bytes);
    }
}

static void show_disk(struct telemetry *telemetry, const struct collector *collector)
{
    static const char *const path[] = {"state"};
    const struct disk_reading *disk = collector->latest;

    if (collector->news.answer != POLL_WELL)
        return;
    telemetry_set(telemetry, NODE_DISK_FREE, path, disk->free_bytes);
    telemetry_set(telemetry, NODE_DISK_SIZE, path, disk->size_bytes);
}

void show_node(struct telemetry *telemetry)
{
    for (size_t row = GPU_ROWS_END; row < NODE_ROWS_END; row++)
        metrics_clear(telemetry->metrics, row);
    show_host(telemetry, &telemetry->collectors[COLLECT_HOST]);
    show_network(telemetry, &telemetry->collectors[COLLECT_NETWORK]);
    show_disk(telemetry, &telemetry->collectors[COLLECT_DISK]);
}
