/* The state of a batch, its lines in and out, and how clients see it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/batches.h"

#define HEX  "0123456789abcdef0123456789abcdef"
#define CHAT "/v1/chat/completions"
#define BODY(fields)                                                                               \
    "{\"input_file_id\":\"file-" HEX "\",\"endpoint\":\"" CHAT                                     \
    "\",\"completion_window\":\"24h\"" fields "}"

static struct batch make(const char *body)
{
    struct batch batch;
    struct api_error error;
    assert_int_equal(batch_parse(&batch, body, strlen(body), 1700000000.5, &error), ERR_OK);
    strcpy(batch.id, HEX);
    strcpy(batch.output, HEX);
    strcpy(batch.errors, HEX);
    strcpy(batch.gateway, "aaaaaaaaaaaaaaaa");
    strcpy(batch.owner, "bbbbbbbbbbbbbbbb");
    strcpy(batch.prompter, "ada");
    return batch;
}

static void a_request_becomes_a_batch(void **state)
{
    struct batch batch = make(BODY(",\"metadata\":{\"a\":\"b\"},\"more\":1"));
    assert_string_equal(batch.input, HEX);
    assert_string_equal(batch.endpoint->url, CHAT);
    assert_int_equal(batch.endpoint->kind, API_CHAT);
    assert_int_equal(batch.status, BATCH_VALIDATING);
    assert_true(batch.expires_at == 1700000000.5 + 86400);
    assert_string_equal(json_string_value(json_object_get(batch.metadata, "a")), "b");
    batch_done(&batch);
    batch_done(NULL);
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *body, *param;
    } cases[] = {
        {"[]", ""},
        {"{", ""},
        {"{\"endpoint\":\"" CHAT "\",\"completion_window\":\"24h\"}", "input_file_id"},
        {"{\"input_file_id\":1}", "input_file_id"},
        {"{\"input_file_id\":\"x\",\"endpoint\":\"" CHAT "\",\"completion_window\":\"24h\"}",
         "input_file_id"},
        {"{\"input_file_id\":\"file-" HEX "\"}", "endpoint"},
        {"{\"input_file_id\":\"file-" HEX "\",\"endpoint\":\"/v1/files\",\"completion_window\":"
         "\"24h\"}",
         "endpoint"},
        {"{\"input_file_id\":\"file-" HEX "\",\"endpoint\":\"" CHAT "\"}", "completion_window"},
        {BODY(",\"metadata\":[]"), "metadata"},
        {BODY(",\"metadata\":{\"a\":1}"), "metadata.a"},
        {BODY(
             ",\"metadata\":{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":"
             "\"b\"}"),
         "metadata"},
    };
    struct batch batch;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct api_error error = {.status = 0};
        assert_int_equal(batch_parse(&batch, cases[i].body, strlen(cases[i].body), 1, &error),
                         ERR_INVALID);
        assert_int_equal(error.status, 400);
        assert_string_equal(error.param, cases[i].param);
    }
}

static void windows_are_times(void **state)
{
    static const struct {
        const char *window;
        double seconds; /* 0: refused */
    } cases[] = {{"24h", 86400}, {"30s", 30},
                 {"15m", 900},   {"168h", 604800},
                 {"169h", 0},    {"24", 0},
                 {"h", 0},       {"", 0},
                 {"24hh", 0},    {"-1h", 0},
                 {"0s", 0},      {" 1h", 0},
                 {"1d", 0},      {"99999999999999999999h", 0}};
    char body[512];
    struct batch batch;
    struct api_error error;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(body, sizeof body,
                 "{\"input_file_id\":\"file-" HEX "\",\"endpoint\":\"" CHAT
                 "\",\"completion_window\":\"%s\"}",
                 cases[i].window);
        enum err err = batch_parse(&batch, body, strlen(body), 0, &error);
        assert_int_equal(err, cases[i].seconds > 0 ? ERR_OK : ERR_INVALID);
        if (err == ERR_OK)
            assert_true(batch.expires_at == cases[i].seconds);
    }
}

static void a_stored_batch_comes_back(void **state)
{
    struct batch batch = make(BODY(",\"metadata\":{\"a\":\"b\"}")), back;
    struct batch_fault fault;
    struct buf text, again;
    batch_fault_set(&fault, "code", "param", "message");
    fault.line = 7;
    batch_fault_add(&batch, &fault);
    batch.total = 3;
    batch.completed = 2;
    batch.failed = 1;
    batch.output_made.chunks = 4;
    batch.errors_made.bytes = 5;
    batch.has_output = batch.expiring = true;
    assert_true(batch_move(&batch, BATCH_IN_PROGRESS, 1700000001));
    buf_init(&text, 65536);
    buf_init(&again, 65536);
    assert_int_equal(batch_encode(&batch, &text), ERR_OK);
    assert_int_equal(batch_decode(&back, text.data, text.len), ERR_OK);
    assert_int_equal(batch_encode(&back, &again), ERR_OK);
    assert_string_equal(buf_text(&text), buf_text(&again));
    assert_int_equal(back.output_made.chunks, 4);
    assert_int_equal(back.faults[0].line, 7);
    assert_int_equal(batch_decode(&back, "{}", 2), ERR_INVALID);
    assert_int_equal(batch_decode(&back, "x", 1), ERR_INVALID);
    buf_done(&text);
    buf_done(&again);
    batch_done(&batch);
    batch_done(&back);
}

static void clients_see_openais_object(void **state)
{
    struct batch batch = make(BODY(""));
    const struct batch *list[] = {&batch};
    struct buf text;
    buf_init(&text, 65536);
    assert_int_equal(batch_write(&batch, &text), ERR_OK);
    assert_string_equal(
        buf_text(&text),
        "{\"id\":\"batch_" HEX "\",\"object\":\"batch\",\"endpoint\":\"" CHAT
        "\",\"errors\":null,\"input_file_id\":\"file-" HEX "\",\"completion_window\":\"24h\","
        "\"status\":\"validating\",\"output_file_id\":null,\"error_file_id\":null,"
        "\"created_at\":1700000000,\"failed_at\":null,\"in_progress_at\":null,"
        "\"finalizing_at\":null,\"completed_at\":null,\"expired_at\":null,"
        "\"cancelling_at\":null,\"cancelled_at\":null,\"expires_at\":1700086400,"
        "\"request_counts\":{\"total\":0,\"completed\":0,\"failed\":0},\"metadata\":null}");
    buf_clear(&text);
    batch.has_output = true;
    batch_fault_add(&batch, &(struct batch_fault){.code = "c", .message = "m"});
    assert_int_equal(batch_list_write(list, 1, true, &text), ERR_OK);
    assert_non_null(strstr(buf_text(&text), "\"output_file_id\":\"file-" HEX "\""));
    assert_non_null(strstr(buf_text(&text), "\"errors\":{\"object\":\"list\",\"data\":[{\"code\":"
                                            "\"c\",\"line\":null,\"message\":\"m\",\"param\":null}]"
                                            "}"));
    assert_non_null(strstr(buf_text(&text), "\"last_id\":\"batch_" HEX "\",\"has_more\":true}"));
    buf_done(&text);
    batch_done(&batch);
}

static void statuses_follow_on_each_other(void **state)
{
    static const enum batch_status ways[][5] = {
        {BATCH_VALIDATING, BATCH_FAILED},
        {BATCH_VALIDATING, BATCH_IN_PROGRESS, BATCH_FINALIZING, BATCH_COMPLETED},
        {BATCH_VALIDATING, BATCH_IN_PROGRESS, BATCH_FINALIZING, BATCH_EXPIRED},
        {BATCH_VALIDATING, BATCH_IN_PROGRESS, BATCH_CANCELLING, BATCH_CANCELLED},
        {BATCH_VALIDATING, BATCH_CANCELLING, BATCH_CANCELLED},
    };
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        struct batch batch = make(BODY(""));
        size_t step = 1;
        for (; step < 5 && ways[i][step] != BATCH_VALIDATING; step++) {
            assert_true(batch_move(&batch, ways[i][step], (double)step));
            assert_true(batch.at[ways[i][step]] == (double)step);
        }
        assert_true(batch_is_over(batch.status));
        for (int other = 0; other < BATCH_STATUS_COUNT; other++)
            assert_false(batch_move(&batch, (enum batch_status)other, 9));
        batch_done(&batch);
    }
    struct batch batch = make(BODY(""));
    assert_false(batch_move(&batch, BATCH_COMPLETED, 1));
    assert_false(batch_move(&batch, BATCH_CANCELLED, 1));
    assert_false(batch_is_over(batch.status));
    assert_string_equal(batch_status_name(BATCH_IN_PROGRESS), "in_progress");
    batch_done(&batch);
}

/* All lines of a text that comes in parts of so many bytes, joined by '|'. */
static void cut(const char *text, size_t part, char *out)
{
    struct batch_input lines;
    const char *line = NULL;
    size_t len = strlen(text), size = 0;
    batch_input_init(&lines);
    out[0] = '\0';
    for (size_t at = 0; at < len || !lines.ended; at += part) {
        size_t left = at < len ? len - at : 0;
        assert_int_equal(batch_input_add(&lines, text + at, left < part ? left : part), ERR_OK);
        lines.ended = at + part >= len;
        while (batch_input_next(&lines, &line, &size) == ERR_OK)
            sprintf(out + strlen(out), "%u:%.*s|", lines.number, (int)size, line);
    }
    batch_input_done(&lines);
}

static void lines_are_cut_wherever_parts_end(void **state)
{
    char out[256];
    for (size_t part = 3; part < 20; part++) {
        cut("\xef\xbb\xbf"
            "a\n\n bc\r\n \t\r\nlast",
            part, out);
        assert_string_equal(out, "1:a|3: bc\r|5:last|");
        cut("a\nb\n", part, out);
        assert_string_equal(out, "1:a|2:b|");
        cut("", part, out);
        assert_string_equal(out, "");
    }
}

static void a_line_has_a_bound_and_comes_again(void **state)
{
    struct batch_input lines;
    const char *line = NULL;
    size_t len = 0;
    char *big = malloc(BATCH_LINE_BYTES + 2);
    assert_non_null(big);
    memset(big, 'x', BATCH_LINE_BYTES + 2);
    big[BATCH_LINE_BYTES] = '\n';
    batch_input_init(&lines);
    assert_int_equal(batch_input_add(&lines, big, BATCH_LINE_BYTES + 1), ERR_OK);
    assert_int_equal(batch_input_next(&lines, &line, &len), ERR_OK);
    assert_int_equal(len, BATCH_LINE_BYTES);
    batch_input_again(&lines, line);
    assert_int_equal(batch_input_next(&lines, &line, &len), ERR_OK);
    assert_int_equal(lines.number, 1);
    big[BATCH_LINE_BYTES] = 'x';
    assert_int_equal(batch_input_add(&lines, big, BATCH_LINE_BYTES + 1), ERR_OK);
    assert_int_equal(batch_input_next(&lines, &line, &len), ERR_LIMIT);
    batch_input_done(&lines);
    free(big);
}

static void lines_are_checked(void **state)
{
    static const struct {
        const char *line, *code, *param;
    } cases[] = {
        {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"" CHAT "\",\"body\":{\"x\":1}}", NULL,
         NULL},
        {"{", "invalid_json_line", ""},
        {"1", "invalid_json_line", ""},
        {"{\"a\":\"\xff\"}", "invalid_json_line", ""},
        {"{\"method\":\"POST\",\"url\":\"" CHAT "\",\"body\":{}}", "missing_required_parameter",
         "custom_id"},
        {"{\"custom_id\":\"\",\"method\":\"POST\",\"url\":\"" CHAT "\",\"body\":{}}",
         "missing_required_parameter", "custom_id"},
        {"{\"custom_id\":\"a\",\"method\":\"GET\",\"url\":\"" CHAT "\",\"body\":{}}",
         "invalid_method", "method"},
        {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"" CHAT "/\",\"body\":{}}",
         "invalid_url", "url"},
        {"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"" CHAT "\",\"body\":[]}",
         "missing_required_parameter", "body"},
    };
    struct batch batch = make(BODY(""));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct batch_line line = {.root = NULL};
        struct batch_fault fault = {.line = 0};
        enum err err = batch_line_read(&line, &batch, cases[i].line, strlen(cases[i].line), &fault);
        if (cases[i].code == NULL) {
            assert_int_equal(err, ERR_OK);
            assert_string_equal(line.custom_id, "a");
            assert_int_equal(json_integer_value(json_object_get(line.body, "x")), 1);
            batch_line_done(&line);
        } else {
            assert_int_equal(err, ERR_INVALID);
            assert_string_equal(fault.code, cases[i].code);
            assert_string_equal(fault.param, cases[i].param);
        }
    }
    batch_done(&batch);
}

static void custom_ids_come_once(void **state)
{
    struct batch_ids ids = {.first = NULL};
    char id[32];
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof id, "request-%d", i);
        assert_int_equal(batch_ids_add(&ids, id), ERR_OK);
    }
    assert_int_equal(batch_ids_add(&ids, "request-4999"), ERR_EXISTS);
    assert_int_equal(batch_ids_add(&ids, "request-49"), ERR_EXISTS);
    assert_int_equal(batch_ids_add(&ids, "request-5000"), ERR_OK);
    batch_ids_done(&ids);
}

static void lines_out_tell_their_number(void **state)
{
    struct batch batch = make(BODY("")), other = make(BODY(""));
    struct buf text;
    unsigned index = 0;
    buf_init(&text, 65536);
    other.id[0] = 'f';
    assert_int_equal(batch_answer_write(&batch, 49999, "a\"b", 200, "r", "{\"x\":[1]}", 9, &text),
                     ERR_OK);
    assert_string_equal(buf_text(&text),
                        "{\"id\":\"batch_req_0123456789abcdef012345670000c34f\",\"custom_id\":"
                        "\"a\\\"b\",\"response\":{\"status_code\":200,\"request_id\":\"r\","
                        "\"body\":{\"x\":[1]}},\"error\":null}\n");
    assert_true(batch_line_index(&batch, text.data, text.len, &index));
    assert_int_equal(index, 49999);
    assert_false(batch_line_index(&other, text.data, text.len, &index));
    assert_false(batch_line_index(&batch, text.data, 20, &index));
    assert_false(batch_line_index(&batch, "{\"id\":\"batch_req_0123456789abcdef01234567zzzzzzzz\"",
                                  49, &index));
    buf_clear(&text);
    assert_int_equal(batch_error_write(&batch, 0, "a", "batch_expired", "m", &text), ERR_OK);
    assert_non_null(strstr(buf_text(&text), "\"response\":null,\"error\":{\"code\":"
                                            "\"batch_expired\",\"message\":\"m\"}}\n"));
    assert_int_equal(batch_answer_write(&batch, 0, "a", 200, "r", "{", 1, &text), ERR_INVALID);
    buf_done(&text);
    batch_done(&batch);
    batch_done(&other);
}

static void faults_have_a_bound(void **state)
{
    struct batch batch = make(BODY(""));
    struct batch_fault fault;
    char longer[1000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    batch_fault_set(&fault, longer, longer, longer);
    assert_int_equal(strlen(fault.message), sizeof fault.message - 1);
    for (int i = 0; i < 100; i++)
        batch_fault_add(&batch, &fault);
    assert_int_equal(batch.fault_count, BATCH_FAULTS_MAX);
    batch_done(&batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_becomes_a_batch),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(windows_are_times),
        cmocka_unit_test(a_stored_batch_comes_back),
        cmocka_unit_test(clients_see_openais_object),
        cmocka_unit_test(statuses_follow_on_each_other),
        cmocka_unit_test(lines_are_cut_wherever_parts_end),
        cmocka_unit_test(a_line_has_a_bound_and_comes_again),
        cmocka_unit_test(lines_are_checked),
        cmocka_unit_test(custom_ids_come_once),
        cmocka_unit_test(lines_out_tell_their_number),
        cmocka_unit_test(faults_have_a_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
