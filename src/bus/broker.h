/*
 * broker.h - the private broker: finds a nats-server, writes its configuration and everybody's
 * credentials, starts it and keeps it running on the same port.
 *
 * Files, all 0600 in the state directory: broker/nats.conf, broker/nats.pid, broker/jetstream/ and
 * the join files, which hold one user and one password for each role that a side may play.
 * Passwords and port stay what they were from one start to the next, so that nodes elsewhere find
 * their way back.  All calls on the loop's thread.
 */
#ifndef WYVERN_BUS_BROKER_H
#define WYVERN_BUS_BROKER_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/child.h"
#include "base/err.h"
#include "base/loop.h"
#include "config/settings.h"

#define BROKER_URL_MAX 96

struct broker;

struct broker_config {
    const char *program;   /* of broker_find */
    const char *state_dir; /* absolute */
    const char *bind_host; /* numeric address that it listens on */
    const char *host;      /* numeric address at which our own processes reach it */
    int port;          /* wished for; 0: as last time, or any.  Another is taken if it is busy */
    struct join model; /* model, model_file, model_sha256 for the join files; borrowed */
    struct child_events events;
};

/* nats-server: $WYVERN_NATS_SERVER, beside the program, PATH, below ../.deps/nats of the program;
 * the first that is new enough.  ERR_NOT_FOUND, with the mend. */
MUST_USE enum err broker_find(char out[PATH_MAX]);

/* Writes the configuration and STATE_DIR/service.ini (all roles); starts nothing. */
MUST_USE enum err broker_new(struct broker **out, struct loop *loop,
                             const struct broker_config *config);
/* Kills it if it still runs, and removes its pid file. */
void broker_free(struct broker *broker);

MUST_USE enum err broker_start(struct broker *broker);
/* Does it answer now?  Looks once, for at most some milliseconds. */
bool broker_answers(const struct broker *broker);
/* The process behind it, for child_stop and its like. */
struct child *broker_child(const struct broker *broker);

const char *broker_url(const struct broker *broker);
int broker_port(const struct broker *broker);
const char *broker_pid_file(const struct broker *broker);
const char *broker_service_file(const struct broker *broker); /* join file with every role */

/* A join file for nodes: infer, telemetry and node alone; host: how they reach the broker. */
MUST_USE enum err broker_write_node_file(const struct broker *broker, const char *path,
                                         const char *host);

#endif
