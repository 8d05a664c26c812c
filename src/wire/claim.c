#include "wire/claim.h"

#include <string.h>

#include "wire/json.h"
#include "wire/prompt.h"

static const char *const kind_names[] = {"held", "tombstone"};

const char *claim_kind_name(enum claim_kind kind)
{
    return kind_names[kind];
}

enum err claim_encode(const struct claim *claim, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_int(&out, "v", WIRE_VERSION);
    json_out_text(&out, "kind", claim_kind_name(claim->kind));
    json_out_text(&out, "nonce", claim->nonce);
    json_out_text(&out, "previous", claim->previous);
    json_out_text(&out, "worker", claim->worker);
    json_out_text(&out, "node", claim->node);
    json_out_text(&out, "device", claim->device);
    json_out_text(&out, "boot", claim->boot);
    json_out_uint(&out, "deaths", claim->deaths);
    json_out_uint(&out, "attempt", claim->attempt);
    json_out_time(&out, "started_at", claim->started_at);
    json_out_text(&out, "reason", claim->reason);
    json_out_object_end(&out);
    return json_out_end(&out);
}

#define COUNT_MAX 1000000 /* deaths and attempts beyond this are nonsense */

enum err claim_decode(struct claim *out, const char *data, size_t len)
{
    struct claim claim = {.kind = CLAIM_HELD};
    json_t *root = NULL;
    const char *kind;
    uint64_t deaths, attempt;
    size_t i = 0;
    enum err err = json_parse(&root, data, len);

    if (err != ERR_OK) {
        err_prefix(err, "claim");
        return err == ERR_NOMEM ? err : ERR_INVALID;
    }
    if (json_int(root, "v", 0) != WIRE_VERSION) {
        err = err_set(json_is_object(root) ? ERR_UNSUPPORTED : ERR_INVALID,
                      "claim: not of version %d", WIRE_VERSION);
        goto out;
    }
    kind = json_text(root, "kind", "");
    while (i < sizeof kind_names / sizeof *kind_names && strcmp(kind, kind_names[i]) != 0)
        i++;
    claim.kind = (enum claim_kind)i;
    json_text_copy(root, "nonce", claim.nonce, sizeof claim.nonce);
    json_text_copy(root, "previous", claim.previous, sizeof claim.previous);
    json_text_copy(root, "worker", claim.worker, sizeof claim.worker);
    json_text_copy(root, "node", claim.node, sizeof claim.node);
    json_text_copy(root, "device", claim.device, sizeof claim.device);
    json_text_copy(root, "boot", claim.boot, sizeof claim.boot);
    json_text_copy(root, "reason", claim.reason, sizeof claim.reason);
    deaths = json_uint(root, "deaths", 0);
    attempt = json_uint(root, "attempt", 0);
    claim.started_at = json_number(root, "started_at", 0);
    if (i == sizeof kind_names / sizeof *kind_names || deaths > COUNT_MAX || attempt > COUNT_MAX ||
        (claim.kind == CLAIM_HELD && !id_is_valid(claim.nonce, TAG_LEN))) {
        err = err_set(ERR_INVALID, "claim: kind, nonce or a count is wrong");
        goto out;
    }
    claim.deaths = (unsigned)deaths;
    claim.attempt = (unsigned)attempt;
    *out = claim;
out:
    json_decref(root);
    return err;
}
