/*
 * netns.h - network namespaces that stand for machines: a bridge on this host, and a namespace with
 * an address of its own for each node.  Made with iproute2's `ip`, so it needs root.
 *
 * All names come from a hash of the owner's absolute state directory, so that several owners live
 * side by side and each finds what an earlier run of its own left behind.  Calls block for some
 * milliseconds; one thread, before others are started.
 */
#ifndef WYVERN_BASE_NETNS_H
#define WYVERN_BASE_NETNS_H

#include <sys/types.h>

#include "base/err.h"

#define NETNS_MAX      64 /* namespaces of one net */
#define NETNS_TEXT_MAX 64

struct netns_net {
    unsigned count;               /* namespaces, numbered from 0 */
    char tag[9];                  /* hash of the state directory */
    unsigned char subnet[2];      /* 10.<0>.<1>.0/24 */
    char gateway[NETNS_TEXT_MAX]; /* the bridge's address */
};

/* Fills names only; nothing is made. */
void netns_init(struct netns_net *net, const char *state_dir, unsigned count);

/* Makes bridge and namespaces in a free 10.x.y.0/24.  ERR_DENIED: not permitted here;
 * ERR_UNAVAILABLE: no `ip` program.  What was made is removed again on failure. */
MUST_USE enum err netns_up(struct netns_net *net);
/* Removes all that carries the tag, also what an earlier run with another count left. */
void netns_down(const struct netns_net *net);

/* Of namespace i. */
void netns_path(const struct netns_net *net, unsigned i, char out[NETNS_TEXT_MAX]);
void netns_address(const struct netns_net *net, unsigned i, char out[NETNS_TEXT_MAX]);

/*
 * The keeper: a child that does nothing until its parent has ended, for whatever reason, and then
 * calls netns_down.  Start it before anything is made, and before any other child or thread.
 */
struct netns_keeper {
    pid_t pid; /* 0: none */
    int fd;
};
MUST_USE enum err netns_keeper_start(struct netns_keeper *keeper, const struct netns_net *net);
/* Has the keeper do its work now and waits for it. */
void netns_keeper_finish(struct netns_keeper *keeper);

#endif
