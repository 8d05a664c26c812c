/*
 * net.h - addresses and ports of this host, before anything listens on them.  Any thread.
 */
#ifndef WYVERN_BASE_NET_H
#define WYVERN_BASE_NET_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/err.h"

#define NET_HOST_MAX 64 /* a numeric address as text */

/* ERR_USAGE when host is neither an address nor a name that resolves. */
MUST_USE enum err net_address(struct sockaddr_storage *out, socklen_t *len, const char *host,
                              int port);
/* Binds for a moment to see whether one could listen there; port 0 finds a free one.  *found (may
 * be NULL) is the port.  ERR_UNAVAILABLE: taken, or not an address of this host. */
MUST_USE enum err net_port_probe(const char *host, int port, int *found);
/* The address of ours from which packets go to host; "127.0.0.1" when that can't be found. */
void net_address_toward(char out[NET_HOST_MAX], const char *host);
/* Is it an address of this machine's loopback? */
bool net_is_loopback(const char *host);
/* "host", or "[host]" for IPv6, as URLs want it. */
void net_url_host(char out[NET_HOST_MAX + 2], const char *host);

#endif
