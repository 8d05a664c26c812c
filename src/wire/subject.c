#include "wire/subject.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool stays(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

enum err subject_encode(char *out, size_t cap, const char *name)
{
    static const char digits[] = "0123456789ABCDEF";
    char text[SUBJECT_MAX];
    size_t len = 0;

    if (name[0] == '\0')
        return err_set(ERR_INVALID, "an empty name can't be part of a subject");
    for (const unsigned char *s = (const unsigned char *)name; *s != '\0'; s++) {
        size_t need = stays(*s) ? 1 : 3;
        if (len + need >= cap || len + need >= sizeof text)
            return err_set(ERR_LIMIT, "the name %.64s is too long for a subject", name);
        if (need == 1) {
            text[len++] = (char)*s;
        } else {
            text[len++] = '=';
            text[len++] = digits[*s >> 4];
            text[len++] = digits[*s & 15];
        }
    }
    memcpy(out, text, len);
    out[len] = '\0';
    return ERR_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

enum err subject_decode(char *out, size_t cap, const char *token)
{
    char text[SUBJECT_MAX];
    size_t len = 0;

    if (token[0] == '\0')
        return err_set(ERR_INVALID, "an empty subject token");
    for (const char *s = token; *s != '\0'; s++) {
        if (len + 1 >= cap || len + 1 >= sizeof text)
            return err_set(ERR_LIMIT, "the subject token %.64s is too long", token);
        if (*s == '=') {
            int high = hex_digit(s[1]), low = high < 0 ? -1 : hex_digit(s[2]);
            if (low < 0 || high * 16 + low == 0)
                return err_set(ERR_INVALID, "bad escape in the subject token %.64s", token);
            text[len++] = (char)(unsigned char)(high * 16 + low);
            s += 2;
        } else if (stays((unsigned char)*s)) {
            text[len++] = *s;
        } else {
            return err_set(ERR_INVALID, "bad byte in the subject token %.64s", token);
        }
    }
    memcpy(out, text, len);
    out[len] = '\0';
    return ERR_OK;
}

void subject_prompt(char out[SUBJECT_MAX], const char *model, const char *lane, const char *id)
{
    char token[3 * MODEL_NAME_MAX + 1];
    enum err err = subject_encode(token, sizeof token, model);

    /* names are at most MODEL_NAME_MAX bytes and not empty: checked where they come in */
    assert(err == ERR_OK);
    if (err != ERR_OK)
        snprintf(token, sizeof token, "_");
    snprintf(out, SUBJECT_MAX, "prompt.%s.%.16s.%.*s", token, lane, ID_LEN, id);
}

void subject_prompt_any(char out[SUBJECT_MAX], const char *id)
{
    snprintf(out, SUBJECT_MAX, "prompt.*.*.%.*s", ID_LEN, id);
}

void subject_claim(char out[SUBJECT_MAX], const char *gateway, const char *id)
{
    snprintf(out, SUBJECT_MAX, "tok.%.*s.%.*s.c", TAG_LEN, gateway, ID_LEN, id);
}

void subject_pieces(char out[SUBJECT_MAX], const char *gateway, const char *id)
{
    snprintf(out, SUBJECT_MAX, "tok.%.*s.%.*s.p", TAG_LEN, gateway, ID_LEN, id);
}

void subject_reply(char out[SUBJECT_MAX], const char *gateway, const char *id)
{
    snprintf(out, SUBJECT_MAX, "reply.%.*s.%.*s", TAG_LEN, gateway, ID_LEN, id);
}

void subject_response(char out[SUBJECT_MAX], const char *id)
{
    snprintf(out, SUBJECT_MAX, "response.%.*s", ID_LEN, id);
}

/* Passes over `prefix` at *at; false when something else stands there. */
static bool skip(const char **at, const char *prefix)
{
    size_t len = strlen(prefix);

    if (strncmp(*at, prefix, len) != 0)
        return false;
    *at += len;
    return true;
}

/* Takes a token of exactly `digits` hex digits, and the dot behind it unless it is the last. */
static bool take_hex(const char **at, char *out, size_t digits, bool last)
{
    char text[ID_SIZE];
    size_t len = strcspn(*at, ".");

    if (len != digits || (*at)[len] != (last ? '\0' : '.'))
        return false;
    memcpy(text, *at, len);
    text[len] = '\0';
    if (!id_is_valid(text, digits))
        return false;
    memcpy(out, text, digits + 1);
    *at += len + (last ? 0 : 1);
    return true;
}

static bool skip_token(const char **at)
{
    size_t len = strcspn(*at, ".");

    if (len == 0 || (*at)[len] != '.')
        return false;
    *at += len + 1;
    return true;
}

/* <gw>.<id> and what stands behind: nothing for a record, c or p for claims and pieces. */
static enum subject_kind parse_reply(struct subject_parts *parts, const char *at)
{
    if (!take_hex(&at, parts->gateway, TAG_LEN, false))
        return SUBJECT_OTHER;
    const char *rest = at;
    if (take_hex(&rest, parts->id, ID_LEN, true))
        return SUBJECT_REPLY;
    if (!take_hex(&at, parts->id, ID_LEN, false))
        return SUBJECT_OTHER;
    if (strcmp(at, "c") == 0)
        return SUBJECT_CLAIM;
    return strcmp(at, "p") == 0 ? SUBJECT_PIECES : SUBJECT_OTHER;
}

enum subject_kind subject_parse(struct subject_parts *out, const char *subject)
{
    struct subject_parts parts = {.gateway = ""};
    enum subject_kind kind = SUBJECT_OTHER;
    const char *at = subject;

    if (skip(&at, "live.")) { /* republished: tok.> and reply.> both, without that first token */
        kind = parse_reply(&parts, at);
    } else if (skip(&at, "tok.")) {
        kind = parse_reply(&parts, at);
        if (kind == SUBJECT_REPLY)
            kind = SUBJECT_OTHER;
    } else if (skip(&at, "reply.")) {
        if (parse_reply(&parts, at) == SUBJECT_REPLY)
            kind = SUBJECT_REPLY;
    } else if (skip(&at, "prompt.")) {
        if (skip_token(&at) && skip_token(&at) && take_hex(&at, parts.id, ID_LEN, true))
            kind = SUBJECT_PROMPT;
    }
    if (kind != SUBJECT_OTHER)
        *out = parts;
    return kind;
}
