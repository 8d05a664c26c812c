#include "verbs/batchjob.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "config/digest.h"
#include "verbs/apiclient.h"
#include "wire/json.h"

#define WAIT_LEAST_S 0.5
#define WAIT_MOST_S  30.0 /* the service is full: it says when, or so long at most */
#define AWAY_MOST_S  3.0  /* nobody is there: look again soon */

enum err batch_job_key(const struct batch_job *job, const char *salt, char *out, size_t cap)
{
    char number[64], digest[DIGEST_SIZE];
    snprintf(number, sizeof number, "%" PRIu64, job->number);
    const struct digest_part parts[] = {{salt, strlen(salt)},
                                        {number, strlen(number)},
                                        {job->request.path, strlen(job->request.path)},
                                        {job->request.body.data, job->request.body.len}};
    enum err err = digest_parts(digest, parts, sizeof parts / sizeof parts[0]);
    if (err == ERR_OK)
        snprintf(out, cap, "Idempotency-Key: batch-%s-%u", digest, job->attempt);
    return err;
}

/* ---- the line that answers ---- */

static void head_write(struct json_out *out, const struct batch_job *job)
{
    char id[64];
    snprintf(id, sizeof id, "batch_req_%" PRIu64, job->number);
    if (job->request.whole)
        json_out_text(out, "id", id);
    json_out_uint(out, "line", job->number);
    if (job->request.custom_id[0] != '\0')
        json_out_text(out, "custom_id", job->request.custom_id);
    else if (job->request.whole)
        json_out_null(out, "custom_id");
}

static enum err line_end(struct batch_job *job, struct json_out *out)
{
    char check[24];
    snprintf(check, sizeof check, "%016" PRIx64, job->check);
    json_out_text(out, "check", check);
    json_out_object_end(out);
    enum err err = json_out_end(out);
    if (err == ERR_OK)
        err = buf_append_text(&job->answer, "\n");
    if (err == ERR_OK)
        job->state = BATCH_ANSWERED;
    return err;
}

/* OpenAI's response object; body NULL: what came was no JSON. */
static void response_write(struct json_out *out, const struct http_result *result,
                           const json_t *body)
{
    json_out_object(out, "response");
    json_out_int(out, "status_code", result->status);
    json_out_text(out, "request_id", result->request_id);
    json_out_json(out, "body", body);
    json_out_object_end(out);
}

static void error_write(struct json_out *out, const char *code, const char *message, int status)
{
    json_out_object(out, "error");
    json_out_text(out, "code", code);
    json_out_text(out, "message", message);
    if (status > 0)
        json_out_int(out, "status", status);
    json_out_object_end(out);
}

static enum err failure_write(struct batch_job *job, const struct http_result *result,
                              const json_t *body, const char *code, const char *message)
{
    struct json_out out;
    job->failed = true;
    snprintf(job->fault, sizeof job->fault, "%s", message);
    buf_clear(&job->answer);
    json_out_begin(&out, &job->answer);
    json_out_object(&out, NULL);
    head_write(&out, job);
    if (job->request.whole && result != NULL && result->status > 0)
        response_write(&out, result, body);
    else if (job->request.whole)
        json_out_null(&out, "response");
    error_write(&out, code, message, result != NULL ? result->status : 0);
    return line_end(job, &out);
}

enum err batch_job_refuse(struct batch_job *job)
{
    char message[512];
    snprintf(message, sizeof message, "%s", err_text());
    enum err err = failure_write(job, NULL, NULL, "invalid_line", message);
    return err == ERR_OK ? err_set(ERR_INVALID, "%s", message) : err;
}

/* The short form: the words, and what is told about them. */
static void short_write(struct json_out *out, const json_t *body)
{
    const json_t *choices = json_object_get(body, "choices");
    const json_t *choice = json_array_get(choices, 0);
    const json_t *message = json_object_get(choice, "message");
    json_out_json(out, "text", json_object_get(message, "content"));
    json_out_json(out, "finish_reason", json_object_get(choice, "finish_reason"));
    if (json_array_size(choices) > 1 || json_is_object(json_object_get(choice, "logprobs")))
        json_out_json(out, "choices", choices);
    json_out_json(out, "usage", json_object_get(body, "usage"));
    json_out_text(out, "response_id", json_text(body, "id", ""));
    json_out_text(out, "model", json_text(body, "model", ""));
}

static enum err answer_write(struct batch_job *job, const struct http_result *result,
                             const json_t *body)
{
    struct json_out out;
    const json_t *usage = json_object_get(body, "usage");
    int64_t tokens = json_int(usage, "completion_tokens", json_int(usage, "output_tokens", 0));
    job->tokens = tokens > 0 ? (uint64_t)tokens : 0;
    buf_clear(&job->answer);
    json_out_begin(&out, &job->answer);
    json_out_object(&out, NULL);
    head_write(&out, job);
    if (job->request.whole) {
        response_write(&out, result, body);
        json_out_null(&out, "error");
    } else {
        short_write(&out, body);
    }
    return line_end(job, &out);
}

/* ---- what a call's end means ---- */

static enum batch_verdict again_in(struct batch_job *job, double least_s, double most_s)
{
    double wait = WAIT_LEAST_S * pow(2, job->tries < 10 ? job->tries : 10);
    wait = fmin(fmax(wait, least_s), fmax(most_s, least_s));
    wait *= 1 + (double)(job->number % 8) / 32; /* not all at the same time */
    job->tries++;
    job->due_ns = clock_mono_ns() + (int64_t)(wait * 1e9);
    job->state = BATCH_TO_SEND;
    return BATCH_RETRY;
}

/* A refusal that says more about us or the address than about the line. */
static bool is_hopeless(const struct http_result *result, const json_t *error)
{
    return result->status == 401 || result->status == 403 || result->status == 405 ||
           (result->status == 404 && error == NULL);
}

static enum batch_verdict stop(struct batch_job *job, enum err err)
{
    job->ended = err;
    return BATCH_STOP;
}

static enum batch_verdict hopeless(struct batch_job *job, const struct http_result *result,
                                   const json_t *error)
{
    enum err err = api_err_of_status(result->status);
    const char *message = json_text(error, "message", "");
    if (result->status == 401 || result->status == 403)
        err = err_set(err,
                      "%s%sthe service wants an API key that it knows: pass --key-file FILE or "
                      "set WYVERN_KEY",
                      message, *message != '\0' ? "; " : "");
    else
        err = err_set(err, "the service answered with status %d; is --url that of a wyvern?",
                      result->status);
    return stop(job, err);
}

static enum batch_verdict taken(struct batch_job *job, enum err err)
{
    return err == ERR_OK ? BATCH_TAKE : stop(job, err);
}

static enum batch_verdict refused(struct batch_job *job, const struct http_result *result,
                                  const json_t *body)
{
    const json_t *error = json_object_get(body, "error");
    error = json_is_object(error) ? error : NULL;
    const char *code = json_text(error, "code", "");
    if (is_hopeless(result, error))
        return hopeless(job, result, error);
    if (result->status == 429 || result->status == 502 || result->status == 503 ||
        result->status == 408) {
        /* What expired in the queue is over: the same key would find that end again. */
        job->attempt += strcmp(code, "expired") == 0;
        return again_in(job, fmin(result->retry_after_s, 3600), WAIT_MOST_S);
    }
    char fallback[64];
    snprintf(fallback, sizeof fallback, "the service answered with status %d", result->status);
    return taken(job, failure_write(job, result, body, *code != '\0' ? code : "refused",
                                    json_text(error, "message", fallback)));
}

enum batch_verdict batch_job_ended(struct batch_job *job, enum err err,
                                   const struct http_result *result)
{
    if (err == ERR_UNAVAILABLE || err == ERR_IO || err == ERR_TIMEOUT)
        return again_in(job, 0, AWAY_MOST_S);
    if (err == ERR_LIMIT)
        return taken(job, failure_write(job, NULL, NULL, "reply_too_large", err_text()));
    if (err != ERR_OK)
        return stop(job, err);
    json_t *body = NULL;
    if (json_parse(&body, buf_text(&result->body), result->body.len) != ERR_OK)
        body = NULL;
    enum batch_verdict verdict;
    if (result->status >= 400)
        verdict = refused(job, result, body);
    else if (result->status == 200 && json_is_object(body))
        verdict = taken(job, answer_write(job, result, body));
    else
        verdict = stop(job, err_set(ERR_INVALID, "the service sent what is no reply; is --url that "
                                                 "of a wyvern?"));
    json_decref(body);
    return verdict;
}
