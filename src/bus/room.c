#include "bus/room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bus/js.h"
#include "wire/json.h"

/* The first PROMPT_STREAMS are those that a prompt needs. */
static const char *const names[ROOM_STREAMS] = {"PROMPTS", "TOKENS", "RESPONSES", "REPLIES",
                                                "OBJECTS"};
#define PROMPT_STREAMS 4

struct question { /* lives in its room */
    uint64_t request;
    bool asked;
    double used;
};

struct room {
    struct bus *bus;
    struct loop_timer *timer;
    struct question questions[ROOM_STREAMS];
};

static bool on_info(void *arg, enum err err, const struct bus_message *message)
{
    struct question *question = arg;
    json_t *info = NULL;
    question->asked = false;
    if (err == ERR_OK)
        err = js_answer_read(message, &info);
    if (err != ERR_OK) {
        log_debug("room.unknown why=\"%s\"", err_text());
        question->used = -1;
        return false;
    }
    double bytes = json_number(json_object_get(info, "state"), "bytes", 0);
    double bound = json_number(json_object_get(info, "config"), "max_bytes", 0);
    question->used = bound > 0 ? bytes / bound : -1;
    json_decref(info);
    return false;
}

static void on_timer(void *arg)
{
    struct room *room = arg;
    for (unsigned i = 0; i < ROOM_STREAMS; i++) {
        struct question *question = &room->questions[i];
        char subject[64];
        snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", names[i]);
        if (!question->asked && bus_request(room->bus, subject, NULL, 0, "", 0, JS_TIMEOUT_MS,
                                            on_info, question, &question->request) == ERR_OK)
            question->asked = true;
    }
}

enum err room_new(struct room **out, struct bus *bus, struct loop *loop)
{
    struct room *room = calloc(1, sizeof *room);
    if (room == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    room->bus = bus;
    for (unsigned i = 0; i < ROOM_STREAMS; i++)
        room->questions[i] = (struct question){.used = -1};
    enum err err = loop_timer_new(&room->timer, loop, on_timer, room);
    if (err != ERR_OK) {
        free(room);
        return err;
    }
    loop_timer_start(room->timer, 0, ROOM_INTERVAL_MS);
    *out = room;
    return ERR_OK;
}

void room_free(struct room *room)
{
    if (room == NULL)
        return;
    for (unsigned i = 0; i < ROOM_STREAMS; i++) {
        if (room->questions[i].asked)
            bus_request_cancel(room->bus, room->questions[i].request);
    }
    loop_timer_free(room->timer);
    free(room);
}

bool room_is_full(const struct room *room)
{
    for (unsigned i = 0; i < PROMPT_STREAMS; i++) {
        if (room->questions[i].used >= ROOM_FULL)
            return true;
    }
    return false;
}

bool room_stream_full(const struct room *room, const char *stream)
{
    for (unsigned i = 0; i < ROOM_STREAMS; i++) {
        if (strcmp(names[i], stream) == 0)
            return room->questions[i].used >= ROOM_FULL;
    }
    return false;
}

double room_used(const struct room *room, unsigned i, const char **name)
{
    *name = names[i];
    return room->questions[i].used;
}
