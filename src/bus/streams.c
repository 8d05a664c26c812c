#include "bus/streams.h"

#include <inttypes.h>
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/prompts.h"
#include "wire/json.h"

#define CALL_MS      5000
#define ORPHAN_S     600 /* claims and pieces outlive the longest reply by this */
#define CONFIG_BYTES 4096

static enum err connect_blocking(natsConnection **out, const struct join *setup)
{
    natsOptions *opts = NULL;
    natsStatus s = natsOptions_Create(&opts);
    if (s == NATS_OK)
        s = natsOptions_SetURL(opts, setup->url);
    if (s == NATS_OK)
        s = natsOptions_SetUserInfo(opts, setup->user, setup->password);
    if (s == NATS_OK)
        s = natsOptions_SetName(opts, "setup");
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(opts, CALL_MS);
    if (s == NATS_OK)
        s = natsConnection_Connect(out, opts);
    natsOptions_Destroy(opts);
    if (s != NATS_OK)
        return err_set(ERR_UNAVAILABLE, "can't reach the broker at %s: %s", setup->url,
                       natsStatus_GetText(s));
    return ERR_OK;
}

/* One API call; *out is its answer. */
static enum err call(natsConnection *nats, const char *subject, const char *json, json_t **out)
{
    natsMsg *message = NULL;
    natsStatus s = natsConnection_RequestString(&message, nats, subject, json, CALL_MS);
    if (s != NATS_OK)
        return err_set(ERR_UNAVAILABLE, "%s: %s", subject, natsStatus_GetText(s));
    const struct bus_message view = {.data = natsMsg_GetData(message),
                                     .len = (size_t)natsMsg_GetDataLength(message)};
    enum err err = js_answer_read(&view, out);
    natsMsg_Destroy(message);
    return err;
}

static enum err make_stream(natsConnection *nats, const char *name, const char *config)
{
    char subject[128];
    json_t *answer = NULL;
    snprintf(subject, sizeof subject, "$JS.API.STREAM.CREATE.%s", name);
    enum err err = call(nats, subject, config, &answer);
    if (err == ERR_OK) {
        json_decref(answer);
        return ERR_OK;
    }
    /* It stands already, with other limits: bring it up to date. */
    snprintf(subject, sizeof subject, "$JS.API.STREAM.UPDATE.%s", name);
    err = call(nats, subject, config, &answer);
    if (err != ERR_OK)
        return err_prefix(err == ERR_UNAVAILABLE ? err : ERR_CONFIG, "stream %s", name);
    json_decref(answer);
    return ERR_OK;
}

static enum err make_consumer(natsConnection *nats, const char *stream, const char *name,
                              const char *filter)
{
    char subject[2 * SUBJECT_MAX], config[2 * SUBJECT_MAX + 512];
    json_t *answer = NULL;
    snprintf(config, sizeof config,
             "{\"stream_name\":\"%s\",\"config\":{\"durable_name\":\"%s\",\"filter_subject\":"
             "\"%s\",\"ack_policy\":\"explicit\",\"ack_wait\":%" PRId64
             ",\"max_deliver\":-1,\"max_ack_pending\":-1,\"max_waiting\":16384}}",
             stream, name, filter, (int64_t)PROMPTS_ACK_WAIT_MS * NS_PER_MS);
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.DURABLE.CREATE.%s.%s", stream, name);
    enum err err = call(nats, subject, config, &answer);
    if (err != ERR_OK)
        return err_prefix(err, "consumer %s", name);
    json_decref(answer);
    return ERR_OK;
}

/* The rows of docs/PROTOCOL.md's table of streams.  Shares of the disk in percent: together below
 * what the broker may use, so that one full stream never takes another's room. */
struct stream_row {
    const char *name, *subjects, *retention;
    const char *settings; /* further fields, JSON */
    unsigned disk_percent;
};

static const struct stream_row rows[] = {
    {"PROMPTS", "prompt.*.*.*", "workqueue", "\"allow_direct\":true", 15},
    {"TOKENS", "tok.*.*.*", "limits",
     "\"allow_direct\":true,\"persist_mode\":\"async\","
     "\"republish\":{\"src\":\"tok.>\",\"dest\":\"live.>\"}",
     25},
    {"RESPONSES", "response.*", "workqueue", "\"persist_mode\":\"async\"", 8},
    {"REPLIES", "reply.*.*", "limits",
     "\"allow_direct\":true,\"max_msgs_per_subject\":1,"
     "\"republish\":{\"src\":\"reply.>\",\"dest\":\"live.>\"}",
     25},
    {"DEAD", "dead.*", "limits", "\"max_msgs_per_subject\":1", 2},
    {"OBJECTS", "obj.>", "limits",
     "\"allow_direct\":true,\"max_msgs_per_subject\":1,\"allow_msg_ttl\":true", 20},
};

enum err streams_setup(const struct join *setup, const struct stream_limits *limits)
{
    natsConnection *nats = NULL;
    enum err err = connect_blocking(&nats, setup);
    for (size_t i = 0; err == ERR_OK && i < sizeof rows / sizeof *rows; i++) {
        const struct stream_row *row = &rows[i];
        char config[CONFIG_BYTES];
        int64_t max_age_s = 0, max_messages = -1;
        if (strcmp(row->name, "TOKENS") == 0)
            max_age_s = (int64_t)limits->max_reply_s + ORPHAN_S;
        else if (strcmp(row->name, "REPLIES") == 0 || strcmp(row->name, "DEAD") == 0)
            max_age_s = (int64_t)limits->keep_hours * 3600;
        else if (strcmp(row->name, "OBJECTS") == 0)
            max_age_s = (int64_t)limits->keep_files_hours * 3600;
        if (strcmp(row->name, "PROMPTS") == 0)
            max_messages = limits->max_queue;
        snprintf(config, sizeof config,
                 "{\"name\":\"%s\",\"subjects\":[\"%s\"],\"retention\":\"%s\",\"storage\":"
                 "\"file\",\"discard\":\"new\",\"num_replicas\":1,\"max_age\":%" PRId64
                 ",\"max_msgs\":%" PRId64 ",\"max_bytes\":%" PRIu64 ",%s}",
                 row->name, row->subjects, row->retention, max_age_s * NS_PER_S, max_messages,
                 limits->store_bytes / 100 * row->disk_percent, row->settings);
        err = make_stream(nats, row->name, config);
    }
    static const char *const lanes[] = {LANE_MAIN, LANE_BATCH};
    for (size_t i = 0; err == ERR_OK && i < sizeof lanes / sizeof *lanes; i++) {
        char consumer[SUBJECT_MAX], filter[SUBJECT_MAX];
        prompts_consumer(consumer, setup->model, lanes[i]);
        subject_prompt(filter, setup->model, lanes[i], "*");
        err = make_consumer(nats, "PROMPTS", consumer, filter);
    }
    if (err == ERR_OK)
        err = make_consumer(nats, "RESPONSES", "respond", "response.*");
    natsConnection_Destroy(nats);
    return err;
}

enum err streams_queue_depth(const struct join *setup, uint64_t *messages)
{
    natsConnection *nats = NULL;
    uint64_t sum = 0;
    enum err err = connect_blocking(&nats, setup);
    static const char *const subjects[] = {"$JS.API.STREAM.INFO.PROMPTS",
                                           "$JS.API.STREAM.INFO.RESPONSES"};
    for (size_t i = 0; err == ERR_OK && i < 2; i++) {
        json_t *answer = NULL;
        err = call(nats, subjects[i], "", &answer);
        if (err == ERR_OK) {
            sum += (uint64_t)json_int(json_object_get(answer, "state"), "messages", 0);
            json_decref(answer);
        }
    }
    natsConnection_Destroy(nats);
    if (err == ERR_OK)
        *messages = sum;
    return err;
}
