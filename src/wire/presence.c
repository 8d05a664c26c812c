#include "wire/presence.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "wire/json.h"
#include "wire/prompt.h"
#include "wire/subject.h"

const double presence_latency_bounds[LATENCY_BUCKET_COUNT] = {
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
};

static void write_work(struct json_out *out, const struct presence_work *work)
{
    json_out_object(out, "work");
    json_out_uint(out, "waiting", work->waiting);
    if (work->kv_used >= 0)
        json_out_number(out, "kv_used", work->kv_used);
    json_out_number(out, "busy_s", work->busy_s);
    json_out_number(out, "slot_s", work->slot_s);
    json_out_number(out, "prefill_s", work->prefill_s);
    json_out_number(out, "decode_s", work->decode_s);
    json_out_uint(out, "cached_tokens_total", work->cached_tokens_total);
    json_out_object_end(out);
}

static void write_infer(struct json_out *out, const struct presence *presence)
{
    json_out_text(out, "device", presence->device);
    json_out_text(out, "model", presence->model);
    json_out_text(out, "arch", presence->arch);
    json_out_uint(out, "slots", presence->slots);
    json_out_uint(out, "active", presence->active);
    json_out_uint(out, "context", presence->context);
    json_out_uint(out, "prompts_total", presence->prompts_total);
    json_out_array(out, "latency_counts");
    for (size_t i = 0; i <= LATENCY_BUCKET_COUNT; i++)
        json_out_uint(out, NULL, presence->latency_counts[i]);
    json_out_array_end(out);
    json_out_number(out, "latency_sum", presence->latency_sum);
    if (presence->work.known)
        write_work(out, &presence->work);
}

static void write_restarts(struct json_out *out, const struct presence *presence)
{
    json_out_array(out, "restarts");
    for (unsigned i = 0; i < presence->restart_count; i++)
        json_out_uint(out, NULL, presence->restarts[i]);
    json_out_array_end(out);
}

static void write_known(struct json_out *out, const char *key, double value)
{
    if (value >= 0)
        json_out_number(out, key, value);
}

static void write_host(struct json_out *out, const struct presence *presence)
{
    if (presence->host.known) {
        json_out_object(out, "host");
        write_known(out, "cpu_busy", presence->host.cpu_busy);
        write_known(out, "memory_used", presence->host.memory_used);
        write_known(out, "memory_total", presence->host.memory_total);
        json_out_object_end(out);
    }
    json_out_array(out, "gpus");
    for (unsigned i = 0; i < presence->gpu_count; i++) {
        const struct presence_gpu *gpu = &presence->gpus[i];
        json_out_object(out, NULL);
        json_out_text(out, "name", gpu->name);
        json_out_uint(out, "index", gpu->index);
        write_known(out, "busy", gpu->busy);
        write_known(out, "memory_used", gpu->memory_used);
        write_known(out, "memory_total", gpu->memory_total);
        write_known(out, "power_w", gpu->power_w);
        write_known(out, "temperature_c", gpu->temperature_c);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

enum err presence_encode(const struct presence *presence, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_int(&out, "v", WIRE_VERSION);
    json_out_text(&out, "role", presence->role);
    json_out_text(&out, "node", presence->node);
    json_out_text(&out, "name", presence->name);
    json_out_text(&out, "boot", presence->boot);
    json_out_int(&out, "pid", presence->pid);
    json_out_flag(&out, "leaving", presence->leaving);
    json_out_text(&out, "address", presence->address);
    json_out_text(&out, "url", presence->url);
    json_out_text(&out, "state", presence->state);
    if (strcmp(presence->role, "infer") == 0)
        write_infer(&out, presence);
    if (strcmp(presence->role, "telemetry") == 0)
        write_host(&out, presence);
    if (presence->restart_count > 0)
        write_restarts(&out, presence);
    json_out_uint(&out, "replies_total", presence->replies_total);
    json_out_uint(&out, "prompt_tokens_total", presence->prompt_tokens_total);
    json_out_uint(&out, "reply_tokens_total", presence->reply_tokens_total);
    json_out_uint(&out, "failed_total", presence->failed_total);
    json_out_object_end(&out);
    return json_out_end(&out);
}

static unsigned read_unsigned(const json_t *root, const char *key)
{
    uint64_t value = json_uint(root, key, 0);
    return value > UINT_MAX ? UINT_MAX : (unsigned)value;
}

static void read_latency(struct presence *presence, const json_t *root)
{
    const json_t *counts = json_object_get(root, "latency_counts");
    double sum = json_number(root, "latency_sum", 0);

    if (json_array_size(counts) != LATENCY_BUCKET_COUNT + 1)
        return;
    for (size_t i = 0; i <= LATENCY_BUCKET_COUNT; i++) {
        json_int_t count = json_integer_value(json_array_get(counts, i));
        presence->latency_counts[i] = count > 0 ? (uint64_t)count : 0;
    }
    presence->latency_sum = sum > 0 ? sum : 0;
}

static double read_seconds(const json_t *root, const char *key)
{
    double value = json_number(root, key, 0);
    return value > 0 ? value : 0;
}

static void read_work(struct presence_work *work, const json_t *object)
{
    double kv_used = json_number(object, "kv_used", -1);

    work->known = json_is_object(object);
    work->waiting = read_unsigned(object, "waiting");
    work->kv_used = kv_used >= 0 && kv_used <= 1 ? kv_used : -1;
    work->busy_s = read_seconds(object, "busy_s");
    work->slot_s = read_seconds(object, "slot_s");
    work->prefill_s = read_seconds(object, "prefill_s");
    work->decode_s = read_seconds(object, "decode_s");
    work->cached_tokens_total = json_uint(object, "cached_tokens_total", 0);
}

/* Negative where it is not there, or can't be. */
static double read_known(const json_t *root, const char *key, double most)
{
    double value = json_number(root, key, -1);
    return value >= 0 && value <= most ? value : -1;
}

static void read_host(struct presence *presence, const json_t *root)
{
    const json_t *host = json_object_get(root, "host"), *gpus = json_object_get(root, "gpus");

    presence->host = (struct presence_host){
        .known = json_is_object(host),
        .cpu_busy = read_known(host, "cpu_busy", 1),
        .memory_used = read_known(host, "memory_used", HUGE_VAL),
        .memory_total = read_known(host, "memory_total", HUGE_VAL),
    };
    for (size_t i = 0; i < json_array_size(gpus) && i < PRESENCE_GPUS_MAX; i++) {
        const json_t *from = json_array_get(gpus, i);
        struct presence_gpu *gpu = &presence->gpus[presence->gpu_count++];
        json_text_copy(from, "name", gpu->name, sizeof gpu->name);
        gpu->index = read_unsigned(from, "index");
        gpu->busy = read_known(from, "busy", 1);
        gpu->memory_used = read_known(from, "memory_used", HUGE_VAL);
        gpu->memory_total = read_known(from, "memory_total", HUGE_VAL);
        gpu->power_w = read_known(from, "power_w", HUGE_VAL);
        gpu->temperature_c = read_known(from, "temperature_c", HUGE_VAL);
    }
}

static void read_presence(struct presence *presence, const json_t *root)
{
    int64_t pid = json_int(root, "pid", 0);

    json_text_copy(root, "role", presence->role, sizeof presence->role);
    json_text_copy(root, "node", presence->node, sizeof presence->node);
    json_text_copy(root, "name", presence->name, sizeof presence->name);
    json_text_copy(root, "boot", presence->boot, sizeof presence->boot);
    presence->pid = pid > 0 && pid <= INT_MAX ? (int)pid : 0;
    presence->leaving = json_flag(root, "leaving", false);
    json_text_copy(root, "address", presence->address, sizeof presence->address);
    json_text_copy(root, "url", presence->url, sizeof presence->url);
    json_text_copy(root, "device", presence->device, sizeof presence->device);
    json_text_copy(root, "model", presence->model, sizeof presence->model);
    json_text_copy(root, "arch", presence->arch, sizeof presence->arch);
    json_text_copy(root, "state", presence->state, sizeof presence->state);
    presence->slots = read_unsigned(root, "slots");
    presence->active = read_unsigned(root, "active");
    presence->context = read_unsigned(root, "context");
    presence->prompts_total = json_uint(root, "prompts_total", 0);
    presence->prompt_tokens_total = json_uint(root, "prompt_tokens_total", 0);
    presence->reply_tokens_total = json_uint(root, "reply_tokens_total", 0);
    presence->failed_total = json_uint(root, "failed_total", 0);
    presence->replies_total = json_uint(root, "replies_total", 0);
    read_latency(presence, root);
    read_work(&presence->work, json_object_get(root, "work"));
    read_host(presence, root);
}

enum err presence_decode(struct presence *out, const char *data, size_t len)
{
    struct presence presence = {.role = ""};
    json_t *root = NULL;
    enum err err = json_parse(&root, data, len);

    if (err != ERR_OK) {
        err_prefix(err, "presence");
        return err == ERR_NOMEM ? err : ERR_INVALID;
    }
    if (json_int(root, "v", 0) != WIRE_VERSION) {
        err = err_set(json_is_object(root) ? ERR_UNSUPPORTED : ERR_INVALID,
                      "presence: not of version %d", WIRE_VERSION);
        goto out;
    }
    read_presence(&presence, root);
    if (presence.role[0] == '\0' || presence.name[0] == '\0') {
        err = err_set(ERR_INVALID, "presence: role or name is missing");
        goto out;
    }
    *out = presence;
out:
    json_decref(root);
    return err;
}

unsigned presence_restarts(uint32_t out[PRESENCE_RESTARTS_MAX], const char *data, size_t len)
{
    json_t *root = NULL;
    unsigned count = 0;

    if (json_parse(&root, data, len) != ERR_OK)
        return 0;
    const json_t *list = json_object_get(root, "restarts");
    for (; count < json_array_size(list) && count < PRESENCE_RESTARTS_MAX; count++) {
        json_int_t value = json_integer_value(json_array_get(list, count));
        out[count] = value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    }
    json_decref(root);
    return count;
}

/* The name as a token, "_" for none; names are at most PRESENCE_NAME_MAX - 1 bytes. */
static void name_token(char out[3 * PRESENCE_NAME_MAX], const char *name)
{
    if (subject_encode(out, 3 * PRESENCE_NAME_MAX, name) != ERR_OK)
        snprintf(out, 3 * PRESENCE_NAME_MAX, "_");
}

void presence_subject(const struct presence *presence, char *out, int cap)
{
    char node[3 * PRESENCE_NAME_MAX], name[3 * PRESENCE_NAME_MAX];

    name_token(node, presence->node);
    name_token(name, presence->name);
    snprintf(out, (size_t)cap, "state.%s.%s.%s", presence->role, node, name);
}
