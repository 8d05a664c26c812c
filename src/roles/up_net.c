/*
 * up_net.c - where nodes live and where the broker listens.
 *
 * One node shares this host's network.  Several get a network namespace each, with an address and a
 * hostname of their own, as if they were machines; where that is not permitted they share this
 * host's network and their metrics take one port each.  The broker listens on one address alone:
 * loopback, the bridge to the namespaces, or the one of --listen, which namespaces reach through
 * their default route.
 */
#include <stdio.h>
#include <string.h>

#include "roles/up.h"

#define ANYWHERE "192.0.2.1" /* no host has it (RFC 5737): the default route leads to it */

void up_net_metrics(const struct up *up, unsigned i, char host[NET_HOST_MAX], int *port)
{
    const struct settings *s = up->settings;
    if (up->namespaces) {
        netns_address(&up->net, i, host);
        *port = s->metrics_port;
        return;
    }
    snprintf(host, NET_HOST_MAX, "%s", s->metrics_host ? s->metrics_host : "127.0.0.1");
    *port = s->metrics_port > 0 ? s->metrics_port + (int)i : 0;
}

static enum err check_metrics_ports(const struct up *up)
{
    char host[NET_HOST_MAX];
    int port;
    if (up->namespaces)
        return ERR_OK; /* nobody else is there */
    for (unsigned i = 0; i < up->nodes; i++) {
        up_net_metrics(up, i, host, &port);
        if (port > 65535)
            return err_set(ERR_USAGE, "--metrics-port %d leaves no room for %u nodes",
                           up->settings->metrics_port, up->nodes);
        if (port == 0)
            continue;
        enum err err = net_port_probe(host, port, NULL);
        if (err != ERR_OK)
            return err_set(err, "%s; choose another port for metrics with --metrics-port",
                           err_text());
    }
    return ERR_OK;
}

static bool is_any(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

static void addresses_settle(struct up *up)
{
    const char *wanted = up->settings->listen;
    const char *inside = up->namespaces ? up->net.gateway : "127.0.0.1";
    snprintf(up->broker_host, NET_HOST_MAX, "%s", inside);
    snprintf(up->bind_host, NET_HOST_MAX, "%s", inside);
    if (!wanted)
        return;
    if (is_any(wanted)) {
        snprintf(up->bind_host, NET_HOST_MAX, "%s", wanted);
        net_address_toward(up->join_host, ANYWHERE);
        return;
    }
    snprintf(up->join_host, NET_HOST_MAX, "%s", wanted);
    if (up->namespaces && net_is_loopback(wanted)) {
        snprintf(up->bind_host, NET_HOST_MAX, "0.0.0.0");
        up_say(up, "the broker listens on all addresses: %s is not reached from namespaces",
               wanted);
        return;
    }
    snprintf(up->bind_host, NET_HOST_MAX, "%s", wanted);
    snprintf(up->broker_host, NET_HOST_MAX, "%s", wanted);
}

static enum err namespaces_make(struct up *up)
{
    enum err err = netns_keeper_start(&up->keeper, &up->net);
    if (err != ERR_OK)
        return err;
    err = netns_up(&up->net);
    if (err != ERR_OK)
        netns_keeper_finish(&up->keeper);
    return err;
}

enum err up_net_prepare(struct up *up)
{
    const char *how = up->settings->node_net;
    netns_init(&up->net, up->state_dir, up->nodes);
    netns_down(&up->net); /* of a run before us that could not */
    if (up->settings->listen) {
        enum err err = net_port_probe(up->settings->listen, 0, NULL);
        if (err != ERR_OK)
            return err_prefix(err, "--listen");
    }
    if (up->nodes > 1 && strcmp(how, "ports") != 0) {
        enum err err = namespaces_make(up);
        if (err != ERR_OK && strcmp(how, "auto") != 0)
            return err_prefix(err, "--node-net namespaces");
        up->namespaces = err == ERR_OK;
        if (err != ERR_OK)
            up_say(up, "%u nodes on distinct ports (%s)", up->nodes, err_text());
    } else if (up->nodes > 1) {
        up_say(up, "%u nodes on distinct ports, as asked", up->nodes);
    }
    if (up->namespaces) {
        char first[NETNS_TEXT_MAX], last[NETNS_TEXT_MAX];
        netns_address(&up->net, 0, first);
        netns_address(&up->net, up->nodes - 1, last);
        up_say(up, "%u nodes in network namespaces: node1 at %s … node%u at %s", up->nodes, first,
               up->nodes, last);
    }
    addresses_settle(up);
    return check_metrics_ports(up);
}
