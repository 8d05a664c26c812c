/*
 * A prompt that this worker can't read: of a newer version, or with a task that it does not know.
 *
 * It ends like any other, with a record that says why, and only then leaves the queue.  Only what
 * does not even say whose it is goes without: nobody waits for it.
 */
#include "roles/infer/job.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "wire/reply.h"
#include "wire/trace.h"

#define REFUSED_STATUS 501

struct refusal {
    struct infer *infer;
    char ack[PROMPTS_ACK_MAX];
};

static void on_acked(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)sequence;
    if (err != ERR_OK) /* it comes again, and its record is found to exist */
        log_info("job.unacknowledged why=\"%s\"", err_text());
}

static void acknowledge(struct infer *infer, const char *ack)
{
    if (prompts_ack(infer->bus, ack, on_acked, NULL) != ERR_OK)
        log_warn("job.refused_kept why=\"%s\"", err_text());
}

static void on_recorded(void *arg, enum err err, uint64_t sequence)
{
    struct refusal *refusal = arg;
    struct infer *infer = refusal->infer;
    (void)sequence;
    if (err == ERR_OK) {
        infer->presence.failed_total++;
        acknowledge(infer, refusal->ack);
    }
    free(refusal);
    infer_kick(infer);
}

static enum err put_refusal(struct infer *infer, const struct prompt_delivery *delivery,
                            const struct prompt *prompt, const char *why)
{
    char trace_id[ID_SIZE];
    trace_id_of(trace_id, prompt->traceparent);
    const struct reply ending = {
        .id = prompt->id,
        .gateway = prompt->gateway,
        .prompter = prompt->prompter,
        .model = prompt->model,
        .owner = prompt->owner,
        .detached = prompt->detached,
        .status = REPLY_FAILED,
        .text = "",
        .error_code = "unsupported",
        .error_text = why,
        .error_status = REFUSED_STATUS,
        .worker = infer->presence.name,
        .node = infer->presence.node,
        .device = infer->presence.device,
        .accepted_at = delivery->accepted_at,
        .finished_at = clock_wall(),
        .trace_id = trace_id,
    };
    struct refusal *refusal = malloc(sizeof *refusal);
    if (refusal == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    refusal->infer = infer;
    snprintf(refusal->ack, sizeof refusal->ack, "%s", delivery->ack);
    enum err err = endings_put(infer->endings, &ending, on_recorded, refusal);
    if (err != ERR_OK)
        free(refusal); /* ERR_EXISTS: on its way; else it comes again */
    return err;
}

void job_refuse(struct infer *infer, const struct prompt_delivery *delivery, enum err err)
{
    struct prompt prompt = {0};
    char why[256];
    snprintf(why, sizeof why, "%s", err_text());
    if (prompt_decode_head(&prompt, delivery->data, delivery->len) != ERR_OK) {
        log_error("job.unreadable why=\"%s\"", why);
        acknowledge(infer, delivery->ack);
        return;
    }
    log_error("job.refused prompt=%s error=%s why=\"%s\"", prompt.id, err_name(err), why);
    err = put_refusal(infer, delivery, &prompt, why);
    if (err != ERR_OK && err != ERR_EXISTS)
        log_warn("job.unrefused prompt=%s why=\"%s\"", prompt.id, err_text());
    prompt_done(&prompt);
}
