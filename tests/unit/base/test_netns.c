/* Real namespaces, where we may make them; names and addresses always. */
#include <arpa/inet.h>
#include <net/if.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "base/netns.h"
#include "base/proc.h"

#define WAIT_MS 20000

static void net_init(struct netns_net *net, unsigned count, const char *what)
{
    char dir[64];
    snprintf(dir, sizeof dir, "/test/%s/%d", what, (int)getpid());
    netns_init(net, dir, count);
}

static bool bridge_exists(const struct netns_net *net)
{
    char bridge[IFNAMSIZ];
    snprintf(bridge, sizeof bridge, "wv%s", net->tag);
    return if_nametoindex(bridge) != 0;
}

static bool namespace_exists(const struct netns_net *net, unsigned i)
{
    char path[NETNS_TEXT_MAX];
    netns_path(net, i, path);
    return access(path, F_OK) == 0;
}

/* Skips where namespaces are not permitted; any other failure is one. */
static void make_or_skip(struct netns_net *net)
{
    enum err err = netns_up(net);
    if (err == ERR_DENIED || err == ERR_UNAVAILABLE) {
        print_message("not permitted here: %s\n", err_text());
        skip();
    }
    assert_int_equal(err, ERR_OK);
}

static void names_follow_the_state_directory(void **state)
{
    (void)state;
    struct netns_net a, again, b;
    char address[NETNS_TEXT_MAX], path[NETNS_TEXT_MAX];
    netns_init(&a, "/var/lib/one", 2);
    netns_init(&again, "/var/lib/one", 2);
    netns_init(&b, "/var/lib/two", 2);
    assert_string_equal(a.tag, again.tag);
    assert_string_not_equal(a.tag, b.tag);
    netns_address(&a, 1, address);
    assert_int_equal(inet_addr(address) & 0xff, 10);
    assert_non_null(strstr(address, ".12"));
    netns_path(&a, 0, path);
    assert_non_null(strstr(path, a.tag));
    netns_init(&a, "/var/lib/one", 1000);
    assert_int_equal(a.count, NETNS_MAX);
}

struct run {
    struct loop *loop;
    char line[128];
    int status;
};

static void run_line(void *arg, const char *line)
{
    struct run *run = arg;
    snprintf(run->line, sizeof run->line, "%s", line);
}

static void run_exit(void *arg, int status)
{
    struct run *run = arg;
    run->status = status;
    loop_stop(run->loop);
}

/* Runs a script inside namespace i and gives the line that it reported. */
static void run_inside(const struct netns_net *net, unsigned i, const char *script, struct run *run)
{
    char path[NETNS_TEXT_MAX];
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    struct proc *proc = NULL;
    netns_path(net, i, path);
    struct proc_spec spec = {.argv = argv, .netns_path = path, .hostname = "nodeX", .report = true};
    assert_int_equal(loop_new(&run->loop), ERR_OK);
    assert_int_equal(proc_spawn(&proc, run->loop, &spec, run_line, run_exit, run), ERR_OK);
    loop_run(run->loop);
    proc_free(proc);
    loop_free(run->loop);
}

static void nodes_have_names_and_reach_the_host(void **state)
{
    (void)state;
    struct netns_net net;
    net_init(&net, 2, "reach");
    make_or_skip(&net);
    struct run run = {0};
    run_inside(&net, 1, "echo $(uname -n) $(ip -o -4 addr show dev eth0 | grep -c inet) >&3", &run);
    assert_string_equal(run.line, "nodeX 1");

    /* A listener on the bridge's address answers a node. */
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(net.gateway)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    char script[256], expected[NETNS_TEXT_MAX];
    snprintf(script, sizeof script, "bash -c 'exec 9<>/dev/tcp/%s/%d && echo met >&3'", net.gateway,
             ntohs(at.sin_port));
    run = (struct run){0};
    run_inside(&net, 0, script, &run);
    assert_string_equal(run.line, "met");
    struct sockaddr_in peer;
    len = sizeof peer;
    int met = accept(fd, (struct sockaddr *)&peer, &len);
    assert_true(met >= 0);
    netns_address(&net, 0, expected);
    assert_string_equal(inet_ntoa(peer.sin_addr), expected);
    close(met);
    close(fd);

    netns_down(&net);
    assert_false(bridge_exists(&net));
    assert_false(namespace_exists(&net, 0));
    assert_false(namespace_exists(&net, 1));
}

static void leftovers_do_not_hinder(void **state)
{
    (void)state;
    struct netns_net old, net, other;
    net_init(&old, 3, "left");
    make_or_skip(&old);
    net_init(&net, 1, "left");
    make_or_skip(&net); /* the same tag: the three are removed first */
    assert_false(namespace_exists(&old, 2));
    net_init(&other, 1, "side-by-side");
    other.subnet[0] = net.subnet[0]; /* would like the same addresses */
    other.subnet[1] = net.subnet[1];
    make_or_skip(&other);
    assert_string_not_equal(other.gateway, net.gateway);
    netns_down(&net);
    assert_true(bridge_exists(&other));
    netns_down(&other);
    assert_false(bridge_exists(&other));
}

static void the_keeper_cleans_up_after_a_kill(void **state)
{
    (void)state;
    struct netns_net net;
    int fds[2];
    net_init(&net, 2, "keeper");
    assert_int_equal(pipe(fds), 0);
    pid_t owner = fork();
    assert_true(owner >= 0);
    if (owner == 0) {
        struct netns_keeper keeper;
        enum err err = netns_keeper_start(&keeper, &net);
        if (err == ERR_OK)
            err = netns_up(&net);
        char made = err == ERR_OK;
        if (write(fds[1], &made, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char made = 0;
    assert_int_equal(read(fds[0], &made, 1), 1);
    bool there = made && bridge_exists(&net) && namespace_exists(&net, 1);
    kill(owner, SIGKILL);
    assert_int_equal(waitpid(owner, NULL, 0), owner);
    close(fds[0]);
    close(fds[1]);
    if (!made)
        skip();
    assert_true(there);
    int waited = 0;
    while ((bridge_exists(&net) || namespace_exists(&net, 0) || namespace_exists(&net, 1)) &&
           waited++ < WAIT_MS / 10)
        usleep(10000);
    assert_true(waited < WAIT_MS / 10);
}

static void the_keeper_works_on_demand(void **state)
{
    (void)state;
    struct netns_net net;
    struct netns_keeper keeper = {0};
    netns_keeper_finish(&keeper); /* none */
    net_init(&net, 1, "demand");
    assert_int_equal(netns_keeper_start(&keeper, &net), ERR_OK);
    enum err err = netns_up(&net);
    netns_keeper_finish(&keeper);
    assert_int_equal(keeper.pid, 0);
    if (err != ERR_OK)
        skip();
    assert_false(bridge_exists(&net));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_follow_the_state_directory),
        cmocka_unit_test(nodes_have_names_and_reach_the_host),
        cmocka_unit_test(leftovers_do_not_hinder),
        cmocka_unit_test(the_keeper_cleans_up_after_a_kill),
        cmocka_unit_test(the_keeper_works_on_demand),
    };
    return cmocka_run_group_tests_name("netns", tests, NULL, NULL);
}
