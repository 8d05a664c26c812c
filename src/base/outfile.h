/*
 * outfile.h - a file that appears under its name whole and on disk, or not at all.
 *
 * It is written without a name where the file system can do that (O_TMPFILE), so that a process
 * that is killed leaves nothing; elsewhere under a temporary name beside the target.  Embedded in
 * its owner; one thread.
 */
#ifndef WYVERN_BASE_OUTFILE_H
#define WYVERN_BASE_OUTFILE_H

#include <limits.h>

#include "base/err.h"

struct outfile {
    int fd; /* to write to; not seekable by others' means: see path */
    char target[PATH_MAX];
    char path[PATH_MAX];  /* under which this process can open it meanwhile */
    char named[PATH_MAX]; /* the temporary name; "": it has none */
};

/* ERR_LIMIT: the path is too long, ERR_NOT_FOUND: its folder is not there, ERR_IO. */
MUST_USE enum err outfile_open(struct outfile *out, const char *target);
/* Syncs, and puts it in the place of whatever has the name; closes it in either case. */
MUST_USE enum err outfile_publish(struct outfile *out);
/* Forgets what was written. */
void outfile_discard(struct outfile *out);

#endif
