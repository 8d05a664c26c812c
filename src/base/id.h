/*
 * id.h - unguessable names: random bits from the kernel, written as lower-case hex.  Any thread.
 */
#ifndef WYVERN_BASE_ID_H
#define WYVERN_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define ID_LEN   32 /* hex digits of 128 bits */
#define ID_SIZE  (ID_LEN + 1)
#define TAG_LEN  16 /* hex digits of 64 bits: gateways, nonces */
#define TAG_SIZE (TAG_LEN + 1)

/* Fills out with digits hex digits and a NUL.  digits is even, out holds digits + 1 bytes. */
void id_random(char *out, size_t digits);

/* Is text exactly `digits` lower-case hex digits? */
bool id_is_valid(const char *text, size_t digits);

#endif
