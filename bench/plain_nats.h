/*
 * plain_nats.h - the broker's protocol on a plain blocking socket: no thread, no library between
 * what is measured and the wire.  Any failure ends the program with a sentence.
 */
#ifndef WYVERN_BENCH_PLAIN_NATS_H
#define WYVERN_BENCH_PLAIN_NATS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "config/settings.h"

struct plain_message {
    int sid;
    const char *subject, *reply; /* reply: "" if there is none */
    const char *headers;         /* whole, NUL-terminated, or "" */
    const char *data;            /* not terminated */
    size_t len;
    double us; /* CLOCK_REALTIME: the kernel's stamp of the packet that completed it */
};

typedef void plain_message_fn(void *arg, const struct plain_message *message);

struct plain_nats {
    int fd;
    char *data; /* read, not taken apart yet */
    size_t len;
    struct buf out;
};

double plain_now_us(void); /* CLOCK_REALTIME, as the stamps */
int plain_dial(const char *host, int port);

void plain_nats_open(struct plain_nats *nats, const struct join *join);
void plain_nats_close(struct plain_nats *nats);
void plain_nats_subscribe(struct plain_nats *nats, const char *subject, int sid);
/* Queued until the next flush.  reply NULL: none; headers NULL: none, else lines "Name: value\r\n".
 */
void plain_nats_publish(struct plain_nats *nats, const char *subject, const char *reply,
                        const char *headers, const void *data, size_t len);
void plain_nats_flush(struct plain_nats *nats);
/* Reads once (blocking) and hands over every whole message. */
void plain_nats_read(struct plain_nats *nats, plain_message_fn *fn, void *arg);

#endif
