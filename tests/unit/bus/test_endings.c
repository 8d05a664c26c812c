/* Cancelling on a real nats-server, with a response worker played here: what the ending says of the
 * reply, and that a prompt which has ended stays as it ended. */
#include "rig.h"

#define OWNER "00112233445566ff"

static struct endings *endings;

static int begin(void **state)
{
    return start(state) == 0 && endings_new(&endings, rig.bus, rig.loop) == ERR_OK ? 0 : -1;
}

static int end(void **state)
{
    endings_free(endings);
    return stop(state);
}

/* ---- the response worker ---- */

static struct {
    struct reply ending; /* its texts are in root, which is ours */
    char ack[PROMPTS_ACK_MAX], answer_to[192];
    bool created;
} worker;

static void on_created(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    (void)sequence;
    worker.created = err == ERR_OK;
    endings_answer(rig.bus, worker.answer_to);
    responses_ack(rig.bus, worker.ack);
}

static void on_ending(void *arg, const char *ack, const struct reply *ending)
{
    (void)arg;
    reply_done(&worker.ending);
    worker.ending = *ending;
    worker.ending.root = json_incref(ending->root);
    snprintf(worker.ack, sizeof worker.ack, "%s", ack);
    snprintf(worker.answer_to, sizeof worker.answer_to, "%s", ending->answer_to);
    assert_int_equal(replies_create(rig.bus, ending, on_created, NULL), ERR_OK);
}

static void on_no_more(void *arg, enum err err)
{
    (void)arg;
    (void)err;
}

/* Cancels with a response worker at hand. */
static void cancel(const struct cancel_spec *spec)
{
    assert_int_equal(responses_fetch(rig.bus, 1, on_ending, on_no_more, NULL), ERR_OK);
    WAIT(endings_cancel(endings, spec, on_done, NULL));
}

/* ---- */

static void store(const char *id, const struct piece *items, size_t count)
{
    struct claim claim = claim_new();
    claim.attempt = 3;
    snprintf(claim.worker, sizeof claim.worker, "infer-7");
    WAIT(tokens_claim(rig.bus, GATEWAY, id, &claim, 0, on_done, NULL));
    uint64_t fence = got.sequence, first = 0;
    for (size_t i = 0; i < count; i++) {
        struct pieces pieces = {
            .first = first++, .items = (struct piece *)(uintptr_t)&items[i], .count = 1};
        memcpy(pieces.nonce, claim.nonce, sizeof pieces.nonce);
        WAIT(tokens_append(rig.bus, GATEWAY, id, fence, &pieces, on_done, NULL));
        assert_int_equal(got.err, ERR_OK);
    }
}

static const int32_t tokens[] = {1, 2, 3};
static const struct piece said[] = {
    {.text = "caf\xc3\xa9 ",
     .text_len = 6,
     .tokens = tokens,
     .token_count = 2,
     .logprobs = "[{\"token\":\"caf\\u00e9\"},{\"token\":\" \"}]",
     .logprobs_len = 37},
    {.text = "au",
     .text_len = 2,
     .tokens = tokens,
     .token_count = 1,
     .logprobs = "[{}]",
     .logprobs_len = 4},
    {.text = " lait", .text_len = 5, .logprobs = "[{", .logprobs_len = 2}, /* hostile */
};

static struct cancel_spec spec_of(const char *id)
{
    return (struct cancel_spec){.id = id,
                                .gateway = GATEWAY,
                                .prompter = "p",
                                .model = "m",
                                .owner = OWNER,
                                .reason = "cancelled",
                                .tombstone = true,
                                .accepted_at = 5};
}

static void test_detached(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    store(id, said, 3);
    json_t *request = json_pack("{s:i}", "a", 1);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "x");
    struct cancel_spec spec = spec_of(id);
    spec.detached = true;
    spec.request = request;
    spec.messages = messages;
    assert_int_equal(responses_fetch(rig.bus, 1, on_ending, on_no_more, NULL), ERR_OK);
    memset(&got, 0, sizeof got);
    assert_int_equal(endings_cancel(endings, &spec, on_done, NULL), ERR_OK);
    json_decref(request); /* it keeps references of its own */
    json_decref(messages);
    turn();
    assert_true(got.done);
    assert_int_equal(got.err, ERR_OK);
    assert_true(worker.created);
    const struct reply *ending = &worker.ending;
    assert_int_equal(ending->status, REPLY_CANCELLED);
    assert_string_equal(ending->text, "caf\xc3\xa9 au lait");
    assert_string_equal(ending->owner, OWNER);
    assert_string_equal(ending->worker, "infer-7");
    assert_int_equal(ending->attempt, 3);
    assert_int_equal(ending->pieces, 3);
    assert_int_equal(ending->reply_tokens, 3);
    assert_int_equal(json_integer_value(json_object_get(ending->request, "a")), 1);
    assert_int_equal(json_array_size(ending->messages), 1);
    assert_int_equal(json_array_size(ending->cuts), 3);
    assert_int_equal(json_integer_value(json_array_get(ending->cuts, 0)), 6);
    assert_int_equal(json_integer_value(json_array_get(ending->cuts, 1)), 2);
    assert_int_equal(json_integer_value(json_array_get(ending->cuts, 2)), 5);
    assert_int_equal(json_array_size(ending->logprobs), 3); /* but for what was none */
}

static void test_owned(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    store(id, said, 2);
    json_t *request = json_pack("{s:i}", "a", 1);
    struct cancel_spec spec = spec_of(id);
    spec.request = request;
    spec.messages = request;
    cancel(&spec);
    assert_int_equal(got.err, ERR_OK);
    assert_string_equal(worker.ending.owner, OWNER);
    assert_true(worker.ending.request == NULL && worker.ending.messages == NULL &&
                worker.ending.cuts == NULL);
    json_decref(request);
}

/* What was asked is larger than a record may be: it ends all the same. */
static void test_too_large(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    store(id, said, 2);
    size_t len = REPLY_BYTES_MAX;
    char *text = malloc(len + 1);
    memset(text, 'x', len);
    text[len] = '\0';
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", text);
    json_t *request = json_pack("{s:i}", "a", 1);
    struct cancel_spec spec = spec_of(id);
    spec.detached = true;
    spec.messages = messages;
    spec.request = request;
    cancel(&spec);
    assert_int_equal(got.err, ERR_OK);
    assert_int_equal(worker.ending.status, REPLY_CANCELLED);
    assert_string_equal(worker.ending.text, "");
    assert_null(worker.ending.messages);
    assert_non_null(worker.ending.request);
    json_decref(messages);
    json_decref(request);
    free(text);
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    if (record != NULL)
        snprintf(got.text, sizeof got.text, "%s %s%s", reply_status_name(record->status),
                 record->text != NULL ? record->text : "(none)", record->deleted ? " deleted" : "");
    on_done(arg, err, sequence);
}

/* The first ending counts, whoever comes later, and also once it is deleted. */
static void test_ended(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    const struct reply record = {.id = id,
                                 .gateway = GATEWAY,
                                 .prompter = "p",
                                 .model = "m",
                                 .status = REPLY_COMPLETED,
                                 .text = "done"};
    WAIT(replies_create(rig.bus, &record, on_done, NULL));
    uint64_t sequence = got.sequence;
    const struct cancel_spec spec = spec_of(id);
    cancel(&spec);
    assert_int_equal(got.err, ERR_OK);
    assert_false(worker.created);
    WAIT(replies_find(rig.bus, id, on_record, NULL));
    assert_string_equal(got.text, "completed done");
    assert_int_equal(got.sequence, sequence);
    WAIT(replies_delete(rig.bus, &record, sequence, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    cancel(&spec);
    assert_int_equal(got.err, ERR_OK);
    assert_false(worker.created);
    WAIT(replies_find(rig.bus, id, on_record, NULL));
    assert_string_equal(got.text, "completed (none) deleted");
    reply_done(&worker.ending);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_detached),
        cmocka_unit_test(test_owned),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_ended),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
