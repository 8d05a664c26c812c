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
#include <errno.h>
#include <nats/nats.h>
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
#include "plain_nats.h"

#define ROUNDS_MAX 10000
#define PAUSE_MS   15
#define WAIT_MS    10000
#define SUBJECT    "bench.echo"

struct observer {
    struct plain_nats nats;
    double accepted_us, claimed_us; /* 0: not heard in this round */
};

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "claim_bench: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
    }
}

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void pause_ms(long ms)
{
    const struct timespec pause = {.tv_nsec = ms * 1000000};
    nanosleep(&pause, NULL);
}

/* ---- the observer ---- */

static void observe(void *arg, const struct plain_message *message)
{
    struct observer *observer = arg;
    bool prompts = memmem(message->data, message->len, "\"stream\":\"PROMPTS\"", 18) != NULL;
    bool tokens = memmem(message->data, message->len, "\"stream\":\"TOKENS\"", 17) != NULL;
    if (message->sid == 1 && prompts && observer->accepted_us == 0)
        observer->accepted_us = message->us;
    if (message->sid == 2 && tokens && observer->claimed_us == 0)
        observer->claimed_us = message->us; /* the first append of a prompt is its claim */
}

static void observer_open(struct observer *observer, const struct join *join)
{
    plain_nats_open(&observer->nats, join);
    plain_nats_subscribe(&observer->nats, "_INBOX_gateway.>", 1);
    plain_nats_subscribe(&observer->nats, "_INBOX_infer.>", 2);
    plain_nats_flush(&observer->nats);
    plain_nats_read(&observer->nats, observe, observer); /* its greeting */
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
    double begin = now_us();
    must(natsConnection_RequestString(&answer, nats, SUBJECT, "x", WAIT_MS) == NATS_OK, "request");
    double us = now_us() - begin;
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
    int fd = plain_dial("127.0.0.1", port);
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                            {.fd = observer->nats.fd, .events = POLLIN}};
    bool first = true, open = true;
    must(send(fd, request, (size_t)len, MSG_NOSIGNAL) == len, "send");
    while (open || observer->accepted_us == 0 || observer->claimed_us == 0) {
        must(poll(fds, 2, WAIT_MS) > 0, "no answer");
        if (fds[1].revents != 0)
            plain_nats_read(&observer->nats, observe, observer);
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
    plain_nats_close(&observer.nats);
    nats_Close();
    return EXIT_SUCCESS;
}
