/* A batch's files: lines of any kind, and an output that is the progress. */
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "verbs/batchjob.h"
#include "verbs/batchout.h"
#include "wire/json.h"

static char folder[] = "/tmp/wyvern-batch-XXXXXX";
static char path[64];

static int folder_make(void **state)
{
    snprintf(path, sizeof path, "%s/file", mkdtemp(folder));
    return 0;
}

static int folder_remove(void **state)
{
    unlink(path);
    return rmdir(folder);
}

static void file_put(const char *text, size_t len)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static char *file_get(void)
{
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    char *text = calloc(1, (size_t)about.st_size + 1);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, (size_t)about.st_size, file), (size_t)about.st_size);
    fclose(file);
    return text;
}

/* ---- lines ---- */

static void expect_line(struct batch_in *lines, uint64_t number, const char *text)
{
    enum batch_line what = BATCH_LINES_END;
    assert_int_equal(batch_in_next(lines, 1000, &what), ERR_OK);
    assert_int_equal(what, BATCH_LINE);
    assert_int_equal(lines->number, number);
    assert_string_equal(buf_text(&lines->line), text);
}

static void expect_no_line(struct batch_in *lines, enum batch_line wanted)
{
    enum batch_line what = BATCH_LINE;
    assert_int_equal(batch_in_next(lines, 0, &what), ERR_OK);
    assert_int_equal(what, wanted);
}

static void test_lines(void **state)
{
    struct batch_in lines;
    static const char text[] = "one\n\n  \t\r\ntwo\r\n\nlast";
    file_put(text, sizeof text - 1);
    assert_int_equal(batch_in_open(&lines, path), ERR_OK);
    assert_int_equal(batch_in_count(&lines), 3);
    expect_line(&lines, 1, "one");
    expect_line(&lines, 4, "two\r");
    expect_line(&lines, 6, "last");
    expect_no_line(&lines, BATCH_LINES_END);
    expect_no_line(&lines, BATCH_LINES_END);
    batch_in_done(&lines);
    file_put("", 0);
    assert_int_equal(batch_in_open(&lines, path), ERR_OK);
    assert_int_equal(batch_in_count(&lines), 0);
    expect_no_line(&lines, BATCH_LINES_END);
    batch_in_done(&lines);
    assert_int_equal(batch_in_open(&lines, "/no/such/file"), ERR_NOT_FOUND);
    assert_int_equal(batch_in_open(&lines, folder), ERR_INVALID);
}

static void test_slow_pipe(void **state)
{
    struct batch_in lines = {.fd = -1};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    file_put("", 0);
    assert_int_equal(batch_in_open(&lines, path), ERR_OK);
    close(lines.fd);
    lines.fd = ends[0];
    expect_no_line(&lines, BATCH_LINES_WAIT);
    expect_no_line(&lines, BATCH_LINES_WAIT);
    assert_int_equal(write(ends[1], "{\"a\"", 4), 4);
    expect_no_line(&lines, BATCH_LINES_WAIT);
    assert_int_equal(write(ends[1], ":1}\n", 4), 4);
    expect_line(&lines, 1, "{\"a\":1}");
    expect_no_line(&lines, BATCH_LINES_WAIT);
    assert_int_equal(write(ends[1], "2\n3\n", 4), 4);
    expect_line(&lines, 2, "2");
    expect_line(&lines, 3, "3");
    assert_int_equal(batch_in_count(&lines), 0);
    close(ends[1]);
    expect_no_line(&lines, BATCH_LINES_END);
    batch_in_done(&lines);
}

static void test_huge_line(void **state)
{
    struct batch_in lines;
    size_t len = BATCH_LINE_MAX + (1u << 20);
    char *text = malloc(len + 8);
    assert_non_null(text);
    memset(text, 'x', len);
    memcpy(text + len, "\nnext\n", 6);
    file_put(text, len + 6);
    free(text);
    assert_int_equal(batch_in_open(&lines, path), ERR_OK);
    enum batch_line what = BATCH_LINES_END;
    assert_int_equal(batch_in_next(&lines, 1000, &what), ERR_OK);
    assert_int_equal(what, BATCH_LINE);
    assert_true(lines.too_long);
    assert_true(lines.line.len <= BATCH_LINE_MAX);
    expect_line(&lines, 2, "next");
    assert_false(lines.too_long);
    batch_in_done(&lines);
}

/* ---- requests ---- */

static json_t *request_of(const char *line, struct batch_request *request)
{
    struct settings settings = {.system = "be brief"};
    json_t *defaults = json_pack("{s:i, s:f}", "max_tokens", 7, "temperature", 0.5), *body = NULL;
    enum err err = batch_request_read(request, line, strlen(line), defaults, &settings);
    json_decref(defaults);
    if (err == ERR_OK)
        assert_int_equal(json_parse(&body, request->body.data, request->body.len), ERR_OK);
    else
        assert_int_equal(err, ERR_INVALID);
    return body;
}

static void test_requests(void **state)
{
    struct batch_request request;
    json_t *body = request_of("{\"prompt\":\"hi\",\"max_tokens\":3,\"stream\":true}", &request);
    assert_string_equal(request.path, "/v1/chat/completions");
    assert_false(request.whole);
    assert_int_equal(json_int(body, "max_tokens", 0), 3);
    assert_true(json_number(body, "temperature", 0) == 0.5);
    assert_null(json_object_get(body, "stream"));
    assert_null(json_object_get(body, "prompt"));
    const json_t *messages = json_object_get(body, "messages");
    assert_int_equal(json_array_size(messages), 2);
    assert_string_equal(json_text(json_array_get(messages, 0), "content", ""), "be brief");
    assert_string_equal(json_text(json_array_get(messages, 1), "content", ""), "hi");
    json_decref(body);
    batch_request_done(&request);

    body = request_of(
        "{\"custom_id\":\"a\",\"messages\":[{\"role\":\"system\",\"content\":\"x\"}]}", &request);
    assert_string_equal(request.custom_id, "a");
    assert_null(json_object_get(body, "custom_id"));
    assert_int_equal(json_array_size(json_object_get(body, "messages")), 1);
    json_decref(body);
    batch_request_done(&request);

    body =
        request_of("{\"custom_id\":\"b\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":"
                   "{\"input\":\"x\",\"model\":\"m\"}}",
                   &request);
    assert_true(request.whole);
    assert_string_equal(request.path, "/v1/embeddings");
    assert_string_equal(json_text(body, "model", ""), "m");
    assert_null(json_object_get(body, "max_tokens")); /* means nothing there */
    json_decref(body);
    batch_request_done(&request);
}

static void test_broken_requests(void **state)
{
    static const char *const broken[] = {
        "{",
        "nonsense",
        "[]",
        "17",
        "\"text\"",
        "{}",
        "{\"prompt\":1}",
        "{\"messages\":\"x\"}",
        "{\"prompt\":\"x\",\"messages\":[]}",
        "{\"prompt\":\"\xff\"}",
        "{\"prompt\":\"x\"} {}",
        "{\"custom_id\":5,\"prompt\":\"x\"}",
        "{\"custom_id\":\"\",\"prompt\":\"x\"}",
        "{\"url\":\"/v1/files\",\"body\":{}}",
        "{\"method\":\"GET\",\"body\":{}}",
        "{\"body\":[]}",
        "{\"url\":\"/v1/chat/completions\"}",
        "{\"prompt\":\"x\",\"prompt\":\"y\"}",
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        struct batch_request request;
        if (request_of(broken[i], &request) != NULL)
            fail_msg("taken: %s", broken[i]);
        assert_true(strlen(err_text()) > 0);
        batch_request_done(&request);
    }
}

/* ---- what calls end with ---- */

static struct batch_job *job_new(const char *line)
{
    static const struct settings none;
    struct batch_job *job = calloc(1, sizeof *job);
    json_t *defaults = json_object();
    job->number = 12;
    job->check = 0xabc;
    buf_init(&job->answer, 1 << 20);
    assert_int_equal(batch_request_read(&job->request, line, strlen(line), defaults, &none),
                     ERR_OK);
    json_decref(defaults);
    return job;
}

static void job_done(struct batch_job *job)
{
    batch_request_done(&job->request);
    buf_done(&job->answer);
    free(job);
}

static enum batch_verdict ended(struct batch_job *job, enum err err, int status, double retry_s,
                                const char *body)
{
    struct http_result result;
    http_result_init(&result);
    result.status = status;
    result.retry_after_s = retry_s;
    assert_int_equal(buf_append_text(&result.body, body), ERR_OK);
    enum batch_verdict verdict = batch_job_ended(job, err, &result);
    http_result_done(&result);
    return verdict;
}

#define REPLY                                                                                      \
    "{\"id\":\"r\",\"choices\":[{\"message\":{\"content\":\"yes\"},\"finish_reason\":\"stop\"}],"  \
    "\"usage\":{\"completion_tokens\":4}}"

static void test_answers(void **state)
{
    struct batch_job *job = job_new("{\"prompt\":\"x\",\"custom_id\":\"me\"}");
    assert_int_equal(ended(job, ERR_OK, 200, 0, REPLY), BATCH_TAKE);
    assert_int_equal(job->tokens, 4);
    assert_false(job->failed);
    assert_string_equal(job->answer.data,
                        "{\"line\":12,\"custom_id\":\"me\",\"text\":\"yes\",\"finish_reason\":"
                        "\"stop\",\"usage\":{\"completion_tokens\":4},\"response_id\":\"r\","
                        "\"model\":\"\",\"check\":\"0000000000000abc\"}\n");
    job_done(job);
    job = job_new("{\"body\":{\"messages\":[]}}");
    assert_int_equal(ended(job, ERR_OK, 400, 0, "{\"error\":{\"code\":\"c\",\"message\":\"no\"}}"),
                     BATCH_TAKE);
    assert_true(job->failed);
    assert_string_equal(job->answer.data,
                        "{\"id\":\"batch_req_12\",\"line\":12,\"custom_id\":null,\"response\":{"
                        "\"status_code\":400,\"request_id\":\"\",\"body\":{\"error\":{\"code\":"
                        "\"c\",\"message\":\"no\"}}},\"error\":{\"code\":\"c\",\"message\":\"no\","
                        "\"status\":400},\"check\":\"0000000000000abc\"}\n");
    job_done(job);
}

static void test_retries(void **state)
{
    struct batch_job *job = job_new("{\"prompt\":\"x\"}");
    char key[160], again[160];
    assert_int_equal(batch_job_key(job, "salt", key, sizeof key), ERR_OK);
    int64_t before = clock_mono_ns();
    assert_int_equal(ended(job, ERR_OK, 429, 7, "{}"), BATCH_RETRY);
    assert_true(job->due_ns >= before + 7 * NS_PER_S); /* Retry-After is kept to */
    assert_int_equal(ended(job, ERR_UNAVAILABLE, 0, 0, ""), BATCH_RETRY);
    assert_true(job->due_ns <= clock_mono_ns() + 5 * NS_PER_S);
    assert_int_equal(ended(job, ERR_IO, 200, 0, "{\"id\""), BATCH_RETRY);
    assert_int_equal(ended(job, ERR_OK, 503, 0, "{\"error\":{\"code\":\"draining\"}}"),
                     BATCH_RETRY);
    assert_int_equal(batch_job_key(job, "salt", again, sizeof again), ERR_OK);
    assert_string_equal(key, again); /* never a second generation */
    assert_int_equal(ended(job, ERR_OK, 503, 0, "{\"error\":{\"code\":\"expired\"}}"), BATCH_RETRY);
    assert_int_equal(batch_job_key(job, "salt", again, sizeof again), ERR_OK);
    assert_string_not_equal(key, again); /* that one came to nothing */
    assert_int_equal(job->answer.len, 0);
    static const int hopeless[] = {401, 403, 404, 405};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ended(job, ERR_OK, hopeless[i], 0, "<html>"), BATCH_STOP);
        assert_true(job->ended != ERR_OK);
    }
    assert_int_equal(ended(job, ERR_OK, 200, 0, "<html>"), BATCH_STOP);
    assert_int_equal(ended(job, ERR_OK, 200, 0, "[]"), BATCH_STOP);
    job_done(job);
}

/* ---- the output ---- */

static void answer_put(struct batch_out *out, unsigned number, unsigned check)
{
    char line[100];
    int len = snprintf(line, sizeof line, "{\"line\":%u,\"check\":\"%x\"}\n", number, check);
    assert_int_equal(batch_out_write(out, line, (size_t)len), ERR_OK);
}

static void expect_has(const struct batch_out *out, unsigned number, unsigned check, bool wanted)
{
    bool has = !wanted;
    assert_int_equal(batch_out_has(out, number, check, &has), ERR_OK);
    assert_int_equal(has, wanted);
}

static void test_output(void **state)
{
    struct batch_out out, second;
    char salt[BATCH_SALT_SIZE];
    unlink(path);
    assert_int_equal(batch_out_open(&out, path), ERR_OK);
    assert_int_equal(out.done, 0);
    memcpy(salt, out.salt, sizeof salt);
    answer_put(&out, 2, 0x22);
    answer_put(&out, 5000, 0x55);
    assert_int_equal(batch_out_open(&second, path), ERR_EXISTS); /* locked */
    assert_int_equal(batch_out_close(&out), ERR_OK);

    assert_int_equal(batch_out_open(&out, path), ERR_OK);
    assert_string_equal(out.salt, salt);
    assert_int_equal(out.done, 2);
    assert_int_equal(out.highest, 5000);
    expect_has(&out, 2, 0x22, true);
    expect_has(&out, 3, 0x22, false);
    expect_has(&out, 5000, 0x55, true);
    expect_has(&out, 5001, 0x55, false);
    assert_int_equal(batch_out_close(&out), ERR_OK);
    /* The same name is not the same file. */
    unlink(path);
    assert_int_equal(batch_out_open(&out, path), ERR_OK);
    assert_string_not_equal(out.salt, salt);
    assert_int_equal(batch_out_close(&out), ERR_OK);
}

/* Cut at every byte: whole answers stay, a torn one goes, and writing goes on behind. */
static void test_torn_output(void **state)
{
    static const char whole[] = "{\"line\":1,\"check\":\"a\"}\n{\"line\":2,\"check\":\"b\"}\n";
    size_t line = (sizeof whole - 1) / 2;
    for (size_t len = 0; len < sizeof whole; len++) {
        struct batch_out out;
        file_put(whole, len);
        assert_int_equal(batch_out_open(&out, path), ERR_OK);
        assert_int_equal(out.done, len / line);
        expect_has(&out, 1, 0xa, len >= line);
        expect_has(&out, 2, 0xb, len >= 2 * line);
        answer_put(&out, 3, 0xc);
        assert_int_equal(batch_out_close(&out), ERR_OK);
        char *text = file_get(), wanted[200];
        snprintf(wanted, sizeof wanted, "%.*s{\"line\":3,\"check\":\"c\"}\n",
                 (int)(len / line * line), whole);
        assert_string_equal(text, wanted);
        free(text);
    }
}

static void test_wrong_output(void **state)
{
    static const char *const others[] = {
        "hello\n",
        "{}\n",
        "{\"line\":0,\"check\":\"a\"}\n",
        "{\"line\":1}\n",
        "{\"line\":1,\"check\":\"zz\"}\n",
        "{\"line\":99999999999,\"check\":\"a\"}\n",
        "{\"line\":1,\"check\":\"0\"}\n",
        "[1]\n",
    };
    struct batch_out out;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        file_put(others[i], strlen(others[i]));
        assert_int_equal(batch_out_open(&out, path), ERR_INVALID);
        char *text = file_get(); /* not touched */
        assert_string_equal(text, others[i]);
        free(text);
    }
    static const char mine[] = "{\"line\":1,\"error\":{},\"check\":\"a\"}\n";
    file_put(mine, sizeof mine - 1);
    assert_int_equal(batch_out_open(&out, path), ERR_OK);
    assert_int_equal(out.failed, 1);
    bool has = false;
    assert_int_equal(batch_out_has(&out, 1, 0xb, &has), ERR_INVALID); /* another batch's */
    assert_int_equal(batch_out_close(&out), ERR_OK);
}

static void test_full_disk(void **state)
{
    struct batch_out out;
    assert_int_equal(batch_out_open(&out, "/dev/full"), ERR_OK);
    assert_int_equal(batch_out_write(&out, "x\n", 2), ERR_IO);
    assert_non_null(strstr(err_text(), "Make room"));
    (void)!batch_out_close(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),           cmocka_unit_test(test_slow_pipe),
        cmocka_unit_test(test_huge_line),       cmocka_unit_test(test_requests),
        cmocka_unit_test(test_broken_requests), cmocka_unit_test(test_answers),
        cmocka_unit_test(test_retries),         cmocka_unit_test(test_output),
        cmocka_unit_test(test_torn_output),     cmocka_unit_test(test_wrong_output),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
