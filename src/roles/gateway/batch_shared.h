/*
 * batch_shared.h - a batch's run, which batch_run.c (what comes when, and what is written),
 * batch_read.c (what is read) and batch_item.c (its lines as prompts) share.
 */
#ifndef WYVERN_ROLES_GATEWAY_BATCH_SHARED_H
#define WYVERN_ROLES_GATEWAY_BATCH_SHARED_H

#include "roles/gateway/batch_run.h"

enum run_stage { /* see batch_run.c */
                 RUN_INPUT,
                 RUN_VALIDATE,
                 RUN_LOAD,
                 RUN_ASK,
                 RUN_DRAIN,
                 RUN_SAVE,
                 RUN_FILES,
                 RUN_OVER,
                 RUN_GONE, /* freed once nobody calls back any more */
};

struct batch_out {   /* one of the files that are made */
    struct buf text; /* whole lines that are not stored yet, but for the first's beginning */
    struct batch_made stored; /* what is */
    int64_t since_ns;         /* the text waits */
};

struct batch_item;

struct batch_run {
    struct batch_runs *runs;
    LIST_ENTRY(batch_run) link;
    struct batch batch;
    uint64_t sequence; /* of its state */
    enum run_stage stage;
    unsigned pending; /* callbacks that name this run */
    bool stepping, again;
    bool changed, urgent; /* the state is to be put, and at once */
    bool writing, looking, reading;
    bool over_saved;
    int64_t saved_ns, looked_ns, wait_ns;
    /* the input */
    struct file_meta input;
    struct batch_input lines;
    struct batch_ids ids;
    unsigned chunk, index; /* to be read next; number of the next line, from 0 */
    unsigned char *done;   /* a bit for each line whose answer is stored */
    /* what is made */
    struct batch_out output, errors;
    struct batch_out *written, *loading; /* which of them is */
    size_t written_len;
    TAILQ_HEAD(, batch_item) items;
    unsigned item_count;
};

/* batch_item.c */
/* Makes a prompt of a line, or notes at once why there is none.  False: no memory. */
MUST_USE bool batch_item_begin(struct batch_run *run, unsigned index, const char *line, size_t len);
/* Asks again for what could not be asked for. */
void batch_items_tick(struct batch_run *run);
/* Ends the prompts that are on their way; what waits to be asked for goes. */
void batch_items_cancel(struct batch_run *run);
/* The same of a batch that another gateway began: which of its lines that one asked for is not
 * known. */
void batch_items_end_unknown(struct batch_run *run);
/* The run hears of none of them any more. */
void batch_items_drop(struct batch_run *run);
void batch_items_free(struct batch_run *run);

/* batch_run.c: a line was added to one of the files; something that was pending has ended. */
void batch_run_add(struct batch_run *run, struct batch_out *out);
void batch_run_callback_ends(struct batch_run *run);
/* The broker could not be asked, or does not answer: again in a moment. */
void batch_run_wait(struct batch_run *run);
bool batch_run_waits(const struct batch_run *run);
/* The batch fails as a whole. */
void batch_run_fail(struct batch_run *run, const char *code, const char *param,
                    const char *message);

/* batch_read.c: each does what can be done now, and asks the broker for what is needed next. */
void batch_read_meta(struct batch_run *run);
void batch_read_validate(struct batch_run *run);
void batch_read_load(struct batch_run *run);
void batch_read_input(struct batch_run *run); /* more lines */
/* The input is not what it was. */
void batch_read_lost(struct batch_run *run);
#define BATCH_STEP_LINES 2000 /* of one turn: others have work too */

#endif
