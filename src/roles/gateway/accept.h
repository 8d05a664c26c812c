/*
 * accept.h - requests that become prompts: checked, given what the service sets, put on the queue.
 */
#ifndef WYVERN_ROLES_GATEWAY_ACCEPT_H
#define WYVERN_ROLES_GATEWAY_ACCEPT_H

#include "api/request.h"
#include "roles/gateway/deliver.h"
#include "roles/gateway/gateway.h"

/* A POST of any kind. */
void accept_post(struct gateway *gateway, struct http_exchange *exchange,
                 const struct http_request *request, const struct key *caller, api_parse_fn *parse);

struct follow_spec {   /* texts are copied */
    const char *id;    /* the prompt's: one that was put before is not made again */
    const char *owner; /* id of the key it is asked with; "": none */
    const char *prompter;
    const char *lane; /* static */
};
/* A prompt that somebody inside the gateway asks for, detached.  done hears how it ended, exactly
 * once, also when it can't be put (an error of status 429, 503 …), perhaps before this returns.
 * Takes the request, which must be for one text. */
void accept_follow(struct gateway *gateway, struct api_request *request,
                   const struct follow_spec *spec, outlet_done_fn *done, void *arg);

#endif
