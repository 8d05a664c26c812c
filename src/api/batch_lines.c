/*
 * batch_lines.c - the lines of batches.h: of the file that comes in, and of those that go out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "api/batches.h"

#define PART_BYTES_MAX ((size_t)2 << 20) /* that come at once */
#define TELLING        24                /* digits of the batch's id in a line's */

void batch_fault_set(struct batch_fault *fault, const char *code, const char *param,
                     const char *message)
{
    *fault = (struct batch_fault){.line = 0};
    snprintf(fault->code, sizeof fault->code, "%s", code);
    snprintf(fault->param, sizeof fault->param, "%s", param);
    snprintf(fault->message, sizeof fault->message, "%s", message);
}

void batch_fault_add(struct batch *batch, const struct batch_fault *fault)
{
    if (batch->fault_count < BATCH_FAULTS_MAX)
        batch->faults[batch->fault_count++] = *fault;
}

/* ---- cutting ---- */

void batch_input_init(struct batch_input *lines)
{
    *lines = (struct batch_input){.at = 0};
    buf_init(&lines->text, BATCH_LINE_BYTES + PART_BYTES_MAX);
}

void batch_input_done(struct batch_input *lines)
{
    buf_done(&lines->text);
}

enum err batch_input_add(struct batch_input *lines, const char *data, size_t len)
{
    buf_consume(&lines->text, lines->at);
    lines->at = 0;
    if (lines->number == 0 && lines->text.len == 0 && len >= 3 &&
        memcmp(data, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        data += 3;
        len -= 3;
    }
    return buf_append(&lines->text, data, len);
}

static bool is_blank(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    }
    return true;
}

enum err batch_input_next(struct batch_input *lines, const char **line, size_t *len)
{
    for (;;) {
        size_t left = lines->text.len - lines->at;
        const char *at = buf_text(&lines->text) + lines->at;
        const char *end = left > 0 ? memchr(at, '\n', left) : NULL;
        if (end == NULL && left > BATCH_LINE_BYTES)
            return err_set(ERR_LIMIT, "line %u is longer than %zu bytes", lines->number + 1,
                           BATCH_LINE_BYTES);
        if (left == 0 || (end == NULL && !lines->ended))
            return ERR_NOT_FOUND;
        size_t size = end != NULL ? (size_t)(end - at) : left;
        lines->at += size + (end != NULL);
        lines->number++;
        if (size > BATCH_LINE_BYTES)
            return err_set(ERR_LIMIT, "line %u is longer than %zu bytes", lines->number,
                           BATCH_LINE_BYTES);
        if (is_blank(at, size))
            continue;
        *line = at;
        *len = size;
        return ERR_OK;
    }
}

void batch_input_again(struct batch_input *lines, const char *line)
{
    lines->at = (size_t)(line - lines->text.data);
    lines->number--;
}

/* ---- reading ---- */

static enum err read_line(struct batch_line *line, const struct batch *batch,
                          struct batch_fault *fault)
{
    const json_t *id = json_object_get(line->root, "custom_id");
    const char *method = json_text(line->root, "method", "");
    const char *url = json_text(line->root, "url", "");
    char text[sizeof fault->message];
    line->custom_id = json_string_value(id);
    line->body = json_object_get(line->root, "body");
    if (line->custom_id == NULL || line->custom_id[0] == '\0')
        batch_fault_set(fault, "missing_required_parameter", "custom_id",
                        "The line lacks 'custom_id', or it is no text.");
    else if (json_string_length(id) > BATCH_CUSTOM_ID_MAX)
        batch_fault_set(fault, "invalid_value", "custom_id", "The line's 'custom_id' is too long.");
    else if (strcmp(method, "POST") != 0)
        batch_fault_set(fault, "invalid_method", "method", "The line's 'method' must be 'POST'.");
    else if (strcmp(url, batch->endpoint->url) != 0) {
        snprintf(text, sizeof text, "The line's 'url' must be the batch's endpoint, %s.",
                 batch->endpoint->url);
        batch_fault_set(fault, "invalid_url", "url", text);
    } else if (!json_is_object(line->body))
        batch_fault_set(fault, "missing_required_parameter", "body",
                        "The line lacks 'body', or it is no object.");
    else
        return ERR_OK;
    return ERR_INVALID;
}

enum err batch_line_read(struct batch_line *out, const struct batch *batch, const char *text,
                         size_t len, struct batch_fault *fault)
{
    struct batch_line line = {.root = NULL};
    enum err err = json_parse(&line.root, text, len);
    if (err == ERR_NOMEM)
        return err;
    if (err != ERR_OK || !json_is_object(line.root)) {
        batch_fault_set(fault, "invalid_json_line", "",
                        "This line is not parseable as valid JSON object.");
        json_decref(line.root);
        return ERR_INVALID;
    }
    err = read_line(&line, batch, fault);
    if (err == ERR_OK)
        *out = line;
    else
        json_decref(line.root);
    return err;
}

void batch_line_done(struct batch_line *line)
{
    json_decref(line->root);
    *line = (struct batch_line){.root = NULL};
}

struct batch_custom_id {
    UT_hash_handle hh;
    char text[];
};

enum err batch_ids_add(struct batch_ids *ids, const char *custom_id)
{
    struct batch_custom_id *found = NULL;
    size_t len = strlen(custom_id);
    HASH_FIND(hh, ids->first, custom_id, len, found);
    if (found != NULL)
        return ERR_EXISTS;
    found = malloc(sizeof *found + len + 1);
    if (found == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    memcpy(found->text, custom_id, len + 1);
    HASH_ADD_KEYPTR(hh, ids->first, found->text, len, found);
    return ERR_OK;
}

void batch_ids_done(struct batch_ids *ids)
{
    struct batch_custom_id *id, *next;
    HASH_ITER(hh, ids->first, id, next)
    {
        HASH_DELETE(hh, ids->first, id);
        free(id);
    }
}

/* ---- writing ---- */

void batch_line_id(char out[BATCH_LINE_ID_SIZE], const struct batch *batch, unsigned index)
{
    snprintf(out, BATCH_LINE_ID_SIZE, "batch_req_%.*s%08x", TELLING, batch->id, index);
}

bool batch_line_index(const struct batch *batch, const char *line, size_t len, unsigned *index)
{
    static const char begin[] = "{\"id\":\"";
    char id[BATCH_LINE_ID_SIZE], made[BATCH_LINE_ID_SIZE];
    size_t id_len = sizeof id - 1, at = sizeof begin - 1;
    unsigned found = 0;
    if (len < at + id_len || memcmp(line, begin, at) != 0)
        return false;
    memcpy(id, line + at, id_len);
    id[id_len] = '\0';
    if (sscanf(id + id_len - 8, "%8x", &found) != 1)
        return false;
    batch_line_id(made, batch, found);
    if (strcmp(id, made) != 0)
        return false;
    *index = found;
    return true;
}

static void begin_line(struct json_out *out, const struct batch *batch, unsigned index,
                       const char *custom_id, struct buf *buf)
{
    char id[BATCH_LINE_ID_SIZE];
    batch_line_id(id, batch, index);
    json_out_begin(out, buf);
    json_out_object(out, NULL);
    json_out_text(out, "id", id);
    json_out_text(out, "custom_id", custom_id);
}

static enum err end_line(struct json_out *out, struct buf *buf)
{
    json_out_object_end(out);
    enum err err = json_out_end(out);
    return err != ERR_OK ? err : buf_append(buf, "\n", 1);
}

enum err batch_answer_write(const struct batch *batch, unsigned index, const char *custom_id,
                            int status, const char *request_id, const char *body, size_t body_len,
                            struct buf *buf)
{
    struct json_out out;
    json_t *root = NULL;
    enum err err = json_parse(&root, body, body_len);
    if (err != ERR_OK)
        return err;
    begin_line(&out, batch, index, custom_id, buf);
    json_out_object(&out, "response");
    json_out_int(&out, "status_code", status);
    json_out_text(&out, "request_id", request_id);
    json_out_json(&out, "body", root);
    json_out_object_end(&out);
    json_out_null(&out, "error");
    err = end_line(&out, buf);
    json_decref(root);
    return err;
}

enum err batch_error_write(const struct batch *batch, unsigned index, const char *custom_id,
                           const char *code, const char *message, struct buf *buf)
{
    struct json_out out;
    begin_line(&out, batch, index, custom_id, buf);
    json_out_null(&out, "response");
    json_out_object(&out, "error");
    json_out_text(&out, "code", code);
    json_out_text(&out, "message", message);
    json_out_object_end(&out);
    return end_line(&out, buf);
}
