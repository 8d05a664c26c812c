/*
 * parse.c - bytes → request.
 *
 * llhttp with its strict defaults does the grammar: it refuses several or odd Content-Length,
 * Content-Length with Transfer-Encoding, unknown or doubled codings, bad chunk sizes and ends,
 * folded headers, space before the colon, bare CR and LF, NUL, unknown methods.  Ours: sizes and
 * counts, Host, codings before chunked, Expect, versions, the path.
 *
 * A callback that refuses records status and text in the connection and stops the parser.  A
 * complete request stops it too; the parser is initialised anew for the next one, so that no state
 * of one request reaches another.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http/internal.h"

static struct connection *of_parser(llhttp_t *parser)
{
    return parser->data;
}

static int refuse(struct connection *conn, int status, const char *text)
{
    conn->refuse_status = status;
    conn->refuse_text = text;
    return HPE_USER;
}

static int append_text(struct connection *conn, const char *data, size_t len)
{
    switch (buf_append(&conn->text, data, len)) {
    case ERR_OK:
        return 0;
    case ERR_LIMIT:
        return refuse(conn, 431, "request line and headers are too large");
    default:
        return refuse(conn, 503, "out of memory");
    }
}

static int on_url(llhttp_t *parser, const char *at, size_t len)
{
    return append_text(of_parser(parser), at, len);
}

static int on_url_complete(llhttp_t *parser)
{
    return append_text(of_parser(parser), "", 1);
}

/* Trailers and chunk extensions are counted and ignored. */
static int count_extra(struct connection *conn, size_t len)
{
    conn->extra_bytes += len;
    if (conn->extra_bytes > conn->server->limits.head_bytes) {
        return refuse(conn, 431, "trailers or chunk extensions are too large");
    }
    return 0;
}

static int on_chunk_extension(llhttp_t *parser, const char *at, size_t len)
{
    (void)at;
    return count_extra(of_parser(parser), len);
}

/* Makes room for one more header whose name begins at the text's end. */
static int begin_header(struct connection *conn)
{
    if (conn->header_count >= conn->server->limits.header_count) {
        return refuse(conn, 431, "too many headers");
    }
    if (conn->header_count == conn->header_cap) {
        unsigned cap = conn->header_cap == 0 ? 16 : conn->header_cap * 2;
        struct header_ref *grown = realloc(conn->headers, cap * sizeof *grown);
        if (grown == NULL) {
            return refuse(conn, 503, "out of memory");
        }
        conn->headers = grown;
        conn->header_cap = cap;
    }
    conn->headers[conn->header_count].name = conn->text.len;
    conn->headers[conn->header_count].value = 0;
    return 0;
}

/* One name can come in several spans: the header is begun by the first. */
static int on_header_field(llhttp_t *parser, const char *at, size_t len)
{
    struct connection *conn = of_parser(parser);
    if (conn->in_trailers) {
        return count_extra(conn, len);
    }
    if (!conn->in_name) {
        int rc = begin_header(conn);
        if (rc != 0) {
            return rc;
        }
        conn->in_name = true;
    }
    size_t start = conn->text.len;
    int rc = append_text(conn, at, len);
    if (rc == 0) {
        for (size_t i = start; i < conn->text.len; i++) {
            char c = conn->text.data[i];
            conn->text.data[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        }
    }
    return rc;
}

static int on_header_field_complete(llhttp_t *parser)
{
    struct connection *conn = of_parser(parser);
    if (conn->in_trailers) {
        return 0;
    }
    conn->in_name = false;
    int rc = append_text(conn, "", 1);
    if (rc == 0) {
        conn->headers[conn->header_count].value = conn->text.len;
    }
    return rc;
}

static int on_header_value(llhttp_t *parser, const char *at, size_t len)
{
    struct connection *conn = of_parser(parser);
    return conn->in_trailers ? count_extra(conn, len) : append_text(conn, at, len);
}

static int on_header_value_complete(llhttp_t *parser)
{
    struct connection *conn = of_parser(parser);
    if (conn->in_trailers) {
        return 0;
    }
    size_t value = conn->headers[conn->header_count].value;
    while (conn->text.len > value && (conn->text.data[conn->text.len - 1] == ' ' ||
                                      conn->text.data[conn->text.len - 1] == '\t')) {
        conn->text.len--;
    }
    int rc = append_text(conn, "", 1);
    if (rc == 0) {
        conn->header_count++;
    }
    return rc;
}

static const char *header_name(const struct connection *conn, unsigned i)
{
    return conn->text.data + conn->headers[i].name;
}

static const char *header_value(const struct connection *conn, unsigned i)
{
    return conn->text.data + conn->headers[i].value;
}

/* How many headers have this name, and the last one's value. */
static unsigned find_header(const struct connection *conn, const char *name, const char **value)
{
    unsigned found = 0;
    for (unsigned i = 0; i < conn->header_count; i++) {
        if (strcmp(header_name(conn, i), name) == 0) {
            *value = header_value(conn, i);
            found++;
        }
    }
    return found;
}

static int check_host(struct connection *conn)
{
    const char *host = NULL;
    unsigned found = find_header(conn, "host", &host);
    if (found > 1 || (found == 0 && !conn->is_http10)) {
        return refuse(conn, 400,
                      found == 0 ? "the Host header is missing" : "several Host headers");
    }
    /* RFC 9112 3.2: an invalid field value is refused; these can't stand in host[:port]. */
    if (host != NULL && strpbrk(host, " \t,/\\@?#\"<>") != NULL) {
        return refuse(conn, 400, "the Host header is not a host");
    }
    return 0;
}

static int check_coding(struct connection *conn)
{
    const char *coding = NULL;
    unsigned found = find_header(conn, "transfer-encoding", &coding);
    if (found == 0) {
        return 0;
    }
    if (conn->is_http10) {
        return refuse(conn, 400, "Transfer-Encoding in an HTTP/1.0 request");
    }
    if (found == 1 && strcasecmp(coding, "chunked") == 0) {
        return 0;
    }
    /* RFC 9112 6.1: a coding we don't know is 501, but only chunked last gives the body an end. */
    if (conn->parser.flags & F_CHUNKED) {
        return refuse(conn, 501, "only the transfer coding chunked is supported");
    }
    return refuse(conn, 400, "the last transfer coding must be chunked");
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes %XX in place.  False: a bad escape, or a control character. */
static bool decode_path(char *path)
{
    char *to = path;
    for (const char *from = path; *from != '\0'; to++) {
        int byte = (unsigned char)*from++;
        if (byte == '%') {
            int high = hex_digit(from[0]);
            int low = high < 0 ? -1 : hex_digit(from[1]);
            if (low < 0) {
                return false;
            }
            byte = high * 16 + low;
            from += 2;
        }
        if (byte < 0x20 || byte == 0x7f) {
            return false;
        }
        *to = (char)byte;
    }
    *to = '\0';
    return true;
}

static bool has_dot_segment(const char *path)
{
    for (const char *at = strstr(path, "/.."); at != NULL; at = strstr(at + 1, "/..")) {
        if (at[3] == '/' || at[3] == '\0') {
            return true;
        }
    }
    return false;
}

/* Splits the target (at the start of conn->text) into path and query, in place. */
static int parse_target(struct connection *conn)
{
    char *path = conn->text.data;
    struct http_request *request = &conn->exchange.request;
    static const char *const schemes[] = {"http://", "https://"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strncasecmp(path, schemes[i], strlen(schemes[i])) == 0) { /* absolute form */
            path += strlen(schemes[i]);
            path += strcspn(path, "/?#");
            if (*path != '/') {
                path[-1] = '/'; /* the authority's last byte gives its place to the root */
                path--;
            }
            break;
        }
    }
    char *query = strchr(path, '?');
    request->query = query == NULL ? "" : query + 1;
    if (query != NULL) {
        *query = '\0';
    }
    bool is_star = strcmp(path, "*") == 0 && conn->parser.method == HTTP_OPTIONS;
    if ((path[0] != '/' && !is_star) || strchr(path, '#') != NULL ||
        strchr(request->query, '#') != NULL || !decode_path(path) || has_dot_segment(path)) {
        return refuse(conn, 400, "the request's target is not a clean path");
    }
    request->path = path;
    return 0;
}

/* Asked with all that is known of the request by now. */
static int check_body_size(struct connection *conn)
{
    struct http_server *server = conn->server;
    conn->body.limit = server->limits.body_bytes;
    if (server->admit != NULL) {
        const char *why = "refused";
        parse_fill_request(conn);
        int status = server->admit(server->arg, &conn->exchange.request, &conn->body.limit, &why);
        if (status != 0) {
            return refuse(conn, status, why);
        }
    }
    if (conn->parser.content_length > conn->body.limit) {
        return refuse(conn, 413, "the body is too large");
    }
    return 0;
}

static int check_expect(struct connection *conn)
{
    const char *expect = NULL;
    unsigned found = find_header(conn, "expect", &expect);
    if (found == 0 || conn->is_http10) {
        return 0;
    }
    if (found > 1 || strcasecmp(expect, "100-continue") != 0) {
        return refuse(conn, 417, "only the expectation 100-continue is supported");
    }
    if ((conn->parser.flags & F_CHUNKED) == 0 && conn->parser.content_length == 0) {
        return 0;
    }
    if (buf_append_text(&conn->out, "HTTP/1.1 100 Continue\r\n\r\n") != ERR_OK) {
        return refuse(conn, 503, "out of memory");
    }
    server_mark_dirty(conn);
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct connection *conn = of_parser(parser);
    if (parser->http_major != 1 || parser->http_minor > 1) {
        return refuse(conn, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    }
    conn->is_http10 = parser->http_minor == 0;
    conn->keep_alive = llhttp_should_keep_alive(parser) != 0;
    conn->in_trailers = true; /* headers that come from here on */
    if (parser->method == HTTP_CONNECT) {
        return refuse(conn, 501, "CONNECT is not supported");
    }
    /* We never switch protocols, which RFC 9110 7.8 allows: read on as HTTP/1.1. */
    parser->upgrade = 0;
    int rc = check_host(conn);
    rc = rc != 0 ? rc : check_coding(conn);
    rc = rc != 0 ? rc : parse_target(conn);
    rc = rc != 0 ? rc : check_body_size(conn);
    rc = rc != 0 ? rc : check_expect(conn);
    if (rc == 0) {
        connection_set_phase(conn, PHASE_BODY);
    }
    return rc;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct connection *conn = of_parser(parser);
    struct http_server *server = conn->server;
    if (len > server->limits.bodies_bytes - server->bodies_bytes) {
        return refuse(conn, 503, "too many large requests at once; try again in a moment");
    }
    switch (buf_append(&conn->body, at, len)) {
    case ERR_OK:
        server->bodies_bytes += len;
        return 0;
    case ERR_LIMIT:
        return refuse(conn, 413, "the body is too large");
    default:
        return refuse(conn, 503, "out of memory");
    }
}

static int on_message_complete(llhttp_t *parser)
{
    of_parser(parser)->request_complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_chunk_extension_name = on_chunk_extension,
    .on_chunk_extension_value = on_chunk_extension,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

void parse_reset(struct connection *conn)
{
    llhttp_init(&conn->parser, HTTP_REQUEST, &settings);
    conn->parser.data = conn;
    conn->request_complete = false;
    conn->in_name = false;
    conn->in_trailers = false;
    conn->refuse_status = 0;
    conn->refuse_text = NULL;
    conn->head_bytes = 0;
    conn->extra_bytes = 0;
    conn->header_count = 0;
    conn->keep_alive = false;
    conn->is_http10 = false;
    buf_clear(&conn->text);
    buf_done(&conn->extra);
    conn->server->bodies_bytes -= conn->body.len;
    buf_clear(&conn->body);
    if (conn->text.cap > KEEP_BYTES) {
        buf_done(&conn->text);
        buf_init(&conn->text, conn->server->limits.head_bytes);
    }
    if (conn->body.cap > KEEP_BYTES) {
        buf_done(&conn->body);
    }
}

/* A method that is a word we don't know is 501; bytes that are no word at all (TLS) are 400. */
static bool looks_like_method(const char *data, const char *end)
{
    for (; data <= end; data++) {
        char c = (char)(*data | 0x20);
        if ((c < 'a' || c > 'z') && *data != '\r' && *data != '\n' && *data != '-' &&
            *data != '_') {
            return false;
        }
    }
    return true;
}

static void refuse_fault(struct connection *conn, llhttp_errno_t fault, const char *data,
                         size_t len)
{
    const char *at = llhttp_get_error_pos(&conn->parser);
    switch (fault) {
    case HPE_INVALID_VERSION:
        /* Digits of a version that llhttp doesn't know, or no version at all. */
        if (strcmp(llhttp_get_error_reason(&conn->parser), "Invalid HTTP version") != 0) {
            refuse(conn, 400, "malformed HTTP request");
            break;
        }
        refuse(conn, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
        break;
    case HPE_PAUSED_H2_UPGRADE:
        refuse(conn, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
        break;
    case HPE_INVALID_METHOD:
        if (at != NULL && at >= data && at < data + len && looks_like_method(data, at)) {
            refuse(conn, 501, "unknown method");
        } else {
            refuse(conn, 400, "this is not an HTTP request");
        }
        break;
    default:
        refuse(conn, 400, "malformed HTTP request");
        break;
    }
}

size_t parse_feed(struct connection *conn, const char *data, size_t len)
{
    if (conn->phase == PHASE_IDLE) {
        connection_set_phase(conn, PHASE_HEAD);
    }
    llhttp_errno_t fault = llhttp_execute(&conn->parser, data, len);
    if (conn->refuse_status != 0) {
        return len;
    }
    if (conn->request_complete) {
        const char *at = llhttp_get_error_pos(&conn->parser);
        assert(at >= data && at <= data + len);
        return (size_t)(at - data);
    }
    if (fault != HPE_OK) {
        refuse_fault(conn, fault, data, len);
        return len;
    }
    if (conn->phase == PHASE_HEAD) {
        conn->head_bytes += len;
        if (conn->head_bytes > conn->server->limits.head_bytes) {
            refuse(conn, 431, "request line and headers are too large");
        }
    }
    return len;
}

void parse_drop_body(struct connection *conn)
{
    conn->server->bodies_bytes -= conn->body.len;
    buf_done(&conn->body);
}

void parse_fill_request(struct connection *conn)
{
    struct http_request *request = &conn->exchange.request; /* path, query: parse_target */
    request->method = llhttp_method_name((llhttp_method_t)conn->parser.method);
    request->body = buf_text(&conn->body);
    request->body_len = conn->body.len;
    request->peer = conn->peer;
    request->connection = conn->number;
}

const char *http_request_header_at(const struct http_request *request, const char *name,
                                   unsigned nth)
{
    const struct http_exchange *exchange =
        (const void *)((const char *)request - offsetof(struct http_exchange, request));
    const struct connection *conn =
        (const void *)((const char *)exchange - offsetof(struct connection, exchange));
    for (unsigned i = 0; i < conn->header_count; i++) {
        if (strcmp(header_name(conn, i), name) == 0 && nth-- == 0) {
            return header_value(conn, i);
        }
    }
    return NULL;
}

const char *http_request_header(const struct http_request *request, const char *name)
{
    return http_request_header_at(request, name, 0);
}
