/*
 * roles.h - the long-running processes, as main starts them.
 *
 * Each runs one role until it is told to end (SIGTERM or SIGINT: drain, then leave) and returns a
 * sysexits status.  argc and argv are what is left after the options: nothing.
 */
#ifndef WYVERN_ROLES_ROLES_H
#define WYVERN_ROLES_ROLES_H

#include <stddef.h>

#include "config/options.h"
#include "metrics/family.h"

int role_up(const struct settings *settings, int argc, char **argv);
int role_node(const struct settings *settings, int argc, char **argv);
int role_gateway(const struct settings *settings, int argc, char **argv);
int role_infer(const struct settings *settings, int argc, char **argv);
int role_respond(const struct settings *settings, int argc, char **argv);
int role_telemetry(const struct settings *settings, int argc, char **argv);

/* What two of them count, for docs/METRICS.md. */
const struct metric *role_gateway_metrics(size_t *count);
const struct metric *role_telemetry_metrics(size_t *count);

#endif
