#include "wire/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/utf8.h"

/* Where a text stands while it is looked over before parsing. */
struct survey {
    const char *data;
    size_t len;
    size_t at;
    unsigned depth;
    const char *key; /* last key of the outermost object, with its quotes; not yet unescaped */
    size_t key_len;
    bool expect_key; /* the next string on level 1 is a key */
};

/* Passes over a string; at is behind its opening quote. */
static void survey_string(struct survey *survey, size_t stop)
{
    size_t start = survey->at;

    while (survey->at < stop && survey->data[survey->at] != '"')
        survey->at += survey->data[survey->at] == '\\' ? 2 : 1;
    if (survey->at > stop)
        survey->at = stop;
    if (survey->depth == 1 && survey->expect_key) {
        survey->key = survey->data + start;
        survey->key_len = survey->at - start;
        survey->expect_key = false;
    }
}

/* Walks up to `stop`; ERR_LIMIT where it nests too deep. */
static enum err survey_walk(struct survey *survey, size_t stop)
{
    for (; survey->at < stop; survey->at++) {
        switch (survey->data[survey->at]) {
        case '"':
            survey->at++;
            survey_string(survey, stop);
            break;
        case '{':
        case '[':
            if (survey->depth == 0)
                survey->expect_key = survey->data[survey->at] == '{';
            if (++survey->depth > JSON_MAX_DEPTH)
                return ERR_LIMIT;
            break;
        case '}':
        case ']':
            if (survey->depth > 0)
                survey->depth--;
            break;
        case ',':
            if (survey->depth == 1 && survey->key != NULL)
                survey->expect_key = true;
            break;
        default:
            break;
        }
    }
    return ERR_OK;
}

/* The outermost key behind which byte `stop` lies. */
static void name_field(const char *data, size_t len, size_t stop, char *field, size_t cap)
{
    struct survey survey = {.data = data, .len = len};
    size_t size;

    if (cap == 0)
        return;
    field[0] = '\0';
    if (stop > len)
        stop = len;
    if (survey_walk(&survey, stop) != ERR_OK && survey.depth <= JSON_MAX_DEPTH)
        return;
    if (survey.key == NULL || survey.expect_key || survey.depth == 0)
        return;
    size = survey.key_len < cap - 1 ? survey.key_len : cap - 1;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)survey.key[i];
        if (c < 0x20 || c >= 0x7f || c == '\\') {
            field[0] = '\0';
            return;
        }
        field[i] = survey.key[i];
    }
    field[size] = '\0';
}

static size_t first_broken_utf8(const char *data, size_t len)
{
    size_t at = 0;

    while (at < len) {
        size_t step = utf8_char_len(data + at, len - at);
        if (step == 0)
            break;
        at += step;
    }
    return at;
}

/* ---- integers of more than 64 bits ---- */

/* jansson refuses them, or makes reals of all integers.  So each of them is written as a real,
 * "123…e0", and the text parsed again. */
#define AS_REAL     "e0"
#define AS_REAL_LEN (sizeof AS_REAL - 1)

/* Bytes of the number at the beginning of a text, or of what is about as one. */
static size_t number_len(const char *data, size_t len)
{
    size_t at = len > 0 && data[0] == '-' ? 1 : 0;
    while (at < len && data[at] != '\0' && strchr(".0123456789Ee", data[at]) != NULL) {
        bool exponent = data[at] == 'e' || data[at] == 'E';
        at++;
        if (exponent && at < len && (data[at] == '+' || data[at] == '-'))
            at++;
    }
    return at;
}

/* Is it an integer, and too large? */
static bool is_large_integer(const char *number, size_t len)
{
    bool negative = len > 0 && number[0] == '-';
    const char *digits = number + negative,
               *most = negative ? "9223372036854775808" : "9223372036854775807";
    size_t count = len - negative;
    for (size_t i = 0; i < count; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return false;
    }
    return count > strlen(most) || (count == strlen(most) && memcmp(digits, most, count) > 0);
}

/* The text with all of them written so; marks: where in it each AS_REAL begins, as size_t. */
static enum err widen(const char *data, size_t len, struct buf *out, struct buf *marks)
{
    size_t from = 0, at = 0;
    enum err err = ERR_OK;
    while (err == ERR_OK && at < len) {
        if (data[at] == '"') {
            struct survey survey = {.data = data, .len = len, .at = at + 1};
            survey_string(&survey, len);
            at = survey.at < len ? survey.at + 1 : len;
            continue;
        }
        size_t number = number_len(data + at, len - at);
        at += number > 0 ? number : 1;
        if (!is_large_integer(data + at - number, number))
            continue;
        err = buf_append(out, data + from, at - from);
        if (err == ERR_OK)
            err = buf_append(marks, &out->len, sizeof out->len);
        if (err == ERR_OK)
            err = buf_append(out, AS_REAL, AS_REAL_LEN);
        from = at;
    }
    return err == ERR_OK ? buf_append(out, data + from, len - from) : err;
}

/* What jansson says of the widened text, said of the one that came. */
static void narrow_error(json_error_t *error, const struct buf *text, const struct buf *marks)
{
    int shift = 0, in_line = 0;
    for (size_t i = 0; i < marks->len / sizeof(size_t); i++) {
        size_t mark, end = error->position > 0 ? (size_t)error->position : 0;
        memcpy(&mark, marks->data + i * sizeof mark, sizeof mark);
        if (mark >= end || end > text->len)
            break;
        shift += (int)AS_REAL_LEN;
        if (memchr(text->data + mark, '\n', end - mark) == NULL)
            in_line += (int)AS_REAL_LEN;
    }
    error->position -= shift;
    error->column -= in_line;
}

static enum err load_widened(json_t **out, const char *data, size_t len, size_t flags,
                             json_error_t *error)
{
    struct buf text, marks;
    buf_init(&text, 2 * len + 1); /* an integer that is widened has 19 digits or more */
    buf_init(&marks, len + sizeof(size_t));
    enum err err = widen(data, len, &text, &marks);
    if (err == ERR_OK) {
        *out = json_loadb(buf_text(&text), text.len, flags, error);
        if (*out == NULL)
            narrow_error(error, &text, &marks);
    }
    buf_done(&text);
    buf_done(&marks);
    return err;
}

/* ---- parsing ---- */

enum err json_parse_naming(json_t **out, const char *data, size_t len, char *field, size_t cap)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    struct survey survey = {.data = data, .len = len};
    json_error_t error;
    json_t *value;
    size_t broken = first_broken_utf8(data, len);

    if (broken < len) {
        name_field(data, len, broken, field, cap);
        return err_set(ERR_INVALID, "invalid UTF-8 at byte %zu", broken);
    }
    if (survey_walk(&survey, len) != ERR_OK) {
        name_field(data, len, survey.at, field, cap);
        return err_set(ERR_LIMIT, "nested deeper than %d levels", JSON_MAX_DEPTH);
    }
    value = json_loadb(data, len, flags, &error);
    if (value == NULL && json_error_code(&error) == json_error_numeric_overflow &&
        load_widened(&value, data, len, flags, &error) != ERR_OK)
        return err_set(ERR_NOMEM, "no memory for JSON of %zu bytes", len);
    if (value == NULL) {
        size_t position = error.position > 0 ? (size_t)error.position : 0;
        if (json_error_code(&error) == json_error_out_of_memory)
            return err_set(ERR_NOMEM, "no memory for JSON of %zu bytes", len);
        /* jansson stands behind the bad token; its last byte is in the field at fault */
        name_field(data, len, position > 0 ? position - 1 : 0, field, cap);
        if (json_error_code(&error) == json_error_null_character)
            return err_set(ERR_INVALID, "line %d column %d: a text must not hold \\u0000",
                           error.line, error.column);
        return err_set(ERR_INVALID, "malformed JSON, line %d column %d: %s", error.line,
                       error.column, error.text);
    }
    *out = value;
    return ERR_OK;
}

enum err json_parse(json_t **out, const char *data, size_t len)
{
    return json_parse_naming(out, data, len, NULL, 0);
}

static int append_dump(const char *data, size_t size, void *arg)
{
    struct json_out *out = arg;

    out->err = buf_append(out->buf, data, size);
    return out->err == ERR_OK ? 0 : -1;
}

enum err json_write(const json_t *value, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    if (json_dump_callback(value, append_dump, &out, JSON_COMPACT | JSON_ENCODE_ANY) != 0 &&
        out.err == ERR_OK)
        out.err = err_set(ERR_NOMEM, "can't write JSON");
    return json_out_end(&out);
}

const char *json_text(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : fallback;
}

int64_t json_int(const json_t *object, const char *key, int64_t fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

uint64_t json_uint(const json_t *object, const char *key, uint64_t fallback)
{
    int64_t value = json_int(object, key, -1);
    return value >= 0 ? (uint64_t)value : fallback;
}

double json_number(const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

bool json_flag(const json_t *object, const char *key, bool fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

void json_text_copy(const json_t *object, const char *key, char *out, size_t cap)
{
    const char *text = json_text(object, key, "");
    size_t len = strlen(text), at = 0;

    while (at < len) {
        size_t step = utf8_char_len(text + at, len - at);
        if (step == 0 || at + step >= cap)
            break;
        at += step;
    }
    memcpy(out, text, at);
    out[at] = '\0';
}

/* What stands for one byte that can't stand for itself in a JSON string. */
static enum err append_escape(struct buf *out, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *short_form = NULL;

    switch (c) {
    case '"':
        short_form = "\\\"";
        break;
    case '\\':
        short_form = "\\\\";
        break;
    case '\n':
        short_form = "\\n";
        break;
    case '\r':
        short_form = "\\r";
        break;
    case '\t':
        short_form = "\\t";
        break;
    default:
        break;
    }
    if (short_form != NULL)
        return buf_append(out, short_form, 2);
    if (c == 0 || c >= 0x80)
        return buf_append(out, "\xef\xbf\xbd", 3); /* U+FFFD */
    return buf_append(out, (char[]){'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]}, 6);
}

/* Bytes from the start of text that stand for themselves. */
static size_t plain_len(const char *text, size_t len)
{
    size_t at = 0;

    while (at < len) {
        unsigned char c = (unsigned char)text[at];
        size_t step =
            c < 0x80 ? c >= 0x20 && c != '"' && c != '\\' : utf8_char_len(text + at, len - at);
        if (step == 0)
            break;
        at += step;
    }
    return at;
}

enum err json_append_string(struct buf *out, const char *text, size_t len)
{
    size_t start = out->len, at = plain_len(text, len);
    char whole[128];
    enum err err;

    if (at == len && len + 2 <= sizeof whole) { /* most pieces of a reply: one append */
        char *end = mempcpy(whole + 1, text, len);
        whole[0] = *end = '"';
        return buf_append(out, whole, len + 2);
    }
    err = buf_append(out, "\"", 1);
    if (err == ERR_OK)
        err = buf_append(out, text, at);
    while (err == ERR_OK && at < len) {
        size_t plain;
        err = append_escape(out, (unsigned char)text[at++]);
        plain = plain_len(text + at, len - at);
        if (err == ERR_OK)
            err = buf_append(out, text + at, plain);
        at += plain;
    }
    if (err == ERR_OK)
        err = buf_append(out, "\"", 1);
    if (err != ERR_OK && out->data != NULL) {
        out->len = start;
        out->data[start] = '\0';
    }
    return err;
}

void json_out_begin(struct json_out *out, struct buf *buf)
{
    *out = (struct json_out){.buf = buf, .start = buf->len, .err = ERR_OK};
}

enum err json_out_end(struct json_out *out)
{
    if (out->err != ERR_OK && out->buf->data != NULL) {
        out->buf->len = out->start;
        out->buf->data[out->start] = '\0';
    }
    return out->err;
}

static void put(struct json_out *out, const char *data, size_t len)
{
    if (out->err == ERR_OK)
        out->err = buf_append(out->buf, data, len);
}

/* The comma before a value, its key, and the beginning of the value (or all of it), in one append:
 * this is on the way of every token.  Keys are our own: plain ASCII. */
static void put_raw_len(struct json_out *out, const char *key, const char *text, size_t len)
{
    char line[128];
    size_t at = 0, key_len = key != NULL ? strlen(key) : 0;

    if (key_len + len + 4 > sizeof line) {
        out->err = err_set(ERR_INTERNAL, "a JSON key of %zu bytes", key_len);
        return;
    }
    if (out->comma)
        line[at++] = ',';
    out->comma = true;
    if (key != NULL) {
        line[at++] = '"';
        at = (size_t)((char *)mempcpy(line + at, key, key_len) - line);
        line[at++] = '"';
        line[at++] = ':';
    }
    memcpy(line + at, text, len);
    put(out, line, at + len);
}

static void put_raw(struct json_out *out, const char *key, const char *text)
{
    put_raw_len(out, key, text, strlen(text));
}

void json_out_object(struct json_out *out, const char *key)
{
    put_raw(out, key, "{");
    out->comma = false;
}

void json_out_object_end(struct json_out *out)
{
    put(out, "}", 1);
    out->comma = true;
}

void json_out_array(struct json_out *out, const char *key)
{
    put_raw(out, key, "[");
    out->comma = false;
}

void json_out_array_end(struct json_out *out)
{
    put(out, "]", 1);
    out->comma = true;
}

void json_out_text_len(struct json_out *out, const char *key, const char *text, size_t len)
{
    put_raw_len(out, key, "", 0);
    if (out->err == ERR_OK)
        out->err = json_append_string(out->buf, text, len);
}

void json_out_text(struct json_out *out, const char *key, const char *text)
{
    if (text == NULL)
        json_out_null(out, key);
    else
        json_out_text_len(out, key, text, strlen(text));
}

void json_out_uint(struct json_out *out, const char *key, uint64_t value)
{
    char text[24], *end = text + sizeof text, *at = end;

    do
        *--at = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    put_raw_len(out, key, at, (size_t)(end - at));
}

void json_out_int(struct json_out *out, const char *key, int64_t value)
{
    char text[24];

    if (value >= 0) {
        json_out_uint(out, key, (uint64_t)value);
        return;
    }
    snprintf(text, sizeof text, "%" PRId64, value);
    put_raw(out, key, text);
}

void json_out_number(struct json_out *out, const char *key, double value)
{
    char text[40];

    if (!isfinite(value)) {
        json_out_null(out, key);
        return;
    }
    /* the shortest form that reads back as the same number */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (digits == 17 || strtod(text, NULL) == value) // NOLINT(*-float-*): exactly the same
            break;
    }
    put_raw(out, key, text);
}

void json_out_time(struct json_out *out, const char *key, double seconds)
{
    char text[40];

    if (!isfinite(seconds) || fabs(seconds) > 1e15) {
        json_out_null(out, key);
        return;
    }
    snprintf(text, sizeof text, "%.6f", seconds);
    put_raw(out, key, text);
}

void json_out_flag(struct json_out *out, const char *key, bool value)
{
    put_raw(out, key, value ? "true" : "false");
}

void json_out_json(struct json_out *out, const char *key, const json_t *value)
{
    if (value == NULL)
        return;
    put_raw(out, key, "");
    if (out->err == ERR_OK)
        out->err = json_write(value, out->buf);
}

void json_out_null(struct json_out *out, const char *key)
{
    put_raw(out, key, "null");
}
