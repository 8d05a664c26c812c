#include "http/multipart.h"

#include <string.h>
#include <strings.h>

struct span {
    const char *at;
    size_t len;
};

static bool is_token(char c)
{
    return c > ' ' && c < 0x7f && strchr("()<>@,;:\\\"/[]?={}", c) == NULL;
}

static size_t token_len(const char *at, size_t len)
{
    size_t token = 0;
    while (token < len && is_token(at[token]))
        token++;
    return token;
}

static size_t space_len(const char *at, size_t len)
{
    size_t space = 0;
    while (space < len && (at[space] == ' ' || at[space] == '\t'))
        space++;
    return space;
}

/* ---- parameters: `; name=value` and `; name="value"` ---- */

struct parameter {
    struct span name;
    char value[MULTIPART_FILENAME_MAX + 1];
    size_t len;
    bool too_long;
};

static void value_add(struct parameter *parameter, char c)
{
    if (parameter->len == sizeof parameter->value - 1)
        parameter->too_long = true;
    else
        parameter->value[parameter->len++] = c;
}

/* The rest behind a quoted value; NULL: it does not end.  Only quotes and backslashes can be
 * escaped, so that a path with backslashes stays one. */
static const char *quoted_read(struct parameter *parameter, const char *at, const char *end)
{
    for (; at < end && *at != '"'; at++) {
        if (*at == '\\' && at + 1 < end && (at[1] == '"' || at[1] == '\\'))
            at++;
        value_add(parameter, *at);
    }
    return at < end ? at + 1 : NULL;
}

/* Reads one parameter and moves *at behind it.  ERR_NOT_FOUND: there is none left. */
static enum err parameter_read(struct parameter *out, const char **at, const char *end)
{
    struct parameter parameter = {.len = 0};
    const char *from = *at + space_len(*at, (size_t)(end - *at));
    if (from == end)
        return ERR_NOT_FOUND;
    if (*from != ';')
        return ERR_INVALID;
    from++;
    from += space_len(from, (size_t)(end - from));
    if (from == end) /* a last ';' with nothing behind it */
        return ERR_NOT_FOUND;
    parameter.name = (struct span){from, token_len(from, (size_t)(end - from))};
    from += parameter.name.len;
    if (parameter.name.len == 0 || from == end || *from != '=')
        return ERR_INVALID;
    from++;
    if (from < end && *from == '"') {
        from = quoted_read(&parameter, from + 1, end);
        if (from == NULL)
            return ERR_INVALID;
    } else {
        size_t len = token_len(from, (size_t)(end - from));
        for (size_t i = 0; i < len; i++)
            value_add(&parameter, from[i]);
        from += len;
        if (len == 0)
            return ERR_INVALID;
    }
    parameter.value[parameter.len] = '\0';
    *out = parameter;
    *at = from;
    return ERR_OK;
}

static bool span_is(struct span span, const char *text)
{
    return span.len == strlen(text) && strncasecmp(span.at, text, span.len) == 0;
}

/* ---- the boundary ---- */

static bool is_boundary(const char *text, size_t len)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "'()+_,-./:=? ";
    return len > 0 && len <= MULTIPART_BOUNDARY_MAX && strlen(text) == len &&
           strspn(text, allowed) == len && text[len - 1] != ' ';
}

/* "--" and the boundary, into out; its length in *out_len. */
static enum err boundary_read(char out[MULTIPART_BOUNDARY_MAX + 3], size_t *out_len,
                              const char *content_type)
{
    static const char wanted[] = "multipart/form-data";
    struct parameter parameter;
    if (content_type == NULL || strncasecmp(content_type, wanted, sizeof wanted - 1) != 0 ||
        strchr("; \t", content_type[sizeof wanted - 1]) == NULL)
        return err_set(ERR_UNSUPPORTED, "the body must be multipart/form-data");
    const char *at = content_type + sizeof wanted - 1, *end = at + strlen(at);
    bool found = false;
    enum err err;
    while ((err = parameter_read(&parameter, &at, end)) == ERR_OK) {
        if (!span_is(parameter.name, "boundary"))
            continue;
        if (found || parameter.too_long || !is_boundary(parameter.value, parameter.len))
            return err_set(ERR_INVALID,
                           "the boundary in Content-Type is not one of 1 to %d "
                           "characters",
                           MULTIPART_BOUNDARY_MAX);
        found = true;
        memcpy(out, "--", 2);
        memcpy(out + 2, parameter.value, parameter.len + 1);
        *out_len = parameter.len + 2;
    }
    if (err != ERR_NOT_FOUND)
        return err_set(ERR_INVALID, "the Content-Type is malformed");
    return found ? ERR_OK : err_set(ERR_INVALID, "the Content-Type names no boundary");
}

/* ---- one part's headers ---- */

struct head {
    struct multipart_part *part;
    bool disposed; /* Content-Disposition was there */
};

static enum err take_name(struct head *head, const struct parameter *parameter)
{
    if (head->part->name[0] != '\0')
        return err_set(ERR_INVALID, "a part of the form has two names");
    if (parameter->len == 0)
        return err_set(ERR_INVALID, "a part of the form has an empty name");
    if (parameter->len > MULTIPART_NAME_MAX)
        return err_set(ERR_LIMIT, "a part's name is longer than %d bytes", MULTIPART_NAME_MAX);
    memcpy(head->part->name, parameter->value, parameter->len + 1);
    return ERR_OK;
}

static enum err take_filename(struct head *head, const struct parameter *parameter)
{
    if (head->part->has_filename)
        return err_set(ERR_INVALID, "a part of the form has two file names");
    if (parameter->too_long)
        return err_set(ERR_LIMIT, "a file's name is longer than %d bytes", MULTIPART_FILENAME_MAX);
    head->part->has_filename = true;
    memcpy(head->part->filename, parameter->value, parameter->len + 1);
    return ERR_OK;
}

static enum err take_disposition(struct head *head, struct span value)
{
    const char *at = value.at, *end = at + value.len;
    size_t kind = token_len(at, value.len);
    struct parameter parameter;
    enum err err, end_err = ERR_OK;
    if (head->disposed)
        return err_set(ERR_INVALID, "a part of the form has two Content-Dispositions");
    head->disposed = true;
    if (!span_is((struct span){at, kind}, "form-data"))
        return err_set(ERR_INVALID, "a part's Content-Disposition is not form-data");
    at += kind;
    while (end_err == ERR_OK && (err = parameter_read(&parameter, &at, end)) == ERR_OK) {
        if (span_is(parameter.name, "name"))
            end_err = take_name(head, &parameter);
        else if (span_is(parameter.name, "filename"))
            end_err = take_filename(head, &parameter);
    }
    if (end_err == ERR_OK && err != ERR_NOT_FOUND)
        return err_set(ERR_INVALID, "a part's Content-Disposition is malformed");
    return end_err;
}

static enum err take_header(struct head *head, const char *line, size_t len)
{
    size_t name = token_len(line, len);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)line[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return err_set(ERR_INVALID, "a part's header holds a control character");
    }
    if (name == 0 || name == len || line[name] != ':')
        return err_set(ERR_INVALID, "a part's header is malformed");
    struct span value = {line + name + 1, len - name - 1};
    size_t space = space_len(value.at, value.len);
    value = (struct span){value.at + space, value.len - space};
    if (span_is((struct span){line, name}, "content-disposition"))
        return take_disposition(head, value);
    if (span_is((struct span){line, name}, "content-transfer-encoding") &&
        !span_is(value, "binary") && !span_is(value, "8bit") && !span_is(value, "7bit"))
        return err_set(ERR_UNSUPPORTED, "a part's Content-Transfer-Encoding must be binary");
    return ERR_OK;
}

/* Reads headers up to the empty line; *at then stands behind it. */
static enum err head_read(struct multipart_part *part, const char **at, const char *end)
{
    struct head head = {.part = part};
    const char *from = *at, *last = *at;
    if ((size_t)(end - from) > MULTIPART_HEAD_BYTES)
        last += MULTIPART_HEAD_BYTES;
    else
        last = end;
    for (unsigned count = 0;; count++) {
        const char *line_end = memmem(from, (size_t)(last - from), "\r\n", 2);
        if (line_end == NULL)
            return last < end ? err_set(ERR_LIMIT, "a part's headers are larger than %d bytes",
                                        MULTIPART_HEAD_BYTES)
                              : err_set(ERR_INVALID, "a part of the form has no end of headers");
        size_t len = (size_t)(line_end - from);
        if (len == 0) {
            *at = line_end + 2;
            break;
        }
        if (count == MULTIPART_HEADERS_MAX)
            return err_set(ERR_LIMIT, "a part has more than %d headers", MULTIPART_HEADERS_MAX);
        enum err err = take_header(&head, from, len);
        if (err != ERR_OK)
            return err;
        from = line_end + 2;
    }
    if (part->name[0] == '\0')
        return err_set(ERR_INVALID, "a part of the form has no name");
    return ERR_OK;
}

/* ---- the body ---- */

/* What stands behind a boundary: the next part, the end, or data after all. */
enum behind { BEHIND_PART, BEHIND_END, BEHIND_DATA };

static enum behind behind_boundary(const char **at, const char *end)
{
    const char *from = *at;
    bool last = end - from >= 2 && memcmp(from, "--", 2) == 0;
    from += last ? 2 : 0;
    from += space_len(from, (size_t)(end - from));
    bool line_ends = end - from >= 2 && memcmp(from, "\r\n", 2) == 0;
    if (last && (line_ends || from == end))
        return BEHIND_END;
    if (last || !line_ends)
        return BEHIND_DATA;
    *at = from + 2;
    return BEHIND_PART;
}

/* Finds where the data at `at` ends; *at then stands where the next part begins. */
static enum err data_read(struct multipart_part *part, const char **at, const char *end,
                          struct span mark, enum behind *behind)
{
    part->data = *at;
    /* The line end before the boundary is the boundary's, and may be the one before the data. */
    const char *from = *at - 2;
    for (;;) {
        const char *found = memmem(from, (size_t)(end - from), mark.at, mark.len);
        if (found == NULL)
            return err_set(ERR_INVALID, "the form's last boundary is missing");
        from = found + mark.len;
        *behind = behind_boundary(&from, end);
        if (*behind != BEHIND_DATA) {
            part->len = found > part->data ? (size_t)(found - part->data) : 0;
            *at = from;
            return ERR_OK;
        }
        from = found + 2;
    }
}

enum err multipart_parse(struct multipart *out, const char *content_type, const char *body,
                         size_t len)
{
    char mark[2 + MULTIPART_BOUNDARY_MAX + 3] = "\r\n";
    size_t mark_len = 0;
    const char *at = body, *end = body + len;
    enum err err = boundary_read(mark + 2, &mark_len, content_type);
    if (err != ERR_OK)
        return err;
    out->count = 0;
    if (len >= 2 && memcmp(at, "\r\n", 2) == 0)
        at += 2;
    if ((size_t)(end - at) < mark_len || memcmp(at, mark + 2, mark_len) != 0)
        return err_set(ERR_INVALID, "the form does not begin with its boundary");
    at += mark_len;
    enum behind behind = behind_boundary(&at, end);
    if (behind == BEHIND_DATA)
        return err_set(ERR_INVALID, "the form's first boundary is malformed");
    while (behind == BEHIND_PART) {
        if (out->count == MULTIPART_PARTS_MAX)
            return err_set(ERR_LIMIT, "the form has more than %d parts", MULTIPART_PARTS_MAX);
        struct multipart_part *part = &out->parts[out->count];
        *part = (struct multipart_part){.len = 0};
        err = head_read(part, &at, end);
        if (err == ERR_OK)
            err = data_read(part, &at, end, (struct span){mark, mark_len + 2}, &behind);
        if (err != ERR_OK)
            return err;
        out->count++;
    }
    return ERR_OK;
}

const struct multipart_part *multipart_find(const struct multipart *multipart, const char *name,
                                            unsigned *times)
{
    const struct multipart_part *found = NULL;
    unsigned count = 0;
    for (size_t i = 0; i < multipart->count; i++) {
        if (strcmp(multipart->parts[i].name, name) != 0)
            continue;
        if (found == NULL)
            found = &multipart->parts[i];
        count++;
    }
    if (times != NULL)
        *times = count;
    return found;
}
