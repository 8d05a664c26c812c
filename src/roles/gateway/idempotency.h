/*
 * idempotency.h - Idempotency-Key: who sends a key again gets the id of the first.  An object named
 * by a digest of key and owner holds that id and a digest of the request; it is created once.
 */
#ifndef WYVERN_ROLES_GATEWAY_IDEMPOTENCY_H
#define WYVERN_ROLES_GATEWAY_IDEMPOTENCY_H

#include "base/id.h"
#include "config/digest.h"
#include "roles/gateway/gateway.h"

/* again: id and created are those of the first.  ERR_EXISTS: the key was used for another request;
 * ERR_FULL: no room; others: the broker can't be asked. */
typedef void idempotency_fn(void *arg, enum err err, bool again);

struct idempotency {
    char object[DIGEST_SIZE + 8]; /* "idem.…"; "": no key was sent */
    char body[DIGEST_SIZE];       /* digest of what was asked */
    char id[ID_SIZE];             /* the caller's to set before the claim */
    double created;               /* as above */
    struct gateway *gateway;
    idempotency_fn *fn;
    void *arg;
};

/* Of a request of this owner. */
MUST_USE enum err idempotency_read(struct idempotency *out, const struct http_request *request,
                                   const char *owner, struct api_error *error);
/* fn is called once, later, unless this fails; *idempotency stays where it is until then. */
MUST_USE enum err idempotency_claim(struct idempotency *idempotency, struct gateway *gateway,
                                    idempotency_fn *fn, void *arg);
void idempotency_error(struct api_error *error); /* 409 */

#endif
