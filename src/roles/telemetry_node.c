/*
 * telemetry_node.c - load and resources of this node as metrics.
 */
#include "probe/host.h"
#include "roles/telemetry.h"

#define AT(row) [(row)-GPU_ROWS_END]

const struct metric telemetry_node_rows[NODE_ROWS_END - GPU_ROWS_END] = {
    AT(SYSTEM_LOAD_AVERAGE) = {.name = "system_load_average",
                               .type = METRIC_GAUGE,
                               .help = "System load average over 1 minute"},
};

void show_node(struct telemetry *telemetry)
{
    double load[3];

    if (host_load_average(load) == ERR_OK)
        telemetry_set(telemetry, SYSTEM_LOAD_AVERAGE, NULL, load[0]);
    else
        metrics_clear(telemetry->metrics, SYSTEM_LOAD_AVERAGE);
}
