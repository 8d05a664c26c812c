/* A gateway's own end, in the order of gateway.c, with a prompt whose acknowledgement is still to
 * come and whose reader has left: closing the bus ends the offer, when endings are gone already.
 *
 * The broker stands still meanwhile.  (A whole gateway leaves without a broker only once it has
 * been away for long, and then nothing is on its way: so this is tried here.) */
#include "../bus/rig.h"

#include <signal.h>

#include "roles/gateway/session_own.h"

static struct gateway gateway;
static const struct settings settings;
static unsigned told;

static void on_told(void *arg, const struct reply *record, const struct api_error *error)
{
    (void)arg;
    (void)record;
    (void)error;
    told++;
}

static pid_t broker_pid(void)
{
    int pid = 0;
    FILE *file = fopen(broker_pid_file(rig.broker), "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    fclose(file);
    return pid;
}

static void begin(void)
{
    static const char body[] =
        "{\"model\":\"default\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
    struct api_request request;
    struct api_error error;
    struct trace trace;
    struct outlet *outlet = NULL;
    trace_begin(&trace, NULL);
    assert_int_equal(chat_parse(&request, body, strlen(body), 1, &error), ERR_OK);
    struct asked *asked = asked_new(&request, &trace, 1);
    assert_non_null(asked);
    const struct outlet_spec spec = {
        .count = 1, .after = -1, .trace = &trace, .request_id = "0123456789abcdef0123456789abcdef"};
    assert_int_equal(outlet_new(&outlet, &spec), ERR_OK);
    outlet_follow(outlet, on_told, NULL);
    assert_int_equal(session_begin(&gateway, asked, outlet, 0, spec.request_id, NULL, false),
                     ERR_OK);
    asked_drop(asked);
}

static void test_an_offer_ends_with_the_bus(void **state)
{
    snprintf(gateway.presence.boot, sizeof gateway.presence.boot, GATEWAY);
    gateway.settings = &settings;
    gateway.join = rig.setup;
    gateway.loop = rig.loop;
    gateway.bus = rig.bus;
    assert_int_equal(figures_new(&gateway.figures, rig.setup.model), ERR_OK);
    assert_int_equal(endings_new(&gateway.endings, rig.bus, rig.loop), ERR_OK);
    pid_t pid = broker_pid();
    assert_int_equal(kill(pid, SIGSTOP), 0);
    begin();
    struct session *session = gateway.sessions;
    assert_int_equal(session->pending, 1); /* the offer */
    outlet_forget(session->out.outlet);
    session_on_closed(&session->out, false);
    assert_int_equal(session->state, SESSION_LEAVING);

    endings_free(gateway.endings);
    gateway.endings = NULL;
    bus_close(gateway.bus);
    rig.bus = NULL;
    assert_int_equal(session->pending, 0); /* the offer has ended, and nothing was begun */
    assert_int_equal(session->state, SESSION_LEAVING);
    sessions_free(&gateway);
    assert_int_equal(gateway.session_count, 0);
    assert_int_equal(told, 0);
    figures_free(gateway.figures);
    kill(pid, SIGCONT);
}

int main(void)
{
    (void)turn; /* no operation is waited for here */
    (void)on_done;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_an_offer_ends_with_the_bus)};
    return cmocka_run_group_tests(tests, start, stop);
}
