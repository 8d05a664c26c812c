#include "roles/gateway/idempotency.h"

#include <stdio.h>
#include <string.h>

#include "bus/objects.h"
#include "wire/json.h"

#define KEY_MAX 255 /* bytes */

enum err idempotency_read(struct idempotency *out, const struct http_request *request,
                          const char *owner, struct api_error *error)
{
    const char *key = http_request_header(request, "idempotency-key");
    char digest[DIGEST_SIZE];
    if (key == NULL)
        return ERR_OK;
    if (key[0] == '\0' || strlen(key) > KEY_MAX ||
        http_request_header_at(request, "idempotency-key", 1) != NULL)
        return api_error_set(error, 400, "invalid_value", "Idempotency-Key",
                             "an Idempotency-Key is one text of 1 to %d bytes", KEY_MAX);
    const struct digest_part name[] = {{owner, strlen(owner)}, {key, strlen(key)}};
    const struct digest_part body[] = {{request->path, strlen(request->path)},
                                       {request->body, request->body_len}};
    if (digest_parts(digest, name, 2) != ERR_OK || digest_parts(out->body, body, 2) != ERR_OK)
        return api_error_set(error, 503, "unavailable", NULL, "out of memory; try again");
    snprintf(out->object, sizeof out->object, "idem.%s", digest);
    return ERR_OK;
}

static void on_used_before(void *arg, enum err err, const char *name, uint64_t sequence,
                           const char *data, size_t len)
{
    struct idempotency *idempotency = arg;
    json_t *root = NULL;
    (void)name;
    (void)sequence;
    if (err == ERR_OK)
        err = json_parse(&root, data, len);
    const char *id = json_text(root, "id", "");
    if (err != ERR_OK || !id_is_valid(id, ID_LEN)) {
        err = ERR_UNAVAILABLE;
    } else if (strcmp(json_text(root, "body", ""), idempotency->body) != 0) {
        err = ERR_EXISTS;
    } else {
        memcpy(idempotency->id, id, ID_SIZE);
        idempotency->created = json_number(root, "created", idempotency->created);
    }
    json_decref(root);
    idempotency->fn(idempotency->arg, err, true);
}

static void on_put(void *arg, enum err err, uint64_t sequence)
{
    struct idempotency *idempotency = arg;
    (void)sequence;
    if (err != ERR_EXISTS)
        idempotency->fn(idempotency->arg, err, false);
    else if (objects_get(idempotency->gateway->bus, idempotency->object, on_used_before,
                         idempotency) != ERR_OK)
        idempotency->fn(idempotency->arg, ERR_UNAVAILABLE, false);
}

enum err idempotency_claim(struct idempotency *idempotency, struct gateway *gateway,
                           idempotency_fn *fn, void *arg)
{
    const uint64_t none_yet = 0;
    struct buf text;
    struct json_out out;
    idempotency->gateway = gateway;
    idempotency->fn = fn;
    idempotency->arg = arg;
    buf_init(&text, 1024);
    json_out_begin(&out, &text);
    json_out_object(&out, NULL);
    json_out_text(&out, "id", idempotency->id);
    json_out_text(&out, "body", idempotency->body);
    json_out_time(&out, "created", idempotency->created);
    json_out_object_end(&out);
    enum err err = json_out_end(&out);
    if (err == ERR_OK)
        err = objects_put(gateway->bus, idempotency->object, &none_yet,
                          (unsigned)gateway->settings->keep_hours * 3600, text.data, text.len,
                          on_put, idempotency);
    buf_done(&text);
    return err;
}

void idempotency_error(struct api_error *error)
{
    api_error_set(error, 409, "idempotency_key_reused", NULL,
                  "this Idempotency-Key was used before, for another request");
}
