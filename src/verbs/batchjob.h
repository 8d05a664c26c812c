/*
 * batchjob.h - one line of a batch on its way: asked, asked again when the service is full or away,
 * and the line that answers it.  Belongs to batch.c's thread.
 */
#ifndef WYVERN_VERBS_BATCHJOB_H
#define WYVERN_VERBS_BATCHJOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "http/client.h"
#include "verbs/batchin.h"

enum batch_state { BATCH_TO_SEND, BATCH_OPEN, BATCH_ANSWERED };

struct batch_job {
    TAILQ_ENTRY(batch_job) link;
    struct batch *batch;
    uint64_t number, check;
    struct batch_request request;
    enum batch_state state;
    unsigned tries, attempt; /* attempt: part of the key; a new one for a new generation */
    int64_t due_ns;
    struct buf answer; /* the line, when answered */
    bool failed;
    char fault[256]; /* why, when failed */
    enum err ended;  /* of BATCH_STOP */
    uint64_t tokens;
};

/* What to do after a call. */
enum batch_verdict {
    BATCH_TAKE,  /* it is answered: well, or by an error that will not go away */
    BATCH_RETRY, /* due_ns says when */
    BATCH_STOP,  /* no line would fare better: job->ended, err_text() */
};
/* result: as http_call ended with err. */
enum batch_verdict batch_job_ended(struct batch_job *job, enum err err,
                                   const struct http_result *result);
/* Answers a line that can't be asked, with the sentence of err_text(). */
MUST_USE enum err batch_job_refuse(struct batch_job *job);
/* The same key for the same line, text and file: a retry finds the reply of the first try. */
MUST_USE enum err batch_job_key(const struct batch_job *job, const char *salt, char *out,
                                size_t cap);

#endif
