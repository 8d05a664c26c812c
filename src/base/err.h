/*
 * err.h - one list of error codes, and the sentence that goes with the last failure.
 *
 * Every fallible function returns an enum err and leaves its outputs untouched on failure.  The
 * function that detects the fault writes one plain sentence with err_set(); callers pass the code
 * up, and whoever reports it reads err_text().  The sentence lives in a per-thread buffer: read it
 * on the thread that failed, before calling anything else that may fail.
 */
#ifndef WYVERN_BASE_ERR_H
#define WYVERN_BASE_ERR_H

#include <sysexits.h>

/* code, sysexits status of a program that ends because of it, name in logs */
#define ERR_LIST(X)                                                                                \
    X(ERR_OK, EX_OK, "ok")                                                                         \
    X(ERR_USAGE, EX_USAGE, "usage")       /* the command line is wrong */                          \
    X(ERR_INVALID, EX_DATAERR, "invalid") /* input from outside breaks its format's rules */       \
    X(ERR_LIMIT, EX_DATAERR, "limit")     /* input is larger than a bound we set */                \
    X(ERR_UNSUPPORTED, EX_DATAERR, "unsupported") /* understood, and not something we do */        \
    X(ERR_NOT_FOUND, EX_NOINPUT, "not_found")                                                      \
    X(ERR_EXISTS, EX_CANTCREAT, "exists") /* somebody else was first */                            \
    X(ERR_FULL, EX_TEMPFAIL, "full")      /* a bounded thing is full: try again later */           \
    X(ERR_TIMEOUT, EX_TEMPFAIL, "timeout")                                                         \
    X(ERR_UNAVAILABLE, EX_UNAVAILABLE, "unavailable") /* a peer can't be reached */                \
    X(ERR_CANCELLED, EX_TEMPFAIL, "cancelled")                                                     \
    X(ERR_DENIED, EX_NOPERM, "denied")                                                             \
    X(ERR_CONFIG, EX_CONFIG, "config")                                                             \
    X(ERR_IO, EX_IOERR, "io")                                                                      \
    X(ERR_OS, EX_OSERR, "os") /* a system call failed that should not */                           \
    X(ERR_NOMEM, EX_OSERR, "nomem")                                                                \
    X(ERR_INTERNAL, EX_SOFTWARE, "internal") /* our own bug */

enum err {
#define ERR_ENUM(code, status, name) code,
    ERR_LIST(ERR_ENUM)
#undef ERR_ENUM
        ERR_COUNT
};

#define MUST_USE               __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Records the sentence (cut at 511 bytes) for this thread and returns code, so that a failing
 * function can `return err_set(ERR_IO, "can't read %s: %s", path, strerror(errno))`. */
enum err err_set(enum err code, const char *format, ...) PRINTF_LIKE(2, 3);

/* Puts more context in front of the present sentence ("loading x: " + sentence); returns code. */
enum err err_prefix(enum err code, const char *format, ...) PRINTF_LIKE(2, 3);

/* The last sentence of this thread; "" before any failure.  Valid until the next err_set here. */
const char *err_text(void);

const char *err_name(enum err code);
int err_exit_status(enum err code);

#endif
