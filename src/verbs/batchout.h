/*
 * batchout.h - where a batch's answers go, and what is known from that of an earlier run.
 *
 * The file is the progress: each whole line of it is one answer, with the number of the line it
 * answers and a check of that line's text.  Lines are appended whole; what a kill or a full disk
 * left torn at the end is cut off.  A lock keeps a second batch out.  Anything but a plain file is
 * written to and remembers nothing.  One thread.
 */
#ifndef WYVERN_VERBS_BATCHOUT_H
#define WYVERN_VERBS_BATCHOUT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define BATCH_SALT_SIZE 80

struct batch_out {
    int fd;
    bool owned, plain;
    bool reader_left; /* a pipe that nobody reads any more */
    const char *name;
    off_t end;        /* behind the last whole line */
    uint64_t *checks; /* of the lines that are answered, by number; 0: not yet */
    size_t room;
    uint64_t done, failed;      /* lines answered before; those of them with an error */
    uint64_t highest;           /* number of the last such line */
    char salt[BATCH_SALT_SIZE]; /* tells this file from others, also from a later one of its name */
};

/* path NULL: standard output.  ERR_IO, ERR_DENIED, ERR_EXISTS (in use), ERR_INVALID (not ours). */
MUST_USE enum err batch_out_open(struct batch_out *out, const char *path);
/* Syncs and closes; ERR_IO when the disk says that something did not get there. */
MUST_USE enum err batch_out_close(struct batch_out *out);
/* Is that line answered?  ERR_INVALID: by the answer to another text. */
MUST_USE enum err batch_out_has(const struct batch_out *out, uint64_t number, uint64_t check,
                                bool *has);
/* A line with its newline.  ERR_IO: nothing of it stays. */
MUST_USE enum err batch_out_write(struct batch_out *out, const char *line, size_t len);

#endif
