#include "api/batches.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/read.h"

static const char prefix[] = "batch_";

static const struct {
    const char *name, *time;
} statuses[BATCH_STATUS_COUNT] = {
#define BATCH_ROW(status, name, time) [status] = {name, time},
    BATCH_STATUS_LIST(BATCH_ROW)
#undef BATCH_ROW
};

const char *batch_status_name(enum batch_status status)
{
    return statuses[status].name;
}

bool batch_is_over(enum batch_status status)
{
    return status == BATCH_FAILED || status == BATCH_COMPLETED || status == BATCH_EXPIRED ||
           status == BATCH_CANCELLED;
}

const struct batch_endpoint *batch_endpoint_find(const char *url)
{
    static const struct batch_endpoint endpoints[] = {
        {"/v1/chat/completions", API_CHAT, chat_parse},
        {"/v1/completions", API_COMPLETION, completion_parse},
        {"/v1/embeddings", API_EMBEDDING, embedding_parse},
        {"/v1/responses", API_RESPONSE, response_parse},
    };
    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        if (strcmp(url, endpoints[i].url) == 0)
            return &endpoints[i];
    }
    return NULL;
}

void batch_done(struct batch *batch)
{
    if (batch == NULL)
        return;
    json_decref(batch->metadata);
    *batch = (struct batch){.metadata = NULL};
}

bool batch_move(struct batch *batch, enum batch_status status, double now)
{
    static const bool follows[BATCH_STATUS_COUNT][BATCH_STATUS_COUNT] = {
        [BATCH_VALIDATING] =
            {[BATCH_FAILED] = true, [BATCH_IN_PROGRESS] = true, [BATCH_CANCELLING] = true},
        [BATCH_IN_PROGRESS] =
            {[BATCH_FAILED] = true, [BATCH_FINALIZING] = true, [BATCH_CANCELLING] = true},
        [BATCH_FINALIZING] =
            {[BATCH_FAILED] = true, [BATCH_COMPLETED] = true, [BATCH_EXPIRED] = true},
        [BATCH_CANCELLING] = {[BATCH_CANCELLED] = true},
    };
    if (!follows[batch->status][status])
        return false;
    batch->status = status;
    batch->at[status] = now;
    return true;
}

/* ---- a new batch ---- */

/* "24h", "90s", "15m"; 0: it is none. */
static unsigned window_seconds(const char *text)
{
    char *end = NULL;
    long count = text[0] >= '1' && text[0] <= '9' ? strtol(text, &end, 10) : 0;
    if (count < 1 || count > BATCH_WINDOW_S_MAX || end[0] == '\0' || end[1] != '\0')
        return 0;
    long unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : 0;
    return count * unit <= BATCH_WINDOW_S_MAX ? (unsigned)(count * unit) : 0;
}

static const char *required(const json_t *root, const char *key, struct api_error *error)
{
    const json_t *value = json_object_get(root, key);
    if (value == NULL || json_is_null(value))
        api_error_set(error, 400, "missing_required_parameter", key, "'%s' is missing.", key);
    else if (!json_is_string(value))
        api_error_set(error, 400, "invalid_type", key, "'%s' must be a text.", key);
    return json_string_value(value);
}

static enum err read_fields(struct batch *batch, const json_t *root, double now,
                            struct api_error *error)
{
    const char *input = required(root, "input_file_id", error);
    const char *endpoint = input != NULL ? required(root, "endpoint", error) : NULL;
    const char *window = endpoint != NULL ? required(root, "completion_window", error) : NULL;
    if (window == NULL)
        return ERR_INVALID;
    if (!file_id_parse(batch->input, input))
        return api_error_set(error, 400, "invalid_value", "input_file_id",
                             "'input_file_id' is no file's id.");
    batch->endpoint = batch_endpoint_find(endpoint);
    if (batch->endpoint == NULL)
        return api_error_set(error, 400, "invalid_value", "endpoint",
                             "'endpoint' must be /v1/chat/completions, /v1/completions, "
                             "/v1/embeddings or /v1/responses.");
    unsigned seconds = window_seconds(window);
    if (seconds == 0 || strlen(window) >= sizeof batch->window)
        return api_error_set(error, 400, "invalid_value", "completion_window",
                             "'completion_window' is a time like 24h, 30m or 90s, at most 168h.");
    snprintf(batch->window, sizeof batch->window, "%s", window);
    batch->status = BATCH_VALIDATING;
    batch->at[BATCH_VALIDATING] = now;
    batch->expires_at = now + seconds;
    return read_metadata_of(root, error);
}

enum err batch_parse(struct batch *out, const char *body, size_t len, double now,
                     struct api_error *error)
{
    struct batch batch = {.metadata = NULL};
    char param[64] = "";
    json_t *root = NULL;
    enum err err = json_parse_naming(&root, body, len, param, sizeof param);
    if (err == ERR_INVALID || err == ERR_LIMIT)
        return api_error_set(error, 400, "invalid_json", param, "The body can't be read: %s.",
                             err_text());
    if (err != ERR_OK)
        return err;
    if (json_is_object(root))
        err = read_fields(&batch, root, now, error);
    else
        err = api_error_set(error, 400, "invalid_type", NULL, "The body must be a JSON object.");
    if (err == ERR_OK) {
        json_t *metadata = json_object_get(root, "metadata");
        batch.metadata = json_is_object(metadata) ? json_incref(metadata) : NULL;
        *out = batch;
    }
    json_decref(root);
    return err;
}

/* ---- ids ---- */

void batch_public_id(char out[BATCH_PUBLIC_SIZE], const char *id)
{
    snprintf(out, BATCH_PUBLIC_SIZE, "%s%.*s", prefix, ID_LEN, id);
}

bool batch_id_parse(char out[ID_SIZE], const char *public_id)
{
    size_t len = sizeof prefix - 1;
    if (strncmp(public_id, prefix, len) != 0 || !id_is_valid(public_id + len, ID_LEN))
        return false;
    memcpy(out, public_id + len, ID_SIZE);
    return true;
}

/* ---- stored ---- */

static void put_faults(struct json_out *out, const struct batch *batch)
{
    for (size_t i = 0; i < batch->fault_count; i++) {
        const struct batch_fault *fault = &batch->faults[i];
        json_out_object(out, NULL);
        json_out_text(out, "code", fault->code);
        if (fault->line > 0)
            json_out_uint(out, "line", fault->line);
        else
            json_out_null(out, "line");
        json_out_text(out, "message", fault->message);
        json_out_text(out, "param", fault->param[0] != '\0' ? fault->param : NULL);
        json_out_object_end(out);
    }
}

enum err batch_encode(const struct batch *batch, struct buf *buf)
{
    struct json_out out;
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "id", batch->id);
    json_out_text(&out, "owner", batch->owner);
    json_out_text(&out, "prompter", batch->prompter);
    json_out_text(&out, "gateway", batch->gateway);
    json_out_text(&out, "endpoint", batch->endpoint->url);
    json_out_text(&out, "window", batch->window);
    json_out_time(&out, "expires_at", batch->expires_at);
    json_out_text(&out, "input", batch->input);
    json_out_text(&out, "output", batch->output);
    json_out_text(&out, "errors", batch->errors);
    json_out_flag(&out, "has_output", batch->has_output);
    json_out_flag(&out, "has_errors", batch->has_errors);
    json_out_uint(&out, "output_chunks", batch->output_made.chunks);
    json_out_uint(&out, "output_bytes", batch->output_made.bytes);
    json_out_uint(&out, "errors_chunks", batch->errors_made.chunks);
    json_out_uint(&out, "errors_bytes", batch->errors_made.bytes);
    json_out_flag(&out, "expiring", batch->expiring);
    json_out_text(&out, "status", batch_status_name(batch->status));
    for (int i = 0; i < BATCH_STATUS_COUNT; i++)
        json_out_time(&out, statuses[i].time, batch->at[i]);
    json_out_uint(&out, "total", batch->total);
    json_out_uint(&out, "completed", batch->completed);
    json_out_uint(&out, "failed", batch->failed);
    json_out_json(&out, "metadata", batch->metadata);
    json_out_array(&out, "faults");
    put_faults(&out, batch);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return json_out_end(&out);
}

static void take_faults(struct batch *batch, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        struct batch_fault fault = {.line = (unsigned)json_uint(item, "line", 0)};
        json_text_copy(item, "code", fault.code, sizeof fault.code);
        json_text_copy(item, "message", fault.message, sizeof fault.message);
        json_text_copy(item, "param", fault.param, sizeof fault.param);
        batch_fault_add(batch, &fault);
    }
}

static enum batch_status status_of(const char *name)
{
    for (int i = 0; i < BATCH_STATUS_COUNT; i++) {
        if (strcmp(name, statuses[i].name) == 0)
            return (enum batch_status)i;
    }
    return BATCH_STATUS_COUNT;
}

enum err batch_decode(struct batch *out, const char *data, size_t len)
{
    struct batch batch = {.metadata = NULL};
    json_t *root = NULL;
    enum err err = json_parse(&root, data, len);
    if (err != ERR_OK)
        return err;
    json_text_copy(root, "id", batch.id, sizeof batch.id);
    json_text_copy(root, "owner", batch.owner, sizeof batch.owner);
    json_text_copy(root, "prompter", batch.prompter, sizeof batch.prompter);
    json_text_copy(root, "gateway", batch.gateway, sizeof batch.gateway);
    json_text_copy(root, "window", batch.window, sizeof batch.window);
    json_text_copy(root, "input", batch.input, sizeof batch.input);
    json_text_copy(root, "output", batch.output, sizeof batch.output);
    json_text_copy(root, "errors", batch.errors, sizeof batch.errors);
    batch.endpoint = batch_endpoint_find(json_text(root, "endpoint", ""));
    batch.expires_at = json_number(root, "expires_at", 0);
    batch.has_output = json_flag(root, "has_output", false);
    batch.has_errors = json_flag(root, "has_errors", false);
    batch.expiring = json_flag(root, "expiring", false);
    batch.output_made.chunks = (unsigned)json_uint(root, "output_chunks", 0);
    batch.output_made.bytes = json_uint(root, "output_bytes", 0);
    batch.errors_made.chunks = (unsigned)json_uint(root, "errors_chunks", 0);
    batch.errors_made.bytes = json_uint(root, "errors_bytes", 0);
    batch.status = status_of(json_text(root, "status", ""));
    for (int i = 0; i < BATCH_STATUS_COUNT; i++)
        batch.at[i] = json_number(root, statuses[i].time, 0);
    batch.total = json_uint(root, "total", 0);
    batch.completed = json_uint(root, "completed", 0);
    batch.failed = json_uint(root, "failed", 0);
    take_faults(&batch, json_object_get(root, "faults"));
    json_t *metadata = json_object_get(root, "metadata");
    bool good = id_is_valid(batch.id, ID_LEN) && id_is_valid(batch.input, ID_LEN) &&
                id_is_valid(batch.output, ID_LEN) && id_is_valid(batch.errors, ID_LEN) &&
                batch.endpoint != NULL && batch.status != BATCH_STATUS_COUNT &&
                batch.total <= BATCH_LINES_MAX;
    if (good)
        batch.metadata = json_is_object(metadata) ? json_incref(metadata) : NULL;
    json_decref(root);
    if (!good)
        return err_set(ERR_INVALID, "a stored batch can't be read");
    *out = batch;
    return ERR_OK;
}

/* ---- as clients see it ---- */

static void put_file_id(struct json_out *out, const char *key, const char *id, bool there)
{
    char public_id[FILE_PUBLIC_SIZE];
    file_public_id(public_id, id);
    json_out_text(out, key, there ? public_id : NULL);
}

static void put_time(struct json_out *out, const char *key, double time)
{
    if (time > 0)
        json_out_int(out, key, (int64_t)time);
    else
        json_out_null(out, key);
}

static void put_batch(struct json_out *out, const struct batch *batch)
{
    char id[BATCH_PUBLIC_SIZE];
    batch_public_id(id, batch->id);
    json_out_object(out, NULL);
    json_out_text(out, "id", id);
    json_out_text(out, "object", "batch");
    json_out_text(out, "endpoint", batch->endpoint->url);
    if (batch->fault_count > 0) {
        json_out_object(out, "errors");
        json_out_text(out, "object", "list");
        json_out_array(out, "data");
        put_faults(out, batch);
        json_out_array_end(out);
        json_out_object_end(out);
    } else {
        json_out_null(out, "errors");
    }
    put_file_id(out, "input_file_id", batch->input, true);
    json_out_text(out, "completion_window", batch->window);
    json_out_text(out, "status", batch_status_name(batch->status));
    put_file_id(out, "output_file_id", batch->output, batch->has_output);
    put_file_id(out, "error_file_id", batch->errors, batch->has_errors);
    for (int i = 0; i < BATCH_STATUS_COUNT; i++)
        put_time(out, statuses[i].time, batch->at[i]);
    put_time(out, "expires_at", batch->expires_at);
    json_out_object(out, "request_counts");
    json_out_uint(out, "total", batch->total);
    json_out_uint(out, "completed", batch->completed);
    json_out_uint(out, "failed", batch->failed);
    json_out_object_end(out);
    if (batch->metadata != NULL)
        json_out_json(out, "metadata", batch->metadata);
    else
        json_out_null(out, "metadata");
    json_out_object_end(out);
}

enum err batch_write(const struct batch *batch, struct buf *buf)
{
    struct json_out out;
    json_out_begin(&out, buf);
    put_batch(&out, batch);
    return json_out_end(&out);
}

enum err batch_list_write(const struct batch *const *batches, size_t count, bool more,
                          struct buf *buf)
{
    struct json_out out;
    char id[BATCH_PUBLIC_SIZE];
    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_text(&out, "object", "list");
    json_out_array(&out, "data");
    for (size_t i = 0; i < count; i++)
        put_batch(&out, batches[i]);
    json_out_array_end(&out);
    for (int last = 0; last < 2; last++) {
        if (count > 0)
            batch_public_id(id, batches[last ? count - 1 : 0]->id);
        json_out_text(&out, last ? "last_id" : "first_id", count > 0 ? id : NULL);
    }
    json_out_flag(&out, "has_more", more);
    json_out_object_end(&out);
    return json_out_end(&out);
}
