/* prompt.c, claim.c, pieces.c, reply.c, presence.c: what is written reads back the same, and
 * nothing that comes from outside (cut short, changed, of another version) crashes a reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/claim.h"
#include "wire/json.h"
#include "wire/presence.h"
#include "wire/prompt.h"
#include "wire/reply.h"

#define ID     "0123456789abcdef0123456789abcdef"
#define GW     "fedcba9876543210"
#define LIMIT  (1 << 20)
#define TRACE  "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00-" TRACE "-00f067aa0ba902b7-01"
#define LOGPROBS                                                                                   \
    "[{\"token\":\"\\\"\\n\xc3\xa9\",\"logprob\":-0.5,\"bytes\":[34],\"top_logprobs\":[]},{}]"
#define AWKWARD "\"q\" \\ \n\t\x01 \xc3\xa9 \xf0\x9f\x98\x80 </s>"

static void make_prompt(struct buf *buf)
{
    struct prompt_message messages[] = {{"system", "be kind"}, {"user", AWKWARD}};
    struct prompt prompt = {.id = ID,
                            .gateway = GW,
                            .prompter = "ann",
                            .model = "m.1",
                            .traceparent = PARENT,
                            .tracestate = "a=1",
                            .detached = true,
                            .messages = messages,
                            .message_count = 2,
                            .params = prompt_params_default()};
    prompt.params.max_tokens = 300;
    prompt.params.min_tokens = 0;
    prompt.params.temperature = 0.7;
    prompt.params.seed = INT64_MAX;
    prompt.params.stop[0] = "\n\n";
    prompt.params.stop_count = 1;
    prompt.params.logprobs = 5;
    prompt.params.frequency_penalty = 0.25;
    prompt.params.grammar = "root ::= \"a\"";
    json_t *bias = json_pack("{s:f}", "17", -100.0), *request = json_pack("{s:[s]}", "a", AWKWARD);
    prompt.params.logit_bias = bias;
    prompt.request = request;
    assert_int_equal(prompt_encode(&prompt, buf), ERR_OK);
    json_decref(bias);
    json_decref(request);
}

static void test_prompt(void **state)
{
    struct buf buf;
    struct prompt prompt = {.id = NULL};

    buf_init(&buf, LIMIT);
    make_prompt(&buf);
    assert_int_equal(prompt_decode(&prompt, buf.data, buf.len), ERR_OK);
    assert_string_equal(prompt.id, ID);
    assert_string_equal(prompt.gateway, GW);
    assert_string_equal(prompt.prompter, "ann");
    assert_string_equal(prompt.model, "m.1");
    assert_string_equal(prompt.traceparent, PARENT);
    assert_string_equal(prompt.tracestate, "a=1");
    assert_true(prompt.detached);
    assert_int_equal(prompt.message_count, 2);
    assert_string_equal(prompt.messages[0].role, "system");
    assert_string_equal(prompt.messages[1].content, AWKWARD);
    assert_int_equal(prompt.params.max_tokens, 300);
    assert_int_equal(prompt.params.min_tokens, 0);
    assert_int_equal(prompt.params.top_k, -1);
    assert_true(prompt.params.temperature == 0.7);
    assert_true(isnan(prompt.params.top_p));
    assert_true(prompt.params.seed == INT64_MAX);
    assert_int_equal(prompt.params.stop_count, 1);
    assert_string_equal(prompt.params.stop[0], "\n\n");
    prompt_done(&prompt);
    prompt_done(&prompt);
    prompt_done(NULL);
    buf_done(&buf);
}

static void test_prompt_refused(void **state)
{
    static const struct {
        const char *text;
        enum err err;
    } cases[] = {
        {"[]", ERR_INVALID},
        {"{}", ERR_UNSUPPORTED},
        {"{\"v\":2}", ERR_UNSUPPORTED},
        {"{\"v\":1}", ERR_INVALID},
        {"{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"" GW "\",\"model\":\"m\",\"messages\":[]}",
         ERR_INVALID},
        {"{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"" GW "\",\"model\":\"m\",\"messages\":[1]}",
         ERR_INVALID},
        {"{\"v\":1,\"id\":\"x\",\"gateway\":\"" GW
         "\",\"model\":\"m\",\"messages\":[{\"role\":\"user\","
         "\"content\":\"\"}]}",
         ERR_INVALID},
        {"{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"" GW
         "\",\"model\":\"m\",\"params\":{\"stop\":[\"a\",\"\"]},\"messages\":[{\"role\":\"user\","
         "\"content\":\"\"}]}",
         ERR_INVALID},
    };
    struct prompt prompt = {.id = "untouched"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(prompt_decode(&prompt, cases[i].text, strlen(cases[i].text)),
                         cases[i].err);
    assert_string_equal(prompt.id, "untouched");
}

static void make_claim(struct buf *buf)
{
    struct claim claim = {.kind = CLAIM_TOMBSTONE,
                          .nonce = GW,
                          .previous = "0000000000000001",
                          .worker = "infer.0",
                          .node = "n1",
                          .device = "cpu:0",
                          .deaths = 2,
                          .attempt = 3,
                          .started_at = 1732375850.125,
                          .reason = "cancelled"};
    assert_int_equal(claim_encode(&claim, buf), ERR_OK);
}

static void test_claim(void **state)
{
    struct buf buf;
    struct claim claim;

    buf_init(&buf, LIMIT);
    make_claim(&buf);
    assert_int_equal(claim_decode(&claim, buf.data, buf.len), ERR_OK);
    assert_int_equal(claim.kind, CLAIM_TOMBSTONE);
    assert_string_equal(claim.nonce, GW);
    assert_string_equal(claim.previous, "0000000000000001");
    assert_string_equal(claim.worker, "infer.0");
    assert_string_equal(claim.node, "n1");
    assert_string_equal(claim.device, "cpu:0");
    assert_int_equal(claim.deaths, 2);
    assert_int_equal(claim.attempt, 3);
    assert_true(claim.started_at == 1732375850.125);
    assert_string_equal(claim.reason, "cancelled");
    static const char *const bad[] = {"{\"v\":1}", "{\"v\":1,\"kind\":\"held\",\"nonce\":\"x\"}",
                                      "{\"v\":1,\"kind\":\"tombstone\",\"deaths\":99999999999}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(claim_decode(&claim, bad[i], strlen(bad[i])), ERR_INVALID);
    const char *tombstone = "{\"v\":1,\"kind\":\"tombstone\",\"reason\":\"expired\"}";
    assert_int_equal(claim_decode(&claim, tombstone, strlen(tombstone)), ERR_OK);
    assert_int_equal(claim.kind, CLAIM_TOMBSTONE);
    buf_done(&buf);
}

static void make_pieces(struct buf *buf, bool done)
{
    int32_t tokens[] = {0, 49151, INT32_MAX, -1};
    struct piece items[] = {{.text = "Hello", .text_len = 5, .tokens = tokens, .token_count = 2},
                            {.text = AWKWARD,
                             .text_len = strlen(AWKWARD),
                             .tokens = tokens + 2,
                             .token_count = 2,
                             .logprobs = LOGPROBS,
                             .logprobs_len = strlen(LOGPROBS)},
                            {.text = NULL}};
    struct pieces pieces = {.nonce = GW, .first = 7, .items = items, .count = 3, .done = done};
    assert_int_equal(pieces_encode(&pieces, buf), ERR_OK);
}

static void test_pieces(void **state)
{
    struct buf buf;
    struct pieces pieces;

    buf_init(&buf, LIMIT);
    make_pieces(&buf, true);
    assert_int_equal(pieces_decode(&pieces, buf.data, buf.len), ERR_OK);
    assert_string_equal(pieces.nonce, GW);
    assert_int_equal(pieces.first, 7);
    assert_int_equal(pieces.count, 3);
    assert_true(pieces.done);
    assert_string_equal(pieces.items[0].text, "Hello");
    assert_int_equal(pieces.items[0].token_count, 2);
    assert_int_equal(pieces.items[0].tokens[1], 49151);
    assert_int_equal(pieces.items[1].text_len, strlen(AWKWARD));
    assert_string_equal(pieces.items[1].text, AWKWARD);
    assert_int_equal(pieces.items[1].tokens[0], INT32_MAX);
    assert_int_equal(pieces.items[1].tokens[1], -1);
    assert_null(pieces.items[0].logprobs);
    assert_int_equal(pieces.items[1].logprobs_len, strlen(LOGPROBS));
    assert_string_equal(pieces.items[1].logprobs, LOGPROBS);
    assert_string_equal(pieces.items[2].text, "");
    assert_null(pieces.items[2].logprobs);
    assert_int_equal(pieces.items[2].token_count, 0);
    pieces_done(&pieces);
    pieces_done(&pieces);
    pieces_done(NULL);
    buf_done(&buf);
}

/* The text is ordinary JSON: what jansson makes of it is the same. */
static void test_pieces_are_json(void **state)
{
    struct buf buf;
    json_t *root = NULL;

    buf_init(&buf, LIMIT);
    make_pieces(&buf, false);
    assert_int_equal(json_parse(&root, buf.data, buf.len), ERR_OK);
    json_t *second = json_array_get(json_object_get(root, "pieces"), 1);
    assert_string_equal(json_string_value(json_array_get(second, 0)), AWKWARD);
    assert_false(json_flag(root, "done", true));
    json_decref(root);
    buf_done(&buf);
}

#define PIECES_HEAD       "{\"v\":1,\"nonce\":\"" GW "\",\"first\":"
#define DECODE(out, text) pieces_decode(out, text, sizeof text - 1)

static void test_pieces_escapes_and_faults(void **state)
{
    struct pieces pieces = {.count = 99};

    assert_int_equal(
        DECODE(&pieces, PIECES_HEAD
               "0,\"pieces\":[[\"\\u00e9\\ud83d\\ude00\\/\\b\\u20ac\",[]]],\"done\":false}"),
        ERR_OK);
    assert_string_equal(pieces.items[0].text, "\xc3\xa9\xf0\x9f\x98\x80/\b\xe2\x82\xac");
    pieces_done(&pieces);
    assert_int_equal(DECODE(&pieces, PIECES_HEAD "0,\"pieces\":[],\"done\":true}"), ERR_OK);
    assert_int_equal(pieces.count, 0);
    pieces_done(&pieces);

    static const char *const bad[] = {
        "",
        "{\"v\":2,\"nonce\":\"" GW "\",\"first\":0,\"pieces\":[],\"done\":true}",
        "{\"v\":1,\"nonce\":\"FEDCBA9876543210\",\"first\":0,\"pieces\":[],\"done\":true}",
        PIECES_HEAD "-1,\"pieces\":[],\"done\":true}",
        PIECES_HEAD ",\"pieces\":[],\"done\":true}",
        PIECES_HEAD "99999999999999999999,\"pieces\":[],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[],\"done\":true} ",
        PIECES_HEAD "0,\"pieces\":[],\"done\":null}",
        PIECES_HEAD "0,\"pieces\":[,],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[1,]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[2147483648]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[-]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\\u0000\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\\ud800\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\\udc00\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\\ud800\\u0041\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\\u12\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\xff\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\n\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"\\q\",[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[],]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[],[]]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[],null]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[],\"[]\",\"[]\"]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[],\"\\u0000\"]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",[],\"\xff\"]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\",\"[]\"]],\"done\":true}",
        PIECES_HEAD "0,\"pieces\":[[\"a\"]],\"done\":true}",
    };
    pieces.count = 99;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (pieces_decode(&pieces, bad[i], strlen(bad[i])) != ERR_INVALID)
            fail_msg("taken: %s", bad[i]);
    assert_int_equal(pieces.count, 99);
}

static void test_pieces_limit(void **state)
{
    static struct piece items[PIECES_MAX + 1];
    struct pieces pieces = {.nonce = GW, .items = items, .count = PIECES_MAX};
    struct buf buf;

    for (size_t i = 0; i <= PIECES_MAX; i++)
        items[i] = (struct piece){.text = "", .text_len = 0};
    buf_init(&buf, LIMIT);
    assert_int_equal(pieces_encode(&pieces, &buf), ERR_OK);
    assert_int_equal(pieces_decode(&pieces, buf.data, buf.len), ERR_OK);
    assert_int_equal(pieces.count, PIECES_MAX);
    pieces_done(&pieces);
    /* one more than a message may hold, put in by hand */
    char *more = NULL;
    size_t head = (size_t)(strstr(buf.data, "[[") - buf.data) + 1;
    assert_true(asprintf(&more, "%.*s[\"\",[]],%s", (int)head, buf.data, buf.data + head) > 0);
    assert_int_equal(pieces_decode(&pieces, more, strlen(more)), ERR_INVALID);
    free(more);
    pieces = (struct pieces){.nonce = GW, .items = items, .count = PIECES_MAX + 1};
    buf_clear(&buf);
    assert_int_equal(pieces_encode(&pieces, &buf), ERR_LIMIT);
    buf_done(&buf);
}

static void make_reply(struct buf *buf)
{
    json_t *request = json_pack("{s:[s]}", "a", AWKWARD), *cuts = json_pack("[i,i]", 5, 7);
    struct reply reply = {.id = ID,
                          .gateway = GW,
                          .prompter = "ann",
                          .model = "m",
                          .response_id = "r-1",
                          .status = REPLY_FAILED,
                          .text = AWKWARD,
                          .pieces = 12,
                          .error_code = "engine_error",
                          .error_text = "it broke",
                          .error_status = 500,
                          .prompt_tokens = 5,
                          .reply_tokens = 6,
                          .cached_tokens = 1,
                          .truncated_tokens = 6,
                          .worker = "infer.0",
                          .node = "n",
                          .device = "cpu:0",
                          .responder = "respond.1",
                          .attempt = 2,
                          .accepted_at = 1.5,
                          .started_at = 2.25,
                          .finished_at = 3.125,
                          .prompt_ms = 0.1,
                          .decode_ms = 12,
                          .detached = true,
                          .owner = GW,
                          .request = request,
                          .messages = request,
                          .cuts = cuts,
                          .logprobs = request,
                          .result = request,
                          .trace_id = TRACE,
                          .answer_to = "_INBOX_infer.x"};
    assert_int_equal(reply_encode(&reply, buf), ERR_OK);
    json_decref(request);
    json_decref(cuts);
}

static void test_reply(void **state)
{
    struct buf buf;
    struct reply reply;

    buf_init(&buf, LIMIT);
    make_reply(&buf);
    assert_int_equal(reply_decode(&reply, buf.data, buf.len), ERR_OK);
    assert_string_equal(reply.id, ID);
    assert_string_equal(reply.gateway, GW);
    assert_string_equal(reply.prompter, "ann");
    assert_string_equal(reply.response_id, "r-1");
    assert_int_equal(reply.status, REPLY_FAILED);
    assert_string_equal(reply.finish_reason, "");
    assert_string_equal(reply.text, AWKWARD);
    assert_int_equal(reply.pieces, 12);
    assert_string_equal(reply.error_code, "engine_error");
    assert_string_equal(reply.error_text, "it broke");
    assert_int_equal(reply.error_status, 500);
    assert_int_equal(reply.prompt_tokens, 5);
    assert_int_equal(reply.reply_tokens, 6);
    assert_int_equal(reply.cached_tokens, 1);
    assert_int_equal(reply.truncated_tokens, 6);
    assert_string_equal(reply.worker, "infer.0");
    assert_string_equal(reply.node, "n");
    assert_string_equal(reply.device, "cpu:0");
    assert_string_equal(reply.responder, "respond.1");
    assert_int_equal(reply.attempt, 2);
    assert_true(reply.accepted_at == 1.5 && reply.started_at == 2.25 && reply.finished_at == 3.125);
    assert_true(reply.prompt_ms == 0.1 && reply.decode_ms == 12);
    assert_true(reply.detached);
    assert_string_equal(reply.trace_id, TRACE);
    assert_string_equal(reply.answer_to, "_INBOX_infer.x");
    reply_done(&reply);
    reply_done(&reply);
    reply_done(NULL);
    /* erased text stays told apart from an empty one */
    struct reply erased = {.id = ID, .gateway = GW, .status = REPLY_COMPLETED, .text = NULL};
    buf_clear(&buf);
    assert_int_equal(reply_encode(&erased, &buf), ERR_OK);
    assert_int_equal(reply_decode(&reply, buf.data, buf.len), ERR_OK);
    assert_null(reply.text);
    assert_string_equal(reply.trace_id, ""); /* as from an older process */
    reply_done(&reply);
    buf_done(&buf);
    static const char *const bad[] = {
        "{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"" GW "\"}",
        "{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"\",\"status\":\"failed\"}",
        "{\"v\":1,\"id\":\"" ID "\",\"gateway\":\"" GW
        "\",\"status\":\"failed\",\"error_status\":-1}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(reply_decode(&reply, bad[i], strlen(bad[i])), ERR_INVALID);
}

static void make_presence(struct buf *buf)
{
    struct presence presence = {.role = "infer",
                                .node = "n1",
                                .name = "infer.0",
                                .boot = "0123456789abcdef",
                                .pid = 4711,
                                .leaving = true,
                                .device = "cpu:0",
                                .model = "m",
                                .arch = "blenderbot",
                                .state = "ready",
                                .slots = 4,
                                .active = 3,
                                .context = 2048,
                                .prompts_total = 10,
                                .prompt_tokens_total = 100,
                                .reply_tokens_total = 1000,
                                .failed_total = 1,
                                .latency_sum = 12.5,
                                .work = {true, 2, 0.25, 1.5, 4.5, 0.5, 0.75, 30}};
    presence.latency_counts[3] = 8;
    presence.latency_counts[LATENCY_BUCKET_COUNT] = 2;
    assert_int_equal(presence_encode(&presence, buf), ERR_OK);
}

static void test_presence(void **state)
{
    struct buf buf;
    struct presence presence;

    buf_init(&buf, LIMIT);
    make_presence(&buf);
    assert_int_equal(presence_decode(&presence, buf.data, buf.len), ERR_OK);
    assert_string_equal(presence.role, "infer");
    assert_string_equal(presence.boot, "0123456789abcdef");
    assert_string_equal(presence.arch, "blenderbot");
    assert_int_equal(presence.pid, 4711);
    assert_true(presence.leaving);
    assert_string_equal(presence.state, "ready");
    assert_int_equal(presence.slots, 4);
    assert_int_equal(presence.active, 3);
    assert_int_equal(presence.context, 2048);
    assert_int_equal(presence.prompts_total, 10);
    assert_int_equal(presence.reply_tokens_total, 1000);
    assert_int_equal(presence.failed_total, 1);
    assert_int_equal(presence.latency_counts[3], 8);
    assert_int_equal(presence.latency_counts[LATENCY_BUCKET_COUNT], 2);
    assert_true(presence.latency_sum == 12.5);
    assert_true(presence.work.known);
    assert_int_equal(presence.work.waiting, 2);
    assert_true(presence.work.kv_used == 0.25 && presence.work.busy_s == 1.5 &&
                presence.work.slot_s == 4.5 && presence.work.prefill_s == 0.5 &&
                presence.work.decode_s == 0.75);
    assert_int_equal(presence.work.cached_tokens_total, 30);
    buf_done(&buf);
    const char *odd = "{\"v\":1,\"role\":\"infer\",\"name\":\"w\",\"work\":{\"kv_used\":7,"
                      "\"busy_s\":-1,\"waiting\":\"x\"}}";
    assert_int_equal(presence_decode(&presence, odd, strlen(odd)), ERR_OK);
    assert_true(presence.work.known && presence.work.kv_used < 0 && presence.work.busy_s == 0);
    const char *older = "{\"v\":1,\"role\":\"infer\",\"name\":\"w\"}";
    assert_int_equal(presence_decode(&presence, older, strlen(older)), ERR_OK);
    assert_false(presence.work.known);
    assert_string_equal(presence.arch, "");
    const char *nameless = "{\"v\":1,\"role\":\"infer\"}", *newer = "{\"v\":9}";
    assert_int_equal(presence_decode(&presence, nameless, strlen(nameless)), ERR_INVALID);
    assert_int_equal(presence_decode(&presence, newer, strlen(newer)), ERR_UNSUPPORTED);
}

static void test_what_telemetry_says(void **state)
{
    struct presence presence = {.role = "telemetry",
                                .node = "n1",
                                .name = "t",
                                .host = {.known = true,
                                         .cpu_busy = 0.25,
                                         .memory_used = -1,
                                         .memory_total = 1e12},
                                .gpu_count = PRESENCE_GPUS_MAX},
                    read;
    struct buf buf;
    (void)state;

    for (unsigned i = 0; i < PRESENCE_GPUS_MAX; i++)
        presence.gpus[i] = (struct presence_gpu){.name = "NVIDIA H200",
                                                 .index = i,
                                                 .busy = 0.5,
                                                 .memory_used = 1,
                                                 .memory_total = 2,
                                                 .power_w = -1,
                                                 .temperature_c = 63};
    buf_init(&buf, LIMIT);
    assert_int_equal(presence_encode(&presence, &buf), ERR_OK);
    assert_int_equal(presence_decode(&read, buf.data, buf.len), ERR_OK);
    assert_true(read.host.known && read.host.cpu_busy == 0.25 && read.host.memory_used < 0 &&
                read.host.memory_total == 1e12);
    assert_int_equal(read.gpu_count, PRESENCE_GPUS_MAX);
    assert_string_equal(read.gpus[15].name, "NVIDIA H200");
    assert_true(read.gpus[15].index == 15 && read.gpus[15].busy == 0.5 &&
                read.gpus[15].memory_used == 1 && read.gpus[15].memory_total == 2 &&
                read.gpus[15].power_w < 0 && read.gpus[15].temperature_c == 63);
    buf_done(&buf);

    const char *odd =
        "{\"v\":1,\"role\":\"telemetry\",\"name\":\"t\",\"host\":7,"
        "\"gpus\":[4,{\"busy\":1.5,\"index\":-3,\"memory_used\":\"x\"},[],{},{},{},{},{},"
        "{},{},{},{},{},{},{},{},{},{},{}]}";
    assert_int_equal(presence_decode(&read, odd, strlen(odd)), ERR_OK);
    assert_false(read.host.known);
    assert_int_equal(read.gpu_count, PRESENCE_GPUS_MAX); /* no more than there is room for */
    assert_true(read.gpus[1].busy < 0 && read.gpus[1].index == 0 && read.gpus[1].memory_used < 0);
}

static void test_restarts(void **state)
{
    static const uint32_t said[] = {0, 3, UINT32_MAX};
    uint32_t heard[PRESENCE_RESTARTS_MAX];
    struct presence presence = {.role = "node", .node = "n1", .name = "n1"}, read;
    struct buf buf;

    buf_init(&buf, LIMIT);
    presence.restarts = said;
    presence.restart_count = 3;
    assert_int_equal(presence_encode(&presence, &buf), ERR_OK);
    assert_int_equal(presence_restarts(heard, buf.data, buf.len), 3);
    assert_memory_equal(heard, said, sizeof said);
    assert_int_equal(presence_decode(&read, buf.data, buf.len), ERR_OK);
    assert_null(read.restarts);
    const char *odd = "{\"restarts\":[-1,\"x\",99999999999,7]}", *none = "{\"restarts\":4}";
    assert_int_equal(presence_restarts(heard, odd, strlen(odd)), 4);
    assert_true(heard[0] == 0 && heard[1] == 0 && heard[2] == UINT32_MAX && heard[3] == 7);
    assert_int_equal(presence_restarts(heard, none, strlen(none)), 0);
    assert_int_equal(presence_restarts(heard, "[", 1), 0);
    buf_clear(&buf);
    assert_int_equal(buf_append_text(&buf, "{\"restarts\":[1"), ERR_OK);
    for (size_t i = 0; i < 2 * (size_t)PRESENCE_RESTARTS_MAX; i++)
        assert_int_equal(buf_append_text(&buf, ",1"), ERR_OK);
    assert_int_equal(buf_append_text(&buf, "]}"), ERR_OK);
    assert_int_equal(presence_restarts(heard, buf.data, buf.len), PRESENCE_RESTARTS_MAX);
    buf_done(&buf);
}

/* Reads text as every kind of message, from memory without a byte to spare. */
static void read_as_all(const char *text, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    struct prompt prompt = {.id = NULL};
    struct claim claim;
    struct pieces pieces = {.count = 0};
    struct reply reply = {.id = NULL};
    struct presence presence;

    memcpy(copy, text, len);
    if (prompt_decode(&prompt, copy, len) == ERR_OK)
        prompt_done(&prompt);
    if (claim_decode(&claim, copy, len) == ERR_OK)
        assert_true(claim.kind <= CLAIM_TOMBSTONE);
    if (pieces_decode(&pieces, copy, len) == ERR_OK)
        pieces_done(&pieces);
    if (reply_decode(&reply, copy, len) == ERR_OK)
        reply_done(&reply);
    if (presence_decode(&presence, copy, len) == ERR_OK)
        assert_true(presence.role[0] != '\0');
    uint32_t restarts[PRESENCE_RESTARTS_MAX];
    assert_true(presence_restarts(restarts, copy, len) <= PRESENCE_RESTARTS_MAX);
    free(copy);
}

static void test_broken_messages(void **state)
{
    static void (*const makers[])(struct buf *) = {make_prompt, make_claim, make_reply,
                                                   make_presence, NULL};
    unsigned seed = 1;
    struct buf buf;

    buf_init(&buf, LIMIT);
    for (size_t kind = 0; kind < sizeof makers / sizeof *makers; kind++) {
        buf_clear(&buf);
        if (makers[kind] != NULL)
            makers[kind](&buf);
        else
            make_pieces(&buf, true);
        for (size_t len = 0; len <= buf.len; len++)
            read_as_all(buf.data, len);
        for (int round = 0; round < 2000; round++) {
            char *changed = malloc(buf.len);
            memcpy(changed, buf.data, buf.len);
            for (int k = rand_r(&seed) % 4; k >= 0; k--) {
                size_t at = (size_t)rand_r(&seed) % buf.len;
                char any = (char)(unsigned char)(rand_r(&seed) & 0xff);
                changed[at] = rand_r(&seed) % 2 ? any : buf.data[(size_t)rand_r(&seed) % buf.len];
            }
            read_as_all(changed, buf.len);
            free(changed);
        }
    }
    buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt),          cmocka_unit_test(test_prompt_refused),
        cmocka_unit_test(test_claim),           cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_pieces_are_json), cmocka_unit_test(test_pieces_escapes_and_faults),
        cmocka_unit_test(test_pieces_limit),    cmocka_unit_test(test_reply),
        cmocka_unit_test(test_presence),        cmocka_unit_test(test_what_telemetry_says),
        cmocka_unit_test(test_restarts),        cmocka_unit_test(test_broken_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
