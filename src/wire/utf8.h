/*
 * utf8.h - telling whole UTF-8 characters from broken ones (RFC 3629).  Pure; any thread.
 */
#ifndef WYVERN_WIRE_UTF8_H
#define WYVERN_WIRE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes (1 … 4) of the well-formed character that text begins with; 0 when it is broken or cut off
 * (overlong forms, surrogates and values above U+10FFFF are broken), or when len is 0. */
size_t utf8_char_len(const char *text, size_t len);

/* Is every character well formed?  NUL is a character like any other. */
bool utf8_is_valid(const char *text, size_t len);

#endif
