/*
 * broker_conf.h - the texts of the private broker's configuration and join files, and who may do
 * what at the broker.  Private to src/bus/.
 *
 * One user per role, with no more rights than the role's code needs.  Each answers on an inbox of
 * its own, _INBOX_<role>, so no role reads another's answers.
 */
#ifndef WYVERN_BUS_BROKER_CONF_H
#define WYVERN_BUS_BROKER_CONF_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"
#include "config/settings.h"

#define BROKER_MAX_PAYLOAD (8 << 20) /* bytes; REPLY_BYTES_MAX and a prompt's body stay below */
/* What binds are the streams' own limits, chosen by the disk that is free (streams.h).  This one
 * stays above any sum of them: a broker that finds more reserved than it may keep drops streams. */
#define BROKER_STORE_MAX_GIB 16

enum broker_role {
    BROKER_SETUP, /* makes streams and consumers at the start, asks for the queue's depth */
    BROKER_GATEWAY,
    BROKER_INFER,
    BROKER_RESPOND,
    BROKER_NODE,
    BROKER_TELEMETRY,
    BROKER_ROLE_COUNT,
};
extern const char *const broker_role_names[BROKER_ROLE_COUNT];

struct broker_users {
    char password[BROKER_ROLE_COUNT][ID_SIZE];
};

struct broker_conf {
    const char *host; /* to listen on */
    int port;
    const char *pid_file, *store_dir;
};

/* nats-server's configuration. */
MUST_USE enum err broker_conf_text(struct buf *out, const struct broker_conf *conf,
                                   const struct broker_users *users);
/* A join file (settings.h). */
MUST_USE enum err broker_join_text(struct buf *out, const char *url, const struct join *model,
                                   const struct broker_users *users, bool nodes_only);

#endif
