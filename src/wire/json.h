/*
 * json.h - reading and writing JSON: bounds before parsing, typed access, and text written straight
 * into a buffer.
 *
 * jansson parses; this adds limits that it lacks and sentences that name the field.  Writing needs
 * no tree: struct json_out appends field by field.  Pure; any thread, one at a time per object.
 */
#ifndef WYVERN_WIRE_JSON_H
#define WYVERN_WIRE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define JSON_MAX_DEPTH 64 /* nesting; jansson's own bound is 2048 stack frames */

/* One JSON text (RFC 8259) → value (json_decref it).  ERR_INVALID: malformed, invalid UTF-8, NUL in
 * a string, duplicate keys, a number beyond a double's range; ERR_LIMIT: nested deeper than
 * JSON_MAX_DEPTH.  An integer that does not fit 64 bits is given as a real, the others as integers.
 */
MUST_USE enum err json_parse(json_t **out, const char *data, size_t len);

/* The same; on failure field (cap bytes) gets the key of the outermost object that the fault lies
 * behind, or "". */
MUST_USE enum err json_parse_naming(json_t **out, const char *data, size_t len, char *field,
                                    size_t cap);

/* Compact text appended to out. */
MUST_USE enum err json_write(const json_t *value, struct buf *out);

/* Fields of messages between our own processes: absent or of another type gives the default. */
const char *json_text(const json_t *object, const char *key, const char *fallback);
int64_t json_int(const json_t *object, const char *key, int64_t fallback);
uint64_t json_uint(const json_t *object, const char *key, uint64_t fallback); /* ≥ 0 only */
double json_number(const json_t *object, const char *key, double fallback);
bool json_flag(const json_t *object, const char *key, bool fallback);

/* Copies a text field into a fixed buffer, cut at the last whole character that fits; absent: "".
 */
void json_text_copy(const json_t *object, const char *key, char *out, size_t cap);

/* text as a JSON string with its quotes.  NUL and broken UTF-8 become U+FFFD, so that what we write
 * can always be read. */
MUST_USE enum err json_append_string(struct buf *out, const char *text, size_t len);

/*
 * Writing field by field.  The first failure is kept and makes the rest no-ops; json_out_end gives
 * it and takes back what was appended.  key NULL: an element of an array, or the outermost value.
 */
struct json_out {
    struct buf *buf;
    size_t start; /* length of buf before */
    enum err err;
    bool comma; /* something stands before on this level */
};

void json_out_begin(struct json_out *out, struct buf *buf);
MUST_USE enum err json_out_end(struct json_out *out);
void json_out_object(struct json_out *out, const char *key); /* { … */
void json_out_object_end(struct json_out *out);              /* … } */
void json_out_array(struct json_out *out, const char *key);
void json_out_array_end(struct json_out *out);
void json_out_text(struct json_out *out, const char *key, const char *text); /* NULL: null */
void json_out_text_len(struct json_out *out, const char *key, const char *text, size_t len);
void json_out_int(struct json_out *out, const char *key, int64_t value);
void json_out_uint(struct json_out *out, const char *key, uint64_t value);
void json_out_number(struct json_out *out, const char *key, double value); /* not finite: null */
void json_out_time(struct json_out *out, const char *key, double seconds); /* to the microsecond */
void json_out_flag(struct json_out *out, const char *key, bool value);
/* A value as it is; NULL: nothing is written. */
void json_out_json(struct json_out *out, const char *key, const json_t *value);
void json_out_null(struct json_out *out, const char *key);

#endif
