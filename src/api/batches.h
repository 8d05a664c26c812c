/*
 * batches.h - /v1/batches: the state of a batch, its lines in and out, and how clients see it.
 * Pure: src/roles/gateway/batches.c and batch_run.c move it.
 *
 * Sources: OpenAI API reference, Batch; "Batch API" guide.
 */
#ifndef WYVERN_API_BATCHES_H
#define WYVERN_API_BATCHES_H

#include "api/files.h"
#include "api/request.h"

#define BATCH_LINES_MAX     50000
#define BATCH_LINE_BYTES    ((size_t)1 << 20)
#define BATCH_CUSTOM_ID_MAX 512
#define BATCH_FAULTS_MAX    20             /* lines that are named when a batch fails */
#define BATCH_PUBLIC_SIZE   (6 + ID_SIZE)  /* "batch_…" */
#define BATCH_LINE_ID_SIZE  (10 + ID_SIZE) /* "batch_req_…" */
#define BATCH_WINDOW_S_MAX  (7 * 24 * 3600)

#define BATCH_STATUS_LIST(X)                                                                       \
    X(BATCH_VALIDATING, "validating", "created_at")                                                \
    X(BATCH_FAILED, "failed", "failed_at")                                                         \
    X(BATCH_IN_PROGRESS, "in_progress", "in_progress_at")                                          \
    X(BATCH_FINALIZING, "finalizing", "finalizing_at")                                             \
    X(BATCH_COMPLETED, "completed", "completed_at")                                                \
    X(BATCH_EXPIRED, "expired", "expired_at")                                                      \
    X(BATCH_CANCELLING, "cancelling", "cancelling_at")                                             \
    X(BATCH_CANCELLED, "cancelled", "cancelled_at")

enum batch_status {
#define BATCH_ENUM(status, name, time) status,
    BATCH_STATUS_LIST(BATCH_ENUM)
#undef BATCH_ENUM
        BATCH_STATUS_COUNT
};
const char *batch_status_name(enum batch_status status);
bool batch_is_over(enum batch_status status);

struct batch_endpoint {
    const char *url;
    enum api_kind kind;
    api_parse_fn *parse;
};
/* NULL: none that batches can ask. */
const struct batch_endpoint *batch_endpoint_find(const char *url);

struct batch_fault { /* why a batch failed */
    char code[32], message[192], param[32];
    unsigned line; /* from 1; 0: of no line */
};

struct batch {
    char id[ID_SIZE];
    char owner[OWNER_LEN + 1];
    char prompter[PROMPT_MAX_PROMPTER + 1];
    char gateway[TAG_SIZE]; /* who moves it */
    const struct batch_endpoint *endpoint;
    char window[16]; /* as it was asked for */
    double expires_at;
    char input[ID_SIZE], output[ID_SIZE], errors[ID_SIZE]; /* files */
    bool has_output, has_errors;                           /* they are there */
    struct batch_made {
        unsigned chunks;
        uint64_t bytes;
    } output_made, errors_made; /* whole lines of them that are stored */
    bool expiring;              /* its window is over: what is left becomes errors */
    enum batch_status status;
    double at[BATCH_STATUS_COUNT]; /* when it came to a status; 0: it did not */
    uint64_t total, completed, failed;
    json_t *metadata; /* owned; NULL: none */
    struct batch_fault faults[BATCH_FAULTS_MAX];
    size_t fault_count;
};
void batch_done(struct batch *batch); /* safe on zeroed memory */

/* POST /v1/batches; id, owner, prompter, gateway, output and errors are the caller's to set. */
MUST_USE enum err batch_parse(struct batch *out, const char *body, size_t len, double now,
                              struct api_error *error);
/* Goes on to a status; false: that does not follow on the present one. */
bool batch_move(struct batch *batch, enum batch_status status, double now);

void batch_public_id(char out[BATCH_PUBLIC_SIZE], const char *id);
bool batch_id_parse(char out[ID_SIZE], const char *public_id);
/* As it is stored, and as clients see it. */
MUST_USE enum err batch_encode(const struct batch *batch, struct buf *out);
MUST_USE enum err batch_decode(struct batch *out, const char *data, size_t len);
MUST_USE enum err batch_write(const struct batch *batch, struct buf *out);
/* Batches of a list; first_id and last_id are those of the first and the last. */
MUST_USE enum err batch_list_write(const struct batch *const *batches, size_t count, bool more,
                                   struct buf *out);

/* ---- lines in ---- */

/* Cuts bytes that come in parts into lines. */
struct batch_input {
    struct buf text;
    size_t at;       /* first byte that was not given out */
    unsigned number; /* of the line given out last, from 1 */
    bool ended;      /* no more bytes come */
};
void batch_input_init(struct batch_input *lines);
void batch_input_done(struct batch_input *lines);
MUST_USE enum err batch_input_add(struct batch_input *lines, const char *data, size_t len);
/* The next line that is not blank, borrowed until the next call.  ERR_NOT_FOUND: more bytes are
 * needed, or it was the last; ERR_LIMIT: a line is longer than BATCH_LINE_BYTES. */
MUST_USE enum err batch_input_next(struct batch_input *lines, const char **line, size_t *len);

/* Gives the line that was given out last once more. */
void batch_input_again(struct batch_input *lines, const char *line);

struct batch_line {
    json_t *root; /* owned */
    const char *custom_id;
    const json_t *body;
};
/* ERR_INVALID: *fault says why, all but the line's number. */
MUST_USE enum err batch_line_read(struct batch_line *out, const struct batch *batch,
                                  const char *line, size_t len, struct batch_fault *fault);
void batch_line_done(struct batch_line *line);

/* The custom ids of a batch, each of which may come once. */
struct batch_ids {
    struct batch_custom_id *first;
};
MUST_USE enum err batch_ids_add(struct batch_ids *ids, const char *custom_id); /* ERR_EXISTS */
void batch_ids_done(struct batch_ids *ids);

/* Notes a fault; those beyond BATCH_FAULTS_MAX are not kept. */
void batch_fault_add(struct batch *batch, const struct batch_fault *fault);
void batch_fault_set(struct batch_fault *fault, const char *code, const char *param,
                     const char *message);

/* ---- lines out ---- */

/* "batch_req_" and digits that tell the line of its batch. */
void batch_line_id(char out[BATCH_LINE_ID_SIZE], const struct batch *batch, unsigned index);
/* Which line of the batch a line of its files is about; false: that can't be told. */
bool batch_line_index(const struct batch *batch, const char *line, size_t len, unsigned *index);
/* The line of a request that was answered; body is JSON. */
MUST_USE enum err batch_answer_write(const struct batch *batch, unsigned index,
                                     const char *custom_id, int status, const char *request_id,
                                     const char *body, size_t body_len, struct buf *out);
/* The line of a request that was not made. */
MUST_USE enum err batch_error_write(const struct batch *batch, unsigned index,
                                    const char *custom_id, const char *code, const char *message,
                                    struct buf *out);

#endif
