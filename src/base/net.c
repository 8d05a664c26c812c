#include "base/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ANY_PORT 9 /* "discard": nothing is sent there */

enum err net_address(struct sockaddr_storage *out, socklen_t *len, const char *host, int port)
{
    char service[16];
    struct addrinfo *list;
    struct addrinfo hints = {.ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    snprintf(service, sizeof service, "%d", port);
    int failed = getaddrinfo(host, service, &hints, &list);
    if (failed != 0)
        return err_set(ERR_USAGE, "\"%s\" is no address: %s", host, gai_strerror(failed));
    memcpy(out, list->ai_addr, list->ai_addrlen);
    *len = list->ai_addrlen;
    freeaddrinfo(list);
    return ERR_OK;
}

static int address_port(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return ntohs(((const struct sockaddr_in *)address)->sin_port);
}

enum err net_port_probe(const char *host, int port, int *found)
{
    struct sockaddr_storage address;
    socklen_t len;
    int on = 1;
    enum err err = net_address(&address, &len, host, port);
    if (err != ERR_OK)
        return err;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(ERR_OS, "can't make a socket: %s", strerror(errno));
    /* As servers do, so that a port whose old connections linger counts as free.  Listening too:
     * with the option set, binding alone succeeds beside another who has bound so. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, len) != 0 || listen(fd, 1) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        err = err_set(ERR_UNAVAILABLE, "can't listen on %s port %d: %s", host, port,
                      errno == EADDRINUSE ? "somebody else does" : strerror(errno));
    else if (found)
        *found = address_port(&address);
    close(fd);
    return err;
}

void net_address_toward(char out[NET_HOST_MAX], const char *host)
{
    struct sockaddr_storage address;
    socklen_t len;
    snprintf(out, NET_HOST_MAX, "127.0.0.1");
    if (net_address(&address, &len, host, ANY_PORT) != ERR_OK)
        return;
    int fd = socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    /* Connecting a datagram socket only chooses the route. */
    if (connect(fd, (struct sockaddr *)&address, len) == 0) {
        char text[NET_HOST_MAX];
        len = sizeof address;
        if (getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
            getnameinfo((struct sockaddr *)&address, len, text, sizeof text, NULL, 0,
                        NI_NUMERICHOST) == 0)
            memcpy(out, text, sizeof text);
    }
    close(fd);
}

bool net_is_loopback(const char *host)
{
    struct sockaddr_storage address;
    socklen_t len;
    if (net_address(&address, &len, host, 0) != ERR_OK)
        return false;
    if (address.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&address)->sin6_addr);
    return ntohl(((struct sockaddr_in *)&address)->sin_addr.s_addr) >> 24 == 127;
}

void net_url_host(char out[NET_HOST_MAX + 2], const char *host)
{
    bool v6 = strchr(host, ':') != NULL;
    snprintf(out, NET_HOST_MAX + 2, "%s%.63s%s", v6 ? "[" : "", host, v6 ? "]" : "");
}
