/* The private broker: a real nats-server, its files, its coming back, and finding it. */
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

#include "bus/broker.h"

#define DEADLINE_MS 20000
#define BROUGHT     TEST_DATA "/../../.deps/nats/bin/nats-server" /* by scripts/deps.sh */

struct fixture {
    struct loop *loop;
    struct loop_timer *tick, *deadline;
    struct broker *broker;
    char folder[64], program[PATH_MAX];
    pid_t unlike; /* a pid that does not count as started */
    bool expired;
};

static void expire(void *arg)
{
    struct fixture *f = arg;
    f->expired = true;
    loop_stop(f->loop);
}

static void look(void *arg)
{
    struct fixture *f = arg;
    pid_t pid = child_pid(broker_child(f->broker));
    if (pid != 0 && pid != f->unlike && broker_answers(f->broker))
        loop_stop(f->loop);
}

static void wait_answer(struct fixture *f, pid_t unlike)
{
    f->unlike = unlike;
    loop_timer_start(f->deadline, DEADLINE_MS, 0);
    loop_timer_start(f->tick, 1, 10);
    loop_run(f->loop);
    loop_timer_stop(f->tick);
    assert_false(f->expired);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char path[96];
    assert_non_null(f);
    if (!getenv("WYVERN_NATS_SERVER") && access(BROUGHT, X_OK) == 0)
        setenv("WYVERN_NATS_SERVER", BROUGHT, 1);
    assert_int_equal(broker_find(f->program), ERR_OK);
    snprintf(f->folder, sizeof f->folder, P_tmpdir "/wyvern-broker-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(path, sizeof path, "%s/logs", f->folder);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(loop_new(&f->loop), ERR_OK);
    assert_int_equal(loop_timer_new(&f->tick, f->loop, look, f), ERR_OK);
    assert_int_equal(loop_timer_new(&f->deadline, f->loop, expire, f), ERR_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    broker_free(f->broker);
    loop_timer_free(f->tick);
    loop_timer_free(f->deadline);
    loop_free(f->loop);
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void make(struct fixture *f)
{
    static char name[] = "tiny", file[] = "tiny model.gguf", sha[] = "abc";
    struct broker_config config = {
        .program = f->program,
        .state_dir = f->folder,
        .bind_host = "127.0.0.1",
        .host = "127.0.0.1",
        .model = {.model = name, .model_file = file, .model_sha256 = sha}};
    assert_int_equal(broker_new(&f->broker, f->loop, &config), ERR_OK);
}

static void assert_private(const struct fixture *f, const char *name)
{
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
}

static void comes_back_where_it_was(void **state)
{
    struct fixture *f = *state;
    make(f);
    assert_false(broker_answers(f->broker));
    assert_int_equal(broker_start(f->broker), ERR_OK);
    wait_answer(f, 0);
    int port = broker_port(f->broker);
    assert_private(f, "broker/nats.conf");
    assert_private(f, "service.ini");

    pid_t before = child_pid(broker_child(f->broker));
    kill(before, SIGKILL);
    wait_answer(f, before);
    assert_int_not_equal(child_pid(broker_child(f->broker)), before);

    char pid_file[PATH_MAX];
    snprintf(pid_file, sizeof pid_file, "%s", broker_pid_file(f->broker));
    assert_int_equal(access(pid_file, F_OK), 0);
    broker_free(f->broker);
    f->broker = NULL;
    assert_int_equal(access(pid_file, F_OK), -1);

    make(f); /* the next start of the service */
    assert_int_equal(broker_port(f->broker), port);
}

static void credentials_stay_and_differ(void **state)
{
    struct fixture *f = *state;
    static const char *const roles[] = {"setup",   "gateway", "infer",
                                        "respond", "node",    "telemetry"};
    char before[6][64];
    make(f);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 6; i++) {
            struct join join;
            assert_int_equal(join_read(&join, broker_service_file(f->broker), roles[i]), ERR_OK);
            assert_string_equal(join.url, broker_url(f->broker));
            assert_string_equal(join.model, "tiny");
            assert_string_equal(join.model_file, "tiny model.gguf");
            if (round == 0)
                snprintf(before[i], sizeof before[i], "%s", join.password);
            assert_string_equal(join.password, before[i]);
            for (size_t k = 0; k < i; k++)
                assert_string_not_equal(join.password, before[k]);
            join_done(&join);
        }
        broker_free(f->broker);
        f->broker = NULL;
        make(f);
    }
}

static void nodes_get_their_own_roles_only(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX];
    struct join join;
    make(f);
    snprintf(path, sizeof path, "%s/join.ini", f->folder);
    assert_int_equal(broker_write_node_file(f->broker, path, "fd00::5"), ERR_OK);
    assert_private(f, "join.ini");
    assert_int_equal(join_read(&join, path, "infer"), ERR_OK);
    assert_non_null(strstr(join.url, "nats://[fd00::5]:"));
    join_done(&join);
    assert_int_equal(join_read(&join, path, "node"), ERR_OK);
    join_done(&join);
    assert_int_equal(join_read(&join, path, "telemetry"), ERR_OK);
    join_done(&join);
    assert_int_equal(join_read(&join, path, "gateway"), ERR_CONFIG);
    assert_int_equal(join_read(&join, path, "setup"), ERR_CONFIG);
}

static void an_old_or_missing_server_is_told(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX], found[PATH_MAX];
    snprintf(path, sizeof path, "%s/nats-server", f->folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("#!/bin/sh\necho nats-server: v2.12.2\n", file);
    fclose(file);
    assert_int_equal(chmod(path, 0755), 0);
    char *named = strdup(getenv("WYVERN_NATS_SERVER"));
    setenv("WYVERN_NATS_SERVER", path, 1);
    assert_int_equal(broker_find(found), ERR_NOT_FOUND);
    assert_non_null(strstr(err_text(), "2.12.3"));
    setenv("WYVERN_NATS_SERVER", "/nonexistent", 1);
    assert_int_equal(broker_find(found), ERR_NOT_FOUND);

    char *search = strdup(getenv("PATH")); /* an old one on PATH is passed over */
    unsetenv("WYVERN_NATS_SERVER");
    setenv("PATH", f->folder, 1);
    enum err err = broker_find(found);
    assert_true(err == ERR_OK ? strcmp(found, path) != 0 : strstr(err_text(), "older") != NULL);
    setenv("PATH", search, 1);
    setenv("WYVERN_NATS_SERVER", named, 1);
    free(search);
    free(named);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_where_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(credentials_stay_and_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(nodes_get_their_own_roles_only, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_or_missing_server_is_told, setup, teardown),
    };
    return cmocka_run_group_tests_name("broker", tests, NULL, NULL);
}
