/*
 * batchin.h - the lines of a batch: read one by one, and what each asks of the service.
 *
 * A line is {"prompt": "…"} or {"messages": […]}, either with parameters and a custom_id, or
 * OpenAI's {"custom_id", "method", "url", "body"}.  Bytes are hostile: lines are bounded, blank
 * ones skipped, broken ones told with their number.  One thread.
 */
#ifndef WYVERN_VERBS_BATCHIN_H
#define WYVERN_VERBS_BATCHIN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "config/options.h"

#define BATCH_LINE_MAX  ((size_t)16 << 20)
#define BATCH_LINES_MAX 10000000u
#define BATCH_ID_MAX    512 /* bytes of a custom_id */

/* ---- lines ---- */

struct batch_in {
    int fd;
    bool owned, ended;
    char *block; /* what was read and not given yet: block[at … len) */
    size_t at, len;
    struct buf line;
    uint64_t number; /* of the line in `line`, from 1 */
    bool begun;      /* that line is not whole yet */
    bool too_long;   /* line holds its beginning */
};

/* path "-": standard input.  ERR_NOT_FOUND, ERR_DENIED, ERR_IO. */
MUST_USE enum err batch_in_open(struct batch_in *lines, const char *path);
void batch_in_done(struct batch_in *lines);
enum batch_line { BATCH_LINE, BATCH_LINES_WAIT, BATCH_LINES_END };
/* The next line that is not blank, without its newline, or none yet (a pipe that is slow), or none
 * any more.  Waits at most wait_ms. */
MUST_USE enum err batch_in_next(struct batch_in *lines, int wait_ms, enum batch_line *what);
/* How many lines are not blank; 0 when that can't be told before they are read. */
uint64_t batch_in_count(const struct batch_in *lines);

/* ---- requests ---- */

struct batch_request {
    char path[32];                    /* "/v1/chat/completions" … */
    char custom_id[BATCH_ID_MAX + 1]; /* "": none */
    bool whole;                       /* OpenAI's form: it is answered in OpenAI's form too */
    struct buf body;
};
/* ERR_INVALID, ERR_LIMIT with a sentence that fits behind "line N: ".  custom_id and whole are set
 * as far as they could be read.  defaults: parameters that a line may do without. */
MUST_USE enum err batch_request_read(struct batch_request *request, const char *line, size_t len,
                                     const json_t *defaults, const struct settings *settings);
void batch_request_done(struct batch_request *request);

/* A number (never 0) that tells lines apart: of another file, most likely another. */
uint64_t batch_check(const char *line, size_t len);

#endif
