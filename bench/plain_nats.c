#include "plain_nats.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DATA_MAX  ((size_t)1 << 20)
#define WORDS_MAX 5

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "broker: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
    }
}

static double to_us(const struct timespec *at)
{
    return (double)at->tv_sec * 1e6 + (double)at->tv_nsec / 1e3;
}

double plain_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return to_us(&now);
}

int plain_dial(const char *host, int port)
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

void plain_nats_open(struct plain_nats *nats, const struct join *join)
{
    char host[64];
    int port = 0;
    const int on = 1;
    must(sscanf(join->url, "nats://%63[^:]:%d", host, &port) == 2, "the broker's address");
    *nats = (struct plain_nats){.fd = plain_dial(host, port), .data = malloc(DATA_MAX)};
    must(nats->data != NULL, "memory");
    buf_init(&nats->out, DATA_MAX);
    setsockopt(nats->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    must(buf_printf(&nats->out,
                    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
                    "\"lang\":\"c\",\"version\":\"1\",\"user\":\"%s\",\"pass\":\"%s\"}\r\n",
                    join->user, join->password) == ERR_OK,
         "hello");
    plain_nats_flush(nats);
}

void plain_nats_close(struct plain_nats *nats)
{
    close(nats->fd);
    free(nats->data);
    buf_done(&nats->out);
}

void plain_nats_subscribe(struct plain_nats *nats, const char *subject, int sid)
{
    must(buf_printf(&nats->out, "SUB %s %d\r\n", subject, sid) == ERR_OK, subject);
}

void plain_nats_publish(struct plain_nats *nats, const char *subject, const char *reply,
                        const char *headers, const void *data, size_t len)
{
    static const char version[] = "NATS/1.0\r\n";
    enum err err;
    reply = reply != NULL ? reply : "";
    if (headers == NULL) {
        err = buf_printf(&nats->out, "PUB %s %s %zu\r\n", subject, reply, len);
    } else {
        size_t head = sizeof version - 1 + strlen(headers) + 2;
        err = buf_printf(&nats->out, "HPUB %s %s %zu %zu\r\n%s%s\r\n", subject, reply, head,
                         head + len, version, headers);
    }
    must(err == ERR_OK && buf_append(&nats->out, data, len) == ERR_OK &&
             buf_append(&nats->out, "\r\n", 2) == ERR_OK,
         subject);
}

void plain_nats_flush(struct plain_nats *nats)
{
    size_t sent = 0;
    while (sent < nats->out.len) {
        ssize_t len = send(nats->fd, nats->out.data + sent, nats->out.len - sent, MSG_NOSIGNAL);
        must(len > 0, "send");
        sent += (size_t)len;
    }
    buf_clear(&nats->out);
}

/* One line that is no message. */
static void take_word(struct plain_nats *nats, const char *line)
{
    must(strncmp(line, "-ERR", 4) != 0, line);
    if (strncmp(line, "PING", 4) == 0) {
        must(buf_append_text(&nats->out, "PONG\r\n") == ERR_OK, "pong");
        plain_nats_flush(nats);
    }
}

/* Takes one unit of the protocol at `at`; 0: it is not whole yet. */
static size_t take(struct plain_nats *nats, size_t at, double us, plain_message_fn *fn, void *arg)
{
    char *line = nats->data + at, *words[WORDS_MAX] = {0}, *save = NULL;
    size_t left = nats->len - at, count = 0;
    char *end = memmem(line, left, "\r\n", 2);
    if (end == NULL)
        return 0;
    size_t head = (size_t)(end - line) + 2;
    bool with_headers = strncmp(line, "HMSG ", 5) == 0;
    if (!with_headers && strncmp(line, "MSG ", 4) != 0) {
        *end = '\0';
        take_word(nats, line);
        return head;
    }
    char copy[1024];
    must(head < sizeof copy, "a line too long");
    snprintf(copy, head - 1, "%s", line);
    strtok_r(copy, " ", &save);
    for (char *word; count < WORDS_MAX && (word = strtok_r(NULL, " ", &save)) != NULL;)
        words[count++] = word;
    size_t sizes = with_headers ? 2 : 1;
    must(count >= 2 + sizes, "an odd message");
    size_t all = strtoul(words[count - 1], NULL, 10);
    size_t headers = with_headers ? strtoul(words[count - 2], NULL, 10) : 0;
    if (left < head + all + 2)
        return 0;
    char *payload = line + head;
    char text[2048] = "";
    if (headers > 0)
        snprintf(text, headers + 1 < sizeof text ? headers + 1 : sizeof text, "%s", payload);
    const struct plain_message message = {
        .sid = atoi(words[1]),
        .subject = words[0],
        .reply = count == 3 + sizes ? words[2] : "",
        .headers = text,
        .data = payload + headers,
        .len = all - headers,
        .us = us,
    };
    fn(arg, &message);
    return head + all + 2;
}

void plain_nats_read(struct plain_nats *nats, plain_message_fn *fn, void *arg)
{
    char control[256];
    /* One byte stays, for the NUL that string functions want. */
    struct iovec part = {nats->data + nats->len, DATA_MAX - 1 - nats->len};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t len = recvmsg(nats->fd, &message, 0);
    must(len > 0, "it closed the connection");
    double us = plain_now_us();
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(c), sizeof at);
            us = to_us(&at);
        }
    }
    nats->len += (size_t)len;
    nats->data[nats->len] = '\0';
    size_t at = 0, used;
    while ((used = take(nats, at, us, fn, arg)) > 0)
        at += used;
    nats->len -= at;
    memmove(nats->data, nats->data + at, nats->len);
    must(nats->len < DATA_MAX - 1, "a message too long");
}
