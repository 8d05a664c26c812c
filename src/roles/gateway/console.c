#include "roles/gateway/console.h"

#include <stdio.h>
#include <string.h>

#include "metrics/gzip.h"

/* Scripts, styles and calls come from here alone; nothing stands inline; no HTML is made of text:
 * there is no trusted type. */
#define POLICY                                                                                     \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "              \
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "            \
    "require-trusted-types-for 'script'; trusted-types 'none'"

bool console_wanted(const struct http_request *request)
{
    const char *accept = http_request_header(request, "accept");
    return accept != NULL && strstr(accept, "text/html") != NULL;
}

/* If-None-Match (RFC 9110, 13.1.2): a list of tags, weak or not, or "*". */
static bool is_known(const struct http_request *request, const char *tag)
{
    const char *value;
    for (unsigned i = 0; (value = http_request_header_at(request, "if-none-match", i)) != NULL;
         i++) {
        if (strcmp(value, "*") == 0 || strstr(value, tag) != NULL)
            return true;
    }
    return false;
}

static const struct console_file *find(const char *name)
{
    if (name[0] == '\0')
        name = "index.html";
    for (size_t i = 0; i < console_file_count; i++) {
        if (strcmp(console_files[i].name, name) == 0)
            return &console_files[i];
    }
    return NULL;
}

bool console_reply(struct http_exchange *exchange, const struct http_request *request,
                   const char *name)
{
    const struct console_file *file = find(name);
    if (file == NULL)
        return false;
    bool packed = file->packed_len < file->plain_len &&
                  metrics_gzip_welcome(http_request_header(request, "accept-encoding"));
    char tag[64];
    snprintf(tag, sizeof tag, "\"%s%s\"", file->digest, packed ? "-gz" : "");
    const struct http_header headers[] = {
        {"ETag", tag},
        {"Cache-Control",
         "no-cache"}, /* kept, but asked for anew: it goes with the API's version */
        {"Vary", "Accept, Accept-Encoding"},
        {"Content-Security-Policy", POLICY},
        {"X-Content-Type-Options", "nosniff"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"},
        {"Content-Encoding", "gzip"}, /* the last: left out where it is not */
    };
    size_t count = sizeof headers / sizeof *headers - (packed ? 0 : 1);
    if (is_known(request, tag))
        http_reply(exchange, 304, headers, count, file->type, "", 0);
    else if (packed)
        http_reply(exchange, 200, headers, count, file->type, console_blob + file->packed_at,
                   file->packed_len);
    else
        http_reply(exchange, 200, headers, count, file->type, console_blob + file->plain_at,
                   file->plain_len);
    return true;
}
