#include "roles/gateway/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/clock.h"
#include "wire/json.h"
#include "wire/subject.h"

#define PROCESSES_MAX 60000 /* more than this and somebody is lying: 10,000 nodes have fewer */

struct process {
    char key[SUBJECT_MAX]; /* its presence subject */
    struct presence presence;
    int64_t first_ns, seen_ns;
    UT_hash_handle hh;
};

#define SETTLED_MS (2 * PRESENCE_INTERVAL_MS) /* by then everybody has said that he is there */

struct registry {
    struct bus_subscription *subscription;
    struct process *processes;
    int64_t first_ns; /* when anybody was heard; 0: not yet */
};

static void forget(struct registry *registry, struct process *process)
{
    HASH_DELETE(hh, registry->processes, process);
    free(process);
}

static void on_presence(void *arg, const struct bus_message *message)
{
    struct registry *registry = arg;
    struct presence presence;
    struct process *process;
    char key[SUBJECT_MAX];
    if (presence_decode(&presence, message->data, message->len) != ERR_OK)
        return;
    presence_subject(&presence, key, sizeof key);
    if (strcmp(key, message->subject) != 0)
        return; /* speaks for somebody else */
    HASH_FIND_STR(registry->processes, key, process);
    if (presence.leaving) {
        if (process != NULL && strcmp(process->presence.boot, presence.boot) == 0)
            forget(registry, process);
        return;
    }
    if (process == NULL) {
        if (HASH_COUNT(registry->processes) >= PROCESSES_MAX)
            return;
        process = calloc(1, sizeof *process);
        if (process == NULL)
            return;
        memcpy(process->key, key, sizeof key);
        process->first_ns = clock_mono_ns();
        HASH_ADD_STR(registry->processes, key, process);
    }
    process->presence = presence;
    process->seen_ns = clock_mono_ns();
    if (registry->first_ns == 0)
        registry->first_ns = process->seen_ns;
}

enum err registry_new(struct registry **out, struct bus *bus)
{
    struct registry *registry = calloc(1, sizeof *registry);
    if (registry == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = bus_subscribe(&registry->subscription, bus, "state.>", on_presence, registry);
    if (err != ERR_OK) {
        free(registry);
        return err;
    }
    *out = registry;
    return ERR_OK;
}

void registry_free(struct registry *registry)
{
    struct process *process, *next;
    if (registry == NULL)
        return;
    bus_unsubscribe(registry->subscription);
    HASH_ITER(hh, registry->processes, process, next)
    {
        forget(registry, process);
    }
    free(registry);
}

void registry_sweep(struct registry *registry)
{
    int64_t gone = clock_mono_ns() - PRESENCE_GONE_MS * NS_PER_MS;
    struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        if (process->seen_ns < gone)
            forget(registry, process);
    }
}

void registry_reconnected(struct registry *registry)
{
    struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        process->seen_ns = clock_mono_ns();
    }
}

static bool has_role(const struct process *process, const char *role)
{
    return strcmp(process->presence.role, role) == 0;
}

static bool is_ready_worker(const struct process *process)
{
    return has_role(process, "infer") && strcmp(process->presence.state, "ready") == 0;
}

/* By the name that a node's supervisor gives to what it starts. */
static bool is_known(const struct registry *registry, const char *role, const char *node,
                     const char *prefix)
{
    const struct process *process;
    struct presence wanted = {.role = ""};
    char key[SUBJECT_MAX];
    snprintf(wanted.role, sizeof wanted.role, "%s", role);
    snprintf(wanted.node, sizeof wanted.node, "%s", node);
    snprintf(wanted.name, sizeof wanted.name, "%s%.*s", prefix,
             (int)(sizeof wanted.name - 1 - strlen(prefix)), node);
    presence_subject(&wanted, key, sizeof key);
    HASH_FIND_STR(registry->processes, key, process);
    return process != NULL;
}

/* Has its node been heard too?  So whoever saw us ready finds every node in the status.  A worker
 * that runs without a node is not held up for long. */
static bool is_introduced(const struct registry *registry, const struct process *worker)
{
    int64_t known_ns = clock_mono_ns() - worker->first_ns;
    return known_ns > 2 * PRESENCE_INTERVAL_MS * NS_PER_MS ||
           (is_known(registry, "node", worker->presence.node, "") &&
            is_known(registry, "telemetry", worker->presence.node, "telemetry-"));
}

unsigned registry_ready_workers(const struct registry *registry)
{
    unsigned count = 0;
    const struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        count += is_ready_worker(process) && is_introduced(registry, process);
    }
    return count;
}

unsigned registry_slots(const struct registry *registry)
{
    unsigned slots = 0;
    const struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        if (is_ready_worker(process))
            slots += process->presence.slots;
    }
    return slots;
}

const char *registry_arch(const struct registry *registry)
{
    const struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        if (has_role(process, "infer") && process->presence.arch[0] != '\0')
            return process->presence.arch;
    }
    return "";
}

unsigned registry_context(const struct registry *registry)
{
    const struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        if (is_ready_worker(process))
            return process->presence.context;
    }
    return 0;
}

bool registry_gateway_here(const struct registry *registry, const char *tag)
{
    const struct process *process, *next;
    HASH_ITER(hh, registry->processes, process, next)
    {
        if (has_role(process, "gateway") && strcmp(process->presence.boot, tag) == 0)
            return true;
    }
    return false;
}

/* ---- targets ---- */

static int by_key(const struct process *a, const struct process *b)
{
    return strcmp(a->key, b->key);
}

/* host:port of an URL into out; false when there is none. */
static bool target_of(char *out, size_t cap, const char *url, const char *own_host)
{
    const char *start = strstr(url, "://");
    if (start == NULL)
        return false;
    start += 3;
    size_t len = strcspn(start, "/"), host = len;
    while (host > 0 && start[host - 1] != ':')
        host--;
    bool any = strncmp(start, "0.0.0.0:", 8) == 0 || strncmp(start, "[::]:", 5) == 0;
    if (host < 2 || host == len)
        return false;
    int made = any ? snprintf(out, cap, "%s:%.*s", own_host, (int)(len - host), start + host)
                   : snprintf(out, cap, "%.*s", (int)len, start);
    return made > 0 && (size_t)made < cap;
}

static void write_target(struct json_out *out, const struct presence *presence, const char *target)
{
    json_out_object(out, NULL);
    json_out_array(out, "targets");
    json_out_text(out, NULL, target);
    json_out_array_end(out);
    json_out_object(out, "labels");
    json_out_text(out, "node", presence->node);
    json_out_text(out, "role", presence->role);
    json_out_object_end(out);
    json_out_object_end(out);
}

/* Who stands still just now may be the telemetry worker of a node that others tell of: it is waited
 * for, until it would count as gone. */
static bool is_settled(const struct registry *registry)
{
    const struct process *process, *next;
    int64_t since_ns = clock_mono_ns() - registry->first_ns;
    if (registry->first_ns == 0 || since_ns < SETTLED_MS * NS_PER_MS)
        return false;
    if (since_ns > PRESENCE_GONE_MS * NS_PER_MS)
        return true;
    HASH_ITER(hh, registry->processes, process, next)
    {
        if ((has_role(process, "node") || has_role(process, "infer")) &&
            !is_known(registry, "telemetry", process->presence.node, "telemetry-"))
            return false;
    }
    return true;
}

enum err registry_targets(struct registry *registry, const char *own_host, struct buf *buf)
{
    struct process *process, *next;
    struct json_out out;
    char target[PRESENCE_TEXT_MAX];
    if (!is_settled(registry))
        return err_set(ERR_UNAVAILABLE, "not everybody has been heard yet");
    HASH_SRT(hh, registry->processes, by_key);
    json_out_begin(&out, buf);
    json_out_array(&out, NULL);
    HASH_ITER(hh, registry->processes, process, next)
    {
        bool scraped = has_role(process, "telemetry") || has_role(process, "gateway");
        if (scraped && target_of(target, sizeof target, process->presence.url, own_host))
            write_target(&out, &process->presence, target);
    }
    json_out_array_end(&out);
    return json_out_end(&out);
}

/* ---- slots ---- */

enum err registry_write_slots(struct registry *registry, struct buf *buf)
{
    struct process *process, *next;
    struct json_out out;
    uint64_t id = 0;
    HASH_SRT(hh, registry->processes, by_key);
    json_out_begin(&out, buf);
    json_out_array(&out, NULL);
    HASH_ITER(hh, registry->processes, process, next)
    {
        const struct presence *worker = &process->presence;
        for (unsigned i = 0; is_ready_worker(process) && i < worker->slots; i++) {
            json_out_object(&out, NULL);
            json_out_uint(&out, "id", id++);
            json_out_uint(&out, "n_ctx", worker->context);
            json_out_flag(&out, "is_processing", i < worker->active);
            json_out_text(&out, "worker", worker->name);
            json_out_text(&out, "node", worker->node);
            json_out_object_end(&out);
        }
    }
    json_out_array_end(&out);
    return json_out_end(&out);
}

/* ---- the status ---- */

/* What is not known is left out. */
static void set_known(json_t *object, const char *key, double value)
{
    if (value >= 0)
        json_object_set_new(object, key, json_real(value));
}

static json_t *describe_latency(const struct presence *worker)
{
    json_t *counts = json_array();
    for (size_t i = 0; i <= LATENCY_BUCKET_COUNT; i++)
        json_array_append_new(counts, json_integer((json_int_t)worker->latency_counts[i]));
    return json_pack("{s:f, s:o}", "sum_s", worker->latency_sum, "counts", counts);
}

/* heard_at: so that rates can be had from two statuses, whenever they were asked for. */
static json_t *describe_worker(const struct process *process)
{
    const struct presence *worker = &process->presence;
    double heard_at =
        clock_wall() - (double)(clock_mono_ns() - process->seen_ns) / (double)NS_PER_S;
    const struct presence_work *work = &worker->work;
    json_t *out = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:o}",
                            "id", worker->name, "pid", worker->pid, "device", worker->device,
                            "model", worker->model, "state", worker->state, "slots",
                            (int)worker->slots, "active", (int)worker->active, "context",
                            (int)worker->context, "prompts", (json_int_t)worker->prompts_total,
                            "tokens", (json_int_t)worker->reply_tokens_total, "prompt_tokens",
                            (json_int_t)worker->prompt_tokens_total, "failed",
                            (json_int_t)worker->failed_total, "latency", describe_latency(worker));
    set_known(out, "heard_at", heard_at);
    if (!work->known)
        return out;
    json_object_set_new(out, "waiting", json_integer(work->waiting));
    json_object_set_new(out, "cached_tokens", json_integer((json_int_t)work->cached_tokens_total));
    set_known(out, "kv_used", work->kv_used);
    set_known(out, "busy_s", work->busy_s);
    set_known(out, "slot_s", work->slot_s);
    set_known(out, "prefill_s", work->prefill_s);
    set_known(out, "decode_s", work->decode_s);
    return out;
}

static json_t *describe_gpus(const struct presence *telemetry)
{
    json_t *gpus = json_array();
    for (unsigned i = 0; i < telemetry->gpu_count; i++) {
        const struct presence_gpu *gpu = &telemetry->gpus[i];
        json_t *out = json_pack("{s:s, s:i}", "name", gpu->name, "index", (int)gpu->index);
        set_known(out, "busy", gpu->busy);
        set_known(out, "memory_used", gpu->memory_used);
        set_known(out, "memory_total", gpu->memory_total);
        set_known(out, "power_w", gpu->power_w);
        set_known(out, "temperature_c", gpu->temperature_c);
        json_array_append_new(gpus, out);
    }
    return gpus;
}

static json_t *describe_host(const struct presence *telemetry)
{
    json_t *host = json_object();
    if (telemetry->host.known) {
        set_known(host, "cpu_busy", telemetry->host.cpu_busy);
        set_known(host, "memory_used", telemetry->host.memory_used);
        set_known(host, "memory_total", telemetry->host.memory_total);
    }
    return host;
}

/* What a node has, by its name: {"workers": […], "metrics_url", "host", "gpus"}. */
static json_t *belongings(json_t *by_node, const char *node)
{
    json_t *found = json_object_get(by_node, node);
    if (found != NULL)
        return found;
    found = json_pack("{s:[], s:s, s:{}, s:[]}", "workers", "metrics_url", "", "host", "gpus");
    if (json_object_set_new(by_node, node, found) != 0)
        return NULL;
    return found;
}

/* Once over all processes, however many nodes there are. */
static json_t *gather(const struct registry *registry)
{
    const struct process *process, *next;
    json_t *by_node = json_object();
    HASH_ITER(hh, registry->processes, process, next)
    {
        const struct presence *presence = &process->presence;
        bool worker = has_role(process, "infer");
        if (!worker && !has_role(process, "telemetry"))
            continue;
        json_t *own = belongings(by_node, presence->node);
        if (worker) {
            json_array_append_new(json_object_get(own, "workers"), describe_worker(process));
        } else {
            json_object_set_new(own, "metrics_url", json_string(presence->url));
            json_object_set_new(own, "host", describe_host(presence));
            json_object_set_new(own, "gpus", describe_gpus(presence));
        }
    }
    return by_node;
}

static json_t *describe_node(json_t *by_node, const struct presence *node)
{
    json_t *own = belongings(by_node, node->node);
    return json_pack("{s:s, s:s, s:O, s:i, s:O, s:O, s:O}", "name", node->node, "address",
                     node->address, "metrics_url", json_object_get(own, "metrics_url"), "pid",
                     node->pid, "workers", json_object_get(own, "workers"), "host",
                     json_object_get(own, "host"), "gpus", json_object_get(own, "gpus"));
}

enum err registry_describe(struct registry *registry, json_t *object)
{
    json_t *nodes = json_array(), *responders = json_array(), *gateways = json_array();
    struct process *process, *next;
    HASH_SRT(hh, registry->processes, by_key);
    json_t *by_node = gather(registry);
    HASH_ITER(hh, registry->processes, process, next)
    {
        const struct presence *presence = &process->presence;
        if (has_role(process, "node"))
            json_array_append_new(nodes, describe_node(by_node, presence));
        else if (has_role(process, "respond"))
            json_array_append_new(
                responders, json_pack("{s:s, s:i, s:I, s:I, s:I}", "id", presence->name, "pid",
                                      presence->pid, "replies", (json_int_t)presence->replies_total,
                                      "prompt_tokens", (json_int_t)presence->prompt_tokens_total,
                                      "reply_tokens", (json_int_t)presence->reply_tokens_total));
        else if (has_role(process, "gateway"))
            json_array_append_new(gateways, json_pack("{s:s, s:i, s:s}", "id", presence->name,
                                                      "pid", presence->pid, "url", presence->url));
    }
    json_decref(by_node);
    json_t *bounds = json_array();
    for (size_t i = 0; i < LATENCY_BUCKET_COUNT; i++)
        json_array_append_new(bounds, json_real(presence_latency_bounds[i]));
    int failed = json_object_set_new(object, "latency_bounds", bounds);
    failed |= json_object_set_new(object, "nodes", nodes);
    failed |= json_object_set_new(object, "response_workers", responders);
    failed |= json_object_set_new(object, "gateways", gateways);
    return failed ? err_set(ERR_NOMEM, "out of memory") : ERR_OK;
}
