#include "verbs/talk.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void content_free(const struct api_message *message)
{
    free((char *)(uintptr_t)message->content); /* ours, whatever the request's type says */
}

enum err talk_add(struct talk *talk, const char *role, const char *content)
{
    char *copy = strdup(content);
    if (copy == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    if (talk->count == TALK_MESSAGES_MAX) {
        content_free(&talk->messages[0]);
        content_free(&talk->messages[1]);
        talk->count -= 2;
        memmove(talk->messages, talk->messages + 2, talk->count * sizeof talk->messages[0]);
    }
    talk->messages[talk->count++] = (struct api_message){.role = role, .content = copy};
    return ERR_OK;
}

void talk_drop_last(struct talk *talk)
{
    if (talk->count > 0)
        content_free(&talk->messages[--talk->count]);
}

void talk_clear(struct talk *talk)
{
    while (talk->count > 0)
        talk_drop_last(talk);
}
