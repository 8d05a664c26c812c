/*
 * console.h - the web console: files of web/ that are part of the binary (scripts/embed.py).
 */
#ifndef WYVERN_ROLES_GATEWAY_CONSOLE_H
#define WYVERN_ROLES_GATEWAY_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>

#include "http/server.h"

struct console_file {
    const char *name; /* "index.html" */
    const char *type;
    const char *digest;                                /* of the content */
    size_t plain_at, plain_len, packed_at, packed_len; /* in the blob */
};

extern const char console_blob[];
extern const struct console_file console_files[];
extern const size_t console_file_count;

/* Does this request come from somebody who looks at pages?  The others get text at "/". */
bool console_wanted(const struct http_request *request);
/* Answers with a file; "" is index.html.  False: there is none of this name. */
bool console_reply(struct http_exchange *exchange, const struct http_request *request,
                   const char *name);

#endif
