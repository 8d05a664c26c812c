/*
 * stored.h - replies that go on and stay without their reader: got, resumed, cancelled, deleted, at
 * any gateway, by who asked for them.
 */
#ifndef WYVERN_ROLES_GATEWAY_STORED_H
#define WYVERN_ROLES_GATEWAY_STORED_H

#include "roles/gateway/gateway.h"

route_fn stored_response_get, stored_response_delete, stored_response_cancel, stored_response_items,
    stored_chat_get, stored_chat_delete;

#endif
