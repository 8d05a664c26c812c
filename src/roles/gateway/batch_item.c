/*
 * A line becomes a prompt by the same parser that its endpoint has, and its record a reply by the
 * same writer.  What can't be asked for now (the queue is full, the broker away) is asked for
 * again. An answer of 200 goes to the output file, any other to the error file.
 */
#include "roles/gateway/batch_shared.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/render.h"
#include "base/clock.h"
#include "base/log.h"
#include "config/digest.h"
#include "roles/gateway/accept.h"
#include "wire/subject.h"

#define RETRY_MS   1000
#define BODY_BYTES ((size_t)64 << 20)

struct batch_item {
    struct batch_run *run;
    TAILQ_ENTRY(batch_item) link;
    unsigned index;
    char id[ID_SIZE]; /* of its prompt */
    char *custom_id, *body;
    bool asked;       /* its prompt is on its way */
    bool cancelled;   /* and is being ended */
    int64_t retry_ns; /* when it is asked for again, or ended again */
    /* how its reply is written */
    json_t *request;
    char *echo;
    bool logprobs, as_base64;
};

static void shape_drop(struct batch_item *item)
{
    json_decref(item->request);
    free(item->echo);
    item->request = NULL;
    item->echo = NULL;
}

static void item_free(struct batch_item *item)
{
    TAILQ_REMOVE(&item->run->items, item, link);
    item->run->item_count--;
    shape_drop(item);
    free(item->custom_id);
    free(item->body);
    free(item);
}

/* ---- its line ---- */

static void added(struct batch_item *item, struct batch_out *out, enum err err)
{
    if (err == ERR_OK)
        batch_run_add(item->run, out);
    else
        log_error("batch.line_lost id=%s line=%u why=\"%s\"", item->run->batch.id, item->index,
                  err_text());
}

static void write_expired(struct batch_item *item)
{
    struct batch_run *run = item->run;
    added(item, &run->errors,
          batch_error_write(&run->batch, item->index, item->custom_id, "batch_expired",
                            "This request could not be executed before the completion window "
                            "expired.",
                            &run->errors.text));
}

static void write_failed(struct batch_item *item, const struct api_error *error)
{
    struct batch_run *run = item->run;
    struct buf body;
    buf_init(&body, BODY_BYTES);
    enum err err = api_error_write(error, &body);
    if (err == ERR_OK)
        err = batch_answer_write(&run->batch, item->index, item->custom_id, error->status, item->id,
                                 body.data, body.len, &run->errors.text);
    added(item, &run->errors, err);
    buf_done(&body);
}

static enum err render_reply(const struct batch_item *item, const struct reply *record,
                             struct buf *body)
{
    struct render render = {.kind = item->run->batch.endpoint->kind,
                            .model = item->run->runs->gateway->join.model,
                            .created = json_number(record->request, "created", record->accepted_at),
                            .echo = item->echo,
                            .logprobs = item->logprobs,
                            .request = record->request != NULL ? record->request : item->request};
    const struct api_request shape = {
        .kind = render.kind, .echo = item->echo != NULL, .as_base64 = item->as_base64};
    render_id(render.id, render.kind, item->id);
    return render.kind == API_RESPONSE ? render_response(&render, record, false, body)
                                       : render_whole(&render, &record, 1, &shape, body);
}

static void write_answer(struct batch_item *item, const struct reply *record)
{
    struct batch_run *run = item->run;
    struct api_error error;
    struct buf body;
    buf_init(&body, BODY_BYTES);
    enum err err = render_reply(item, record, &body);
    if (err == ERR_OK) {
        added(item, &run->output,
              batch_answer_write(&run->batch, item->index, item->custom_id, 200, item->id,
                                 body.data, body.len, &run->output.text));
    } else {
        api_error_set(&error, 500, "server_error", NULL, "the reply can't be written");
        write_failed(item, &error);
    }
    buf_done(&body);
}

static void item_end(struct batch_item *item, const struct reply *record,
                     const struct api_error *error)
{
    const struct batch *batch = &item->run->batch;
    bool completed = record != NULL && record->status == REPLY_COMPLETED;
    struct api_error of_record;
    if (item->run->stage > RUN_DRAIN) {
        /* failed as a whole: nobody reads it */
    } else if (completed) {
        write_answer(item, record);
    } else if (batch->status == BATCH_CANCELLING) {
        /* not made, and not told of */
    } else if (batch->expiring && (record == NULL || record->status == REPLY_CANCELLED)) {
        write_expired(item);
    } else if (record != NULL) {
        api_error_of_reply(record, batch->endpoint->kind, &of_record);
        write_failed(item, &of_record);
    } else {
        write_failed(item, error);
    }
    item_free(item);
}

/* ---- its prompt ---- */

static bool may_come_again(const struct batch_item *item, const struct api_error *error)
{
    return error != NULL && (error->status == 429 || error->status == 503) && !item->cancelled &&
           item->run->batch.status == BATCH_IN_PROGRESS && !item->run->batch.expiring;
}

static void on_ended(void *arg, const struct reply *record, const struct api_error *error)
{
    struct batch_item *item = arg;
    struct batch_run *run = item->run;
    item->asked = false;
    run->runs->asking--;
    if (record == NULL)
        shape_drop(item); /* it is made anew */
    if (run->stage == RUN_GONE)
        item_free(item);
    else if (record == NULL && may_come_again(item, error))
        item->retry_ns = clock_mono_ns() + RETRY_MS * NS_PER_MS;
    else
        item_end(item, record, error);
    batch_run_callback_ends(run);
}

/* What is needed of a request to write its reply. */
static enum err shape_take(struct batch_item *item, const struct api_request *request)
{
    const char *text = json_string_value(json_array_get(request->texts, 0));
    item->request = json_incref((json_t *)(uintptr_t)request->prompt.request);
    item->logprobs = request->prompt.params.logprobs >= 0;
    item->as_base64 = request->as_base64;
    if (request->echo && text != NULL && (item->echo = strdup(text)) == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    return ERR_OK;
}

static void item_ask(struct batch_item *item)
{
    struct batch_run *run = item->run;
    struct api_request request;
    struct api_error error;
    const struct follow_spec spec = {.id = item->id,
                                     .owner = run->batch.owner,
                                     .prompter = run->batch.prompter,
                                     .lane = LANE_BATCH};
    enum err err =
        run->batch.endpoint->parse(&request, item->body, strlen(item->body), clock_wall(), &error);
    if (err == ERR_INVALID) {
        item_end(item, NULL, &error);
        return;
    }
    if (err == ERR_OK && (err = shape_take(item, &request)) != ERR_OK)
        api_request_done(&request);
    if (err != ERR_OK) { /* no memory */
        item->retry_ns = clock_mono_ns() + RETRY_MS * NS_PER_MS;
        return;
    }
    item->asked = true;
    item->retry_ns = 0;
    run->runs->asking++;
    run->pending++;
    accept_follow(run->runs->gateway, &request, &spec, on_ended, item);
}

/* "<batch>/<line>" → the id of its prompt. */
static enum err name_prompt(char id[ID_SIZE], const struct batch *batch, unsigned index)
{
    char text[ID_SIZE + 16], digest[DIGEST_SIZE];
    int len = snprintf(text, sizeof text, "%s/%u", batch->id, index);
    const struct digest_part part = {text, (size_t)len};
    enum err err = digest_parts(digest, &part, 1);
    if (err == ERR_OK)
        snprintf(id, ID_SIZE, "%.*s", ID_LEN, digest);
    return err;
}

static struct batch_item *item_new(struct batch_run *run, unsigned index,
                                   const struct batch_line *line)
{
    struct batch_item *item = calloc(1, sizeof *item);
    if (item == NULL)
        return NULL;
    item->run = run;
    item->index = index;
    item->custom_id = strdup(line->custom_id);
    item->body = json_dumps(line->body, JSON_COMPACT);
    TAILQ_INSERT_TAIL(&run->items, item, link);
    run->item_count++;
    if (item->custom_id != NULL && item->body != NULL &&
        name_prompt(item->id, &run->batch, index) == ERR_OK)
        return item;
    item_free(item);
    return NULL;
}

bool batch_item_begin(struct batch_run *run, unsigned index, const char *text, size_t len)
{
    struct batch_line line;
    struct batch_fault fault;
    enum err err = batch_line_read(&line, &run->batch, text, len, &fault);
    if (err == ERR_INVALID)
        return true; /* the file is another than the one that was checked */
    struct batch_item *item = err == ERR_OK ? item_new(run, index, &line) : NULL;
    if (err == ERR_OK)
        batch_line_done(&line);
    if (item == NULL)
        return false;
    if (run->batch.expiring) {
        write_expired(item);
        item_free(item);
    } else {
        item_ask(item);
    }
    return true;
}

/* ---- ending prompts ---- */

struct ending_wanted { /* while the prompt is looked for */
    struct gateway *gateway;
};

static void on_cancelled(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)sequence;
    if (err != ERR_OK)
        log_debug("batch.prompt_goes_on why=\"%s\"", err_text()); /* it is tried again */
}

static void on_found(void *arg, enum err err, double accepted_at, const struct prompt *prompt)
{
    struct ending_wanted *wanted = arg;
    struct endings *endings = wanted->gateway->endings;
    free(wanted);
    if (err != ERR_OK || prompt == NULL)
        return;
    char trace_id[ID_SIZE];
    const struct cancel_spec spec = cancel_spec_of(prompt, "cancelled", accepted_at, trace_id);
    if (endings_cancel(endings, &spec, on_cancelled, NULL) != ERR_OK)
        log_debug("batch.prompt_goes_on prompt=%s", prompt->id);
}

static void end_prompt(struct gateway *gateway, const char *id)
{
    struct ending_wanted *wanted = malloc(sizeof *wanted);
    if (wanted == NULL)
        return;
    wanted->gateway = gateway;
    if (prompts_find(gateway->bus, id, on_found, wanted) != ERR_OK)
        free(wanted);
}

/* The prompt is in the queue, or has ended, or is on its way there: then a tick tries again. */
static void item_cancel(struct batch_item *item)
{
    item->cancelled = true;
    item->retry_ns = clock_mono_ns() + RETRY_MS * NS_PER_MS;
    end_prompt(item->run->runs->gateway, item->id);
}

/* Lines are asked for in their order, so what was asked for is among the first without an answer:
 * as many as may be on their way, and those whose answers were not stored yet. */
void batch_items_end_unknown(struct batch_run *run)
{
    char id[ID_SIZE];
    unsigned left = BATCH_STEP_LINES;
    for (unsigned i = 0; i < run->batch.total && i < BATCH_LINES_MAX && left > 0; i++) {
        if ((run->done[i / 8] >> i % 8 & 1) != 0 || name_prompt(id, &run->batch, i) != ERR_OK)
            continue;
        end_prompt(run->runs->gateway, id);
        left--;
    }
}

void batch_items_cancel(struct batch_run *run)
{
    struct batch_item *item, *next;
    for (item = TAILQ_FIRST(&run->items); item != NULL; item = next) {
        next = TAILQ_NEXT(item, link);
        if (item->asked)
            item_cancel(item);
        else
            item_end(item, NULL, NULL);
    }
}

void batch_items_tick(struct batch_run *run)
{
    struct batch_item *item, *next;
    int64_t now = clock_mono_ns();
    for (item = TAILQ_FIRST(&run->items); item != NULL; item = next) {
        next = TAILQ_NEXT(item, link);
        if (item->retry_ns == 0 || now < item->retry_ns || run->runs->gateway->draining)
            continue;
        if (item->asked)
            item_cancel(item);
        else
            item_ask(item);
    }
}

void batch_items_drop(struct batch_run *run)
{
    struct batch_item *item, *next;
    for (item = TAILQ_FIRST(&run->items); item != NULL; item = next) {
        next = TAILQ_NEXT(item, link);
        if (!item->asked)
            item_free(item);
    }
}

void batch_items_free(struct batch_run *run)
{
    while (!TAILQ_EMPTY(&run->items))
        item_free(TAILQ_FIRST(&run->items));
}
