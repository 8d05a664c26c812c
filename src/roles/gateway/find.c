/*
 * The record, then the prompt, then the record once more: between the first two the prompt may have
 * ended, and a prompt leaves its queue only after its record stands.
 */
#include "roles/gateway/find.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/id.h"
#include "bus/prompts.h"
#include "bus/replies.h"

struct find {
    struct bus *bus;
    char id[ID_SIZE];
    found_fn *fn;
    void *arg;
    bool again; /* the prompt was looked for */
};

static void find_end(struct find *find, enum err err, const struct found *found)
{
    find->fn(find->arg, err, found);
    free(find);
}

static void find_record(struct find *find);

static void on_prompt(void *arg, enum err err, double accepted_at, const struct prompt *prompt)
{
    struct find *find = arg;
    const struct found found = {.prompt = prompt, .accepted_at = accepted_at};
    if (err == ERR_NOT_FOUND) {
        find->again = true;
        find_record(find);
    } else {
        find_end(find, err, &found);
    }
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    struct find *find = arg;
    const struct found found = {.record = record, .sequence = sequence};
    if (err == ERR_NOT_FOUND && !find->again) {
        err = prompts_find(find->bus, find->id, on_prompt, find);
        if (err == ERR_OK)
            return;
    }
    find_end(find, err == ERR_NOT_FOUND ? ERR_OK : err, &found);
}

static void find_record(struct find *find)
{
    const struct found nothing = {0};
    enum err err = replies_find(find->bus, find->id, on_record, find);
    if (err != ERR_OK)
        find_end(find, err, &nothing);
}

enum err find_reply(struct bus *bus, const char *id, found_fn *fn, void *arg)
{
    struct find *find = malloc(sizeof *find);
    if (find == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *find = (struct find){.bus = bus, .fn = fn, .arg = arg};
    snprintf(find->id, sizeof find->id, "%s", id);
    enum err err = replies_find(bus, id, on_record, find);
    if (err != ERR_OK)
        free(find);
    return err;
}
