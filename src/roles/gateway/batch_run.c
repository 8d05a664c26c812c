/*
 * A batch on its way:
 *
 *   INPUT     the input file's meta is read
 *   VALIDATE  all its lines are checked; one that is wrong fails the batch
 *   LOAD      of a batch that another gateway began: which lines its stored files are about
 *   ASK       line after line becomes a prompt, a window of them at a time; what is answered goes
 *             into the output or the error file
 *   DRAIN     no more lines; what was asked for is answered, what was answered is stored
 *   SAVE      the state says that it is finalizing, or still cancelling
 *   FILES     the files' metas are put
 *   OVER      the state says how it ended, and names the files
 *
 * One write is under way at a time: a chunk of a file, or the state.  Chunks are put under the
 * state (objects_put_under), so that a gateway that lost the batch can add nothing to its files.
 * The state says how much of them counts: whole lines only.  Prompts' ids follow from the batch's
 * and the line's number, so that a line is asked for once whoever asks; a line whose answer was not
 * stored yet is asked for again, and gets the record that it has.
 *
 * step() does whatever can be done now, and is called after everything that happens.
 */
#include "roles/gateway/batch_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/objects.h"
#include "roles/gateway/batch_shared.h"
#include "roles/gateway/files.h"

#define FLUSH_BYTES ((size_t)256 << 10)
#define FLUSH_MS    2000
#define SAVE_MS     1000
#define LOOK_MS     2000
#define RETRY_MS    1000
#define STATE_BYTES ((size_t)128 << 10)
#define UNSAVED_MAX ((size_t)8 << 20) /* of answers: no more is asked for until they are stored */
#define TEXT_BYTES  ((size_t)128 << 20)

static void step(struct batch_run *run);
static void look(struct batch_run *run);

void batch_object_name(char out[BATCH_OBJECT_SIZE], const char *id)
{
    snprintf(out, BATCH_OBJECT_SIZE, "batch.%.*s", ID_LEN, id);
}

void batch_mark_name(char out[BATCH_OBJECT_SIZE], const char *id)
{
    snprintf(out, BATCH_OBJECT_SIZE, "batchrun.%.*s", ID_LEN, id);
}

/* ---- life ---- */

static void run_try_free(struct batch_run *run)
{
    if (run->stage != RUN_GONE || run->pending > 0 || run->stepping)
        return;
    LIST_REMOVE(run, link);
    run->runs->count--;
    batch_done(&run->batch);
    batch_input_done(&run->lines);
    batch_ids_done(&run->ids);
    buf_done(&run->output.text);
    buf_done(&run->errors.text);
    free(run->done);
    free(run);
}

static void run_leave(struct batch_run *run, const char *why)
{
    if (run->stage == RUN_GONE)
        return;
    log_info("batch.left id=%s status=%s why=\"%s\"", run->batch.id,
             batch_status_name(run->batch.status), why);
    run->stage = RUN_GONE;
    batch_items_drop(run);
}

enum err batch_runs_begin(struct batch_runs *runs, struct batch *batch, uint64_t sequence)
{
    struct batch_run *run = calloc(1, sizeof *run);
    unsigned char *done = calloc(BATCH_LINES_MAX / 8 + 1, 1);
    if (run == NULL || done == NULL) {
        free(run);
        free(done);
        batch_done(batch);
        return err_set(ERR_NOMEM, "out of memory");
    }
    run->runs = runs;
    run->batch = *batch;
    run->sequence = sequence;
    run->done = done;
    run->saved_ns = run->looked_ns = clock_mono_ns();
    batch_input_init(&run->lines);
    buf_init(&run->output.text, TEXT_BYTES);
    buf_init(&run->errors.text, TEXT_BYTES);
    TAILQ_INIT(&run->items);
    LIST_INSERT_HEAD(&runs->list, run, link);
    runs->count++;
    log_info("batch.begun id=%s status=%s", run->batch.id, batch_status_name(run->batch.status));
    step(run);
    return ERR_OK;
}

static struct batch_run *run_of(const struct batch_runs *runs, const char *id)
{
    struct batch_run *run;
    LIST_FOREACH(run, &runs->list, link)
    {
        if (strcmp(run->batch.id, id) == 0)
            return run;
    }
    return NULL;
}

bool batch_runs_have(const struct batch_runs *runs, const char *id)
{
    return run_of(runs, id) != NULL;
}

void batch_runs_look(struct batch_runs *runs, const char *id)
{
    struct batch_run *run = run_of(runs, id);
    if (run != NULL)
        look(run);
}

void batch_runs_free(struct batch_runs *runs)
{
    struct batch_run *run;
    while ((run = LIST_FIRST(&runs->list)) != NULL) {
        run->stage = RUN_GONE;
        batch_items_free(run);
        run->pending = 0;
        run_try_free(run);
    }
}

/* The broker could not be asked, or does not answer: again in a moment. */
void batch_run_wait(struct batch_run *run)
{
    run->wait_ns = clock_mono_ns() + RETRY_MS * NS_PER_MS;
}

bool batch_run_waits(const struct batch_run *run)
{
    return run->wait_ns != 0 && clock_mono_ns() < run->wait_ns;
}

void batch_run_callback_ends(struct batch_run *run)
{
    run->pending--;
    if (run->stage == RUN_GONE)
        run_try_free(run);
    else
        step(run);
}

/* ---- somebody changed the state ---- */

static void cancel_begins(struct batch_run *run, double at)
{
    if (run->batch.status == BATCH_CANCELLING || run->batch.status == BATCH_CANCELLED)
        return;
    log_info("batch.cancelling id=%s", run->batch.id);
    run->batch.status = BATCH_CANCELLING;
    run->batch.at[BATCH_CANCELLING] = at;
    run->batch.at[BATCH_FINALIZING] = 0;
    if (run->stage == RUN_VALIDATE || run->stage == RUN_ASK)
        run->stage = RUN_DRAIN;
    batch_items_cancel(run);
    if (run->stage == RUN_OVER) { /* it had failed meanwhile: nobody else would end it */
        (void)batch_move(&run->batch, BATCH_CANCELLED, clock_wall());
        run->changed = run->urgent = true;
    }
}

static void on_looked(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    struct batch_run *run = arg;
    struct batch stored = {.metadata = NULL};
    (void)name;
    run->looking = false;
    if (err == ERR_OK)
        err = batch_decode(&stored, data, len);
    if (err == ERR_NOT_FOUND || err == ERR_INVALID) {
        run_leave(run, "its state is gone");
    } else if (err != ERR_OK) {
        batch_run_wait(run);
    } else if (strcmp(stored.gateway, run->batch.gateway) != 0) {
        run_leave(run, "another gateway has taken it over");
    } else if (run->stage != RUN_GONE) {
        run->sequence = sequence;
        if (stored.status == BATCH_CANCELLING)
            cancel_begins(run, stored.at[BATCH_CANCELLING]);
    }
    batch_done(&stored);
    batch_run_callback_ends(run);
}

static void look(struct batch_run *run)
{
    char name[BATCH_OBJECT_SIZE];
    if (run->looking || run->writing || run->stage == RUN_GONE)
        return;
    run->looked_ns = clock_mono_ns();
    batch_object_name(name, run->batch.id);
    if (objects_get(run->runs->gateway->bus, name, on_looked, run) != ERR_OK) {
        batch_run_wait(run);
        return;
    }
    run->looking = true;
    run->pending++;
}

/* ---- writing ---- */

/* True: what was written is stored. */
static bool write_ended(struct batch_run *run, enum err err)
{
    run->writing = false;
    if (err == ERR_OK || run->stage == RUN_GONE)
        return err == ERR_OK;
    if (err == ERR_EXISTS) {
        look(run); /* whose is it now? */
    } else {
        log_warn("batch.unwritten id=%s why=\"%s\"", run->batch.id, err_text());
        batch_run_wait(run);
    }
    return false;
}

static void write_begun(struct batch_run *run, enum err err)
{
    if (err == ERR_OK) {
        run->writing = true;
        run->pending++;
    } else {
        batch_run_wait(run);
    }
}

static void on_state_written(void *arg, enum err err, uint64_t sequence)
{
    struct batch_run *run = arg;
    if (write_ended(run, err)) {
        run->sequence = sequence;
        run->saved_ns = clock_mono_ns();
        if (run->stage == RUN_OVER && !run->changed)
            run->over_saved = true;
    } else {
        run->changed = true;
    }
    batch_run_callback_ends(run);
}

static void write_state(struct batch_run *run)
{
    char name[BATCH_OBJECT_SIZE];
    struct buf text;
    batch_object_name(name, run->batch.id);
    buf_init(&text, STATE_BYTES);
    enum err err = batch_encode(&run->batch, &text);
    if (err == ERR_OK)
        err = objects_put(run->runs->gateway->bus, name, &run->sequence, 0, text.data, text.len,
                          on_state_written, run);
    run->changed = err != ERR_OK;
    buf_done(&text);
    write_begun(run, err);
}

/* Whole lines as far as they fit into an object, or a part of one that is larger. */
static size_t chunk_size(const struct buf *text)
{
    size_t most = text->len < OBJECT_BYTES_MAX ? text->len : OBJECT_BYTES_MAX;
    const char *end = memrchr(text->data, '\n', most);
    return end != NULL ? (size_t)(end - text->data) + 1 : most;
}

static void on_chunk_written(void *arg, enum err err, uint64_t sequence)
{
    struct batch_run *run = arg;
    struct batch_out *out = run->written;
    (void)sequence;
    if (write_ended(run, err)) {
        bool whole = out->text.data[run->written_len - 1] == '\n';
        out->stored.chunks++;
        out->stored.bytes += run->written_len;
        out->since_ns = clock_mono_ns();
        buf_consume(&out->text, run->written_len);
        if (out->text.len == 0)
            buf_done(&out->text);
        if (whole) { /* from here on it counts */
            *(out == &run->output ? &run->batch.output_made : &run->batch.errors_made) =
                out->stored;
            run->changed = run->urgent = true;
        }
    }
    batch_run_callback_ends(run);
}

static void write_chunk(struct batch_run *run, struct batch_out *out, const char *id)
{
    char name[FILE_OBJECT_SIZE], state[BATCH_OBJECT_SIZE];
    file_chunk_name(name, id, out->stored.chunks);
    batch_object_name(state, run->batch.id);
    run->written = out;
    run->written_len = chunk_size(&out->text);
    write_begun(run, objects_put_under(run->runs->gateway->bus, name, state, run->sequence,
                                       out->text.data, run->written_len, on_chunk_written, run));
}

static bool is_due(const struct batch_run *run, const struct batch_out *out)
{
    if (out->text.len == 0)
        return false;
    return out->text.len >= FLUSH_BYTES || run->stage >= RUN_DRAIN ||
           clock_mono_ns() - out->since_ns > FLUSH_MS * NS_PER_MS;
}

static void write_next(struct batch_run *run)
{
    int64_t since = clock_mono_ns() - run->saved_ns;
    if (run->writing || run->looking || batch_run_waits(run) || run->stage == RUN_GONE)
        return;
    /* A file that was cut within a line goes on first: its state can't be told yet. */
    if (is_due(run, &run->output))
        write_chunk(run, &run->output, run->batch.output);
    else if (is_due(run, &run->errors))
        write_chunk(run, &run->errors, run->batch.errors);
    else if (run->changed && (run->urgent || since > SAVE_MS * NS_PER_MS)) {
        run->urgent = false;
        write_state(run);
    }
}

void batch_run_add(struct batch_run *run, struct batch_out *out)
{
    if (out->since_ns == 0)
        out->since_ns = clock_mono_ns();
    if (out == &run->output)
        run->batch.completed++;
    else
        run->batch.failed++;
    run->changed = true;
}

/* ---- ASK ---- */

void batch_run_fail(struct batch_run *run, const char *code, const char *param, const char *message)
{
    struct batch_fault fault;
    batch_fault_set(&fault, code, param, message);
    batch_fault_add(&run->batch, &fault);
    run->stage = RUN_OVER; /* before the items hear of it: they write no lines any more */
    batch_items_cancel(run);
    if (!batch_move(&run->batch, BATCH_FAILED, clock_wall()))
        (void)batch_move(&run->batch, BATCH_CANCELLED, clock_wall());
    run->changed = run->urgent = true;
}

/* May one more of its prompts be on its way?  Each batch may have one, whatever the others have:
 * those that go on would take every place that gets free. */
static bool has_room(const struct batch_run *run)
{
    const struct batch_runs *runs = run->runs;
    unsigned window = 2 * registry_slots(runs->gateway->registry);
    unsigned share = window / (runs->count > 0 ? runs->count : 1);
    window = window > 2 ? window : 2;
    share = share > 1 ? share : 1;
    return (run->item_count == 0 || (run->item_count < share && runs->asking < window)) &&
           run->output.text.len + run->errors.text.len < UNSAVED_MAX;
}

static void expire_when_over(struct batch_run *run)
{
    if (run->batch.status != BATCH_IN_PROGRESS || run->batch.expiring ||
        clock_wall() < run->batch.expires_at)
        return;
    log_info("batch.expiring id=%s", run->batch.id);
    run->batch.expiring = true;
    run->changed = run->urgent = true;
    batch_items_cancel(run);
}

static void ask(struct batch_run *run)
{
    const char *text = NULL;
    size_t len = 0;
    enum err err = ERR_OK;
    unsigned lines = 0;
    expire_when_over(run);
    bool paused = run->runs->gateway->draining || run->runs->gateway->away_since_ns != 0;
    for (; lines < BATCH_STEP_LINES && !paused && (run->batch.expiring || has_room(run)); lines++) {
        if (run->output.text.len + run->errors.text.len >= UNSAVED_MAX)
            return;
        err = batch_input_next(&run->lines, &text, &len);
        if (err != ERR_OK)
            break;
        unsigned index = run->index;
        bool stored = run->done[index / 8] >> index % 8 & 1;
        if (index >= run->batch.total || (!stored && !batch_item_begin(run, index, text, len))) {
            err = index >= run->batch.total ? ERR_LIMIT : ERR_NOMEM;
            break;
        }
        run->index++;
    }
    run->again = lines == BATCH_STEP_LINES;
    if (err == ERR_NOMEM) {
        batch_input_again(&run->lines, text);
        batch_run_wait(run);
    } else if (err == ERR_LIMIT)
        batch_read_lost(run); /* it was another when it was checked */
    else if (err == ERR_NOT_FOUND && !run->lines.ended)
        batch_read_input(run);
    else if (err == ERR_NOT_FOUND && run->item_count == 0)
        run->stage = RUN_DRAIN;
}

/* ---- the end ---- */

static void drain(struct batch_run *run)
{
    if (run->item_count > 0 || run->output.text.len > 0 || run->errors.text.len > 0 || run->writing)
        return;
    if (run->batch.status == BATCH_IN_PROGRESS)
        (void)batch_move(&run->batch, BATCH_FINALIZING, clock_wall());
    run->changed = run->urgent = true;
    run->stage = RUN_SAVE;
}

static void on_file_put(void *arg, enum err err, uint64_t sequence)
{
    struct batch_run *run = arg;
    (void)sequence;
    if (write_ended(run, err)) {
        if (run->written == &run->output)
            run->batch.has_output = true;
        else
            run->batch.has_errors = true;
    }
    batch_run_callback_ends(run);
}

static void put_file(struct batch_run *run, struct batch_out *out, const char *id, const char *what)
{
    struct file_meta meta = {.bytes = out->stored.bytes,
                             .chunks = out->stored.chunks,
                             .created = clock_wall(),
                             .purpose = FILE_PURPOSE_MADE};
    char public_id[BATCH_PUBLIC_SIZE], name[FILE_OBJECT_SIZE], state[BATCH_OBJECT_SIZE];
    struct buf text;
    batch_public_id(public_id, run->batch.id);
    batch_object_name(state, run->batch.id);
    file_meta_name(name, id);
    memcpy(meta.id, id, sizeof meta.id);
    memcpy(meta.owner, run->batch.owner, sizeof meta.owner);
    snprintf(meta.name, sizeof meta.name, "%s_%s.jsonl", public_id, what);
    buf_init(&text, STATE_BYTES);
    run->written = out;
    enum err err = file_meta_encode(&meta, &text);
    if (err == ERR_OK)
        err = objects_put_under(run->runs->gateway->bus, name, state, run->sequence, text.data,
                                text.len, on_file_put, run);
    buf_done(&text);
    write_begun(run, err);
}

static void put_files(struct batch_run *run)
{
    struct batch *batch = &run->batch;
    if (run->writing || run->looking || batch_run_waits(run))
        return;
    if (run->output.stored.chunks > 0 && !batch->has_output) {
        put_file(run, &run->output, batch->output, "output");
    } else if (run->errors.stored.chunks > 0 && !batch->has_errors) {
        put_file(run, &run->errors, batch->errors, "error");
    } else {
        enum batch_status end = batch->status == BATCH_CANCELLING ? BATCH_CANCELLED
                                : batch->expiring                 ? BATCH_EXPIRED
                                                                  : BATCH_COMPLETED;
        (void)batch_move(batch, end, clock_wall());
        run->changed = run->urgent = true;
        run->stage = RUN_OVER;
    }
}

static void on_purged(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)sequence;
    if (err != ERR_OK)
        log_debug("batch.remains why=\"%s\"", err_text()); /* it goes by itself */
}

static void purge(struct batch_run *run, const char *name)
{
    if (objects_purge(run->runs->gateway->bus, name, on_purged, NULL) != ERR_OK)
        log_debug("batch.remains id=%s", run->batch.id);
}

static void end(struct batch_run *run)
{
    const struct batch *batch = &run->batch;
    char name[FILE_OBJECT_SIZE];
    if (!run->over_saved || run->item_count > 0)
        return;
    batch_mark_name(name, batch->id);
    purge(run, name);
    const char *made[] = {batch->output, batch->errors};
    for (size_t i = 0; batch->status == BATCH_FAILED && i < 2; i++) { /* nobody can reach them */
        snprintf(name, sizeof name, "file.%s.>", made[i]);
        purge(run, name);
    }
    run_leave(run, "it is over");
}

static void step_once(struct batch_run *run)
{
    switch (run->stage) {
    case RUN_INPUT:
        if (run->batch.status != BATCH_VALIDATING && run->batch.status != BATCH_IN_PROGRESS) {
            run->stage = RUN_LOAD; /* no line is asked for any more */
            break;
        }
        batch_read_meta(run);
        break;
    case RUN_VALIDATE:
        batch_read_validate(run);
        break;
    case RUN_LOAD:
        batch_read_load(run);
        break;
    case RUN_ASK:
        ask(run);
        break;
    case RUN_DRAIN:
        drain(run);
        break;
    case RUN_SAVE: /* the state says that it is finalizing */
        if (!run->changed && !run->writing)
            run->stage = RUN_FILES;
        break;
    case RUN_FILES:
        put_files(run);
        break;
    case RUN_OVER:
        end(run);
        break;
    case RUN_GONE:
        break;
    }
}

static void step(struct batch_run *run)
{
    if (run->stepping) {
        run->again = true;
        return;
    }
    run->stepping = true;
    enum run_stage stage;
    unsigned turns = 0;
    do {
        stage = run->stage;
        run->again = false;
        step_once(run);
        write_next(run);
    } while (run->stage != RUN_GONE && ++turns < 64 && (stage != run->stage || run->again));
    run->stepping = false;
    run_try_free(run);
}

void batch_runs_tick(struct batch_runs *runs)
{
    struct batch_run *run, *next;
    int64_t now = clock_mono_ns();
    for (run = LIST_FIRST(&runs->list); run != NULL; run = next) {
        next = LIST_NEXT(run, link);
        run->pending++; /* it stays while we use it, and takes no step */
        run->stepping = true;
        batch_items_tick(run);
        run->stepping = false;
        if (now - run->looked_ns > LOOK_MS * NS_PER_MS)
            look(run);
        batch_run_callback_ends(run);
    }
}
