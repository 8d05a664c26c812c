/*
 * rig.h - a real nats-server with the service's streams, and one operation at a time on it.
 *
 * MAX_QUEUE may be defined before: prompts that the queue holds.
 */
#ifndef TEST_BUS_RIG_H
#define TEST_BUS_RIG_H

#include <setjmp.h>
#include <signal.h>
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
#include "base/id.h"
#include "bus/broker.h"
#include "bus/endings.h"
#include "bus/prompts.h"
#include "bus/replies.h"
#include "bus/streams.h"
#include "bus/tokens.h"

#ifndef MAX_QUEUE
#define MAX_QUEUE 1000
#endif
#define GATEWAY "0123456789abcdef"

static struct {
    char dir[64];
    struct loop *loop;
    struct broker *broker;
    struct join setup, infer;
    struct bus *bus;
    int state_changes;
    bool connected;
} rig;

/* One operation, waited for. */
static struct {
    bool done;
    enum err err;
    uint64_t sequence;
    unsigned deliveries, pieces;
    char ack[4][PROMPTS_ACK_MAX];
    char text[1024];
    struct claim latest;
} got;

static void on_guard(void *arg)
{
    (void)arg;
    loop_stop(rig.loop);
}

/* Turns the loop until an operation stops it, ten seconds at most. */
static void turn(void)
{
    struct loop_timer *guard;
    assert_int_equal(loop_timer_new(&guard, rig.loop, on_guard, NULL), ERR_OK);
    loop_timer_start(guard, 10000, 0);
    loop_run(rig.loop);
    loop_timer_free(guard);
}

static void on_done(void *arg, enum err err, uint64_t sequence)
{
    (void)arg;
    got.done = true;
    got.err = err;
    got.sequence = sequence;
    loop_stop(rig.loop);
}

#define WAIT(call)                                                                                 \
    do {                                                                                           \
        memset(&got, 0, sizeof got);                                                               \
        assert_int_equal((call), ERR_OK);                                                          \
        turn();                                                                                    \
        assert_true(got.done);                                                                     \
    } while (0)

static void on_state(void *arg, bool connected)
{
    (void)arg;
    rig.connected = connected;
    rig.state_changes++;
    loop_stop(rig.loop);
}

static int start(void **state)
{
    char program[PATH_MAX];
    snprintf(rig.dir, sizeof rig.dir, "flow-test-XXXXXX");
    assert_non_null(mkdtemp(rig.dir));
    char path[PATH_MAX];
    assert_int_equal(state_dir_prepare(path, rig.dir), ERR_OK);
    char logs[PATH_MAX + 8];
    snprintf(logs, sizeof logs, "%s/logs", path);
    assert_int_equal(mkdir(logs, 0700), 0);
    assert_int_equal(loop_new(&rig.loop), ERR_OK);
    if (broker_find(program) != ERR_OK)
        fail_msg("%s", err_text());
    struct broker_config config = {
        .program = program,
        .state_dir = path,
        .bind_host = "127.0.0.1",
        .host = "127.0.0.1",
        .model = {.model = "m", .model_file = "fake:tokens=1,delay_ms=0", .model_sha256 = ""},
    };
    if (broker_new(&rig.broker, rig.loop, &config) != ERR_OK || broker_start(rig.broker) != ERR_OK)
        fail_msg("%s", err_text());
    for (int i = 0; i < 1000 && !broker_answers(rig.broker); i++)
        usleep(10000);
    assert_int_equal(join_read(&rig.setup, broker_service_file(rig.broker), "setup"), ERR_OK);
    assert_int_equal(join_read(&rig.infer, broker_service_file(rig.broker), "infer"), ERR_OK);
    const struct stream_limits limits = {.max_queue = MAX_QUEUE,
                                         .max_reply_s = 60,
                                         .keep_hours = 1,
                                         .keep_files_hours = 1,
                                         .store_bytes = 1 << 30};
    if (streams_setup(&rig.setup, &limits) != ERR_OK ||
        streams_setup(&rig.setup, &limits) != ERR_OK) /* again, as at a second start */
        fail_msg("%s", err_text());
    const struct bus_config bus = {
        .join = &rig.setup, .client_name = "test", .role = "setup", .on_state = on_state};
    if (bus_open(&rig.bus, rig.loop, &bus) != ERR_OK)
        fail_msg("%s", err_text());
    return 0;
}

static int stop(void **state)
{
    char command[128];
    bus_close(rig.bus);
    broker_free(rig.broker);
    loop_free(rig.loop);
    join_done(&rig.setup);
    join_done(&rig.infer);
    snprintf(command, sizeof command, "rm -r '%s'", rig.dir);
    return system(command);
}

static inline struct claim claim_new(void)
{
    struct claim claim = {.kind = CLAIM_HELD, .attempt = 1, .started_at = 1};
    id_random(claim.nonce, TAG_LEN);
    return claim;
}

#endif
