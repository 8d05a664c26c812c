/* The queues on a real nats-server: what a fence keeps out, what is created once, what is bounded.
 */
#define MAX_QUEUE 3
#include "rig.h"

static bool on_piece(void *arg, const struct pieces *pieces)
{
    (void)arg;
    for (size_t i = 0; i < pieces->count; i++, got.pieces++)
        strncat(got.text, pieces->items[i].text, pieces->items[i].text_len);
    return true;
}

static void on_read(void *arg, enum err err, const struct claim *latest, uint64_t sequence)
{
    if (latest != NULL)
        got.latest = *latest;
    on_done(arg, err, sequence);
}

static enum err append(const char *id, uint64_t fence, const struct claim *claim, uint64_t first,
                       const char *text)
{
    struct piece item = {.text = text, .text_len = strlen(text)};
    struct pieces pieces = {.first = first, .items = &item, .count = 1};
    memcpy(pieces.nonce, claim->nonce, sizeof pieces.nonce);
    return tokens_append(rig.bus, GATEWAY, id, fence, &pieces, on_done, NULL);
}

static void test_fence(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    const struct claim first = claim_new(), second = claim_new();
    WAIT(tokens_claim(rig.bus, GATEWAY, id, &first, 0, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    uint64_t fence = got.sequence;
    WAIT(tokens_claim(rig.bus, GATEWAY, id, &second, 0, on_done, NULL));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(append(id, fence, &first, 0, "one "));
    assert_int_equal(got.err, ERR_OK);
    /* Taken over: the first worker can add nothing more. */
    WAIT(tokens_claim(rig.bus, GATEWAY, id, &second, fence, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    uint64_t later = got.sequence;
    WAIT(append(id, fence, &first, 1, "lost "));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(append(id, later, &second, 1, "two "));
    assert_int_equal(got.err, ERR_OK);
    WAIT(tokens_read(rig.bus, GATEWAY, id, NULL, on_piece, on_read, NULL));
    assert_int_equal(got.err, ERR_OK);
    assert_string_equal(got.text, "one two ");
    assert_int_equal(got.sequence, later);
    assert_string_equal(got.latest.nonce, second.nonce);
    /* A tombstone of somebody who lost the claim is refused; one without a fence ends it. */
    WAIT(tokens_tombstone(rig.bus, GATEWAY, id, "owner_gone", &fence, on_done, NULL));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(tokens_tombstone(rig.bus, GATEWAY, id, "cancelled", NULL, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(append(id, later, &second, 2, "lost "));
    assert_int_equal(got.err, ERR_EXISTS);
}

struct part { /* of a reply's pieces, as a reader takes them */
    uint64_t next, stop;
};

static bool on_piece_of_part(void *arg, const struct pieces *pieces)
{
    struct part *part = arg;
    if (part->next == part->stop)
        return false;
    assert_int_equal(pieces->first, part->next);
    part->next += pieces->count;
    return true;
}

static void on_part_read(void *arg, enum err err, const struct claim *latest, uint64_t sequence)
{
    (void)arg;
    on_read(NULL, err, latest, sequence);
}

/* A reader stops where it likes, and the next read goes on there, with the claim known. */
static void test_read_in_parts(void **state)
{
    char id[ID_SIZE];
    struct tokens_place place = {0};
    struct part part = {0};
    const struct claim claim = claim_new();
    id_random(id, ID_LEN);
    WAIT(tokens_claim(rig.bus, GATEWAY, id, &claim, 0, on_done, NULL));
    uint64_t fence = got.sequence;
    for (uint64_t i = 0; i < 500; i++) { /* more than is asked for at a time */
        WAIT(append(id, fence, &claim, i, "x"));
        assert_int_equal(got.err, ERR_OK);
    }
    for (; part.stop <= 500; part.stop += 250) {
        WAIT(tokens_read(rig.bus, GATEWAY, id, &place, on_piece_of_part, on_part_read, &part));
        assert_int_equal(got.err, ERR_OK);
        assert_int_equal(part.next, part.stop);
        assert_int_equal(place.reader.next, part.stop);
        assert_string_equal(got.latest.nonce, part.stop == 0 ? claim.nonce : "");
    }
    WAIT(tokens_read(rig.bus, GATEWAY, id, NULL, on_piece, on_read, NULL));
    assert_int_equal(got.pieces, 500);
}

static enum err put(const char *id)
{
    struct prompt_message message = {"user", "hello"};
    const struct prompt prompt = {.id = id,
                                  .gateway = GATEWAY,
                                  .prompter = "p",
                                  .model = "m",
                                  .messages = &message,
                                  .message_count = 1,
                                  .params = prompt_params_default()};
    return prompts_put(rig.bus, &prompt, on_done, NULL);
}

static void on_fetched(void *arg, const struct prompt_delivery *delivery)
{
    (void)arg;
    assert_true(got.deliveries < 4);
    assert_int_equal(delivery->delivered, 1);
    assert_true(delivery->accepted_at > 1e9);
    snprintf(got.ack[got.deliveries++], PROMPTS_ACK_MAX, "%s", delivery->ack);
}

static void on_fetch_end(void *arg, enum err err, unsigned missing)
{
    on_done(arg, err, missing);
}

static void test_queue(void **state)
{
    char ids[MAX_QUEUE + 1][ID_SIZE], ack[2][PROMPTS_ACK_MAX];
    uint64_t depth;
    for (int i = 0; i < MAX_QUEUE; i++) {
        id_random(ids[i], ID_LEN);
        WAIT(put(ids[i]));
        assert_int_equal(got.err, ERR_OK);
    }
    WAIT(put(ids[0])); /* the answer got lost, so it is put again: it is there once */
    assert_int_equal(got.err, ERR_EXISTS);
    id_random(ids[MAX_QUEUE], ID_LEN);
    WAIT(put(ids[MAX_QUEUE]));
    assert_int_equal(got.err, ERR_FULL);
    WAIT(prompts_fetch(rig.bus, "m", LANE_MAIN, 2, on_fetched, on_fetch_end, NULL));
    assert_int_equal(got.deliveries, 2);
    memcpy(ack, got.ack, sizeof ack);
    WAIT(put(ids[MAX_QUEUE])); /* in flight counts too */
    assert_int_equal(got.err, ERR_FULL);
    WAIT(prompts_ack(rig.bus, ack[0], on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(put(ids[MAX_QUEUE]));
    assert_int_equal(got.err, ERR_OK);
    WAIT(prompts_remove(rig.bus, ids[2], on_done, NULL)); /* still waits */
    WAIT(prompts_remove(rig.bus, ids[1], on_done, NULL)); /* in hand */
    WAIT(prompts_ack(rig.bus, ack[1], on_done, NULL)); /* its late acknowledgement harms nobody */
    assert_int_equal(streams_queue_depth(&rig.setup, &depth), ERR_OK);
    assert_int_equal(depth, 1);
    WAIT(prompts_remove(rig.bus, ids[MAX_QUEUE], on_done, NULL));
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    if (record != NULL)
        snprintf(got.text, sizeof got.text, "%s", record->text != NULL ? record->text : "(erased)");
    on_done(arg, err, sequence);
}

static void test_record(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    struct reply record = {.id = id,
                           .gateway = GATEWAY,
                           .prompter = "p",
                           .model = "m",
                           .response_id = "r",
                           .status = REPLY_COMPLETED,
                           .finish_reason = "stop",
                           .text = "first",
                           .error_code = "",
                           .error_text = "",
                           .worker = "",
                           .node = "",
                           .device = "",
                           .responder = "",
                           .answer_to = ""};
    WAIT(replies_get(rig.bus, GATEWAY, id, on_record, NULL));
    assert_int_equal(got.err, ERR_NOT_FOUND);
    WAIT(replies_create(rig.bus, &record, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    record.text = "second";
    WAIT(replies_create(rig.bus, &record, on_done, NULL));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(replies_get(rig.bus, GATEWAY, id, on_record, NULL));
    assert_string_equal(got.text, "first");
    uint64_t sequence = got.sequence;
    WAIT(replies_erase_text(rig.bus, &record, sequence, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(replies_erase_text(rig.bus, &record, sequence, on_done, NULL));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(replies_get(rig.bus, GATEWAY, id, on_record, NULL));
    assert_string_equal(got.text, "(erased)");
}

static void test_pull_taken_back(void **state)
{
    int64_t began = clock_mono_ns();
    memset(&got, 0, sizeof got);
    assert_int_equal(prompts_fetch(rig.bus, "m", LANE_MAIN, 4, on_fetched, on_fetch_end, NULL),
                     ERR_OK);
    bus_pulls_end(rig.bus);
    turn();
    assert_true(got.done);
    assert_int_equal(got.err, ERR_CANCELLED);
    assert_int_equal(got.sequence, 4);                                   /* none came */
    assert_true(clock_mono_ns() - began < PROMPTS_FETCH_MS * NS_PER_MS); /* not merely expired */
    assert_int_equal(prompts_fetch(rig.bus, "m", LANE_MAIN, 4, on_fetched, on_fetch_end, NULL),
                     ERR_CANCELLED);
}

static void test_rights(void **state)
{
    /* A worker must not take records from others' hands, nor prompts out of the queue unseen. */
    struct bus *bus;
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    const struct bus_config config = {
        .join = &rig.infer, .client_name = "test-infer", .role = "infer"};
    assert_int_equal(bus_open(&bus, rig.loop, &config), ERR_OK);
    const struct claim claim = claim_new();
    WAIT(tokens_claim(bus, GATEWAY, id, &claim, 0, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(prompts_remove(bus, id, on_done, NULL));
    assert_int_equal(got.err, ERR_TIMEOUT); /* the broker drops what is not allowed */
    bus_close(bus);
}

static void test_broker_killed(void **state)
{
    assert_true(bus_connected(rig.bus));
    kill(child_pid(broker_child(rig.broker)), SIGKILL);
    turn();
    assert_false(rig.connected);
    assert_int_equal(bus_publish(rig.bus, "state.x", NULL, 0, "", 0), ERR_UNAVAILABLE);
    turn();
    assert_true(rig.connected);
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    WAIT(put(id));
    assert_int_equal(got.err, ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fence),           cmocka_unit_test(test_read_in_parts),
        cmocka_unit_test(test_queue),           cmocka_unit_test(test_record),
        cmocka_unit_test(test_pull_taken_back), cmocka_unit_test(test_rights),
        cmocka_unit_test(test_broker_killed),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
