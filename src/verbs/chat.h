/*
 * chat.h - one talk in the terminal, as its loop (chat.c) and its /commands (chatsay.c) share it.
 * Private to the two.
 */
#ifndef WYVERN_VERBS_CHAT_H
#define WYVERN_VERBS_CHAT_H

#include "verbs/lineedit.h"
#include "verbs/talk.h"

struct chat {
    struct settings settings;
    struct talk talk;
    struct lineedit *edit;
    /* What the settings point to once it was changed by a command; owned. */
    char *system, *model, *params;
    char *question; /* the last one, for /regenerate; owned */
    char *file;     /* of the last /save or /load; owned */
    json_t *models; /* what Tab knows; NULL: not asked yet */
    size_t replies;
    uint64_t tokens;
    double seconds; /* of replies, from question to end */
    double ttft_s;  /* of the last reply */
    double last_s;
    uint64_t last_tokens;
    char worker[128];
    bool ended;
};

/* Asks with the whole talk; its error is printed by the caller. */
MUST_USE enum err chat_ask(struct chat *chat, const char *question);
/* A line that begins with a slash.  Its status says whether it went well. */
MUST_USE enum err chat_command(struct chat *chat, const char *line);
/* For Tab; arg is the chat. */
void chat_words(void *arg, const char *before, struct line_words *words);

#endif
