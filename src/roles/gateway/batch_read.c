/*
 * What a batch's run reads: the input, to check its lines and to ask for them, and of a batch that
 * another gateway began the files that it had made.
 */
#include "roles/gateway/batch_shared.h"

#include <string.h>

#include "base/clock.h"
#include "bus/objects.h"
#include "roles/gateway/files.h"

/* ---- reading the input ---- */

void batch_read_lost(struct batch_run *run)
{
    batch_run_fail(run, "input_file_gone", "input_file_id",
                   "The input file is not there any more.");
}

static void on_input_meta(void *arg, enum err err, const char *name, uint64_t sequence,
                          const char *data, size_t len)
{
    struct batch_run *run = arg;
    (void)name;
    (void)sequence;
    run->reading = false;
    if (err == ERR_OK)
        err = file_meta_decode(&run->input, data, len);
    if (run->stage != RUN_INPUT) {
        batch_run_callback_ends(run);
        return;
    }
    if (err == ERR_NOT_FOUND || err == ERR_INVALID)
        batch_read_lost(run);
    else if (err != ERR_OK)
        batch_run_wait(run);
    else
        run->stage = run->batch.status == BATCH_VALIDATING ? RUN_VALIDATE : RUN_LOAD;
    batch_run_callback_ends(run);
}

static void on_input_chunk(void *arg, enum err err, const char *name, uint64_t sequence,
                           const char *data, size_t len)
{
    struct batch_run *run = arg;
    (void)name;
    (void)sequence;
    run->reading = false;
    if (run->stage != RUN_VALIDATE && run->stage != RUN_ASK) {
        batch_run_callback_ends(run);
        return;
    }
    if (err == ERR_OK)
        err = batch_input_add(&run->lines, data, len);
    if (err == ERR_NOT_FOUND) {
        batch_read_lost(run);
    } else if (err != ERR_OK) {
        batch_run_wait(run);
    } else {
        run->chunk++;
        run->lines.ended = run->chunk == run->input.chunks;
    }
    batch_run_callback_ends(run);
}

/* Asks for one object, for which the stage waits. */
static void read_object(struct batch_run *run, const char *name, object_fn *fn)
{
    if (run->reading || batch_run_waits(run))
        return;
    if (objects_get(run->runs->gateway->bus, name, fn, run) != ERR_OK) {
        batch_run_wait(run);
        return;
    }
    run->reading = true;
    run->pending++;
}

void batch_read_meta(struct batch_run *run)
{
    char name[FILE_OBJECT_SIZE];
    file_meta_name(name, run->batch.input);
    read_object(run, name, on_input_meta);
}

void batch_read_input(struct batch_run *run)
{
    char name[FILE_OBJECT_SIZE];
    file_chunk_name(name, run->batch.input, run->chunk);
    read_object(run, name, on_input_chunk);
}

static void rewind_input(struct batch_run *run)
{
    batch_input_done(&run->lines);
    batch_input_init(&run->lines);
    run->chunk = 0;
    run->index = 0;
}

/* ---- VALIDATE ---- */

static void check_line(struct batch_run *run, const char *text, size_t len)
{
    struct batch_line line;
    struct batch_fault fault;
    enum err err = batch_line_read(&line, &run->batch, text, len, &fault);
    if (err == ERR_OK) {
        err = batch_ids_add(&run->ids, line.custom_id);
        if (err == ERR_EXISTS)
            batch_fault_set(&fault, "duplicate_custom_id", "custom_id",
                            "The line's 'custom_id' was used by a line before it.");
        batch_line_done(&line);
    }
    if (err == ERR_OK)
        return;
    if (err == ERR_NOMEM)
        batch_fault_set(&fault, "server_error", "", "There was no memory to check the line.");
    fault.line = run->lines.number;
    batch_fault_add(&run->batch, &fault);
}

static void validated(struct batch_run *run)
{
    double now = clock_wall();
    batch_ids_done(&run->ids);
    run->ids.first = NULL;
    if (run->batch.fault_count == 0 && run->index == 0)
        batch_run_fail(run, "empty_file", "input_file_id", "The input file holds no line.");
    else if (run->batch.fault_count > 0) {
        (void)batch_move(&run->batch, BATCH_FAILED, now);
        run->stage = RUN_OVER;
    } else {
        run->batch.total = run->index;
        (void)batch_move(&run->batch, BATCH_IN_PROGRESS, now);
        run->stage = RUN_ASK;
    }
    run->changed = run->urgent = true;
    rewind_input(run);
}

void batch_read_validate(struct batch_run *run)
{
    const char *line = NULL;
    size_t len = 0;
    enum err err = ERR_OK;
    for (unsigned i = 0; i < BATCH_STEP_LINES; i++) {
        err = batch_input_next(&run->lines, &line, &len);
        if (err != ERR_OK)
            break;
        if (run->index == BATCH_LINES_MAX) {
            batch_run_fail(run, "too_many_lines", "input_file_id",
                           "The input file holds too many lines.");
            return;
        }
        run->index++;
        check_line(run, line, len);
    }
    if (err == ERR_LIMIT) {
        batch_run_fail(run, "line_too_long", "input_file_id", err_text());
    } else if (err == ERR_NOT_FOUND && run->lines.ended) {
        validated(run);
    } else if (err == ERR_NOT_FOUND) {
        batch_read_input(run);
    } else {
        run->again = true;
    }
}

/* ---- LOAD ---- */

static void load_line(struct batch_run *run, struct batch_out *out, const char *line, size_t len)
{
    unsigned index = 0;
    if (!batch_line_index(&run->batch, line, len, &index) || index >= BATCH_LINES_MAX)
        return;
    run->done[index / 8] |= (unsigned char)(1u << index % 8);
    if (out == &run->output)
        run->batch.completed++;
    else
        run->batch.failed++;
}

static void on_loaded(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    struct batch_run *run = arg;
    struct batch_out *out = run->loading;
    (void)name;
    (void)sequence;
    run->reading = false;
    if (run->stage != RUN_LOAD) {
        batch_run_callback_ends(run);
        return;
    }
    if (err == ERR_OK)
        err = buf_append(&out->text, data, len);
    if (err == ERR_OK) {
        size_t at = 0;
        const char *end;
        while ((end = memchr(out->text.data + at, '\n', out->text.len - at)) != NULL) {
            size_t next = (size_t)(end - out->text.data) + 1;
            load_line(run, out, out->text.data + at, next - at);
            at = next;
        }
        buf_consume(&out->text, at);
        out->stored.chunks++;
        out->stored.bytes += len;
    } else if (err == ERR_NOT_FOUND) {
        batch_run_fail(run, "storage_lost", "", "What the batch had made is not there any more.");
    } else {
        batch_run_wait(run);
    }
    batch_run_callback_ends(run);
}

static void loaded(struct batch_run *run)
{
    buf_done(&run->output.text);
    buf_done(&run->errors.text);
    rewind_input(run);
    run->changed = true;
    run->stage = run->batch.status == BATCH_IN_PROGRESS ? RUN_ASK : RUN_DRAIN;
    if (run->batch.status == BATCH_CANCELLING)
        batch_items_end_unknown(run);
}

void batch_read_load(struct batch_run *run)
{
    char name[FILE_OBJECT_SIZE];
    struct batch *batch = &run->batch;
    if (run->loading == NULL) {
        batch->completed = batch->failed = 0; /* counted anew */
        run->loading = &run->output;
    }
    if (run->output.stored.chunks < batch->output_made.chunks) {
        file_chunk_name(name, batch->output, run->output.stored.chunks);
        read_object(run, name, on_loaded);
    } else if (run->errors.stored.chunks < batch->errors_made.chunks) {
        run->loading = &run->errors;
        file_chunk_name(name, batch->errors, run->errors.stored.chunks);
        read_object(run, name, on_loaded);
    } else {
        loaded(run);
    }
}
