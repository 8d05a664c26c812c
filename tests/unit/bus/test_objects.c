/* Objects on a real nats-server, with the rights of a gateway: expectations, ages, lists longer
 * than one read, purges, names that are none; and finding records and prompts by their ids alone.
 */
#include "rig.h"

#include "bus/objects.h"
#include "bus/room.h"

#define MANY 700

static struct join gateway;
static struct bus *bus;

static int begin(void **state)
{
    if (start(state) != 0 ||
        join_read(&gateway, broker_service_file(rig.broker), "gateway") != ERR_OK)
        return -1;
    const struct bus_config config = {
        .join = &gateway, .client_name = "test-gateway", .role = "gateway"};
    return bus_open(&bus, rig.loop, &config) == ERR_OK ? 0 : -1;
}

static int end(void **state)
{
    bus_close(bus);
    join_done(&gateway);
    return stop(state);
}

static struct {
    unsigned count;
    char name[OBJECT_NAME_MAX + 1];
    size_t len;
    uint64_t sequence, last_sequence;
    bool ordered;
} seen;

static void on_object(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    (void)arg;
    if (err == ERR_OK) {
        snprintf(seen.name, sizeof seen.name, "%s", name);
        snprintf(got.text, sizeof got.text, "%s", data);
        seen.len = len;
    }
    on_done(NULL, err, sequence);
}

static void on_listed(void *arg, enum err err, const char *name, uint64_t sequence,
                      const char *data, size_t len)
{
    (void)arg;
    (void)data;
    if (name == NULL) {
        on_done(NULL, err, sequence);
        return;
    }
    seen.ordered = seen.ordered && sequence > seen.last_sequence;
    seen.last_sequence = sequence;
    seen.len += len;
    seen.count++;
    snprintf(seen.name, sizeof seen.name, "%s", name);
}

#define LIST(name, from, most)                                                                     \
    do {                                                                                           \
        uint64_t from_ = (from);                                                                   \
        memset(&seen, 0, sizeof seen);                                                             \
        seen.ordered = true;                                                                       \
        WAIT(objects_list(bus, name, from_, most, on_listed, NULL));                               \
        assert_int_equal(got.err, ERR_OK);                                                         \
        assert_true(seen.ordered);                                                                 \
    } while (0)

static enum err put_text(const char *name, const uint64_t *expect, unsigned keep_s,
                         const char *text)
{
    return objects_put(bus, name, expect, keep_s, text, strlen(text), on_done, NULL);
}

static void test_expectations(void **state)
{
    const uint64_t none = 0;
    WAIT(objects_get(bus, "idem.a1", on_object, NULL));
    assert_int_equal(got.err, ERR_NOT_FOUND);
    WAIT(put_text("idem.a1", &none, 0, "first"));
    assert_int_equal(got.err, ERR_OK);
    uint64_t first = got.sequence;
    WAIT(put_text("idem.a1", &none, 0, "second"));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(objects_get(bus, "idem.a1", on_object, NULL));
    assert_int_equal(got.err, ERR_OK);
    assert_string_equal(got.text, "first");
    assert_string_equal(seen.name, "idem.a1");
    assert_int_equal(got.sequence, first);
    WAIT(put_text("idem.a1", &first, 0, "third"));
    assert_int_equal(got.err, ERR_OK);
    WAIT(put_text("idem.a1", &first, 0, "fourth")); /* it is another's by now */
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(put_text("idem.a1", NULL, 0, "fifth"));
    assert_int_equal(got.err, ERR_OK);
    WAIT(objects_get(bus, "idem.*", on_object, NULL));
    assert_string_equal(got.text, "fifth");
}

static void test_age(void **state)
{
    const uint64_t none = 0;
    WAIT(put_text("idem.b1", &none, 1, "short"));
    assert_int_equal(got.err, ERR_OK);
    int64_t until_ns = clock_mono_ns() + 10 * NS_PER_S;
    do {
        usleep(50000);
        WAIT(objects_get(bus, "idem.b1", on_object, NULL));
    } while (got.err == ERR_OK && clock_mono_ns() < until_ns);
    assert_int_equal(got.err, ERR_NOT_FOUND);
    WAIT(put_text("idem.b1", &none, 0, "again")); /* as if it had never been */
    assert_int_equal(got.err, ERR_OK);
}

static void test_lists(void **state)
{
    char name[64];
    static char big[OBJECT_BYTES_MAX + 1];
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "file.%03x.meta", i);
        WAIT(put_text(name, NULL, 0, "x"));
        assert_int_equal(got.err, ERR_OK);
    }
    LIST("file.*.meta", 0, 1000);
    assert_int_equal(seen.count, MANY);
    assert_int_equal(got.sequence, 0); /* nothing was left */
    LIST("file.*.meta", 0, 300);
    assert_int_equal(seen.count, 300);
    assert_string_equal(seen.name, "file.12b.meta");
    assert_true(got.sequence > seen.last_sequence);
    LIST("file.*.meta", got.sequence, 300);
    assert_int_equal(seen.count, 300);
    LIST("file.*.meta", got.sequence, 300);
    assert_int_equal(seen.count, MANY - 600);
    assert_int_equal(got.sequence, 0);
    LIST("file.none.*", 0, 10);
    assert_int_equal(seen.count, 0);
    assert_int_equal(got.sequence, 0);
    /* Objects of more bytes than one read brings. */
    memset(big, 'b', sizeof big);
    for (unsigned i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "file.big.%u", i);
        WAIT(objects_put(bus, name, NULL, 0, big, OBJECT_BYTES_MAX, on_done, NULL));
        assert_int_equal(got.err, ERR_OK);
    }
    LIST("file.big.*", 0, 1000);
    assert_int_equal(seen.count, 40);
    assert_int_equal(seen.len, 40 * OBJECT_BYTES_MAX);
    assert_int_equal(objects_put(bus, "file.big.x", NULL, 0, big, sizeof big, on_done, NULL),
                     ERR_LIMIT);
    WAIT(objects_put(bus, "file.big.3", NULL, 0, "", 0, on_done, NULL));
    WAIT(objects_purge_but_last(bus, "file.big.>", on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    LIST("file.big.*", 0, 1000);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.len, 0);
    WAIT(objects_purge(bus, "file.big.>", on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    LIST("file.>", 0, 1000);
    assert_int_equal(seen.count, MANY);
    WAIT(objects_purge(bus, "file.>", on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    LIST("file.>", 0, 1000);
    assert_int_equal(seen.count, 0);
    WAIT(objects_get(bus, "idem.a1", on_object, NULL)); /* others stay */
    assert_int_equal(got.err, ERR_OK);
}

static void test_names(void **state)
{
    static const char *const bad[] = {"",         ".a",      "a.",     "a..b",  "a b",
                                      "a\"b",     "a\\b",    "a\r\nb", "a.>.b", "a.b*",
                                      "\xc3\xa9", "$JS.a/b", "a\tb"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(put_text(bad[i], NULL, 0, "x"), ERR_INVALID);
        assert_int_equal(objects_get(bus, bad[i], on_object, NULL), ERR_INVALID);
        assert_int_equal(objects_list(bus, bad[i], 0, 1, on_listed, NULL), ERR_INVALID);
        assert_int_equal(objects_purge(bus, bad[i], on_done, NULL), ERR_INVALID);
        assert_int_equal(objects_purge_but_last(bus, bad[i], on_done, NULL), ERR_INVALID);
    }
    assert_int_equal(put_text("a.*", NULL, 0, "x"), ERR_INVALID);
    assert_int_equal(put_text(">", NULL, 0, "x"), ERR_INVALID);
    char longest[OBJECT_NAME_MAX + 2];
    memset(longest, 'n', sizeof longest);
    longest[OBJECT_NAME_MAX + 1] = '\0';
    assert_int_equal(put_text(longest, NULL, 0, "x"), ERR_INVALID);
    longest[OBJECT_NAME_MAX] = '\0';
    WAIT(put_text(longest, NULL, 0, "x"));
    assert_int_equal(got.err, ERR_OK);
}

static void on_record(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    (void)arg;
    if (record != NULL)
        snprintf(got.text, sizeof got.text, "%s %s %s%s", record->gateway, record->owner,
                 record->text != NULL ? record->text : "(none)", record->deleted ? " deleted" : "");
    on_done(NULL, err, sequence);
}

static struct {
    bool request, messages, cuts, choices;
} whole;

static void on_whole(void *arg, enum err err, uint64_t sequence, const struct reply *record)
{
    whole.request = record != NULL && record->request != NULL;
    whole.messages = record != NULL && record->messages != NULL;
    whole.cuts = record != NULL && record->cuts != NULL;
    whole.choices = record != NULL && record->choices != NULL;
    on_record(arg, err, sequence, record);
}

static void test_records(void **state)
{
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    json_t *request = json_pack("{s:s}", "kind", "responses"), *cuts = json_pack("[i]", 4);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "secret");
    struct reply record = {.id = id,
                           .gateway = "fedcba9876543210",
                           .prompter = "p",
                           .owner = "0011223344556677",
                           .model = "m",
                           .status = REPLY_COMPLETED,
                           .text = "said",
                           .pieces = 1,
                           .request = request,
                           .messages = messages,
                           .cuts = cuts,
                           .detached = true};
    WAIT(replies_find(bus, id, on_record, NULL));
    assert_int_equal(got.err, ERR_NOT_FOUND);
    WAIT(replies_create(bus, &record, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    uint64_t sequence = got.sequence;
    WAIT(replies_find(bus, id, on_whole, NULL));
    assert_int_equal(got.err, ERR_OK);
    assert_int_equal(got.sequence, sequence);
    assert_string_equal(got.text, "fedcba9876543210 0011223344556677 said");
    assert_true(whole.request && whole.messages && whole.cuts);
    WAIT(replies_delete(bus, &record, sequence + 1, on_done, NULL));
    assert_int_equal(got.err, ERR_EXISTS);
    WAIT(replies_delete(bus, &record, sequence, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(replies_find(bus, id, on_whole, NULL));
    assert_string_equal(got.text, "fedcba9876543210 0011223344556677 (none) deleted");
    assert_false(whole.request || whole.messages || whole.cuts || whole.choices);
    WAIT(replies_create(bus, &record, on_done, NULL)); /* forgotten, it still says how it ended */
    assert_int_equal(got.err, ERR_EXISTS);
    static const char *const bad[] = {"",
                                      "*",
                                      ">",
                                      "0123",
                                      "0123456789ABCDEF0123456789ABCDEF",
                                      "0123456789abcdef0123456789abcde*"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(replies_find(bus, bad[i], on_record, NULL), ERR_INVALID);
    json_decref(request);
    json_decref(messages);
    json_decref(cuts);
}

static void on_prompt(void *arg, enum err err, double accepted_at, const struct prompt *prompt)
{
    (void)arg;
    if (prompt != NULL)
        snprintf(got.text, sizeof got.text, "%s %s %s", prompt->model, prompt->owner,
                 accepted_at > 1e9 ? "accepted" : "when?");
    on_done(NULL, err, 0);
}

static enum err put_prompt(const char *id, const char *model, const char *lane)
{
    struct prompt_message message = {"user", "hello"};
    const struct prompt prompt = {.id = id,
                                  .gateway = GATEWAY,
                                  .prompter = "p",
                                  .owner = "0011223344556677",
                                  .model = model,
                                  .lane = lane,
                                  .messages = &message,
                                  .message_count = 1,
                                  .params = prompt_params_default()};
    return prompts_put(bus, &prompt, on_done, NULL);
}

static void test_prompts(void **state)
{
    char waits[ID_SIZE], batched[ID_SIZE], unknown[ID_SIZE];
    id_random(waits, ID_LEN);
    id_random(batched, ID_LEN);
    id_random(unknown, ID_LEN);
    WAIT(put_prompt(waits, "m", NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(put_prompt(batched, "m.2/x", LANE_BATCH));
    assert_int_equal(got.err, ERR_OK);
    WAIT(prompts_find(bus, waits, on_prompt, NULL));
    assert_int_equal(got.err, ERR_OK);
    assert_string_equal(got.text, "m 0011223344556677 accepted");
    WAIT(prompts_find(bus, batched, on_prompt, NULL));
    assert_string_equal(got.text, "m.2/x 0011223344556677 accepted");
    WAIT(prompts_find(bus, unknown, on_prompt, NULL));
    assert_int_equal(got.err, ERR_NOT_FOUND);
    assert_int_equal(prompts_find(bus, "*", on_prompt, NULL), ERR_INVALID);
    WAIT(prompts_remove(bus, waits, on_done, NULL));
    WAIT(prompts_find(bus, waits, on_prompt, NULL));
    assert_int_equal(got.err, ERR_NOT_FOUND);
    WAIT(prompts_remove(bus, batched, on_done, NULL));
}

static void on_look(void *arg)
{
    const char *name;
    for (unsigned i = 0; i < ROOM_STREAMS; i++)
        if (room_used(*(struct room **)arg, i, &name) < 0)
            return;
    loop_stop(rig.loop);
}

/* Looks at the room once it is known. */
static void look(bool *objects_full, bool *prompts_full)
{
    struct room *room;
    struct loop_timer *timer;
    const char *name;
    assert_int_equal(room_new(&room, bus, rig.loop), ERR_OK);
    assert_false(room_is_full(room) || room_stream_full(room, "OBJECTS")); /* not known yet */
    assert_int_equal(loop_timer_new(&timer, rig.loop, on_look, &room), ERR_OK);
    loop_timer_start(timer, 1, 1);
    turn();
    loop_timer_free(timer);
    assert_true(room_used(room, ROOM_STREAMS - 1, &name) >= 0);
    assert_string_equal(name, "OBJECTS");
    *objects_full = room_stream_full(room, "OBJECTS");
    *prompts_full = room_is_full(room);
    assert_false(room_stream_full(room, "none of ours"));
    room_free(room);
}

/* Files may fill their own room, and nobody else's. */
static void test_full(void **state)
{
    static char data[OBJECT_BYTES_MAX];
    bool objects, prompts;
    const struct stream_limits small = {.max_queue = MAX_QUEUE,
                                        .max_reply_s = 60,
                                        .keep_hours = 1,
                                        .keep_files_hours = 1,
                                        .store_bytes = 10 << 20};
    WAIT(objects_purge(bus, ">", on_done, NULL));
    assert_int_equal(streams_setup(&rig.setup, &small), ERR_OK); /* 2 MiB for objects */
    look(&objects, &prompts);
    assert_false(objects || prompts);
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "file.f.%d", i);
        WAIT(objects_put(bus, name, NULL, 0, data, sizeof data - 4096, on_done, NULL));
        assert_int_equal(got.err, ERR_OK);
    }
    look(&objects, &prompts);
    assert_true(objects);
    assert_false(prompts);
    WAIT(objects_put(bus, "file.f.4", NULL, 0, data, sizeof data, on_done, NULL));
    assert_int_equal(got.err, ERR_FULL);
    char id[ID_SIZE];
    id_random(id, ID_LEN);
    WAIT(put_prompt(id, "m", NULL));
    assert_int_equal(got.err, ERR_OK);
    WAIT(prompts_remove(bus, id, on_done, NULL));
    WAIT(objects_purge(bus, "file.f.>", on_done, NULL));
    WAIT(objects_put(bus, "file.f.4", NULL, 0, data, sizeof data, on_done, NULL));
    assert_int_equal(got.err, ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expectations), cmocka_unit_test(test_age),
        cmocka_unit_test(test_lists),        cmocka_unit_test(test_names),
        cmocka_unit_test(test_records),      cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
