/*
 * netns.c - see netns.h.
 */
#include "base/netns.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"

#define RUN_DIR      "/run/netns"
#define PREFIX       "wyvern-"
#define FIRST_HOST   11 /* namespace 0 is 10.x.y.11 */
#define SUBNET_FIRST 64 /* second byte from 64 to 191: away from what people usually choose */
#define SUBNET_SPAN  128
#define SUBNET_TRIES 256
#define BATCH_MAX    ((size_t)64 * 1024)
#define MESSAGE_MAX  240

/* --- running ip ------------------------------------------------------------------------------ */

static void ip_exec(const char *const *args, int input, int output)
{
    static const char *const places[] = {"ip", "/usr/sbin/ip", "/sbin/ip"};
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* makes nothing after the keeper has cleaned up */
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        execvp(places[i], (char *const *)(uintptr_t)args);
    _exit(127);
}

/* A batch is far below a pipe's capacity or is read as it is written; ip ends at its end. */
static void pipe_write(int fd, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t n = write(fd, text, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* ip is gone: its status says why */
        text += n;
        left -= (size_t)n;
    }
}

/* Keeps the first line and swallows the rest, so that ip never blocks. */
static void first_line_read(int fd, char *out, size_t cap)
{
    char data[512];
    size_t len = 0;
    bool whole = false;
    ssize_t n;
    while ((n = read(fd, data, sizeof data)) > 0 || (n < 0 && errno == EINTR)) {
        for (ssize_t i = 0; i < n && !whole; i++) {
            whole = data[i] == '\n' || len + 1 >= cap;
            if (!whole)
                out[len++] = data[i];
        }
    }
    out[len] = '\0';
}

/* Runs `ip args…` with input on its stdin. */
static enum err ip_run(const char *const *args, const char *input)
{
    int in[2], out[2];
    char message[MESSAGE_MAX];
    if (pipe2(in, O_CLOEXEC) != 0)
        return err_set(ERR_OS, "can't make a pipe: %s", strerror(errno));
    if (pipe2(out, O_CLOEXEC) != 0) {
        close(in[0]);
        close(in[1]);
        return err_set(ERR_OS, "can't make a pipe: %s", strerror(errno));
    }
    void (*sigpipe)(int) = signal(SIGPIPE, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0)
        ip_exec(args, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    if (pid > 0)
        pipe_write(in[1], input);
    close(in[1]);
    first_line_read(out[0], message, sizeof message);
    close(out[0]);
    signal(SIGPIPE, sigpipe);
    int status = 0;
    if (pid < 0)
        return err_set(ERR_OS, "can't start ip: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return ERR_OK;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return err_set(ERR_UNAVAILABLE, "the program ip (package iproute2) is missing");
    return err_set(ERR_DENIED, "network namespaces can't be made here: %s",
                   message[0] ? message : "ip failed");
}

static enum err ip_batch(const char *namespace, bool force, const struct buf *batch)
{
    const char *args[8] = {"ip"};
    size_t n = 1;
    if (namespace) {
        args[n++] = "-n";
        args[n++] = namespace;
    }
    if (force)
        args[n++] = "-force";
    args[n++] = "-batch";
    args[n++] = "-";
    args[n] = NULL;
    return ip_run(args, buf_text(batch));
}

/* --- names ----------------------------------------------------------------------------------- */

static uint64_t hash_text(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
    return hash;
}

static void namespace_name(const struct netns_net *net, unsigned i, char out[NETNS_TEXT_MAX])
{
    snprintf(out, NETNS_TEXT_MAX, PREFIX "%s-node%u", net->tag, i + 1);
}

/* Interface names hold 15 bytes. */
static void bridge_name(const struct netns_net *net, char out[IFNAMSIZ])
{
    snprintf(out, IFNAMSIZ, "wv%s", net->tag);
}

static void veth_name(const struct netns_net *net, unsigned i, char out[IFNAMSIZ])
{
    snprintf(out, IFNAMSIZ, "wv%sn%u", net->tag, i % 1000);
}

static void subnet_set(struct netns_net *net, unsigned number)
{
    net->subnet[0] = (unsigned char)(SUBNET_FIRST + (number >> 8) % SUBNET_SPAN);
    net->subnet[1] = (unsigned char)(number & 0xff);
    snprintf(net->gateway, sizeof net->gateway, "10.%u.%u.1", net->subnet[0], net->subnet[1]);
}

void netns_init(struct netns_net *net, const char *state_dir, unsigned count)
{
    uint64_t hash = hash_text(state_dir);
    *net = (struct netns_net){.count = count < NETNS_MAX ? count : NETNS_MAX};
    snprintf(net->tag, sizeof net->tag, "%08x", (unsigned)(hash ^ hash >> 32));
    subnet_set(net, (unsigned)(hash >> 16) & 0x7fff);
}

void netns_path(const struct netns_net *net, unsigned i, char out[NETNS_TEXT_MAX])
{
    char name[NETNS_TEXT_MAX];
    namespace_name(net, i, name);
    snprintf(out, NETNS_TEXT_MAX, RUN_DIR "/%.40s", name);
}

void netns_address(const struct netns_net *net, unsigned i, char out[NETNS_TEXT_MAX])
{
    snprintf(out, NETNS_TEXT_MAX, "10.%u.%u.%u", net->subnet[0], net->subnet[1], FIRST_HOST + i);
}

/* --- making and removing --------------------------------------------------------------------- */

/* Does an address of this host, with its mask, overlap 10.a.b.0/24? */
static bool subnet_taken(const struct ifaddrs *list, const struct netns_net *net)
{
    uint32_t base =
        UINT32_C(10) << 24 | (uint32_t)net->subnet[0] << 16 | (uint32_t)net->subnet[1] << 8;
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET || !a->ifa_netmask)
            continue;
        const struct sockaddr_in *address = (const void *)a->ifa_addr;
        const struct sockaddr_in *mask = (const void *)a->ifa_netmask;
        uint32_t common = ntohl(mask->sin_addr.s_addr) & UINT32_C(0xffffff00);
        if (((ntohl(address->sin_addr.s_addr) ^ base) & common) == 0)
            return true;
    }
    return false;
}

static enum err subnet_choose(struct netns_net *net)
{
    struct ifaddrs *list;
    if (getifaddrs(&list) != 0)
        return err_set(ERR_OS, "can't list this host's addresses: %s", strerror(errno));
    unsigned first = (unsigned)(net->subnet[0] - SUBNET_FIRST) << 8 | net->subnet[1];
    unsigned i = 0;
    while (i < SUBNET_TRIES && subnet_taken(list, net))
        subnet_set(net, (first + ++i * 257) & 0x7fff); /* another second byte each time too */
    freeifaddrs(list);
    if (i == SUBNET_TRIES)
        return err_set(ERR_UNAVAILABLE, "no free network of the form 10.x.y.0/24 was found");
    return ERR_OK;
}

static enum err host_side(const struct netns_net *net, struct buf *batch)
{
    char bridge[IFNAMSIZ], veth[IFNAMSIZ], name[NETNS_TEXT_MAX];
    bridge_name(net, bridge);
    enum err err = buf_printf(batch,
                              "link add %s type bridge\naddr add %s/24 dev %s\n"
                              "link set %s up\n",
                              bridge, net->gateway, bridge, bridge);
    for (unsigned i = 0; i < net->count && err == ERR_OK; i++) {
        veth_name(net, i, veth);
        namespace_name(net, i, name);
        err = buf_printf(batch,
                         "link add %s type veth peer name eth0 netns %s\n"
                         "link set %s master %s up\n",
                         veth, name, veth, bridge);
    }
    return err == ERR_OK ? ip_batch(NULL, false, batch) : err;
}

static enum err node_side(const struct netns_net *net, unsigned i, struct buf *batch)
{
    char name[NETNS_TEXT_MAX], address[NETNS_TEXT_MAX];
    namespace_name(net, i, name);
    netns_address(net, i, address);
    enum err err = buf_printf(batch,
                              "link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\n"
                              "route add default via %s\n",
                              address, net->gateway);
    return err == ERR_OK ? ip_batch(name, false, batch) : err;
}

enum err netns_up(struct netns_net *net)
{
    char name[NETNS_TEXT_MAX];
    struct buf batch;
    if (geteuid() != 0)
        return err_set(ERR_DENIED, "network namespaces need root");
    buf_init(&batch, BATCH_MAX);
    netns_down(net);
    enum err err = subnet_choose(net);
    for (unsigned i = 0; i < net->count && err == ERR_OK; i++) {
        namespace_name(net, i, name);
        const char *args[] = {"ip", "netns", "add", name, NULL};
        err = ip_run(args, "");
    }
    if (err == ERR_OK)
        err = host_side(net, &batch);
    for (unsigned i = 0; i < net->count && err == ERR_OK; i++) {
        buf_clear(&batch);
        err = node_side(net, i, &batch);
    }
    buf_done(&batch);
    if (err != ERR_OK) {
        char reason[MESSAGE_MAX + 64];
        snprintf(reason, sizeof reason, "%s", err_text()); /* removing may fail too */
        netns_down(net);
        err_set(err, "%s", reason);
    }
    return err;
}

/* One line of a batch for each namespace of ours that is there; false when there is none. */
static bool namespaces_listed(const struct netns_net *net, struct buf *batch)
{
    char prefix[NETNS_TEXT_MAX];
    bool some = false;
    DIR *dir = opendir(RUN_DIR);
    if (!dir)
        return false;
    snprintf(prefix, sizeof prefix, PREFIX "%s-", net->tag);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            some = buf_printf(batch, "netns del %.60s\n", entry->d_name) == ERR_OK || some;
    closedir(dir);
    return some;
}

void netns_down(const struct netns_net *net)
{
    char bridge[IFNAMSIZ];
    struct buf batch;
    struct if_nameindex *names = if_nameindex();
    buf_init(&batch, BATCH_MAX);
    bridge_name(net, bridge); /* the bridge's name begins the names of its veths */
    bool some = false;
    for (struct if_nameindex *n = names; n && n->if_index; n++)
        if (strncmp(n->if_name, bridge, strlen(bridge)) == 0)
            some = buf_printf(&batch, "link del %s\n", n->if_name) == ERR_OK || some;
    if_freenameindex(names);
    some = namespaces_listed(net, &batch) || some;
    if (some && ip_batch(NULL, true, &batch) != ERR_OK)
        err_set(ERR_OS, "can't remove all of the network %s", bridge);
    buf_done(&batch);
}

/* --- the keeper ------------------------------------------------------------------------------ */

static void keeper_run(int fd, const struct netns_net *net)
{
    char byte;
    ssize_t n;
    setsid(); /* signals from the terminal are not for it */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    prctl(PR_SET_NAME, "wyvern-keeper");
    do
        n = read(fd, &byte, 1);
    while (n > 0 || (n < 0 && errno == EINTR));
    netns_down(net);
    _exit(0);
}

enum err netns_keeper_start(struct netns_keeper *keeper, const struct netns_net *net)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return err_set(ERR_OS, "can't make a pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[1]);
        keeper_run(fds[0], net);
    }
    close(fds[0]);
    if (pid < 0) {
        close(fds[1]);
        return err_set(ERR_OS, "can't start the keeper: %s", strerror(errno));
    }
    *keeper = (struct netns_keeper){.pid = pid, .fd = fds[1]};
    return ERR_OK;
}

void netns_keeper_finish(struct netns_keeper *keeper)
{
    if (keeper->pid <= 0)
        return;
    close(keeper->fd);
    while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *keeper = (struct netns_keeper){.fd = -1};
}
