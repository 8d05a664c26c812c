#include "bus/prompts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "wire/json.h"

#define PROMPT_BYTES_MAX ((size_t)8 << 20)

enum err prompts_put(struct bus *bus, const struct prompt *prompt, bus_done_fn *fn, void *arg)
{
    struct buf text;
    buf_init(&text, PROMPT_BYTES_MAX);
    enum err err = prompt_encode(prompt, &text);
    if (err == ERR_OK) {
        char subject[SUBJECT_MAX];
        const char *lane = prompt->lane != NULL ? prompt->lane : LANE_MAIN;
        subject_prompt(subject, prompt->model, lane, prompt->id);
        const struct js_expect none_yet = {.set = true};
        err = js_publish(bus, subject, &none_yet, text.data, text.len, fn, arg);
    }
    buf_done(&text);
    return err;
}

void prompts_consumer(char out[SUBJECT_MAX], const char *model, const char *lane)
{
    char token[SUBJECT_TOKEN_MAX];
    if (subject_encode(token, sizeof token, model) != ERR_OK)
        token[0] = '\0';
    snprintf(out, SUBJECT_MAX, "%s-%s", token, lane);
}

struct fetch {
    prompts_fetched_fn *fn;
    prompts_end_fn *end;
    void *arg;
    unsigned missing;
};

/* $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time ns>.<pending> */
static bool ack_parse(const char *subject, struct prompt_delivery *out)
{
    const char *at = subject;
    for (int dots = 0; dots < 4; dots++) {
        at = strchr(at, '.');
        if (at == NULL)
            return false;
        at++;
    }
    uint64_t delivered, sequence, consumer_sequence, time_ns;
    if (sscanf(at, "%" SCNu64 ".%" SCNu64 ".%" SCNu64 ".%" SCNu64, &delivered, &sequence,
               &consumer_sequence, &time_ns) != 4)
        return false;
    out->delivered = (unsigned)delivered;
    out->sequence = sequence;
    out->accepted_at = (double)time_ns / 1e9;
    return strlen(subject) < PROMPTS_ACK_MAX;
}

static bool on_fetched(void *arg, enum err err, const struct bus_message *message)
{
    struct fetch *fetch = arg;
    if (err == ERR_OK && message->status == 0) {
        struct prompt_delivery delivery = {
            .ack = message->reply, .data = message->data, .len = message->len};
        fetch->missing--;
        if (ack_parse(message->reply, &delivery))
            fetch->fn(fetch->arg, &delivery);
        else
            log_error("prompts.odd_delivery reply=\"%s\"", message->reply);
        if (fetch->missing > 0)
            return true;
    } else if (err == ERR_OK && message->status == 100) {
        return true; /* idle heartbeat */
    }
    /* 404 and 408 mean that no more came in time; 409 that the consumer or the server changed. */
    if (err == ERR_OK && message->status == 409) {
        const char *why = bus_message_header(message, "Description");
        err = err_set(ERR_UNAVAILABLE, "the broker ended a fetch: %s", why != NULL ? why : "409");
    }
    if (err == ERR_TIMEOUT)
        err = ERR_OK;
    fetch->end(fetch->arg, err, fetch->missing);
    free(fetch);
    return false;
}

enum err prompts_fetch(struct bus *bus, const char *model, const char *lane, unsigned count,
                       prompts_fetched_fn *fn, prompts_end_fn *end, void *arg)
{
    struct fetch *fetch = malloc(sizeof *fetch);
    if (fetch == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *fetch = (struct fetch){fn, end, arg, count};
    char consumer[SUBJECT_MAX], subject[2 * SUBJECT_MAX], ask[96];
    prompts_consumer(consumer, model, lane);
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.PROMPTS.%s", consumer);
    int len = snprintf(ask, sizeof ask, "{\"batch\":%u,\"expires\":%" PRId64 "}", count,
                       (int64_t)PROMPTS_FETCH_MS * NS_PER_MS);
    enum err err =
        bus_pull(bus, subject, ask, (size_t)len, PROMPTS_FETCH_MS + 1000, on_fetched, fetch);
    if (err != ERR_OK)
        free(fetch);
    return err;
}

static void say(struct bus *bus, const char *ack, const char *word)
{
    /* Lost while the broker is away: the silence itself then says it, after the ack wait. */
    enum err err = bus_publish(bus, ack, NULL, 0, word, strlen(word));
    if (err != ERR_OK)
        log_debug("prompts.unsaid word=%s why=\"%s\"", word, err_text());
}

void prompts_working(struct bus *bus, const char *ack)
{
    say(bus, ack, "+WPI");
}

void prompts_hand_back(struct bus *bus, const char *ack, unsigned delay_ms)
{
    char word[64] = "-NAK";
    if (delay_ms > 0)
        snprintf(word, sizeof word, "-NAK {\"delay\":%" PRId64 "}", delay_ms * NS_PER_MS);
    say(bus, ack, word);
}

struct removal {
    bus_done_fn *fn;
    void *arg;
};

static bool on_acked(void *arg, enum err err, const struct bus_message *message)
{
    (void)message; /* the answer to an acknowledgement is empty */
    struct removal removal = *(struct removal *)arg;
    free(arg);
    removal.fn(removal.arg, err, 0);
    return false;
}

enum err prompts_ack(struct bus *bus, const char *ack, bus_done_fn *fn, void *arg)
{
    struct removal *removal = malloc(sizeof *removal);
    if (removal == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *removal = (struct removal){fn, arg};
    enum err err =
        bus_request(bus, ack, NULL, 0, "+ACK", 4, JS_TIMEOUT_MS, on_acked, removal, NULL);
    if (err != ERR_OK)
        free(removal);
    return err;
}

enum err prompts_remove(struct bus *bus, const char *id, bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX], ask[SUBJECT_MAX + 32];
    subject_prompt_any(subject, id);
    snprintf(ask, sizeof ask, "{\"filter\":\"%s\"}", subject);
    return js_call(bus, "$JS.API.STREAM.PURGE.PROMPTS", ask, fn, arg);
}

static const char *const lanes[] = {LANE_MAIN, LANE_BATCH};
#define LANE_COUNT (sizeof lanes / sizeof *lanes)

struct depth_query {
    struct bus *bus;
    prompts_depth_fn *fn;
    void *arg;
    struct prompts_depth depth;
    uint64_t messages; /* in the stream: waiting or in hand */
    char model[MODEL_NAME_MAX + 1];
    size_t lane; /* the one asked about */
};

static void depth_finish(struct depth_query *query, enum err err)
{
    query->fn(query->arg, err, &query->depth);
    free(query);
}

static enum err ask_lane(struct depth_query *query);

static bool on_consumer_info(void *arg, enum err err, const struct bus_message *message)
{
    struct depth_query *query = arg;
    json_t *answer = NULL;
    if (err == ERR_OK)
        err = js_answer_read(message, &answer);
    if (err == ERR_OK) {
        /* Not num_pending: a purge of one subject leaves it as it was. */
        query->depth.in_flight += json_uint(answer, "num_ack_pending", 0);
        json_decref(answer);
    }
    if (err == ERR_OK && ++query->lane < LANE_COUNT) {
        err = ask_lane(query);
        if (err == ERR_OK)
            return false;
    }
    if (err == ERR_OK) {
        struct prompts_depth *depth = &query->depth;
        if (depth->in_flight > query->messages)
            depth->in_flight = query->messages;
        depth->waiting = query->messages - depth->in_flight;
    }
    depth_finish(query, err);
    return false;
}

static enum err ask_lane(struct depth_query *query)
{
    char consumer[SUBJECT_MAX], subject[2 * SUBJECT_MAX];
    prompts_consumer(consumer, query->model, lanes[query->lane]);
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.INFO.PROMPTS.%s", consumer);
    return bus_request(query->bus, subject, NULL, 0, "", 0, JS_TIMEOUT_MS, on_consumer_info, query,
                       NULL);
}

static bool on_stream_info(void *arg, enum err err, const struct bus_message *message)
{
    struct depth_query *query = arg;
    json_t *answer = NULL;
    if (err == ERR_OK)
        err = js_answer_read(message, &answer);
    if (err == ERR_OK) {
        int64_t limit = json_int(json_object_get(answer, "config"), "max_msgs", 0);
        query->depth.limit = limit > 0 ? (uint64_t)limit : 0;
        query->messages = json_uint(json_object_get(answer, "state"), "messages", 0);
        json_decref(answer);
        err = ask_lane(query);
    }
    if (err != ERR_OK)
        depth_finish(query, err);
    return false;
}

enum err prompts_depth(struct bus *bus, const char *model, prompts_depth_fn *fn, void *arg)
{
    struct depth_query *query = calloc(1, sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct depth_query){.bus = bus, .fn = fn, .arg = arg};
    snprintf(query->model, sizeof query->model, "%s", model);
    enum err err = bus_request(bus, "$JS.API.STREAM.INFO.PROMPTS", NULL, 0, "", 0, JS_TIMEOUT_MS,
                               on_stream_info, query, NULL);
    if (err != ERR_OK)
        free(query);
    return err;
}

struct next_query {
    prompts_next_fn *fn;
    void *arg;
};

/* RFC 3339 with nanoseconds, in UTC, as direct gets write it. */
static double stamp_read(const char *text)
{
    struct tm tm = {0};
    const char *rest = text != NULL ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    if (rest == NULL)
        return 0;
    double fraction = *rest == '.' ? strtod(rest, NULL) : 0;
    return (double)timegm(&tm) + fraction;
}

static bool on_next(void *arg, enum err err, const struct bus_message *message)
{
    struct next_query query = *(struct next_query *)arg;
    free(arg);
    struct prompt prompt = {0};
    uint64_t sequence = 0;
    double accepted_at = 0;
    if (err == ERR_OK && message->status == 404)
        err = err_set(ERR_NOT_FOUND, "no such prompt");
    if (err == ERR_OK) {
        sequence = js_stored_sequence(message);
        accepted_at = stamp_read(bus_message_header(message, "Nats-Time-Stamp"));
        err = prompt_decode(&prompt, message->data, message->len);
    }
    query.fn(query.arg, err, sequence, accepted_at, err == ERR_OK ? &prompt : NULL);
    prompt_done(&prompt);
    return false;
}

enum err prompts_next(struct bus *bus, uint64_t from, prompts_next_fn *fn, void *arg)
{
    struct next_query *query = malloc(sizeof *query);
    if (query == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    *query = (struct next_query){fn, arg};
    char ask[96];
    int len = snprintf(ask, sizeof ask, "{\"seq\":%" PRIu64 ",\"next_by_subj\":\"prompt.>\"}",
                       from > 0 ? from : 1);
    enum err err = bus_request(bus, "$JS.API.DIRECT.GET.PROMPTS", NULL, 0, ask, (size_t)len,
                               JS_TIMEOUT_MS, on_next, query, NULL);
    if (err != ERR_OK)
        free(query);
    return err;
}

struct find_query {
    prompts_find_fn *fn;
    void *arg;
};

static void on_found(void *arg, enum err err, uint64_t sequence, double accepted_at,
                     const struct prompt *prompt)
{
    struct find_query query = *(struct find_query *)arg;
    free(arg);
    (void)sequence;
    query.fn(query.arg, err, accepted_at, prompt);
}

enum err prompts_find(struct bus *bus, const char *id, prompts_find_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    if (!id_is_valid(id, ID_LEN))
        return err_set(ERR_INVALID, "\"%.48s\" is no prompt's id", id);
    struct find_query *find = malloc(sizeof *find);
    struct next_query *query = malloc(sizeof *query);
    enum err err = ERR_OK;
    if (find == NULL || query == NULL)
        err = err_set(ERR_NOMEM, "out of memory");
    if (err == ERR_OK) {
        *find = (struct find_query){fn, arg};
        *query = (struct next_query){on_found, find};
        subject_prompt_any(subject, id);
        err = js_last(bus, "PROMPTS", subject, on_next, query);
    }
    if (err != ERR_OK) {
        free(find);
        free(query);
    }
    return err;
}

enum err prompts_bury(struct bus *bus, const char *id, const char *data, size_t len,
                      bus_done_fn *fn, void *arg)
{
    char subject[SUBJECT_MAX];
    snprintf(subject, sizeof subject, "dead.%s", id);
    return js_publish(bus, subject, NULL, data, len, fn, arg);
}
