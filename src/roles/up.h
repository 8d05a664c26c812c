/*
 * up.h - what the files of `wyvern up` share.  Private to up*.c.
 *
 *   up.c        the life: start, watch, stop
 *   up_check.c  what must be true before anything is started, and what follows from the settings
 *   up_net.c    where nodes live: namespaces or ports; where the broker listens
 *   up_start.c  the command lines of everything that is started
 *   up_watch.c  Prometheus and Grafana, where asked for: found, started, waited for
 *   up_watch_conf.c  their configuration
 */
#ifndef WYVERN_ROLES_UP_H
#define WYVERN_ROLES_UP_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/child.h"
#include "base/loop.h"
#include "base/net.h"
#include "base/netns.h"
#include "bus/broker.h"
#include "config/options.h"
#include "config/settings.h"
#include "roles/args.h"
#include "roles/devices.h"
#include "wire/subject.h"

#define UP_NODES_MAX      64
#define UP_GATEWAYS_MAX   16
#define UP_RESPONDERS_MAX 16

/* In the order in which they are gone through; a stop may begin in any of the first three. */
enum up_phase {
    UP_BROKER_STARTS,
    UP_STARTS,
    UP_RUNS,
    UP_GATEWAYS_LEAVE, /* no new prompts; open replies end whole */
    UP_DRAINS,         /* until the prompt queue is empty */
    UP_NODES_LEAVE,
    UP_RESPONDERS_LEAVE,
    UP_BROKER_LEAVES,
    UP_ENDED,
};

struct up_group {
    struct child *children[UP_NODES_MAX];
    unsigned count;
};

struct up {
    const struct settings *settings;
    struct loop *loop;
    struct loop_timer *tick, *deadline;
    enum up_phase phase;
    bool hurry; /* no draining: kill after a short grace */
    int status;
    int64_t started_ns;

    /* up_check.c */
    char state_dir[PATH_MAX], program[PATH_MAX], broker_program[PATH_MAX];
    char lock_path[PATH_MAX + 16];
    int lock_fd;          /* -1: none */
    char model[PATH_MAX]; /* path, or fake:… */
    char model_name[MODEL_NAME_MAX + 1], model_sha256[65];
    const char *model_file; /* base name within model, or all of fake:… */
    int port;               /* of the first gateway */
    unsigned nodes, workers;
    unsigned threads; /* of one worker */
    uint64_t store_bytes;
    struct device_list devices;

    /* up_net.c */
    bool namespaces;
    struct netns_net net;
    struct netns_keeper keeper;
    char bind_host[NET_HOST_MAX];   /* broker's listening address */
    char broker_host[NET_HOST_MAX]; /* where our own processes reach it */
    char join_host[NET_HOST_MAX];   /* where nodes elsewhere do; "": there are none */

    struct broker *broker;
    struct join setup;
    struct up_group gateways, responders, nodes_group, watchers;
    char node_file[PATH_MAX + 16]; /* join file of the nodes */

    /* up_watch.c */
    char prometheus[PATH_MAX], grafana[PATH_MAX]; /* programs; "": not asked for */
    char deploy_dir[PATH_MAX];                    /* with rules and dashboards; "": none there */
    int prometheus_port, grafana_port;
    int64_t watch_since_ns; /* the service is ready, they were not: since when; 0: not yet */
};

/* One line of progress for people, on stderr, unless --quiet. */
void up_say(const struct up *up, const char *format, ...) PRINTF_LIKE(2, 3);

/* The state directory is ours alone from here on; a second `up` on it gets ERR_FULL. */
MUST_USE enum err up_lock(struct up *up);
void up_unlock(struct up *up);
/* Model, ports, disk, nats-server, and the shape of the service.  Starts nothing. */
MUST_USE enum err up_check(struct up *up);

/* Makes namespaces where they are wanted and permitted, and settles all addresses. */
MUST_USE enum err up_net_prepare(struct up *up);
/* Address that node i's metrics are at, and their port. */
void up_net_metrics(const struct up *up, unsigned i, char host[NET_HOST_MAX], int *port);

MUST_USE enum err up_start_broker(struct up *up, const struct child_events *events);
/* Everything else; the broker answers. */
MUST_USE enum err up_start_roles(struct up *up, const struct child_events *events);
/* Adds the child to its group and starts it.  place: namespace, hostname, report pipe; args (which
 * it frees) begins with the program. */
MUST_USE enum err up_child_add(struct up *up, struct up_group *group, const char *name,
                               struct args *args, const struct proc_spec *place,
                               const struct child_events *events);
/* Are their programs here and their ports free?  Nothing to do when nobody asked. */
MUST_USE enum err up_watch_check(struct up *up);
/* The service's addresses are known. */
MUST_USE enum err up_watch_start(struct up *up, const struct child_events *events);
/* Do they see the service?  Also true once they have had their time, which is said. */
bool up_watch_ready(struct up *up);
void up_watch_say_where(const struct up *up);
/* http://host:port */
void up_watch_url(const struct up *up, int port, char out[128]);

/* up_watch_conf.c: writes below the state directory what they read at their start. */
MUST_USE enum err up_prometheus_conf(const struct up *up, const char *dir);
MUST_USE enum err up_grafana_conf(const struct up *up, const char *dir);
/* host:port of node i's metrics, as Prometheus is to call it; false: not known beforehand. */
bool up_node_target(const struct up *up, unsigned i, char out[128]);
/* Likewise of a gateway. */
void up_gateway_target(const struct up *up, unsigned i, char out[128]);

/* http://host:port of gateway i. */
void up_gateway_url(const struct up *up, unsigned i, char out[128]);

#endif
