/*
 * talk.h - a conversation: the messages so far, and how one more is added or taken back.
 */
#ifndef WYVERN_VERBS_TALK_H
#define WYVERN_VERBS_TALK_H

#include <stddef.h>

#include "base/err.h"
#include "verbs/apiclient.h"

#define TALK_MESSAGES_MAX 1000 /* below the gateway's own bound; the oldest pair leaves first */

struct talk { /* zeroed memory is an empty one; texts owned */
    struct api_message messages[TALK_MESSAGES_MAX];
    size_t count;
};

/* role: a literal.  Drops the oldest question with its answer when there is no room. */
MUST_USE enum err talk_add(struct talk *talk, const char *role, const char *content);
void talk_drop_last(struct talk *talk);
void talk_clear(struct talk *talk);

#endif
