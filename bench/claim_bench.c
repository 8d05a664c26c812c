/*
 * claim_bench.c - how long a prompt takes from "accepted" to "claimed", held beside one bare
 * request and reply through the same broker.
 *
 *   claim_bench GATEWAY_PORT SERVICE_INI [ROUNDS]
 *
 * A round: a pause, one bare request (libnats, requester and responder on connections of their
 * own), a pause, one prompt posted to the gateway.  An observer (a plain socket with the setup
 * user's rights, hence no thread of libnats between us and the wire) hears what the broker answers
 * to the gateway and to the worker, and takes the kernel's stamp of each packet:
 *   accepted  the broker's acknowledgement of the prompt, sent to the gateway
 *   claimed   the broker's acknowledgement of the claim, sent to the worker
 * Prints one JSON line: medians and 99th percentiles in microseconds, and the ratio of the medians.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <nats/nats.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "config/settings.h"

#define ROUNDS_MAX 10000
#define PAUSE_MS   15
#define WAIT_MS    10000
#define SUBJECT    "bench.echo"

struct observer {
    int fd;
    char data[1 << 16];
    size_t len;
    double accepted_us, claimed_us; /* 0: not heard in this round */
};

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "claim_bench: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
    }
}

static double to_us(const struct timespec *at)
{
    return (double)at->tv_sec * 1e6 + (double)at->tv_nsec / 1e3;
}

static double now_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return to_us(&now);
}

static void pause_ms(long ms)
{
    const struct timespec pause = {.tv_nsec = ms * 1000000};
    nanosleep(&pause, NULL);
}

static int dial(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int on = 1;
    must(inet_pton(AF_INET, host, &address.sin_addr) == 1, "an IPv4 address is needed");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    must(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    return fd;
}

static void say(int fd, const char *text, size_t len)
{
    must(send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len, "send");
}

/* ---- the observer ---- */

/* One message whose payload is at `payload`, of subscription `sid`. */
static void observe(struct observer *observer, int sid, const char *payload, size_t len, double us)
{
    bool prompts = memmem(payload, len, "\"stream\":\"PROMPTS\"", 18) != NULL;
    bool tokens = memmem(payload, len, "\"stream\":\"TOKENS\"", 17) != NULL;
    if (sid == 1 && prompts && observer->accepted_us == 0)
        observer->accepted_us = us;
    if (sid == 2 && tokens && observer->claimed_us == 0)
        observer->claimed_us = us; /* the first append of a prompt is its claim */
}

/* Takes one protocol unit from the buffer; 0: there is none yet. */
static size_t take(struct observer *observer, double us)
{
    char *end = memmem(observer->data, observer->len, "\r\n", 2);
    if (end == NULL)
        return 0;
    size_t head = (size_t)(end - observer->data) + 2;
    bool headers = strncmp(observer->data, "HMSG ", 5) == 0;
    if (!headers && strncmp(observer->data, "MSG ", 4) != 0) {
        if (strncmp(observer->data, "PING", 4) == 0)
            say(observer->fd, "PONG\r\n", 6);
        must(strncmp(observer->data, "-ERR", 4) != 0, observer->data);
        return head;
    }
    *end = '\0';
    int sid = 0;
    sscanf(observer->data, "%*s %*s %d", &sid);
    size_t bytes = strtoul(strrchr(observer->data, ' ') + 1, NULL, 10);
    *end = '\r';
    if (observer->len < head + bytes + 2)
        return 0;
    observe(observer, sid, observer->data + head, bytes, us);
    return head + bytes + 2;
}

static void observer_read(struct observer *observer)
{
    char control[256];
    struct iovec part = {observer->data + observer->len, sizeof observer->data - observer->len};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t len = recvmsg(observer->fd, &message, 0);
    must(len > 0, "the broker");
    double us = now_us(CLOCK_REALTIME);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(c), sizeof at);
            us = to_us(&at);
        }
    }
    observer->len += (size_t)len;
    size_t used, all = 0;
    while ((used = take(observer, us)) > 0) {
        all += used;
        observer->len -= used;
        memmove(observer->data, observer->data + used, observer->len);
    }
    must(all > 0 || observer->len < sizeof observer->data, "a message too long");
}

static void observer_open(struct observer *observer, const struct join *join)
{
    char host[64], hello[512];
    int port = 0;
    const int on = 1;
    must(sscanf(join->url, "nats://%63[^:]:%d", host, &port) == 2, "the broker's address");
    observer->fd = dial(host, port);
    setsockopt(observer->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    int len = snprintf(hello, sizeof hello,
                       "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
                       "\"lang\":\"c\",\"version\":\"1\",\"user\":\"%s\",\"pass\":\"%s\"}\r\n"
                       "SUB _INBOX_gateway.> 1\r\nSUB _INBOX_infer.> 2\r\n",
                       join->user, join->password);
    say(observer->fd, hello, (size_t)len);
    observer_read(observer);
}

/* ---- the two things measured ---- */

static void on_echo(natsConnection *nats, natsSubscription *sub, natsMsg *message, void *closure)
{
    (void)sub;
    (void)closure;
    natsConnection_PublishString(nats, natsMsg_GetReply(message), "y");
    natsMsg_Destroy(message);
}

static natsConnection *nats_open(const struct join *join)
{
    natsOptions *options = NULL;
    natsConnection *nats = NULL;
    must(natsOptions_Create(&options) == NATS_OK &&
             natsOptions_SetURL(options, join->url) == NATS_OK &&
             natsOptions_SetUserInfo(options, join->user, join->password) == NATS_OK &&
             natsOptions_SetSendAsap(options, true) == NATS_OK &&
             natsConnection_Connect(&nats, options) == NATS_OK,
         "the broker");
    natsOptions_Destroy(options);
    return nats;
}

static double bare_us(natsConnection *nats)
{
    natsMsg *answer = NULL;
    double begin = now_us(CLOCK_MONOTONIC);
    must(natsConnection_RequestString(&answer, nats, SUBJECT, "x", WAIT_MS) == NATS_OK, "request");
    double us = now_us(CLOCK_MONOTONIC) - begin;
    natsMsg_Destroy(answer);
    return us;
}

static double claim_us(struct observer *observer, int port)
{
    static const char body[] = "{\"model\":\"default\",\"messages\":[{\"role\":\"user\","
                               "\"content\":\"round\"}]}";
    char request[512], reply[8192];
    int len = snprintf(request, sizeof request,
                       "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                       "Content-Type: application/json\r\nConnection: close\r\n"
                       "Content-Length: %zu\r\n\r\n%s",
                       sizeof body - 1, body);
    observer->accepted_us = observer->claimed_us = 0;
    int fd = dial("127.0.0.1", port);
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = observer->fd, .events = POLLIN}};
    bool first = true, open = true;
    say(fd, request, (size_t)len);
    while (open || observer->accepted_us == 0 || observer->claimed_us == 0) {
        must(poll(fds, 2, WAIT_MS) > 0, "no answer");
        if (fds[1].revents != 0)
            observer_read(observer);
        if (fds[0].revents == 0)
            continue;
        ssize_t got = recv(fd, reply, sizeof reply, 0);
        must(got >= 0 && (!first || strncmp(reply, "HTTP/1.1 200", 12) == 0), "the gateway");
        first = false;
        open = got > 0;
        if (!open)
            fds[0].fd = -1;
    }
    close(fd);
    return observer->claimed_us - observer->accepted_us;
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double part(double *values, int count, double p)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[(int)(p * (count - 1))];
}

int main(int argc, char **argv)
{
    static double bare[ROUNDS_MAX], again[ROUNDS_MAX], claim[ROUNDS_MAX];
    static struct observer observer;
    struct join join = {0};
    int rounds = argc > 3 ? atoi(argv[3]) : 200;
    if (argc < 3 || rounds < 1 || rounds > ROUNDS_MAX) {
        fputs("usage: claim_bench GATEWAY_PORT SERVICE_INI [ROUNDS]\n", stderr);
        return EX_USAGE;
    }
    if (join_read(&join, argv[2], "setup") != ERR_OK) {
        fprintf(stderr, "claim_bench: %s\n", err_text());
        return EXIT_FAILURE;
    }
    natsSubscription *echo = NULL;
    natsConnection *asking = nats_open(&join);
    natsConnection *answering = nats_open(&join);
    must(natsConnection_Subscribe(&echo, answering, SUBJECT, on_echo, NULL) == NATS_OK &&
             natsConnection_Flush(answering) == NATS_OK,
         "subscribe");
    observer_open(&observer, &join);
    for (int i = -5; i < rounds; i++) { /* the first few warm up */
        int at = i < 0 ? 0 : i;
        pause_ms(PAUSE_MS);
        bare[at] = bare_us(asking);
        again[at] = bare_us(asking);
        pause_ms(PAUSE_MS);
        claim[at] = claim_us(&observer, atoi(argv[1]));
    }
    double bare_p50 = part(bare, rounds, 0.5), claim_p50 = part(claim, rounds, 0.5);
    printf("{\"rounds\":%d,\"claim_p50_us\":%.0f,\"claim_p99_us\":%.0f,\"bare_p50_us\":%.0f,"
           "\"bare_p99_us\":%.0f,\"bare_at_once_p50_us\":%.0f,\"ratio\":%.2f}\n",
           rounds, claim_p50, part(claim, rounds, 0.99), bare_p50, part(bare, rounds, 0.99),
           part(again, rounds, 0.5), claim_p50 / bare_p50);
    natsSubscription_Destroy(echo);
    natsConnection_Destroy(asking);
    natsConnection_Destroy(answering);
    join_done(&join);
    close(observer.fd);
    nats_Close();
    return EXIT_SUCCESS;
}
